//! The command `osdd` as a process.

use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs it in a folder, to its end.
pub fn osdd(folder: &TempDir, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .env_remove("OSDD_LOG")
        .output()
        .expect("osdd starts")
}
