//! Everything that measures an image, ready to run: the columns of the tables and one figure for each.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use osdd::frame::Frame;
use osdd::metrics::{mean_gradient, psnr};

use super::args::EvalArgs;
use super::metric::{Column, Metric};
use super::pyiqa::Pyiqa;
use crate::{Usage, report};

/// What computes a metric.
enum Meter {
    Psnr,
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
        let folders = weight_folders(args.metrics_weights.as_deref());
        let mut chosen = args.metrics.clone();
        if chosen.is_empty() {
            chosen = available(&folders);
        }
        chosen.sort_by_key(|metric| *metric as usize);
        chosen.dedup();
        if let Some(metric) = args
            .metrics
            .iter()
            .find(|metric| metric.column().needs_truth && !truth)
        {
            bail!(Usage(format!(
                "{} compares with the truth; give the sharp images: --sharp",
                metric.column().name
            )));
        }
        chosen.retain(|metric| truth || !metric.column().needs_truth);
        let mut columns: Vec<Column> = chosen.iter().map(|metric| metric.column()).collect();
        let meters = chosen
            .iter()
            .map(|metric| meter(*metric, &folders))
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
            figures.push(match (meter, truth) {
                (Meter::Gradient, _) => Some(1e3 * mean_gradient(frame)),
                (_, None) => None,
                (Meter::Psnr, Some(truth)) => Some(psnr(frame, truth)?),
            });
        }
        if let Some(pyiqa) = &mut self.pyiqa {
            figures.extend(pyiqa.score(frame, truth)?);
        }
        Ok(figures)
    }
}

fn available(_folders: &[PathBuf]) -> Vec<Metric> {
    vec![Metric::Psnr, Metric::Gradient]
}

fn meter(metric: Metric, _folders: &[PathBuf]) -> Result<Meter> {
    Ok(match metric {
        Metric::Psnr => Meter::Psnr,
        _ => Meter::Gradient,
    })
}

fn weight_folders(_own: Option<&Path>) -> Vec<PathBuf> {
    Vec::new()
}
