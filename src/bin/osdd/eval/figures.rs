//! Every figure that was measured, and the means over groups of images.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::metric::{Better, Column};
use crate::Usage;

/// Name of the group that every image is in.
pub(super) const ALL: &str = "all";

/// One figure for each column; `None` where there is none.
pub(super) type Values = Vec<Option<f64>>;

/// Whose figures these are: a row of the tables.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Method {
    /// The image that goes into the model.
    Input,
    /// The sharp image, where it is not the input.
    Truth,
    /// What a model makes of the input.
    Model { model: String, gamma: f64 },
}

#[derive(Debug)]
pub(super) struct Row {
    pub method: Method,
    /// One for each image.
    pub values: Vec<Values>,
}

/// Images by the text in their names.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub name: String,
    /// Indices of its images.
    pub members: Vec<usize>,
}

/// An image that could not be measured, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub name: String,
    pub reason: String,
}

/// A mean over the images that have a finite value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Mean {
    /// `None` over no images.
    pub mean: Option<f64>,
    /// How many it is over.
    pub images: usize,
    /// How many more have an infinite value, such as the PSNR of equal images; they are not part of the mean.
    pub infinite: usize,
}

impl Mean {
    fn over(values: impl Iterator<Item = Option<f64>>) -> Self {
        let (mut sum, mut images, mut infinite) = (0.0, 0, 0);
        for value in values.flatten() {
            if value.is_finite() {
                sum += value;
                images += 1;
            } else {
                infinite += 1;
            }
        }
        Self {
            mean: (images > 0).then(|| sum / images as f64),
            images,
            infinite,
        }
    }

    /// For display: infinite where every image is.
    pub fn shown(&self) -> Option<f64> {
        self.mean.or((self.infinite > 0).then_some(f64::INFINITY))
    }
}

/// What the models ran on; `None` where none ran.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setup {
    pub device: String,
    pub precision: String,
    /// Side of a tile in pixels; 0 is the whole frame.
    pub tile_size: usize,
    /// In pixels.
    pub tile_overlap: usize,
}

/// What is known about the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Inputs {
    /// Blurry images and their truth.
    Pairs,
    /// Blurry images alone.
    Blurry,
    /// Sharp images, which are input and truth in one.
    Sharp,
}

/// All of one call.
#[derive(Debug)]
pub(super) struct Figures {
    pub inputs: Inputs,
    pub setup: Option<Setup>,
    pub columns: Vec<Column>,
    /// Names of the images that were measured.
    pub images: Vec<String>,
    pub groups: Vec<Group>,
    pub rows: Vec<Row>,
    pub left_out: Vec<LeftOut>,
}

impl Figures {
    pub fn mean(&self, row: &Row, group: &Group, column: usize) -> Mean {
        Mean::over(group.members.iter().map(|image| row.values[*image][column]))
    }

    /// For each row whether its value, as displayed, is the best of its column. Models compete with each other and the
    /// blurry input, not with the truth; nothing is best where there is no choice.
    pub fn best(&self, column: &Column, values: &[Option<f64>]) -> Vec<bool> {
        let takes_part = |row: &Row| match row.method {
            Method::Input => self.inputs != Inputs::Sharp,
            Method::Truth => false,
            Method::Model { .. } => true,
        };
        let shown: Vec<Option<f64>> = self
            .rows
            .iter()
            .zip(values)
            .map(|(row, value)| {
                let value = value.filter(|_| takes_part(row))?;
                // As displayed: a difference that nobody can see makes no winner.
                column.format(Some(value)).parse().ok()
            })
            .collect();
        let candidates = shown.iter().flatten().copied().filter(|value| value.is_finite());
        let best = match column.better {
            Some(Better::Higher) => candidates.clone().reduce(f64::max),
            Some(Better::Lower) => candidates.clone().reduce(f64::min),
            None => None,
        };
        let choice = candidates.count() > 1;
        shown
            .iter()
            .map(|value| choice && value.is_some() && *value == best)
            .collect()
    }

    /// Everything. `metrics` says what the keys of figures stand for, `groups` how many images are in each. A row has its
    /// `method` (input, truth or model), `model` and `gamma`, its `means` by group and metric (a [`Mean`]), and the figures
    /// of its `images` by name and metric: null where there is none, or an infinite one.
    pub fn json(&self) -> Value {
        let counts: BTreeMap<&str, usize> = self
            .groups
            .iter()
            .map(|group| (group.name.as_str(), group.members.len()))
            .collect();
        json!({
            "inputs": self.inputs,
            "setup": self.setup,
            "metrics": self.columns,
            "groups": counts,
            "left_out": self.left_out,
            "rows": self.rows.iter().map(|row| self.row_json(row)).collect::<Vec<_>>(),
        })
    }

    fn row_json(&self, row: &Row) -> Value {
        let mut means = Map::new();
        for group in &self.groups {
            let of_metric =
                |(index, column): (usize, &Column)| (column.key.clone(), json!(self.mean(row, group, index)));
            let by_metric: Map<String, Value> = self.columns.iter().enumerate().map(of_metric).collect();
            means.insert(group.name.clone(), by_metric.into());
        }
        let mut images = Map::new();
        for (name, values) in self.images.iter().zip(&row.values) {
            let of_metric = |(column, value): (&Column, &Option<f64>)| (column.key.clone(), json!(value));
            let by_metric: Map<String, Value> = self.columns.iter().zip(values).map(of_metric).collect();
            images.insert(name.clone(), by_metric.into());
        }
        let (method, model, gamma) = match &row.method {
            Method::Input => ("input", None, None),
            Method::Truth => ("truth", None, None),
            Method::Model { model, gamma } => ("model", Some(model), Some(gamma)),
        };
        json!({ "method": method, "model": model, "gamma": gamma, "means": means, "images": images })
    }
}

/// All images, then those with each text in their names.
pub(super) fn groups(names: &[String], texts: &[String]) -> Vec<Group> {
    let group = |name: &str, belongs: &dyn Fn(&str) -> bool| Group {
        name: name.to_owned(),
        members: (0..names.len()).filter(|index| belongs(&names[*index])).collect(),
    };
    let all = group(ALL, &|_| true);
    let by_text = texts
        .iter()
        .map(|text| group(text, &|name| name.contains(text.as_str())));
    std::iter::once(all).chain(by_text).collect()
}

/// # Errors
/// [`Usage`] for a text that is in no name, or given twice.
pub(super) fn check_groups(names: &[String], texts: &[String]) -> Result<(), Usage> {
    let mut known = HashSet::from([ALL]);
    for group in &groups(names, texts)[1..] {
        if !known.insert(&group.name) {
            return Err(Usage(format!("there are two groups \"{}\"", group.name)));
        }
        if group.members.is_empty() {
            return Err(Usage(format!("no image has \"{}\" in its name", group.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_says_over_how_many() {
        let values = [Some(1.0), None, Some(f64::INFINITY), Some(4.0)];
        let mean = Mean::over(values.into_iter());
        assert_eq!(
            mean,
            Mean {
                mean: Some(2.5),
                images: 2,
                infinite: 1
            }
        );
        assert_eq!(mean.shown(), Some(2.5));
        assert_eq!(Mean::over([None].into_iter()).shown(), None);
        assert_eq!(
            Mean::over([Some(f64::INFINITY)].into_iter()).shown(),
            Some(f64::INFINITY)
        );
    }

    #[test]
    fn groups_follow_the_names() {
        let names = ["a_10px", "a_22px", "b_10px"].map(str::to_owned);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let found = groups(&names, &texts(&["10px", "a_"]));
        let members: Vec<&[usize]> = found.iter().map(|group| &*group.members).collect();
        assert_eq!(members, [&[0, 1, 2][..], &[0, 2], &[0, 1]]);
        check_groups(&names, &texts(&["10px", "a_"])).unwrap();
        for wrong in [&["none"][..], &["a_", "a_"], &["all"]] {
            assert!(check_groups(&names, &texts(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_best_is_the_best_of_the_methods_as_displayed() {
        let model = |gamma| Method::Model {
            model: "nano".to_owned(),
            gamma,
        };
        let rows = [Method::Input, Method::Truth, model(0.0), model(1.0)];
        let figures = Figures {
            inputs: Inputs::Pairs,
            setup: None,
            columns: Vec::new(),
            images: Vec::new(),
            groups: Vec::new(),
            rows: rows
                .map(|method| Row {
                    method,
                    values: Vec::new(),
                })
                .into(),
            left_out: Vec::new(),
        };
        let lower = Column::new("niqe", "NIQE", Some(Better::Lower), false, 2);
        let best = |values: [f64; 4]| figures.best(&lower, &values.map(Some));
        assert_eq!(best([5.0, 1.0, 4.0, 4.5]), [false, false, true, false]);
        assert_eq!(best([5.0, 1.0, 4.001, 4.0]), [false, false, true, true]);
        assert_eq!(best([3.0, 1.0, 4.0, 4.5]), [true, false, false, false]);
        let neutral = Column::new("gradient", "gradient", None, false, 2);
        assert_eq!(figures.best(&neutral, &[Some(1.0); 4]), [false; 4]);
        assert_eq!(figures.best(&lower, &[None, None, Some(2.0), None]), [false; 4]);
    }
}
