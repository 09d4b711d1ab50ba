//! A metric against gamma as inline SVG, as in the paper's figures 8 and 9. Colours are the page's.

use std::fmt::Write;

use super::metric::{Better, Column};
use crate::report::escape;

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 250.0;
/// Of the area of the plot, in user units.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 366.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 204.0;
/// Markers by which models differ for those who see no colours.
const SHAPES: usize = 4;
/// Colours that the page has for models.
const COLOURS: usize = 6;

/// One model.
pub(super) struct Series {
    pub name: String,
    /// Gamma and the metric's mean.
    pub points: Vec<(f64, f64)>,
}

/// What does not depend on gamma.
pub(super) struct Level {
    /// "input" or "truth", also its class in the page's style.
    pub name: &'static str,
    pub value: f64,
}

/// An empty text when there is nothing to plot.
pub(super) fn svg(column: &Column, series: &[Series], levels: &[Level]) -> String {
    if series.iter().all(|series| series.points.is_empty()) {
        return String::new();
    }
    // The truth is often so far away that nothing else could be told apart.
    let near = levels
        .iter()
        .filter(|level| level.name != "truth")
        .map(|level| level.value);
    let lines = series
        .iter()
        .flat_map(|series| series.points.iter().map(|point| point.1));
    let values: Vec<f64> = lines.chain(near).collect();
    let axis = Axis::around(&values);
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} against gamma\">\n",
        escape(&column.name)
    );
    frame(&mut text, column, &axis);
    for level in levels {
        text += &draw_level(column, &axis, level);
    }
    for (index, series) in series.iter().enumerate() {
        line(&mut text, column, &axis, index, series);
    }
    text + "</svg>\n"
}

/// Sample of a model's line for the legend.
pub(super) fn key(index: usize) -> String {
    format!(
        "<svg class=\"key\" viewBox=\"0 0 34 14\" aria-hidden=\"true\"><path class=\"line m{0}\" d=\"M2 7H32\"/>{1}</svg>",
        index % COLOURS,
        marker(index, 17.0, 7.0, "")
    )
}

fn frame(text: &mut String, column: &Column, axis: &Axis) {
    let unit = match column.unit {
        "" => String::new(),
        unit => format!(", {unit}"),
    };
    let better = match column.better {
        Some(Better::Higher) => "↑ higher is better",
        Some(Better::Lower) => "↓ lower is better",
        None => "",
    };
    let _ = writeln!(
        text,
        "<text class=\"title\" x=\"{LEFT}\" y=\"18\">{}{unit}</text>\
         <text class=\"hint\" x=\"{RIGHT}\" y=\"18\" text-anchor=\"end\">{better}</text>",
        escape(&column.name)
    );
    for tick in axis.ticks() {
        let y = axis.y(tick);
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.*}</text>",
            LEFT - 7.0,
            y + 4.0,
            axis.decimals()
        );
    }
    for gamma in [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] {
        let _ = writeln!(
            text,
            "<line class=\"axis\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{BOTTOM}\" y2=\"{1:.1}\"/>\
             <text class=\"tick\" x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{gamma}</text>",
            x(gamma),
            BOTTOM + 4.0,
            BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        text,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>\
         <text class=\"hint\" x=\"{LEFT}\" y=\"{0:.1}\">detail</text>\
         <text class=\"tick\" x=\"{1:.1}\" y=\"{0:.1}\" text-anchor=\"middle\">gamma</text>\
         <text class=\"hint\" x=\"{RIGHT}\" y=\"{0:.1}\" text-anchor=\"end\">fidelity</text>",
        BOTTOM + 38.0,
        (LEFT + RIGHT) / 2.0
    );
}

/// A line, or where it would be if the axis reached that far.
fn draw_level(column: &Column, axis: &Axis, level: &Level) -> String {
    let Level { name, value } = level;
    let (x, anchor) = match *name {
        "input" => (LEFT + 4.0, "start"),
        _ => (RIGHT - 4.0, "end"),
    };
    let shown = column.format(Some(*value));
    let (y, text) = if *value > axis.high {
        (TOP + 12.0, format!("{name} {shown} ↑"))
    } else if *value < axis.low {
        (BOTTOM - 6.0, format!("{name} {shown} ↓"))
    } else {
        (axis.y(*value) - 4.0, (*name).to_owned())
    };
    let label =
        format!("<text class=\"level-name\" x=\"{x}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n");
    if (axis.low..=axis.high).contains(value) {
        let y = axis.y(*value);
        format!(
            "<line class=\"level {name}\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>{label}"
        )
    } else {
        label
    }
}

fn line(text: &mut String, column: &Column, axis: &Axis, index: usize, series: &Series) {
    let mut points = series.points.clone();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let path: Vec<String> = points
        .iter()
        .map(|(gamma, value)| format!("{:.1} {:.1}", x(*gamma), axis.y(*value)))
        .collect();
    let _ = writeln!(
        text,
        "<path class=\"line m{}\" d=\"M{}\"/>",
        index % COLOURS,
        path.join("L")
    );
    for (gamma, value) in points {
        let shown = column.format(Some(value));
        let note = format!("{}, gamma {gamma}: {shown} {}", escape(&series.name), column.unit);
        let _ = writeln!(
            text,
            "{}",
            marker(index, x(gamma), axis.y(value), note.trim_end())
        );
    }
}

/// A circle, square, diamond or triangle; `note` (escaped) shows under the pointer.
fn marker(index: usize, x: f64, y: f64, note: &str) -> String {
    let outline = match index % SHAPES {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        1 => "m-3.6 -3.6h7.2v7.2h-7.2z",
        2 => "m0 -5l5 5l-5 5l-5 -5z",
        _ => "m0 -4.8l4.6 8h-9.2z",
    };
    let title = match note {
        "" => String::new(),
        note => format!("<title>{note}</title>"),
    };
    format!(
        "<path class=\"marker m{}\" d=\"M{x:.1} {y:.1}{outline}\">{title}</path>",
        index % COLOURS
    )
}

fn x(gamma: f64) -> f64 {
    LEFT + gamma * (RIGHT - LEFT)
}

/// The vertical axis: a range that begins and ends on a tick.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Around `values` with some room, in steps of 1, 2 or 5 times a power of ten.
    fn around(values: &[f64]) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Equal values still need an axis.
        let span = (high - low).max(1e-3 * high.abs()).max(1e-9);
        let magnitude = 10f64.powf((span / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * magnitude)
            .into_iter()
            .find(|step| span / step <= 4.0)
            .unwrap_or(10.0 * magnitude);
        let room = 0.06 * span;
        Self {
            low: ((low - room) / step).floor() * step,
            high: ((high + room) / step).ceil() * step,
            step,
        }
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (value - self.low) / (self.high - self.low) * (BOTTOM - TOP)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|index| self.low + index as f64 * self.step)
    }

    fn decimals(&self) -> usize {
        (-(self.step * (1.0 + 1e-9)).log10().floor()).max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::Metric;
    use super::*;

    #[test]
    fn an_axis_holds_its_values_between_round_ticks() {
        for values in [
            &[22.61, 23.10, 23.12][..],
            &[0.0631, 0.0702],
            &[7.0],
            &[0.0],
            &[-3.0, 120.0],
        ] {
            let axis = Axis::around(values);
            for value in values {
                let y = axis.y(*value);
                assert!((TOP..=BOTTOM).contains(&y), "{values:?}: {y}");
            }
            let ticks: Vec<f64> = axis.ticks().collect();
            assert!((2..=8).contains(&ticks.len()), "{values:?}: {ticks:?}");
            for tick in ticks {
                let printed: f64 = format!("{tick:.*}", axis.decimals()).parse().unwrap();
                assert!((printed - tick).abs() < 1e-6 * axis.step, "{values:?}: {tick}");
            }
        }
    }

    #[test]
    fn a_plot_has_every_point_and_level() {
        let series = [
            ("a<b", vec![(1.0, 24.0), (0.0, 23.0), (0.5, 23.5)]),
            ("other", vec![(1.0, 22.0)]),
        ]
        .map(|(name, points)| Series {
            name: name.to_owned(),
            points,
        });
        let level = |name, value| Level { name, value };
        let levels = [level("input", 22.5), level("truth", 99.0)];
        let text = svg(&Metric::Psnr.column(), &series, &levels);
        assert_eq!(text.matches("class=\"marker").count(), 4);
        assert_eq!(text.matches("class=\"level input\"").count(), 1);
        assert!(!text.contains("class=\"level truth"), "{text}");
        assert!(
            text.contains("truth 99.00 ↑") && text.contains(">24.0</text>"),
            "{text}"
        );
        assert!(text.contains("a&lt;b, gamma 0.5: 23.50 dB"), "{text}");
        // From gamma 0 on the left to gamma 1 on the right, upwards.
        let path = text.split("class=\"line m0\" d=\"M").nth(1).unwrap();
        let numbers: Vec<f64> = path
            .split('"')
            .next()
            .unwrap()
            .split(['L', ' '])
            .map(|number| number.parse().unwrap())
            .collect();
        assert!(numbers[0] < numbers[2] && numbers[2] < numbers[4]);
        assert!(numbers[1] > numbers[3] && numbers[3] > numbers[5]);
        assert_eq!(svg(&Metric::Psnr.column(), &[], &levels), "");
    }
}
