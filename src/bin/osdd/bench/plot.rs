//! Time a frame against its pixels, both logarithmic, as SVG: where cost grows as pixels do, lines rise by 45 degrees.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Report;
use crate::output::PendingFile;
use crate::report::escape;

/// Of the area of the plot.
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
/// Points for a factor of ten, on both axes.
const DECADE: f64 = 150.0;
/// Of the legend, below.
const ROW: f64 = 18.0;
/// No letter is wider.
const LETTER: f64 = 9.0;

/// Colours that differ for those who do not see all of them (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

struct Line {
    name: String,
    /// Pixels, and milliseconds of the engine alone.
    points: Vec<(f64, f64)>,
}

/// Draws the engine's time of every model.
pub(super) fn write(path: &Path, report: &Report) -> Result<()> {
    let lines: Vec<Line> = report
        .models
        .iter()
        .filter_map(|model| {
            let settings = model.settings.as_ref()?;
            let sizes = model.sizes.iter();
            Some(Line {
                name: format!("{} on {}, {}", model.model, settings.device, settings.precision),
                points: sizes
                    .map(|size| (size.pixels as f64, 1e3 / size.engine.frames_per_second))
                    .collect(),
            })
        })
        .collect();
    let title = format!("{}, {} cores", report.hardware.cpu, report.hardware.cores);
    let file = PendingFile::create(path)?;
    fs::write(file.temporary(), picture(&title, &lines))
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

fn picture(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = Axis::around(points().map(|point| point.0));
    let y = Axis::around(points().map(|point| point.1));
    let (right, bottom) = (LEFT + x.length(), TOP + y.length());
    let legend = bottom + 66.0;
    let height = legend + ROW * lines.len() as f64;
    let names = lines.iter().map(|line| line.name.as_str()).chain([title]);
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let width = (right + 30.0).max(LEFT + 40.0 + LETTER * longest as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"13\">{}</text>\n",
        escape(title)
    );
    for (value, label) in x.ticks() {
        let at = LEFT + x.place(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }
    for (value, label) in y.ticks() {
        let at = bottom - y.place(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" stroke=\"#333\" fill=\"none\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">pixels</text>\
         <text x=\"{LEFT}\" y=\"{:.1}\" text-anchor=\"end\">ms a frame</text>",
        (LEFT + right) / 2.0,
        bottom + 40.0,
        TOP - 6.0
    );
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut points = line.points.clone();
        points.sort_by(|one, two| one.0.total_cmp(&two.0));
        let places: Vec<(f64, f64)> = points
            .iter()
            .map(|(pixels, ms)| (LEFT + x.place(*pixels), bottom - y.place(*ms)))
            .collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
            path.join("L")
        );
        for ((x, y), (_, ms)) in places.iter().zip(&points) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{ms:.1} ms</title></circle>"
            );
        }
        let row = legend + ROW * index as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{0} {row:.1}h22\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{1}\" y=\"{2:.1}\">{3}</text>",
            LEFT,
            LEFT + 30.0,
            row + 4.0,
            escape(&line.name)
        );
    }
    svg + "</svg>\n"
}

/// Powers of ten, with as much of them as is needed in steps of 1, 2 and 5.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low > high {
            return Axis { low: 1.0, high: 10.0 };
        }
        Axis {
            low: steps().take_while(|step| *step <= low).last().unwrap_or(low),
            high: steps().find(|step| *step > high).unwrap_or(2.0 * high),
        }
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let (low, high) = (self.low, self.high);
        steps()
            .skip_while(move |step| *step < low)
            .take_while(move |step| *step <= high)
            .map(|step| (step, label(step)))
    }

    fn place(&self, value: f64) -> f64 {
        DECADE * (value / self.low).log10()
    }

    fn length(&self) -> f64 {
        self.place(self.high)
    }
}

/// 0.01, 0.02, 0.05, 0.1 and so on.
fn steps() -> impl Iterator<Item = f64> {
    (-2..12).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
}

fn label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{}", (value * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_within_the_axes() {
        let lines = [
            Line {
                name: "a<b".to_owned(),
                points: vec![(8_294_400.0, 3000.0), (230_400.0, 95.0)],
            },
            Line {
                name: "one".to_owned(),
                points: vec![(262_144.0, 0.7)],
            },
        ];
        let svg = picture("a & b", &lines);
        assert!(svg.contains("a &amp; b") && svg.contains("a&lt;b"), "{svg}");
        let (x, y) = (
            Axis::around([230_400.0, 8_294_400.0].into_iter()),
            Axis::around([0.7, 3000.0].into_iter()),
        );
        assert_eq!((x.low, x.high, y.low, y.high), (2e5, 1e7, 0.5, 5000.0));
        let labels = x.ticks().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels, ["200 k", "500 k", "1 M", "2 M", "5 M", "10 M"]);
        let circles: Vec<Vec<f64>> = svg
            .split("<circle ")
            .skip(1)
            .map(|circle| {
                let numbers = circle.split('"').skip(1).step_by(2).take(2);
                numbers.map(|number| number.parse().expect("a number")).collect()
            })
            .collect();
        assert_eq!(circles.len(), 3);
        for at in &circles {
            assert!((LEFT..=LEFT + x.length()).contains(&at[0]), "{at:?}");
            assert!((TOP..=TOP + y.length()).contains(&at[1]), "{at:?}");
        }
        // The names are within the picture, below.
        let view = svg.split("viewBox=\"0 0 ").nth(1).expect("a size");
        let (width, height) = view
            .split('"')
            .next()
            .and_then(|view| view.split_once(' '))
            .expect("two");
        let (width, height): (f64, f64) = (width.parse().unwrap(), height.parse().unwrap());
        for name in ["a&lt;b", "one"] {
            let before = svg.split(&format!(">{name}</text>")).next().expect("a name");
            let numbers = before.rsplit('"').skip(1).step_by(2).take(2);
            let at: Vec<f64> = numbers.map(|number| number.parse().expect("a number")).collect();
            let (y, x) = (at[0], at[1]);
            assert!(x + LETTER * name.len() as f64 <= width, "{x} of {width}");
            assert!(
                TOP + Axis::around([0.7, 3000.0].into_iter()).length() < y && y < height,
                "{y} of {height}"
            );
        }
        // The larger frame is to the right and takes longer.
        assert!(circles[0][0] < circles[1][0] && circles[0][1] > circles[1][1]);
    }
}
