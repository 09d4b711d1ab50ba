//! Everything that measures an image, ready to run: the columns of the tables and one figure for each.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use osdd::engine::Device;
use osdd::frame::Frame;
use osdd::metrics::{Backbone, Dists, Lpips, Niqe, mean_gradient, psnr, ssim};

use super::args::EvalArgs;
use super::metric::{Column, Metric};
use super::pyiqa::Pyiqa;
use crate::{Usage, interrupt, metrics_weights, report};

/// How to make what is missing.
const CONVERTER: &str = "scripts/convert_metrics.py makes it";

/// What computes a metric.
enum Meter {
    Psnr,
    Ssim,
    Lpips(Box<Lpips>),
    Dists(Box<Dists>),
    Niqe(Box<Niqe>),
    Gradient,
}

pub(super) struct Meters {
    meters: Vec<Meter>,
    pyiqa: Option<Pyiqa>,
    columns: Vec<Column>,
}

impl Meters {
    /// The metrics that are asked for, or all that can be had; without `truth` those that need none.
    ///
    /// # Errors
    /// [`Usage`] where a metric needs a truth that is not there; weights that are missing or broken; pyiqa does not start.
    pub fn open(args: &EvalArgs, truth: bool) -> Result<Self> {
        let weights = Weights(metrics_weights::folder(args.metrics_weights.as_deref()));
        let mut chosen = args.metrics.clone();
        if let Some(metric) = chosen.iter().find(|metric| metric.column().needs_truth && !truth) {
            bail!(Usage(format!(
                "{} compares with the truth; give the sharp images: --sharp",
                metric.column().name
            )));
        }
        if chosen.is_empty() {
            chosen = weights.available(truth);
        }
        chosen.sort_by_key(|metric| *metric as usize);
        chosen.dedup();
        let mut columns: Vec<Column> = chosen.iter().map(|metric| metric.column()).collect();
        let meters = chosen
            .iter()
            .map(|metric| Meter::new(*metric, &weights, args.runtime.device))
            .collect::<Result<_>>()?;
        let mut pyiqa = None;
        if let Some(python) = &args.pyiqa {
            let device = args.runtime.device.to_string();
            let (process, more) = Pyiqa::start(python, &device, &args.pyiqa_metrics)?;
            columns.extend(more);
            pyiqa = Some(process);
        }
        Ok(Self {
            meters,
            pyiqa,
            columns,
        })
    }

    /// What [`measure`](Self::measure) gives, in this order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// One figure for each column; `None` where it needs a truth that is not there or the image is too small for it.
    ///
    /// # Errors
    /// The frames differ in size or depth, a network fails, or pyiqa does.
    pub fn measure(&mut self, frame: &Frame, truth: Option<&Frame>) -> Result<Vec<Option<f64>>> {
        let mut figures = Vec::with_capacity(self.columns.len());
        for meter in &self.meters {
            interrupt::check()?;
            figures.push(meter.measure(frame, truth)?);
        }
        if let Some(pyiqa) = &mut self.pyiqa {
            figures.extend(pyiqa.score(frame, truth)?);
        }
        Ok(figures)
    }
}

impl Meter {
    fn new(metric: Metric, weights: &Weights, device: Device) -> Result<Self> {
        Ok(match metric {
            Metric::Psnr => Self::Psnr,
            Metric::Ssim => Self::Ssim,
            Metric::Niqe => Self::Niqe(Box::new(Niqe::new())),
            Metric::Gradient => Self::Gradient,
            Metric::LpipsAlex => Self::lpips(metric, Backbone::Alex, weights, device)?,
            Metric::LpipsVgg => Self::lpips(metric, Backbone::Vgg, weights, device)?,
            Metric::LpipsSqueeze => Self::lpips(metric, Backbone::Squeeze, weights, device)?,
            Metric::Dists => Self::Dists(Box::new(Dists::open(&weights.path(metric)?, device)?)),
        })
    }

    fn lpips(metric: Metric, backbone: Backbone, weights: &Weights, device: Device) -> Result<Self> {
        let path = weights.path(metric)?;
        let lpips = Lpips::open(&path, device)?;
        ensure!(
            lpips.backbone() == backbone,
            "{} holds LPIPS on another network; {CONVERTER}",
            path.display()
        );
        Ok(Self::Lpips(Box::new(lpips)))
    }

    fn measure(&self, frame: &Frame, truth: Option<&Frame>) -> Result<Option<f64>> {
        let figure = match (self, truth) {
            (Self::Niqe(niqe), _) => niqe.score(frame),
            (Self::Gradient, _) => Ok(1e3 * mean_gradient(frame)),
            (_, None) => return Ok(None),
            (Self::Psnr, Some(truth)) => psnr(frame, truth),
            (Self::Ssim, Some(truth)) => ssim(frame, truth),
            (Self::Lpips(lpips), Some(truth)) => lpips.score(frame, truth),
            (Self::Dists(dists), Some(truth)) => dists.score(frame, truth),
        };
        match figure {
            // Too small an image for this metric says nothing against the others.
            Err(osdd::Error::OutOfRange { .. }) => Ok(None),
            figure => Ok(Some(figure?).filter(|figure| !figure.is_nan())),
        }
    }
}

/// The folder of the metrics' weights.
struct Weights(PathBuf);

impl Weights {
    fn find(&self, file: &str) -> Option<PathBuf> {
        Some(self.0.join(file)).filter(|path| path.is_file())
    }

    fn path(&self, metric: Metric) -> Result<PathBuf> {
        let file = metric.weights().context("a metric without weights")?;
        self.find(file)
            .with_context(|| format!("{file} is not in {}; {CONVERTER}", self.0.display()))
    }

    /// All metrics whose weights are there; says which are not.
    fn available(&self, truth: bool) -> Vec<Metric> {
        let possible = Metric::ALL
            .iter()
            .filter(|metric| truth || !metric.column().needs_truth);
        let (there, missing): (Vec<Metric>, Vec<Metric>) =
            possible.partition(|metric| metric.weights().is_none_or(|file| self.find(file).is_some()));
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|metric| metric.column().name).collect();
            let files: Vec<&str> = missing.iter().filter_map(|metric| metric.weights()).collect();
            report::note(format_args!(
                "not measured: {}; for that, make {} with scripts/convert_metrics.py, in {}",
                names.join(", "),
                files.join(", "),
                self.0.display()
            ));
        }
        there
    }
}
