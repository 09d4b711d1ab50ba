//! What may be written on the command line, and what its help says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use osdd::engine::{Device, EngineConfig, Precision};

use crate::Usage;
use crate::eval;
use crate::import::ImportArgs;
use crate::synth::SynthArgs;
use crate::train::TrainArgs;

const EXAMPLES: &str = "\
Examples:
  osdd deblur photo.jpg -o sharp.jpg             one image
  osdd deblur holiday/ -o sharp/ --resume        a folder; run it again to go on where it stopped
  osdd deblur clip.mp4 -o sharp.mp4 --gamma 1    a video; sound and subtitles are kept
  osdd models                                    what is installed

The model's log goes to standard error: OSDD_LOG=debug osdd ...";

const DEBLUR_EXAMPLES: &str = "\
Examples:
  osdd deblur photo.png -o sharp.png
  osdd deblur photo.png -o both.png --compare side-by-side
  osdd deblur a.jpg b.jpg holiday/ -o sharp/
  osdd deblur clip.mov -o sharp.mp4 --gamma 0.5 --quality 16

Images: PNG, JPEG, WebP, TIFF, BMP; depth, transparency, colour profile and EXIF data are kept where the output format
holds them. Videos: whatever GStreamer decodes; the container follows the output's extension (mp4, m4v, mov, mkv, webm,
avi); sound and subtitles are copied without encoding them again wherever that container takes them.
Of folders the files in them are taken, not folders in them; to the names of videos of other kinds .mp4 is added. The element osdddeblur
has to be installed for videos.";

const BENCH_EXAMPLES: &str = "\
Examples:
  osdd bench                            nano at 640x360
  osdd bench --size 1280x720 --size 1920x1080 --device cuda --json bench.json";

const IMPORT_EXAMPLES: &str = "\
Examples:
  osdd import --diffusers stable-diffusion-2-1-base --out ~/.local/share/osdd/models/sd21
  osdd import --diffusers stable-diffusion-2-1-base --check
  osdd import --verify ~/.local/share/osdd/models/sd21

The folder needs model_index.json, unet/, vae/ and scheduler/ with full-precision safetensors. UNet and autoencoder are
taken over tensor by tensor; the skips start without effect, and the prompt starts at random: both are to be trained.
The record import.json in the model has source, shape, dtype and SHA-256 of each tensor.";

const SYNTH_EXAMPLES: &str = "\
Examples:
  osdd synth --images DF2K/ --out pairs/                        overlapping 512x512 crops of every image
  osdd synth --images DF2K/ --out more/ --variants 3 --kinds rotation,layered --extent 5..40
  osdd synth --clips 240fps.mp4 --out gopro/ --crop 0           averages of 7 to 13 frames, as GoPro was made
  osdd synth --images photos/ --out look/ --count 50 --config models/nano/train/base.json
  osdd synth --bench

Writes blurry/ and sharp/ with equal names (training and eval take the folder as it is), kernels/ as pictures and as exact
JSON, synth.json with what was drawn for each pair, and contact_sheet.png to look at. Blur is made in linear light.";

/// Removes motion blur from images and videos with a one-step diffusion model.
#[derive(Debug, Parser)]
#[command(name = "osdd", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print errors and warnings only
    #[arg(short, long, global = true, display_order = 1000)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deblur images, folders of images and videos
    #[command(after_help = DEBLUR_EXAMPLES)]
    Deblur(DeblurArgs),
    /// Measure models on images, in figures and pictures
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::EvalArgs),
    /// Measure frames per second and peak memory
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// List the installed models
    Models(ModelsArgs),
    /// Make blurry and sharp pairs from sharp images and high-frame-rate clips
    #[command(after_help = SYNTH_EXAMPLES)]
    Synth(SynthArgs),
    /// Train a model's weights, or one of its adapters
    #[command(after_help = crate::train::EXAMPLES)]
    Train(TrainArgs),
    /// Make a model of Stable Diffusion 2.1-base
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
}

/// Which model runs, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Preset, or the folder of a model
    #[arg(long, default_value = "nano", value_name = "NAME|DIR")]
    pub model: String,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Where a model runs, and how a frame is cut into tiles.
#[derive(Args, Clone, Debug)]
pub(crate) struct RuntimeArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// auto (bf16 on a GPU and, for nano and small, on a CPU with AMX; else fp32), fp32, bf16 or, on a GPU, fp16
    #[arg(long, default_value = "auto")]
    pub precision: Precision,
    /// Largest side of a tile in pixels, a multiple of 64; 0 takes the whole frame [default: 2048 for nano and small,
    /// else 512, on a GPU 768 and frames up to a megapixel as a whole]
    #[arg(long, value_name = "PX")]
    pub tile: Option<usize>,
    /// Overlap of neighbouring tiles in pixels, or half of a tile where that is less [default: what the model asks for, 128 for
    /// nano and 256 for small]
    #[arg(long, value_name = "PX")]
    pub overlap: Option<usize>,
}

impl EngineArgs {
    /// # Errors
    /// [`Usage`] when a value is out of the engine's range.
    pub fn config(&self, gamma: f64, strength: f64) -> Result<EngineConfig, Usage> {
        self.runtime.config(&self.model, gamma, strength)
    }

    /// The same arguments again, for a child process.
    pub fn to_command_line(&self) -> Vec<String> {
        let pixels = [("--tile", self.runtime.tile), ("--overlap", self.runtime.overlap)];
        let pixels = pixels
            .into_iter()
            .filter_map(|(name, pixels)| Some((name, pixels?.to_string())));
        [
            ("--model", self.model.clone()),
            ("--device", self.runtime.device.to_string()),
            ("--precision", self.runtime.precision.to_string()),
        ]
        .into_iter()
        .chain(pixels)
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
    }
}

impl RuntimeArgs {
    /// # Errors
    /// [`Usage`] when a value is out of the engine's range.
    pub fn config(&self, model: &str, gamma: f64, strength: f64) -> Result<EngineConfig, Usage> {
        let config = EngineConfig {
            model: model.to_owned(),
            device: self.device,
            precision: self.precision,
            tile_size: self.tile,
            tile_overlap: self.overlap,
            gamma,
            strength,
            ..EngineConfig::default()
        };
        config.validate().map_err(|error| Usage(error.to_string()))?;
        Ok(config)
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DeblurArgs {
    /// Images, videos, folders of them
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// File to write; a folder when there are several inputs
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// 1 stays closest to the input, lower generates more detail (0..1)
    #[arg(long, default_value = "0.7", value_parser = unit_interval, allow_negative_numbers = true)]
    pub gamma: f64,
    /// Mix of result and input; 0 is the input (0..1)
    #[arg(long, default_value = "1", value_parser = unit_interval, allow_negative_numbers = true)]
    pub strength: f64,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Show a tile again, without the model, while no sample of it has changed by more than this, in levels of 255, since it was
    /// made: for cameras that stand still, a little above their noise; 0 makes every tile anew (0..255)
    #[arg(long, default_value = "0", value_name = "LEVELS", value_parser = levels, allow_negative_numbers = true)]
    pub reuse_threshold: f64,
    /// Leave tiles as they are whose blur is less than this: for footage that is mostly sharp, begin with 0.3; 0 skips nothing (0..1)
    #[arg(long, default_value = "0", value_name = "BLUR", value_parser = unit_interval, allow_negative_numbers = true)]
    pub skip_sharp: f64,
    /// Show input and result in one picture
    #[arg(long, value_enum, default_value_t = Compare::Off)]
    pub compare: Compare,
    /// Video quality, lower is better: 0..50 for H.264 (default 18), 0..63 for VP9 (default 24)
    #[arg(long, value_name = "Q")]
    pub quality: Option<u32>,
    /// Skip what has been written already, with whatever settings; go on with a video that was interrupted
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Replace existing outputs (never an input)
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Frame size; may be given several times [default: 640x360]
    #[arg(long, value_name = "WxH")]
    pub size: Vec<Size>,
    /// 512x512, 640x360, 1280x720, 1920x1080 and 3840x2160
    #[arg(long, conflicts_with = "size")]
    pub all_sizes: bool,
    /// These sizes of every preset that is installed, on every device unless one is named, with random weights where there is only a
    /// configuration; a size of which the measurements would take more than ten minutes is left out
    #[arg(long, conflicts_with_all = ["size", "all_sizes", "random_weights", "model"])]
    pub all: bool,
    /// Only the configuration of the model, with random weights: for speed alone
    #[arg(long)]
    pub random_weights: bool,
    /// Frames per measurement
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(8..))]
    pub frames: u32,
    /// Measurements of each kind, taken in turn; the medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    #[arg(long, default_value = "0.7", value_parser = unit_interval)]
    pub gamma: f64,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Write every figure to this file ("-": standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw time a frame against pixels into this file, SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// One measurement, in this process, as JSON: how `bench` runs itself
    #[arg(long, value_enum, hide = true)]
    pub only: Option<Measurement>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compare {
    /// The result alone
    Off,
    /// Left half input, right half result
    Split,
    /// Input and result beside each other, twice as wide
    SideBySide,
}

impl Compare {
    /// The nick of the element's `compare` property.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Split => "split",
            Self::SideBySide => "side-by-side",
        }
    }
}

/// What `bench` measures, each in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// The engine alone, fed from memory
    Engine,
    /// A GStreamer pipeline around the element
    Pipeline,
    /// The same, with gamma moved at every frame
    MovingGamma,
    /// The model alone, part by part
    Model,
}

impl Measurement {
    /// Those that give frames in a second.
    pub const FRAMES: [Self; 3] = [Self::Engine, Self::Pipeline, Self::MovingGamma];

    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Pipeline => "pipeline",
            Self::MovingGamma => "moving-gamma",
            Self::Model => "model",
        }
    }
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub width: usize,
    pub height: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |digits: &str| digits.parse().ok().filter(|side| (1..=16384).contains(side));
        text.split_once('x')
            .and_then(|(width, height)| {
                Some(Self {
                    width: side(width)?,
                    height: side(height)?,
                })
            })
            .ok_or_else(|| "a size is WIDTHxHEIGHT with sides of 1 to 16384, such as 1280x720".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

pub(crate) fn unit_interval(text: &str) -> Result<f64, String> {
    from_0_to(1.0, text)
}

fn levels(text: &str) -> Result<f64, String> {
    from_0_to(255.0, text)
}

fn from_0_to(most: f64, text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=most).contains(value))
        .ok_or_else(|| format!("must be a number from 0 to {most}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_unit_intervals_are_checked() {
        assert_eq!(
            "64x48".parse(),
            Ok(Size {
                width: 64,
                height: 48
            })
        );
        for wrong in ["64", "0x48", "64x", "64x48x3", "99999x10", "-1x5"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        assert_eq!(unit_interval("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.01", "nan", "much"] {
            assert!(unit_interval(wrong).is_err(), "{wrong}");
        }
    }
}
