//! Output files appear under their name only when they are complete: they are written beside it under a temporary
//! name, then renamed. An interrupted run leaves neither half a file nor a temporary.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;

static PENDING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn pending() -> MutexGuard<'static, Vec<PathBuf>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is being written; for a process that ends without unwinding.
pub(crate) fn remove_all_pending() {
    for path in pending().drain(..) {
        let _ = fs::remove_file(path);
    }
}

/// Bytes of a name, of 255 that file systems allow, to which more can be added.
const LONG_NAME: usize = 200;

/// The name of something that belongs to the output `name` and lies beside it: `.name.suffix`.
pub(crate) fn hidden_name(name: &OsStr, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    if name.len() <= LONG_NAME {
        hidden.push(name);
    } else {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hidden.push(format!("{:016x}", hasher.finish()));
    }
    hidden.push(".");
    hidden.push(suffix);
    hidden
}

fn temporary_name(name: &OsStr, process: u32) -> OsString {
    hidden_name(name, &format!("{process}.part"))
}

/// Removes temporaries of `name` whose process was killed, where the system tells which processes there are.
fn remove_orphans(folder: &Path, name: &OsStr) {
    if !Path::new("/proc/self").exists() {
        return;
    }
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    for entry in fs::read_dir(here).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|found| found.strip_suffix(".part"));
        let process = process.and_then(|found| found.rsplit_once('.')?.1.parse::<u32>().ok());
        if let Some(process) = process
            && temporary_name(name, process) == found
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file on its way to `path`; dropped before [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub(crate) struct PendingFile {
    path: PathBuf,
    temporary: PathBuf,
}

impl PendingFile {
    /// Makes the folder where needed and an empty temporary, so that a place that cannot be written to is known
    /// before the work begins.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let cannot_write = || format!("cannot write {}", path.display());
        let name = path.file_name().with_context(cannot_write)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if !folder.as_os_str().is_empty() {
            fs::create_dir_all(folder).with_context(cannot_write)?;
        }
        remove_orphans(folder, name);
        let temporary = folder.join(temporary_name(name, std::process::id()));
        pending().push(temporary.clone());
        let file = Self {
            path: path.to_owned(),
            temporary,
        };
        File::create(&file.temporary).with_context(cannot_write)?;
        Ok(file)
    }

    /// Where the data goes until it is complete.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// The data does not reach the disk or the file cannot be renamed.
    pub fn commit(self) -> anyhow::Result<()> {
        // The rename must not reach the disk before the data does, or a power cut leaves an empty file that looks whole.
        File::open(&self.temporary)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        // After a rename the temporary no longer exists, which is as good.
        let _ = fs::remove_file(&self.temporary);
        pending().retain(|path| *path != self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/out.txt");
        let file = PendingFile::create(&path).unwrap();
        fs::write(file.temporary(), "whole").unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");

        let abandoned = PendingFile::create(&folder.path().join("new/other.txt")).unwrap();
        fs::write(abandoned.temporary(), "half").unwrap();
        drop(abandoned);
        let left: Vec<_> = fs::read_dir(folder.path().join("new")).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn the_longest_names_have_temporaries_too() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|end| folder.path().join("n".repeat(254) + end));
        let files = paths.each_ref().map(|path| PendingFile::create(path).unwrap());
        assert_ne!(files[0].temporary(), files[1].temporary());
        for file in files {
            file.commit().unwrap();
        }
        assert!(paths.iter().all(|path| path.exists()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next_for_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        // Numbers of processes end far below.
        let orphan = folder
            .path()
            .join(temporary_name(OsStr::new("out.txt"), u32::MAX));
        let others = [1, u32::MAX].map(|process| {
            let name = if process == 1 { "out.txt" } else { "other.txt" };
            folder.path().join(temporary_name(OsStr::new(name), process))
        });
        for file in others.iter().chain([&orphan]) {
            fs::write(file, "half").unwrap();
        }
        PendingFile::create(&path).unwrap().commit().unwrap();
        assert!(path.exists() && !orphan.exists());
        assert!(others.iter().all(|other| other.exists()));
    }
}
