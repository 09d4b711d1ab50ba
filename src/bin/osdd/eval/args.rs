//! The arguments of `osdd eval`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::metric::Metric;
use crate::args::{RuntimeArgs, unit_interval};

pub(crate) const EXAMPLES: &str = "\
Examples:
  osdd eval --blurry val/blurry --sharp val/sharp --gamma 0,0.5,1 --html page.html
  osdd eval --blurry val/blurry --sharp val/sharp --model nano --model runs/s/model --group 10px --json figures.json
  osdd eval --blurry phone/             no truth is known: NIQE, gradient, and what pyiqa has without a reference
  osdd eval --sharp kodak/              sharp images must come out unharmed
  osdd eval --blurry B --sharp S --gamma 0.7,1 --pyiqa --html page.html      every column of the paper's tables

The blurry input itself is always measured too. LPIPS and DISTS need weights that osdd does not come with:
scripts/convert_metrics.py makes them, and they are looked for in $OSDD_METRICS, or in ~/.local/share/osdd/metrics.";

#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("inputs").args(["blurry", "sharp"]).multiple(true).required(true))]
pub(crate) struct EvalArgs {
    /// Blurry image, or a folder of them, named like the sharp ones; without it the sharp images themselves go in
    #[arg(long, value_name = "PATH")]
    pub blurry: Option<PathBuf>,
    /// Sharp image, or a folder of them; without it only metrics that need no truth are measured
    #[arg(long, value_name = "PATH")]
    pub sharp: Option<PathBuf>,
    /// Preset, or the folder of a model; may be given several times; "none" measures the input alone
    #[arg(long, default_value = "nano", value_name = "NAME|DIR")]
    pub model: Vec<String>,
    /// Gamma to measure at; a list, or given several times
    #[arg(long, default_value = "0.7", value_delimiter = ',', value_parser = unit_interval)]
    pub gamma: Vec<f64>,
    /// Also give the means over the images with this in their name; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub group: Vec<String>,
    /// Only these metrics; a list [default: all that can be had]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub metrics: Vec<Metric>,
    /// Folder of the weights of LPIPS and DISTS [default: $OSDD_METRICS, or ~/.local/share/osdd/metrics]
    #[arg(long, value_name = "DIR")]
    pub metrics_weights: Option<PathBuf>,
    /// Measure with the Python package pyiqa too, run by this Python
    #[arg(long, num_args = 0..=1, default_missing_value = "python3", value_name = "PYTHON")]
    pub pyiqa: Option<PathBuf>,
    /// pyiqa's names of the metrics it shall measure; a list
    #[arg(
        long,
        default_value = "clipiqa,musiq,maniqa",
        value_delimiter = ',',
        value_name = "LIST",
        requires = "pyiqa"
    )]
    pub pyiqa_metrics: Vec<String>,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// List the figures of each image, however many there are
    #[arg(long)]
    pub per_image: bool,
    /// Keep the restored images, as DIR/MODEL/GAMMA/NAME.png
    #[arg(long, value_name = "DIR")]
    pub outputs: Option<PathBuf>,
    /// Write every figure to this file ("-": standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with tables, plots against gamma, and pictures to compare; it needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Widest crop that the page shows, at full resolution; 0 shows whole images
    #[arg(long, default_value_t = 600, value_name = "PX", requires = "html")]
    pub html_size: u32,
    /// Most images that the page shows, taken evenly from all
    #[arg(long, default_value_t = 12, value_name = "N", requires = "html")]
    pub html_images: usize,
}
