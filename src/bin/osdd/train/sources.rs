//! The images, pairs and clips that a training configuration names.

use std::path::Path;

use anyhow::{Context, ensure};
use osdd::data::{Clip, PairFolder, PictureFolder, Sources};
use osdd::train::DataConfig;

use crate::frames::decode_frames;
use crate::report;

/// Paths in `config` start from `root`.
pub(super) fn read(config: &DataConfig, root: &Path) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    for folder in &config.photos {
        sources
            .photos
            .extend(PictureFolder::read(&root.join(folder))?.pictures);
    }
    for folder in &config.pairs {
        sources.pairs.extend(PairFolder::read(&root.join(folder))?.pairs);
    }
    for file in &config.clips {
        let path = root.join(file);
        ensure!(path.exists(), "there is no {}", path.display());
        let frames = decode_frames(&path).with_context(|| format!("cannot decode {}", path.display()))?;
        sources.clips.push(Clip::new(frames)?);
    }
    report::note(format_args!(
        "{} photographs, {} pairs, {} clips",
        sources.photos.len(),
        sources.pairs.len(),
        sources.clips.len()
    ));
    Ok(sources)
}
