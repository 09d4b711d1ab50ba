//! The work: the inputs first, then one model after the other, image by image and gamma by gamma.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};
use image::ImageFormat;
use osdd::engine::Engine;
use osdd::frame::Frame;

use super::Plan;
use super::figures::{Inputs, LeftOut, Method, Row, Setup, Values};
use super::gallery::Gallery;
use super::meters::Meters;
use super::pairs::{Pair, Pixels};
use crate::output::PendingFile;
use crate::progress::Progress;
use crate::{images, interrupt, picture, report};

/// What came of a [`Plan`].
pub(super) struct Measured {
    /// The images that could be read.
    pub pairs: Vec<Pair>,
    pub left_out: Vec<LeftOut>,
    pub rows: Vec<Row>,
    pub setup: Option<Setup>,
    pub gallery: Option<Gallery>,
}

/// # Errors
/// No image can be read; a model or a metric fails; an output cannot be written; the user asked to stop.
pub(super) fn run(plan: &Plan, meters: &mut Meters) -> Result<Measured> {
    let start =
        |model: &String| Engine::new(plan.runtime.config(model, plan.gammas[0], 1.0)?).map_err(Error::from);
    // Before the inputs are measured, so that a device that is not there is known at once.
    let mut first = plan.models.first().map(start).transpose()?;
    let mut counter = Counter::new(plan);
    let mut measured = inputs(plan, meters, &mut counter)?;
    for model in &plan.models {
        // One model in memory at a time: it goes before the next one comes.
        let engine = first.take().map_or_else(|| start(model), Ok)?;
        measured.setup.get_or_insert_with(|| plan.setup(engine.info()));
        let rows = outputs(plan, &engine, model, meters, &mut measured, &mut counter)?;
        measured.rows.extend(rows);
    }
    Ok(measured)
}

/// Measures what goes into the models, and finds out what can be read.
fn inputs(plan: &Plan, meters: &mut Meters, counter: &mut Counter) -> Result<Measured> {
    let (mut input, mut truth) = (row(Method::Input), row(Method::Truth));
    let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
    for pair in &plan.pairs {
        interrupt::check()?;
        match pair.read() {
            Ok(pixels) => {
                input
                    .values
                    .push(measure(meters, pair, &pixels.input, pixels.truth.as_ref())?);
                if let Some(frame) = pixels.truth.filter(|_| plan.inputs == Inputs::Pairs) {
                    truth.values.push(measure(meters, pair, &frame, None)?);
                }
                pairs.push(pair.clone());
            }
            Err(error) => {
                let reason = report::one_line(&error);
                counter
                    .progress
                    .line(|| report::warning(format_args!("{} is left out: {reason}", pair.name)));
                left_out.push(LeftOut {
                    name: pair.name.clone(),
                    reason,
                });
            }
        }
        counter.step();
    }
    match (pairs.len(), left_out.len()) {
        (0, count) => bail!("none of the {count} images can be measured"),
        (_, 0) => {}
        (_, count) => report::warning(format_args!(
            "{count} of {} images are left out",
            plan.pairs.len()
        )),
    }
    let gallery = plan.gallery.map(|size| Gallery::open(&pairs, size)).transpose()?;
    let mut rows = vec![input];
    if plan.inputs == Inputs::Pairs {
        rows.push(truth);
    }
    Ok(Measured {
        pairs,
        left_out,
        rows,
        setup: None,
        gallery,
    })
}

/// Runs one model over all images and gammas: a row for each gamma.
fn outputs(
    plan: &Plan,
    engine: &Engine,
    model: &str,
    meters: &mut Meters,
    measured: &mut Measured,
    counter: &mut Counter,
) -> Result<Vec<Row>> {
    let method = |gamma| Method::Model {
        model: model.to_owned(),
        gamma,
    };
    let mut rows: Vec<Row> = plan.gammas.iter().map(|gamma| row(method(*gamma))).collect();
    for (index, pair) in measured.pairs.iter().enumerate() {
        let Pixels { mut input, truth } = pair.read()?;
        for (row, &gamma) in rows.iter_mut().zip(&plan.gammas) {
            engine.set_gamma(gamma);
            let output =
                images::run(engine, input).with_context(|| format!("{model} cannot deblur {}", pair.name))?;
            input = output.input;
            row.values
                .push(measure(meters, pair, &output.frame, truth.as_ref())?);
            if let Some(gallery) = &mut measured.gallery {
                gallery.add(index, method(gamma), &output.frame)?;
            }
            if let Some(folder) = &plan.outputs {
                let path = output_folder(folder, model, gamma).join(format!("{}.png", pair.name));
                write_png(output.frame, &path)?;
            }
            counter.step();
        }
    }
    Ok(rows)
}

/// How many images have been measured, in whatever version.
struct Counter {
    done: u64,
    progress: Progress,
}

impl Counter {
    fn new(plan: &Plan) -> Self {
        let versions = 1 + plan.models.len() * plan.gammas.len();
        let total = (plan.pairs.len() * versions) as u64;
        Self {
            done: 0,
            progress: Progress::new("eval".to_owned(), "measurements", Some(total)),
        }
    }

    fn step(&mut self) {
        self.done += 1;
        self.progress.update(self.done, self.done);
    }
}

fn row(method: Method) -> Row {
    Row {
        method,
        values: Vec::new(),
    }
}

fn measure(meters: &mut Meters, pair: &Pair, frame: &Frame, truth: Option<&Frame>) -> Result<Values> {
    interrupt::check()?;
    meters
        .measure(frame, truth)
        .with_context(|| format!("cannot measure {}", pair.name))
}

/// Where the images restored by `model` at `gamma` go.
pub(super) fn output_folder(outputs: &Path, model: &str, gamma: f64) -> PathBuf {
    outputs.join(folder_name(model)).join(gamma.to_string())
}

/// A model's name or path as the name of one folder.
fn folder_name(model: &str) -> String {
    let parts: Vec<&str> = model
        .split('/')
        .filter(|part| !matches!(*part, "" | "." | ".."))
        .collect();
    parts.join("_")
}

/// # Errors
/// A folder of outputs is also one of inputs, whose images would be replaced.
pub(super) fn check_outputs(outputs: &Path, models: &[String], gammas: &[f64], pairs: &[Pair]) -> Result<()> {
    let folder = |file: &Path| fs::canonicalize(file).ok()?.parent().map(Path::to_owned);
    let inputs: Vec<PathBuf> = pairs.iter().flat_map(Pair::paths).filter_map(folder).collect();
    for model in models {
        for &gamma in gammas {
            let target = output_folder(outputs, model, gamma);
            if fs::canonicalize(&target).is_ok_and(|target| inputs.contains(&target)) {
                bail!(
                    "{} holds the inputs, and inputs are never overwritten; choose another folder",
                    target.display()
                );
            }
        }
    }
    Ok(())
}

fn write_png(frame: Frame, path: &Path) -> Result<()> {
    let file = PendingFile::create(path)?;
    picture::from_frame(frame, false)?
        .save_with_format(file.temporary(), ImageFormat::Png)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

/// `psnr - psnr of the input`, beside the PSNR: what people look for first.
pub(super) fn insert_gain(rows: &mut [Row], psnr: usize) {
    let before: Values = match rows.first() {
        Some(input) => input.values.iter().map(|values| values[psnr]).collect(),
        None => return,
    };
    for row in rows {
        for (values, before) in row.values.iter_mut().zip(&before) {
            let gain = values[psnr].zip(*before).map(|(after, before)| after - before);
            let is_model = matches!(row.method, Method::Model { .. });
            values.insert(psnr + 1, gain.filter(|gain| is_model && gain.is_finite()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_different_models_go_to_different_folders() {
        assert_eq!(
            output_folder("out".as_ref(), "nano", 1.0),
            Path::new("out/nano/1")
        );
        assert_eq!(
            output_folder("out".as_ref(), "../runs/s/model/", 0.7),
            Path::new("out/runs_s_model/0.7")
        );
    }

    #[test]
    fn the_gain_is_over_the_input() {
        let rows = |psnr: [f64; 2]| {
            let mut rows = [
                Method::Input,
                Method::Model {
                    model: "nano".to_owned(),
                    gamma: 1.0,
                },
            ]
            .into_iter()
            .zip(psnr)
            .map(|(method, psnr)| Row {
                method,
                values: vec![vec![Some(psnr), Some(9.0)]],
            })
            .collect::<Vec<_>>();
            insert_gain(&mut rows, 0);
            rows.into_iter().map(|row| row.values).collect::<Vec<_>>()
        };
        assert_eq!(
            rows([20.0, 21.5]),
            [
                [[Some(20.0), None, Some(9.0)]],
                [[Some(21.5), Some(1.5), Some(9.0)]]
            ]
        );
        assert_eq!(rows([f64::INFINITY, 40.0])[1], [[Some(40.0), None, Some(9.0)]]);
    }
}
