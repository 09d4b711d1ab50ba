//! `osdd eval`: what a model does to images whose sharp version is known.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::DynamicImage;
use osdd::engine::Engine;
use osdd::frame::Frame;
use osdd::metrics::{mean_gradient, psnr};
use serde::Serialize;

use crate::args::EvalArgs;
use crate::progress::Progress;
use crate::{Usage, images, picture, report};

/// Figures of one image, or means over several. PSNR in dB; `null` in JSON where it is infinite or undefined.
#[derive(Clone, Serialize)]
struct Figures {
    name: String,
    images: usize,
    /// Of the input against the sharp image.
    psnr_before: f64,
    gradient_input: f64,
    gradient_sharp: f64,
    /// One for each gamma, in the order of the command line.
    results: Vec<AtGamma>,
}

#[derive(Clone, Serialize)]
struct AtGamma {
    gamma: f64,
    psnr: f64,
    /// `psnr - psnr_before`.
    gain: f64,
    /// [`mean_gradient`] of the output: how sharp it looks.
    gradient: f64,
}

#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    precision: String,
    tile_size: usize,
    tile_overlap: usize,
    images: Vec<Figures>,
    /// Over all images, then over each `--group`.
    means: Vec<Figures>,
}

pub(crate) fn run(args: EvalArgs) -> Result<()> {
    let gammas = if args.gamma.is_empty() {
        vec![0.7]
    } else {
        args.gamma.clone()
    };
    let config = args.engine.config(gammas[0], 1.0)?;
    let pairs = pairs(args.blurry.as_deref(), &args.sharp)?;
    let engine = Engine::new(config)?;
    let mut progress = Progress::new("eval".to_owned(), "images", Some(pairs.len() as u64));
    let mut figures = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        figures.push(measure(&engine, pair, &gammas)?);
        progress.update(figures.len() as u64, figures.len() as u64);
    }
    drop(progress);
    let means = means(&figures, &args.group)?;
    let info = engine.info();
    let report = Report {
        model: info.model.clone(),
        device: info.device.to_string(),
        precision: info.precision.to_string(),
        tile_size: args.engine.tile,
        tile_overlap: args.engine.overlap,
        images: figures,
        means,
    };
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    report::print(&table(&report)?)
}

struct Pair {
    name: String,
    /// `None`: the sharp image is the input.
    blurry: Option<PathBuf>,
    sharp: PathBuf,
}

/// Pairs by name without extension, in order.
fn pairs(blurry: Option<&Path>, sharp: &Path) -> Result<Vec<Pair>> {
    let sharp_images = folder(sharp)?;
    let Some(blurry) = blurry else {
        return Ok(sharp_images
            .into_iter()
            .map(|(name, sharp)| Pair {
                name,
                blurry: None,
                sharp,
            })
            .collect());
    };
    let mut blurry_images = folder(blurry)?;
    let mut pairs = Vec::new();
    let mut alone = 0;
    for (name, sharp) in sharp_images {
        match blurry_images.remove(&name) {
            Some(blurry) => pairs.push(Pair {
                name,
                blurry: Some(blurry),
                sharp,
            }),
            None => alone += 1,
        }
    }
    alone += blurry_images.len();
    ensure!(
        !pairs.is_empty(),
        "no image in {} has its name in {}",
        blurry.display(),
        sharp.display()
    );
    if alone > 0 {
        report::warning(format_args!("{alone} images have no partner and are left out"));
    }
    Ok(pairs)
}

fn folder(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut images = BTreeMap::new();
    for entry in std::fs::read_dir(path).with_context(cannot_read)? {
        let file = entry.with_context(cannot_read)?.path();
        if !image::ImageFormat::from_path(&file).is_ok_and(picture::can_read) {
            continue;
        }
        let Some(name) = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else {
            continue;
        };
        if let Some(other) = images.insert(name, file.clone()) {
            bail!("{} and {} have the same name", other.display(), file.display());
        }
    }
    ensure!(!images.is_empty(), "{} holds no images", path.display());
    Ok(images)
}

fn measure(engine: &Engine, pair: &Pair, gammas: &[f64]) -> Result<Figures> {
    let sharp = picture::read_rgb(&pair.sharp)?;
    let input = pair.blurry.as_deref().map(picture::read_rgb).transpose()?;
    let (mut input, sharp) = frames(input, sharp)?;
    ensure!(
        (input.width, input.height) == (sharp.width, sharp.height),
        "{}: the blurry image is {}x{} and the sharp one {}x{}",
        pair.name,
        input.width,
        input.height,
        sharp.width,
        sharp.height
    );
    let psnr_before = psnr(&input, &sharp)?;
    let gradient_input = mean_gradient(&input);
    let mut results = Vec::with_capacity(gammas.len());
    for &gamma in gammas {
        engine.set_gamma(gamma);
        let output = images::run(engine, input).with_context(|| format!("cannot deblur {}", pair.name))?;
        input = output.input;
        let psnr = psnr(&output.frame, &sharp)?;
        results.push(AtGamma {
            gamma,
            psnr,
            gain: psnr - psnr_before,
            gradient: mean_gradient(&output.frame),
        });
    }
    let gradient_sharp = mean_gradient(&sharp);
    Ok(Figures {
        name: pair.name.clone(),
        images: 1,
        psnr_before,
        gradient_input,
        gradient_sharp,
        results,
    })
}

/// Both with the deeper one's depth, as PSNR compares like with like.
fn frames(input: Option<DynamicImage>, sharp: DynamicImage) -> Result<(Frame, Frame)> {
    let Some(input) = input else {
        let sharp = picture::to_frame(&sharp)?;
        return Ok((sharp.clone(), sharp));
    };
    let deep = [&input, &sharp]
        .iter()
        .any(|image| matches!(image, DynamicImage::ImageRgb16(_)));
    let same = |image: DynamicImage| if deep { image.into_rgb16().into() } else { image };
    Ok((picture::to_frame(&same(input))?, picture::to_frame(&same(sharp))?))
}

fn means(figures: &[Figures], groups: &[String]) -> Result<Vec<Figures>> {
    let mut means = vec![mean("mean", figures.iter())];
    for group in groups {
        let mut members = figures
            .iter()
            .filter(|figures| figures.name.contains(group))
            .peekable();
        if members.peek().is_none() {
            bail!(Usage(format!("no image has \"{group}\" in its name")));
        }
        means.push(mean(group, members));
    }
    Ok(means)
}

fn mean<'a>(name: &str, members: impl Iterator<Item = &'a Figures>) -> Figures {
    let members: Vec<&Figures> = members.collect();
    let count = members.len() as f64;
    let mean_of =
        |value: &dyn Fn(&Figures) -> f64| members.iter().map(|figures| value(figures)).sum::<f64>() / count;
    let results = members[0]
        .results
        .iter()
        .enumerate()
        .map(|(index, result)| AtGamma {
            gamma: result.gamma,
            psnr: mean_of(&|figures| figures.results[index].psnr),
            gain: mean_of(&|figures| figures.results[index].gain),
            gradient: mean_of(&|figures| figures.results[index].gradient),
        });
    Figures {
        name: name.to_owned(),
        images: members.len(),
        psnr_before: mean_of(&|figures| figures.psnr_before),
        gradient_input: mean_of(&|figures| figures.gradient_input),
        gradient_sharp: mean_of(&|figures| figures.gradient_sharp),
        results: results.collect(),
    }
}

fn table(report: &Report) -> Result<String> {
    let rows: Vec<&Figures> = report.images.iter().chain(&report.means).collect();
    let name_width = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or_default()
        .max(5);
    let mut text = String::new();
    writeln!(
        text,
        "{} on {}, {}; PSNR in dB, gradient in 1/1000 of full scale\n",
        report.model, report.device, report.precision
    )?;
    write!(
        text,
        "{:name_width$}  {:>7}  {:>8}",
        "image", "before", "gradient"
    )?;
    for result in rows.first().map_or(&[][..], |row| &row.results) {
        let heading = format!("gamma {}", result.gamma);
        write!(text, "  {heading:>9}  {:>7}  {:>8}", "gain", "gradient")?;
    }
    writeln!(text)?;
    for (index, row) in rows.iter().enumerate() {
        if index == report.images.len() {
            writeln!(text)?;
        }
        write!(
            text,
            "{:name_width$}  {:>7}  {:>8.2}",
            row.name,
            decibels(row.psnr_before),
            1e3 * row.gradient_input
        )?;
        for result in &row.results {
            let gain = if result.gain.is_finite() {
                format!("{:+.3}", result.gain)
            } else {
                "-".to_owned()
            };
            write!(
                text,
                "  {:>9}  {gain:>7}  {:>8.2}",
                decibels(result.psnr),
                1e3 * result.gradient
            )?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

fn decibels(psnr: f64) -> String {
    if psnr.is_finite() {
        format!("{psnr:.2}")
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_follow_the_names() {
        let figures = |name: &str, psnr: f64| Figures {
            name: name.to_owned(),
            images: 1,
            psnr_before: 20.0,
            gradient_input: 0.0,
            gradient_sharp: 0.0,
            results: vec![AtGamma {
                gamma: 1.0,
                psnr,
                gain: psnr - 20.0,
                gradient: 0.0,
            }],
        };
        let all = [
            figures("a_10px", 21.0),
            figures("a_22px", 23.0),
            figures("b_10px", 22.0),
        ];
        let means = means(&all, &["10px".to_owned()]).unwrap();
        assert_eq!((means[0].images, means[0].results[0].gain), (3, 2.0));
        assert_eq!((means[1].images, means[1].results[0].gain), (2, 1.5));
        assert!(super::means(&all, &["none".to_owned()]).is_err());
    }
}
