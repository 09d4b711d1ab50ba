//! Finds the element `osdddeblur`, and makes elements with errors that say what to install.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use gst::prelude::*;

use crate::args::EngineArgs;

pub(crate) const NAME: &str = "osdddeblur";

/// Initialises GStreamer and loads the element from the plugin that belongs to this executable, else from where
/// GStreamer keeps its plugins: the two of one build must not be mixed with another's.
///
/// # Errors
/// GStreamer does not start, or there is no such element.
pub(crate) fn load() -> Result<()> {
    gst::init().context("cannot start GStreamer")?;
    let file_name = format!("{}gstosdd{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let path = folders()
        .into_iter()
        .map(|folder| folder.join(&file_name))
        .find(|path| path.is_file());
    if let Some(path) = &path {
        gst::Plugin::load_file(path)
            .with_context(|| format!("cannot load the GStreamer plugin {}", path.display()))?;
    }
    gst::ElementFactory::find(NAME).map(drop).with_context(|| {
        format!("the GStreamer element {NAME} is missing: neither beside this program nor installed (run `make install`), or GStreamer could not load it (`gst-inspect-1.0 -b` lists such plugins)")
    })
}

fn folders() -> Vec<PathBuf> {
    let Ok(executable) = env::current_exe() else {
        return Vec::new();
    };
    let mut folders = Vec::new();
    if let Some(here) = executable.parent() {
        // A build folder first (tests run from deps/ in it), then an installation's lib/ beside bin/.
        folders.push(here.to_owned());
        folders.push(here.join("deps"));
        if let Some(above) = here.parent() {
            folders.push(above.to_owned());
            folders.push(above.join("lib/gstreamer-1.0"));
        }
    }
    folders
}

/// # Errors
/// The element is not installed; names the Debian package that has it.
pub(crate) fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory).build().map_err(|_| {
        let package = match factory {
            "x264enc" => "gstreamer1.0-plugins-ugly",
            "avenc_aac" => "gstreamer1.0-libav",
            "videoconvert" | "audioconvert" | "audioresample" | "decodebin" | "parsebin" | "videotestsrc"
            | "opusenc" | "vorbisenc" => "gstreamer1.0-plugins-base",
            "gdpdepay" | "gdppay" | "h264parse" | "h265parse" => "gstreamer1.0-plugins-bad",
            _ => "gstreamer1.0-plugins-good",
        };
        anyhow!("the GStreamer element {factory} is missing; on Debian it is in {package}")
    })
}

/// Gives `osdddeblur` its model, device and tiles.
pub(crate) fn configure(deblur: &gst::Element, args: &EngineArgs) {
    deblur.set_property("model", &args.model);
    deblur.set_property("device", args.runtime.device.to_string());
    deblur.set_property_from_str("precision", &args.runtime.precision.to_string());
    // From text, whichever width of integer the properties have.
    if let Some(tile) = args.runtime.tile {
        deblur.set_property_from_str("tile-size", &tile.to_string());
    }
    if let Some(overlap) = args.runtime.overlap {
        deblur.set_property_from_str("tile-overlap", &overlap.to_string());
    }
}

/// The first of these elements that is installed.
pub(crate) fn first_installed(factories: &[&'static str]) -> Option<&'static str> {
    factories
        .iter()
        .copied()
        .find(|factory| gst::ElementFactory::find(factory).is_some())
}
