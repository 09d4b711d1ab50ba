//! `osdd eval`: what models do to images, in figures and pictures.
//!
//! Arguments become a [`Plan`], everything that can be missing is looked for, then [`measure`] does the work and
//! [`table`], [`figures`] and [`page`] tell of it.

mod args;
mod figures;
mod gallery;
mod measure;
mod meters;
mod metric;
mod page;
mod pairs;
mod plot;
mod pyiqa;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
pub(crate) use args::{EXAMPLES, EvalArgs};
use figures::{Figures, Inputs, Setup};
use gallery::GallerySize;
use meters::Meters;
use metric::{Column, Metric};
use osdd::engine::EngineInfo;
use osdd::weights::identity;
use pairs::Pair;

use crate::args::RuntimeArgs;
use crate::output::PendingFile;
use crate::{Usage, report};

/// Name of the model that does nothing.
const NO_MODEL: &str = "none";

/// What is to be measured, checked as far as that goes without reading an image.
struct Plan {
    inputs: Inputs,
    pairs: Vec<Pair>,
    models: Vec<String>,
    gammas: Vec<f64>,
    runtime: RuntimeArgs,
    outputs: Option<PathBuf>,
    gallery: Option<GallerySize>,
}

pub(crate) fn run(args: EvalArgs) -> Result<()> {
    let plan = Plan::new(&args)?;
    let mut meters = Meters::open(&args, plan.inputs != Inputs::Blurry)?;
    let json = args.json.as_deref().map(reserve).transpose()?.flatten();
    let html = args.html.as_deref().map(reserve).transpose()?.flatten();

    let measured = measure::run(&plan, &mut meters)?;
    let mut columns = meters.columns().to_vec();
    let mut rows = measured.rows;
    let psnr = columns
        .iter()
        .position(|column| column.key == Metric::Psnr.column().key);
    if let Some(psnr) = psnr.filter(|_| plan.inputs == Inputs::Pairs && !plan.models.is_empty()) {
        columns.insert(psnr + 1, Column::gain());
        measure::insert_gain(&mut rows, psnr);
    }
    let images: Vec<String> = measured.pairs.into_iter().map(|pair| pair.name).collect();
    let figures = Figures {
        inputs: plan.inputs,
        setup: measured.setup,
        columns,
        groups: figures::groups(&images, &args.group),
        images,
        rows,
        left_out: measured.left_out,
    };

    if let (Some(file), Some(gallery)) = (html, &measured.gallery) {
        finish(file, &page::render(&figures, gallery, args.per_image))?;
    }
    if let Some(file) = json {
        finish(file, &json_text(&figures)?)?;
    }
    if args.json.as_deref() == Some(Path::new("-")) {
        return report::print(&json_text(&figures)?);
    }
    report::print(&table::render(&figures, args.per_image))
}

impl Plan {
    /// # Errors
    /// [`Usage`] for arguments that contradict each other or the files; images or a model that are not there.
    fn new(args: &EvalArgs) -> Result<Self> {
        let inputs = match (&args.blurry, &args.sharp) {
            (Some(_), Some(_)) => Inputs::Pairs,
            (Some(_), None) => Inputs::Blurry,
            (None, _) => Inputs::Sharp,
        };
        let mut models: Vec<String> = Vec::new();
        let mut known = HashSet::new();
        for model in args.model.iter().filter(|model| *model != NO_MODEL) {
            args.runtime.config(model, args.gamma[0], 1.0)?;
            if !known.insert(identity(model)?) {
                bail!(Usage(format!("{model} is given twice")));
            }
            models.push(model.trim_end_matches('/').to_owned());
        }
        let mut gammas: Vec<f64> = Vec::new();
        for gamma in &args.gamma {
            if !gammas.contains(gamma) {
                gammas.push(*gamma);
            }
        }
        let pairs = pairs::find(args.blurry.as_deref(), args.sharp.as_deref())?;
        let names: Vec<String> = pairs.iter().map(|pair| pair.name.clone()).collect();
        figures::check_groups(&names, &args.group)?;
        if let Some(outputs) = &args.outputs {
            measure::check_outputs(outputs, &models, &gammas, &pairs)?;
        }
        Ok(Self {
            inputs,
            pairs,
            models,
            gammas,
            runtime: args.runtime.clone(),
            outputs: args.outputs.clone(),
            gallery: args.html.is_some().then_some(GallerySize {
                images: args.html_images,
                width: args.html_size,
            }),
        })
    }

    fn setup(&self, info: &EngineInfo) -> Setup {
        Setup {
            device: info.device.to_string(),
            precision: info.precision.to_string(),
            tile_size: info.tile_size,
            tile_overlap: info.tile_overlap,
        }
    }
}

/// Makes sure before the work that the file can be written after it; "-" is no file.
fn reserve(path: &Path) -> Result<Option<PendingFile>> {
    (path != Path::new("-"))
        .then(|| PendingFile::create(path))
        .transpose()
}

fn finish(file: PendingFile, text: &str) -> Result<()> {
    std::fs::write(file.temporary(), text)
        .with_context(|| format!("cannot write {}", file.temporary().display()))?;
    file.commit()
}

fn json_text(figures: &Figures) -> Result<String> {
    Ok(serde_json::to_string_pretty(&figures.json())? + "\n")
}
