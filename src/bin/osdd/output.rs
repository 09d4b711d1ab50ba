//! Output files appear under their name only when they are complete: they are written beside it under a temporary
//! name, then renamed. An interrupted run leaves neither half a file nor a temporary.

use std::fs::{self, File};
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
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.part", std::process::id()));
        let temporary = folder.join(temporary_name);
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
}
