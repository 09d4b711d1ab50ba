//! Where the files of a model in diffusers' layout are, and what a folder is that has others.
//!
//! Required: `model_index.json`, `unet/config.json`, `vae/config.json`, `scheduler/scheduler_config.json`, and the weights
//! of `unet` and `vae` as `diffusion_pytorch_model.safetensors` or as shards with an index.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{family, unreadable, wrong};
use crate::Result;

/// The two parts with weights, as their folders are called.
pub(super) const PARTS: [&str; 2] = ["unet", "vae"];

const STEM: &str = "diffusion_pytorch_model";
const FP16_ONLY: &str = "only the fp16 variant of the weights is here, whose rounding cannot be undone; download the \
    full-precision diffusion_pytorch_model.safetensors, or accept the loss with --allow-fp16";

/// A JSON file and where it was.
pub(super) struct Json {
    pub path: PathBuf,
    pub fields: Map<String, Value>,
}

/// A complete folder.
pub(super) struct Layout {
    root: PathBuf,
    pub unet: Json,
    pub vae: Json,
    pub scheduler: Json,
    weights: Vec<(&'static str, PathBuf)>,
    unused: Vec<String>,
}

impl Layout {
    /// # Errors
    /// One sentence about a folder that is something else, or incomplete.
    pub fn find(dir: &Path, allow_fp16: bool) -> Result<Self> {
        let root = resolve(dir)?;
        let mut missing = Vec::new();
        let mut read = |name: &str| -> Result<Option<Json>> {
            let path = root.join(name);
            let fields = read_json(&path)?;
            if fields.is_none() {
                missing.push(name.to_owned());
            }
            Ok(fields.map(|fields| Json { path, fields }))
        };
        let index = read("model_index.json")?;
        let unet = read("unet/config.json")?;
        let vae = read("vae/config.json")?;
        let scheduler = read("scheduler/scheduler_config.json")?;
        let other = family::other_model(
            index.as_ref().map(|json| &json.fields),
            unet.as_ref().map(|json| &json.fields),
        );
        if let Some(sentence) = other {
            return Err(wrong(&root, sentence));
        }
        let mut weights = Vec::new();
        for part in PARTS {
            let folder = root.join(part);
            let (files, absent) = weight_files(&folder, allow_fp16)?;
            missing.extend(absent.iter().map(|name| format!("{part}/{name}")));
            weights.extend(files.into_iter().map(|file| (part, folder.join(file))));
        }
        match (unet, vae, scheduler) {
            (Some(unet), Some(vae), Some(scheduler)) if missing.is_empty() => Ok(Layout {
                unused: unused(&root)?,
                root,
                unet,
                vae,
                scheduler,
                weights,
            }),
            _ => {
                let partial = match partial_download(&root) {
                    Some(name) => format!(" (a download is unfinished: {name})"),
                    None => String::new(),
                };
                let what = format!("the folder is incomplete, {} missing{partial}", listed(&missing));
                Err(wrong(&root, what + "; download the model again"))
            }
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Each weight file with the part that it belongs to.
    pub fn weight_files(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        self.weights.iter().cloned()
    }

    /// Folders of the model that are not taken over: our prompt is learned, so there is no text encoder.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }
}

/// `a is`, `a and b are`, `a, b and c are`.
fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing is".into(),
        [one] => format!("{one} is"),
        [first @ .., last] => format!("{} and {last} are", first.join(", ")),
    }
}

/// The folder with `model_index.json`, through the hub's cache where need be.
fn resolve(dir: &Path) -> Result<PathBuf> {
    let metadata = fs::metadata(dir).map_err(|e| unreadable(dir, e))?;
    if !metadata.is_dir() {
        return Err(wrong(
            dir,
            "this is a file, and a single-file checkpoint if it is a model; name a folder in diffusers' layout \
             (diffusers makes one with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(DIR))",
        ));
    }
    if dir.join("model_index.json").is_file() {
        return Ok(dir.to_owned());
    }
    if dir.join("snapshots").is_dir() {
        return snapshot(dir, &dir.join("snapshots"));
    }
    if dir.file_name().is_some_and(|name| name == "snapshots") {
        return snapshot(dir.parent().unwrap_or(dir), dir);
    }
    let names = names_in(dir)?;
    if let Some(model) = names.iter().find(|name| name.starts_with("models--")) {
        return Err(wrong(
            dir,
            format!("this is the hub's whole cache; name one model in it, such as {model}"),
        ));
    }
    if let Some(config) = read_json(&dir.join("config.json"))? {
        return Err(wrong(dir, about_component(&config)));
    }
    let checkpoint = |name: &&String| name.ends_with(".ckpt") || name.ends_with(".safetensors");
    match names.iter().find(checkpoint) {
        _ if PARTS.iter().any(|part| dir.join(part).is_dir()) => Ok(dir.to_owned()),
        Some(file) => Err(wrong(
            dir,
            format!(
                "this folder has the single-file checkpoint {file} and not diffusers' layout (diffusers makes it with \
                 StableDiffusionPipeline.from_single_file(FILE).save_pretrained(DIR))"
            ),
        )),
        None => Err(wrong(
            dir,
            "this folder has no model_index.json; name the folder of Stable Diffusion 2.1-base in diffusers' layout",
        )),
    }
}

/// A folder with a `config.json` at its top is one part of a model, or something else altogether.
fn about_component(config: &Map<String, Value>) -> String {
    if config.contains_key("unet") && config.contains_key("lora") {
        return "this is a model of osdd already, there is nothing to import".into();
    }
    match config.get("_class_name").and_then(Value::as_str) {
        Some(class) if class.contains("ControlNet") => {
            "this is a ControlNet, which only steers another model; name a folder with Stable Diffusion 2.1-base".into()
        }
        Some(class) => format!("this is only one part of a model ({class}); name the folder above it"),
        None => "this folder has no model_index.json; name the folder of Stable Diffusion 2.1-base in diffusers' \
                 layout"
            .into(),
    }
}

/// The snapshot that `refs/main` of a model in the hub's cache names, or the only one.
fn snapshot(model: &Path, snapshots: &Path) -> Result<PathBuf> {
    let mut names = names_in(snapshots)?;
    if let Ok(main) = fs::read_to_string(model.join("refs/main")) {
        names.retain(|name| name == main.trim());
    }
    match names.as_slice() {
        [one] => Ok(snapshots.join(one)),
        [] => Err(wrong(
            model,
            "the hub's cache has no snapshot of this model yet; download it again",
        )),
        several => Err(wrong(
            model,
            format!(
                "the hub's cache has {} snapshots of this model; name one, such as {}",
                several.len(),
                snapshots.join(&several[0]).display()
            ),
        )),
    }
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(|e| unreadable(dir, e))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// A JSON object; `None` where there is no such file.
fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    check_link(path)?;
    let bytes = fs::read(path).map_err(|e| unreadable(path, e))?;
    check_pointer(path, &bytes)?;
    // Python writes what JSON does not have; some of diffusers' schedulers come with it.
    let text = [": -Infinity", ": Infinity", ": NaN"]
        .iter()
        .fold(String::from_utf8_lossy(&bytes).into_owned(), |text, word| {
            text.replace(word, ": null")
        });
    match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(_) => Err(wrong(path, "this is not a JSON object; download the file again")),
        Err(e) => Err(wrong(
            path,
            format!("this is not valid JSON ({e}); download the file again"),
        )),
    }
}

/// The hub's cache holds links to its `blobs`; a link without its blob is a download that stopped.
pub(super) fn check_link(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(wrong(
            path,
            "this is a link to a file that is not there, so its download is unfinished; download the model again",
        )),
        Err(e) => Err(unreadable(path, e)),
        Ok(_) => Ok(()),
    }
}

/// A clone without git-lfs has small text files in place of the large ones.
pub(super) fn check_pointer(path: &Path, start: &[u8]) -> Result<()> {
    if start.starts_with(b"version https://git-lfs") {
        return Err(wrong(
            path,
            "this is a git-lfs pointer, not the file itself; run `git lfs pull` in the clone",
        ));
    }
    Ok(())
}

/// The weight files of one part, by name, and those that should be there but are not.
fn weight_files(folder: &Path, allow_fp16: bool) -> Result<(Vec<String>, Vec<String>)> {
    let names = match folder.is_dir() {
        true => names_in(folder)?,
        false => Vec::new(),
    };
    let has = |name: &str| names.iter().any(|other| other == name);
    let single = format!("{STEM}.safetensors");
    let index = format!("{single}.index.json");
    if has(&single) {
        return Ok((vec![single], Vec::new()));
    }
    if has(&index) {
        return shards(&folder.join(index));
    }
    // diffusers has put the variant before and after `index` over time.
    let single_fp16 = format!("{STEM}.fp16.safetensors");
    let index_fp16 = [
        format!("{single}.index.fp16.json"),
        format!("{single_fp16}.index.json"),
    ];
    let index_fp16 = index_fp16.into_iter().find(|name| has(name));
    match (has(&single_fp16), index_fp16) {
        (true, _) if allow_fp16 => return Ok((vec![single_fp16], Vec::new())),
        (false, Some(index)) if allow_fp16 => return shards(&folder.join(index)),
        (false, None) => {}
        _ => return Err(wrong(folder, FP16_ONLY)),
    }
    let ends = |end: &str| names.iter().find(|name| name.ends_with(end));
    if let Some(other) = ends(".safetensors") {
        return Err(wrong(
            folder,
            format!("there is {other} here, but no {single}; osdd reads files of that name only"),
        ));
    }
    let pickled = ends(".bin").or(ends(".ckpt")).or(ends(".pt"));
    if let (Some(other), None) = (pickled, partial_in(folder)) {
        return Err(wrong(
            folder,
            format!(
                "the weights are here only as {other}, which may run code when read; download {single}, or make it \
                 with diffusers (save_pretrained(DIR, safe_serialization=True))"
            ),
        ));
    }
    Ok((Vec::new(), vec![single]))
}

/// Files that an index names, split into those that are there and those that are not.
fn shards(index: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let fields = read_json(index)?.unwrap_or_default();
    let map = fields.get("weight_map").and_then(Value::as_object);
    let files = map.map(|map| {
        map.values()
            .map(|file| file.as_str().map(str::to_owned))
            .collect()
    });
    let files: Option<BTreeSet<String>> = files.flatten();
    let plain = |name: &String| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
    match files {
        Some(files) if !files.is_empty() && files.iter().all(plain) => {
            let folder = index.parent().unwrap_or(Path::new(""));
            Ok(files
                .into_iter()
                .partition(|name| fs::symlink_metadata(folder.join(name)).is_ok()))
        }
        _ => Err(wrong(
            index,
            "this index names no safetensors files beside it; download the file again",
        )),
    }
}

/// The name of a file that a downloader has not finished, where it would lie for this model.
fn partial_download(root: &Path) -> Option<String> {
    let local = root.join(".cache/huggingface/download");
    let blobs = root
        .parent()
        .and_then(Path::parent)
        .map(|model| model.join("blobs"));
    let mut folders = vec![root.to_owned(), local.clone()];
    folders.extend(PARTS.map(|part| root.join(part)));
    folders.extend(PARTS.map(|part| local.join(part)));
    folders.extend(blobs);
    folders.iter().find_map(|folder| partial_in(folder))
}

fn partial_in(folder: &Path) -> Option<String> {
    let endings = [
        ".incomplete",
        ".part",
        ".partial",
        ".crdownload",
        ".aria2",
        ".tmp",
    ];
    let names = names_in(folder).ok()?;
    names
        .into_iter()
        .find(|name| endings.iter().any(|end| name.ends_with(end)))
}

/// Folders beside `unet`, `vae` and `scheduler`.
fn unused(root: &Path) -> Result<Vec<String>> {
    let mut names = names_in(root)?;
    names.retain(|name| {
        let used = PARTS.contains(&name.as_str()) || name == "scheduler";
        !used && !name.starts_with('.') && root.join(name).is_dir()
    });
    Ok(names)
}
