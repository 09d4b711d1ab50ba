//! What an interrupted run has encoded of a video, so that the next one goes on from there.
//!
//! While a video is deblurred, its encoded frames go into a folder beside the output too, in GStreamer's data protocol: one
//! file for each run. What a run leaves is cut before its last key frame, since what follows may be half a group of
//! pictures. The next run decodes as many frames without deblurring them, and sends the files in front of its own frames.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::container::Container;
use crate::args::DeblurArgs;
use crate::output::hidden_name;
use crate::report;

/// A file of encoded frames.
#[derive(Debug)]
pub(crate) struct Part {
    pub path: PathBuf,
    pub frames: u64,
}

#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    /// Locked: two runs must not write one output.
    settings: File,
    /// Of earlier runs, in order.
    pub kept: Vec<Part>,
}

impl Journal {
    /// Opens the journal of `output`, or begins one. What an earlier run left is kept with `--resume` and removed with
    /// `--force`.
    ///
    /// # Errors
    /// An earlier run left frames and neither option is given, or it had other settings or another input; another process
    /// writes the same output; the folder cannot be written.
    pub fn open(input: &Path, output: &Path, container: Container, args: &DeblurArgs) -> Result<Self> {
        let cannot_write = || format!("cannot write {}", output.display());
        let folder = folder(output).with_context(cannot_write)?;
        fs::create_dir_all(&folder).with_context(cannot_write)?;
        let settings = settings(input, container, args)?;
        let path = folder.join("settings.json");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(cannot_write)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another osdd writes {}", output.display()),
            // Not every file system can lock; those go without.
            Err(TryLockError::Error(_)) => {}
        }
        let mut earlier = String::new();
        // What cannot be read is not what this run would write.
        let _ = file.read_to_string(&mut earlier);
        let journal = Journal {
            kept: if args.force { Vec::new() } else { kept(&folder)? },
            folder,
            settings: file,
        };
        if journal.frames() > 0 {
            let frames = journal.frames();
            if !args.resume {
                bail!(
                    "an interrupted run has written {frames} frames of {}: --resume goes on from there, --force starts anew",
                    output.display()
                );
            }
            if serde_json::from_str::<Value>(&earlier).ok().as_ref() != Some(&settings) {
                bail!(
                    "an interrupted run has written {frames} frames of {} with other settings or of another input: --force starts anew",
                    output.display()
                );
            }
            report::note(format_args!(
                "{}: goes on after {frames} frames",
                output.display()
            ));
        } else {
            let _ = fs::remove_file(growing(&journal.folder));
            for index in 0.. {
                if fs::remove_file(part(&journal.folder, index)).is_err() {
                    break;
                }
            }
            fs::write(&path, settings.to_string()).with_context(cannot_write)?;
        }
        Ok(journal)
    }

    /// Where this run's frames go.
    pub fn current(&self) -> PathBuf {
        growing(&self.folder)
    }

    /// Frames of earlier runs.
    pub fn frames(&self) -> u64 {
        self.kept.iter().map(|part| part.frames).sum()
    }

    /// After a run that failed: how many frames the next can go on from. Without any, the folder goes.
    ///
    /// # Errors
    /// What is there cannot be read; it stays.
    pub fn close(self) -> Result<u64> {
        let frames = kept(&self.folder)?.iter().map(|part| part.frames).sum();
        if frames == 0 {
            self.remove();
        }
        Ok(frames)
    }

    /// After a run that came to its end.
    pub fn remove(self) {
        let Journal { folder, settings, .. } = self;
        // Some file systems keep the folder while a file in it is open.
        drop(settings);
        let _ = fs::remove_dir_all(folder);
    }
}

fn folder(output: &Path) -> Result<PathBuf> {
    let name = output.file_name().context("it has no name")?;
    Ok(output.with_file_name(hidden_name(name, "journal")))
}

fn part(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.gdp"))
}

/// What a run writes, until it is cut.
fn growing(folder: &Path) -> PathBuf {
    folder.join("growing.gdp")
}

/// All that the pixels and the file depend on; but not where the model runs: one may go on on another device.
fn settings(input: &Path, container: Container, args: &DeblurArgs) -> Result<Value> {
    let cannot_read = || format!("cannot read {}", input.display());
    let path = fs::canonicalize(input).with_context(cannot_read)?;
    let metadata = fs::metadata(input).with_context(cannot_read)?;
    let modified = metadata.modified().ok();
    let modified = modified.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as u64));
    Ok(json!({
        "osdd": env!("CARGO_PKG_VERSION"),
        "input": path.to_string_lossy(),
        "bytes": metadata.len(),
        "modified": modified,
        "container": container.name(),
        "model": model(&args.engine.model),
        "precision": args.engine.runtime.precision.to_string(),
        "tile": args.engine.runtime.tile,
        "overlap": args.engine.runtime.overlap,
        "gamma": args.gamma,
        "strength": args.strength,
        "reuse_threshold": args.reuse_threshold,
        "skip_sharp": args.skip_sharp,
        "compare": args.compare.nick(),
        "quality": args.quality,
    }))
}

/// A preset's name, or which files a folder has, and of when.
fn model(name: &str) -> Value {
    let Ok(entries) = fs::canonicalize(name).and_then(fs::read_dir) else {
        return name.into();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            let path = entry.path().to_string_lossy().into_owned();
            Some((path, metadata.len(), modified.as_millis() as u64))
        })
        .collect();
    files.sort();
    json!(files)
}

/// The parts that are there. What the latest run has left becomes one of them where it has a group of pictures.
fn kept(folder: &Path) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    loop {
        let path = part(folder, parts.len());
        let cannot_read = || format!("cannot read {}", path.display());
        if !path.try_exists().with_context(cannot_read)? {
            let left = growing(folder);
            if !left.try_exists().with_context(cannot_read)? {
                return Ok(parts);
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&left)
                .with_context(cannot_read)?;
            let [groups, _] = frames(&file).with_context(cannot_read)?;
            if groups.frames == 0 {
                fs::remove_file(&left).with_context(cannot_read)?;
                return Ok(parts);
            }
            file.set_len(groups.bytes)
                .and_then(|()| file.sync_all())
                .and_then(|()| fs::rename(&left, &path))
                .with_context(cannot_read)?;
        }
        let file = File::open(&path).with_context(cannot_read)?;
        let [_, all] = frames(&file).with_context(cannot_read)?;
        parts.push(Part {
            path,
            frames: all.frames,
        });
    }
}

/// The beginning of a file, in bytes and frames.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Length {
    bytes: u64,
    frames: u64,
}

/// Of GStreamer's data protocol, version 1.0 (gst-plugins-bad, `gst/gdp/dataprotocol.h`): a header, in big-endian, and its payload.
const HEADER: usize = 62;
const VERSION: [u8; 2] = [1, 0];
const BUFFER: u16 = 1;
/// Of the buffer's flags: it cannot be decoded without those before it.
const DELTA_UNIT: u16 = 1 << 13;

/// What lies before the last key frame of a file that may end anywhere, and all that is whole.
fn frames(file: &File) -> std::io::Result<[Length; 2]> {
    let length = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let mut here = Length::default();
    let mut before_key = Length::default();
    let mut header = [0; HEADER];
    while here.bytes + HEADER as u64 <= length {
        reader.read_exact(&mut header)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let payload = u64::from(number(6)) << 16 | u64::from(number(8));
        let end = here.bytes + HEADER as u64 + payload;
        if header[..2] != VERSION || end > length {
            break;
        }
        if number(4) == BUFFER {
            if number(42) & DELTA_UNIT == 0 {
                before_key = here;
            }
            here.frames += 1;
        }
        reader.seek_relative(payload as i64)?;
        here.bytes = end;
    }
    Ok([before_key, here])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the protocol: a buffer, or an event, and whether it is a key frame.
    fn record(kind: u16, key: bool, payload: usize) -> Vec<u8> {
        let mut record = vec![0; HEADER + payload];
        record[..2].copy_from_slice(&VERSION);
        record[4..6].copy_from_slice(&kind.to_be_bytes());
        record[6..10].copy_from_slice(&(payload as u32).to_be_bytes());
        let flags = if key { 0 } else { DELTA_UNIT };
        record[42..44].copy_from_slice(&flags.to_be_bytes());
        record
    }

    #[test]
    fn what_is_kept_are_the_groups_of_pictures_that_are_whole() {
        const EVENT: u16 = 64;
        let folder = tempfile::tempdir().unwrap();
        let records = [
            record(EVENT, true, 100),
            record(BUFFER, true, 70_000),
            record(BUFFER, false, 10),
            record(BUFFER, false, 0),
            record(BUFFER, true, 500),
            record(EVENT, true, 10),
            record(BUFFER, false, 20),
        ];
        let first: usize = records[..4].iter().map(Vec::len).sum();
        let second: usize = records[4].len();
        let whole = records.concat();
        for (bytes, frames) in [
            (0, 0),
            (first - 1, 0),
            (first, 0),
            (first + second - 1, 0),
            (first + second, 3),
            (whole.len() - 1, 3),
            (whole.len(), 3),
        ] {
            fs::write(growing(folder.path()), &whole[..bytes]).unwrap();
            // It stays as it was cut.
            for _ in 0..2 {
                let parts = kept(folder.path()).unwrap();
                assert_eq!(
                    parts.iter().map(|part| part.frames).sum::<u64>(),
                    frames,
                    "{bytes} bytes"
                );
                assert_eq!(parts.len() as u64, frames.min(1));
            }
            assert!(!growing(folder.path()).exists());
            if frames > 0 {
                assert_eq!(fs::metadata(part(folder.path(), 0)).unwrap().len(), first as u64);
                fs::remove_file(part(folder.path(), 0)).unwrap();
            }
        }
        // A second run's, which is damaged at its end.
        fs::write(growing(folder.path()), &whole).unwrap();
        kept(folder.path()).unwrap();
        let mut damaged = whole.clone();
        damaged.extend([0; 1000]);
        fs::write(growing(folder.path()), &damaged).unwrap();
        let frames: Vec<u64> = kept(folder.path())
            .unwrap()
            .iter()
            .map(|part| part.frames)
            .collect();
        assert_eq!(frames, [3, 3]);
    }
}
