//! The figures as text for a terminal.

use super::figures::{Figures, Method, Row};
use super::metric::Column;

/// What every terminal that people use shows without breaking lines.
const WIDTH: usize = 110;
/// Longer names lose their beginning: the end of a path tells models apart.
const LONGEST_NAME: usize = 32;
/// Without being asked, the figures of single images are listed up to this many rows.
const FEW_ROWS: usize = 40;

/// Means for each group, and the figures of each image where `per_image` or where those are few.
pub(super) fn render(figures: &Figures, per_image: bool) -> String {
    let mut text = heading(figures);
    for group in &figures.groups {
        let value = |row: &Row, column: usize| figures.mean(row, group, column).shown();
        let title = match group.members.as_slice() {
            [one] => format!("{} (one image: {})", group.name, figures.images[*one]),
            many => format!("{} (means over {} images)", group.name, many.len()),
        };
        text += &format!("\n{title}\n{}", block(figures, &value));
        for note in shortfalls(figures, &group.members) {
            text += &format!("{note}\n");
        }
    }
    let singles = figures.images.len();
    if per_image || (singles > 1 && singles * figures.rows.len() <= FEW_ROWS) {
        for (index, name) in figures.images.iter().enumerate() {
            let value = |row: &Row, column: usize| row.values[index][column];
            text += &format!("\n{name}\n{}", block(figures, &value));
        }
    }
    text
}

fn heading(figures: &Figures) -> String {
    let marks = "↑ higher is better, ↓ lower; * best of its column\n";
    match &figures.setup {
        None => marks.to_owned(),
        Some(setup) => {
            let tiles = match setup.tile_size {
                0 => "whole images".to_owned(),
                side => format!("tiles of {side} px overlapping by {}", setup.tile_overlap),
            };
            format!("{}, {}, {tiles}; {marks}", setup.device, setup.precision)
        }
    }
}

/// How many images the means of a column are over, where that is not all of them.
pub(super) fn shortfalls(figures: &Figures, members: &[usize]) -> Vec<String> {
    let mut notes = Vec::new();
    for (index, column) in figures.columns.iter().enumerate() {
        let has = |row: &Row| {
            let finite = |image: &&usize| row.values[**image][index].is_some_and(f64::is_finite);
            members.iter().filter(finite).count()
        };
        let (name, all) = (&column.name, members.len());
        match figures.rows.iter().map(has).filter(|count| *count > 0).min() {
            Some(fewest) if fewest < all => notes.push(format!(
                "{name}: means over {fewest} of {all} images; the others have none or an infinite one"
            )),
            None => notes.push(format!(
                "{name}: no image has a finite one; some metrics need larger images"
            )),
            Some(_) => {}
        }
    }
    notes
}

/// Rows and columns; the columns that do not fit beside each other go below.
fn block(figures: &Figures, value: &dyn Fn(&Row, usize) -> Option<f64>) -> String {
    let labels: Vec<(String, String)> = figures.rows.iter().map(|row| label(&row.method)).collect();
    let width = |texts: &mut dyn Iterator<Item = &String>, least: usize| {
        texts
            .map(|text| text.chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let name_width = width(&mut labels.iter().map(|(name, _)| name), 6);
    let gamma_width = width(&mut labels.iter().map(|(_, gamma)| gamma), 5);
    let lead = name_width + 2 + gamma_width;

    let columns: Vec<Vec<String>> = figures
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| cells(figures, column, &|row| value(row, index)))
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .map(|cells| width(&mut cells.iter(), 0) + 2)
        .collect();

    let mut text = String::new();
    let mut next = 0;
    while next < columns.len() {
        if next > 0 {
            text += "\n";
        }
        let first = next;
        let mut used = lead;
        while next < columns.len() && (next == first || used + widths[next] <= WIDTH) {
            used += widths[next];
            next += 1;
        }
        let two_lines = [("", ""), ("method", "gamma")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        for (line, (name, gamma)) in two_lines.iter().chain(&labels).enumerate() {
            let mut row = format!("{name:name_width$}  {gamma:>gamma_width$}");
            for (cells, width) in columns[first..next].iter().zip(&widths[first..next]) {
                row += &format!("{:>width$}", cells[line]);
            }
            text += row.trim_end();
            text += "\n";
        }
    }
    text
}

/// Two lines of heading, then a figure for each row with room for the mark of the best.
fn cells(figures: &Figures, column: &Column, value: &dyn Fn(&Row) -> Option<f64>) -> Vec<String> {
    let values: Vec<Option<f64>> = figures.rows.iter().map(value).collect();
    let best = figures.best(column, &values);
    let unit = format!("{} {} ", column.unit, column.arrow());
    let mut cells = vec![format!("{} ", column.name), unit.trim_start().to_owned()];
    for (value, best) in values.iter().zip(best) {
        cells.push(format!(
            "{}{}",
            column.format(*value),
            if best { "*" } else { " " }
        ));
    }
    cells
}

/// Model and gamma, for the first two columns.
fn label(method: &Method) -> (String, String) {
    match method {
        Method::Input => ("input".to_owned(), String::new()),
        Method::Truth => ("truth".to_owned(), String::new()),
        Method::Model { model, gamma } => (shorten(model), gamma.to_string()),
    }
}

fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= LONGEST_NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - (LONGEST_NAME - 1)).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Inputs, groups};
    use super::super::metric::{Better, Metric};
    use super::*;

    fn figures(columns: Vec<Column>, psnr: [[f64; 2]; 2]) -> Figures {
        let images = vec!["a".to_owned(), "b".to_owned()];
        let row = |method, values: [f64; 2]| Row {
            method,
            values: values.map(|value| vec![Some(value); columns.len()]).into(),
        };
        let model = Method::Model {
            model: "a/very/long/way/to/the/folder/of/the/model".to_owned(),
            gamma: 0.7,
        };
        Figures {
            inputs: Inputs::Pairs,
            setup: None,
            groups: groups(&images, &[]),
            rows: vec![row(Method::Input, psnr[0]), row(model, psnr[1])],
            columns,
            images,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn every_line_fits_and_every_column_is_there() {
        let mut columns: Vec<Column> = Metric::ALL.iter().map(|metric| metric.column()).collect();
        for name in ["CLIPIQA", "MUSIQ", "MANIQA"] {
            columns.push(Column::new(name, name, Some(Better::Higher), false, 4));
        }
        let text = render(&figures(columns.clone(), [[20.0, 30.0], [21.0, 31.0]]), true);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        for column in columns {
            assert!(text.contains(&column.name), "{text}");
        }
        assert!(text.contains("…"), "{text}");
    }

    #[test]
    fn a_mean_over_some_images_says_so() {
        let columns = vec![Metric::Psnr.column()];
        let text = render(
            &figures(columns.clone(), [[f64::INFINITY, f64::INFINITY], [20.0, 30.0]]),
            false,
        );
        assert!(text.contains("inf") && text.contains("25.00"), "{text}");
        assert!(!text.contains("of 2 images"), "{text}");
        let text = render(&figures(columns, [[24.0, 26.0], [f64::INFINITY, 30.0]]), false);
        assert!(text.contains("PSNR: means over 1 of 2 images"), "{text}");
    }
}
