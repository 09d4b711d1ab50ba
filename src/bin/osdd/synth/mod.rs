//! `osdd synth`: blurry and sharp pairs from sharp images and high-frame-rate clips, made by the code that also feeds
//! training.
//!
//! What is to be made is a list of jobs ([`jobs`]); each is a function of its index and the settings, so they run on all
//! cores and may be interrupted and resumed anywhere ([`pairs`]).

mod bench;
mod jobs;
mod label;
mod pairs;
mod record;
mod settings;
mod sheet;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use osdd::data::{Clip, PictureFolder, SampleKind, Sources};
use serde::{Deserialize, Serialize};

use self::record::PairRecord;
use self::settings::{Range, Settings};
use crate::frames::decode_frames;
use crate::{Usage, report};

#[derive(Args, Clone, Debug)]
pub(crate) struct SynthArgs {
    /// Folder of sharp images; may be given several times
    #[arg(long, value_name = "DIR")]
    pub images: Vec<PathBuf>,
    /// High-frame-rate videos, or folders of their frames in name order; their averaged frames are pairs too
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    pub clips: Vec<PathBuf>,
    /// Folder for blurry/, sharp/, kernels/, synth.json and contact_sheet.png
    #[arg(short, long, value_name = "DIR", required_unless_present = "bench")]
    pub out: Option<PathBuf>,
    /// This many random crops, instead of all crops of every image
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Side of the square crops in pixels; 0 takes whole images, less what blur needs around them
    #[arg(long, default_value_t = 512, value_name = "PX")]
    pub crop: usize,
    /// Overlap of neighbouring crops in pixels, at least [default: an eighth of the crop]
    #[arg(long, value_name = "PX", conflicts_with = "count")]
    pub overlap: Option<usize>,
    /// Pairs made from each crop
    #[arg(long, conflicts_with = "count", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub variants: u32,
    /// Kinds of blur [default: trajectory,rotation,layered, and clip where there are clips]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = settings::kind)]
    pub kinds: Vec<SampleKind>,
    /// Extent of the blur in pixels [default: 3..30]
    #[arg(long, value_name = "LOW..HIGH")]
    pub extent: Option<Range<f64>>,
    /// Frames averaged for one blurry image of a clip [default: 7..13]
    #[arg(long, value_name = "LOW..HIGH")]
    pub clip_frames: Option<Range<usize>>,
    /// Largest standard deviation of the noise in 8-bit levels [default: 0]
    #[arg(long, value_name = "LEVELS")]
    pub noise: Option<f64>,
    /// The same seed gives the same files on any machine [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// JSON file with the settings of a training configuration's "mix", or such a configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on where an interrupted run stopped
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Replace the pairs of an earlier run
    #[arg(short, long)]
    pub force: bool,
    /// Measure how many pairs of 128x128 are made in a second, and write none
    #[arg(long)]
    pub bench: bool,
}

/// `synth.json`.
#[derive(Serialize, Deserialize)]
struct Manifest {
    version: String,
    settings: Settings,
    /// False while the run lasts, and after an interruption.
    complete: bool,
    /// Images that were left out, and why.
    skipped: Vec<Skipped>,
    pairs: Vec<PairRecord>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Skipped {
    file: String,
    reason: String,
}

pub(crate) fn run(args: SynthArgs) -> Result<()> {
    let settings = Settings::new(&args)?;
    let Some(out) = args.out.as_deref().filter(|_| !args.bench) else {
        return bench::run(&args, &settings);
    };
    if args.images.is_empty() && args.clips.is_empty() {
        bail!(Usage("give --images, --clips, or both".to_owned()));
    }
    let begun = begun(out, &settings, &args)?;
    let mut sources = read_sources(&args)?;
    let skipped = leave_out_small(&mut sources, &settings);
    if sources.photos.is_empty() && sources.clips.is_empty() {
        bail!("nothing to make: every image is too small; choose a smaller --crop");
    }
    settings.mix.check_sources(&sources)?;
    let jobs = jobs::list(&sources, &settings);
    if jobs.is_empty() {
        bail!("nothing to make: no image or clip is large and long enough");
    }
    if begun && args.force {
        let photos = sources.photos.iter().filter_map(|picture| picture.path());
        pairs::remove(out, photos.chain(args.clips.iter().map(PathBuf::as_path)))?;
    }
    let mut manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings,
        complete: false,
        skipped,
        pairs: Vec::new(),
    };
    let manifest_path = out.join("synth.json");
    report::write_json(&manifest_path, &manifest)?;
    manifest.pairs = pairs::make(out, &sources, &manifest.settings, &jobs)?;
    for picture in sources.photos.iter().filter(|picture| picture.is_broken()) {
        manifest.skipped.push(Skipped {
            file: record::file_name(picture.path()),
            reason: "its pixels cannot be read".to_owned(),
        });
    }
    sheet::write(out, &manifest.pairs)?;
    manifest.complete = true;
    report::write_json(&manifest_path, &manifest)?;
    report::note(format_args!(
        "{}: {} pairs; see contact_sheet.png",
        out.display(),
        manifest.pairs.len()
    ));
    Ok(())
}

/// Whether there is something in the folder. Refuses it unless that is to be replaced, or is a run with the same settings to go on with.
fn begun(out: &Path, settings: &Settings, args: &SynthArgs) -> Result<bool> {
    let entries = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", out.display())),
    };
    if !entries || args.force {
        return Ok(entries);
    }
    if !args.resume {
        bail!(
            "{} is not empty; --resume goes on with it, --force replaces its pairs",
            out.display()
        );
    }
    let path = out.join("synth.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not of a run that can be resumed", path.display()))?;
    let fields = settings.differing_fields(&manifest.settings)?;
    if !fields.is_empty() {
        bail!(
            "{} was made with other settings ({} differ); use those, or --force",
            out.display(),
            fields.join(", ")
        );
    }
    Ok(true)
}

fn read_sources(args: &SynthArgs) -> Result<Sources> {
    let mut sources = Sources::default();
    for folder in &args.images {
        sources.photos.extend(PictureFolder::read(folder)?.pictures);
    }
    for path in &args.clips {
        let frames = decode_frames(path).with_context(|| format!("cannot decode {}", path.display()))?;
        sources.clips.push(Clip::new(frames)?);
    }
    Ok(sources)
}

/// Takes out photographs that are smaller than what is cut out of them: their borders would have to be invented.
fn leave_out_small(sources: &mut Sources, settings: &Settings) -> Vec<Skipped> {
    let least = settings.smallest_side();
    let small = sources
        .photos
        .extract_if(|picture| picture.size().0.min(picture.size().1) < least);
    let skipped = small.iter().map(|picture| {
        let (width, height) = picture.size();
        Skipped {
            file: record::file_name(picture.path()),
            reason: format!("{width}x{height} is smaller than {least} pixels"),
        }
    });
    let skipped: Vec<_> = skipped.collect();
    for Skipped { file, reason } in &skipped {
        report::warning(format_args!("skipped {file}: {reason}"));
    }
    skipped
}
