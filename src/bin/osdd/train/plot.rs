//! `losses.svg`: one panel for each loss, against the iteration.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::output::PendingFile;

const WIDTH: f64 = 720.0;
const PANEL: f64 = 150.0;
/// Room for labels left of a panel and above its curve.
const LEFT: f64 = 80.0;
const TOP: f64 = 26.0;

/// Columns of `log.csv` that are no losses.
const OTHERS: [&str; 4] = [
    "learning_rate",
    "images_per_second",
    "data_wait_percent",
    "skipped",
];

/// Draws every loss of the log; nothing where it has no rows.
pub(super) fn losses(csv: &Path, svg: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let Some(picture) = picture(&text) else {
        return Ok(());
    };
    let file = PendingFile::create(svg)?;
    fs::write(file.temporary(), picture).with_context(|| format!("cannot write {}", svg.display()))?;
    file.commit()
}

fn picture(csv: &str) -> Option<String> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next()?.split(',').collect();
    let rows: Vec<Vec<f64>> = lines
        .map(|line| {
            line.split(',')
                .map(|field| field.parse().unwrap_or(f64::NAN))
                .collect()
        })
        .filter(|row: &Vec<f64>| row.len() == names.len())
        .collect();
    let (first, last) = (rows.first()?[0], rows.last()?[0]);
    let losses = (1..names.len()).filter(|i| !OTHERS.contains(&names[*i]));
    let panels: Vec<(&str, Vec<(f64, f64)>)> = losses
        .map(|i| {
            (
                names[i],
                rows.iter()
                    .map(|row| ((row[0] - first) / (last - first).max(1.0), row[i]))
                    .collect(),
            )
        })
        .collect();
    let height = PANEL * panels.len() as f64 + TOP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (name, points)) in panels.iter().enumerate() {
        panel(&mut svg, PANEL * index as f64, name, points);
    }
    let (y, right) = (height - 8.0, WIDTH - 10.0);
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{y}\">iteration {first}</text>\
         <text x=\"{right}\" y=\"{y}\" text-anchor=\"end\">{last}</text>\n</svg>\n"
    );
    Some(svg)
}

/// A frame at height `top` with a curve whose range fills it; `points` have x in [0, 1].
fn panel(svg: &mut String, top: f64, name: &str, points: &[(f64, f64)]) {
    let finite = points.iter().filter(|(_, y)| y.is_finite());
    let (low, high) = finite
        .clone()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| {
            (low.min(*y), high.max(*y))
        });
    let range = (high - low).max(1e-12);
    let (width, height) = (WIDTH - LEFT - 10.0, PANEL - TOP);
    let curve: Vec<String> = finite
        .map(|(x, y)| {
            format!(
                "{:.1},{:.1}",
                LEFT + x * width,
                top + TOP + (high - y) / range * height
            )
        })
        .collect();
    // A few points would otherwise look like a curve, and one like nothing.
    let dots = if curve.len() > 30 { &[] } else { curve.as_slice() };
    let dots = dots.iter().filter_map(|point| point.split_once(','));
    let dots: String = dots
        .map(|(x, y)| format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"#0b62a4\"/>"))
        .collect();
    let (frame, bottom, label) = (top + TOP, top + PANEL, LEFT - 6.0);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{name}</text>\
         <rect x=\"{LEFT}\" y=\"{frame}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#bbb\"/>\
         <text x=\"{label}\" y=\"{:.1}\" text-anchor=\"end\">{high:.4}</text>\
         <text x=\"{label}\" y=\"{bottom}\" text-anchor=\"end\">{low:.4}</text>\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#0b62a4\" stroke-width=\"1.5\"/>{dots}",
        frame - 6.0,
        frame + 10.0,
        curve.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_has_a_panel_and_falls_to_its_bottom() {
        let csv = "iteration,learning_rate,images_per_second,data_wait_percent,skipped,loss,l1\n\
                   50,1e-3,5,0,0,4.0,1.0\n100,1e-3,5,0,0,2.0,NaN\n150,1e-3,5,0,0,1.0,0.5\n";
        let svg = picture(csv).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("learning_rate"));
        assert!(svg.contains("80.0,26.0") && svg.contains("710.0,150.0"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(picture("iteration,loss\n50,1\n").unwrap().contains("<circle"));
        assert!(picture("iteration,loss\n").is_none());
        assert!(picture("").is_none());
    }
}
