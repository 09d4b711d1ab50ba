//! What a person reads on standard error and standard output, apart from progress bars.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Serialize;

use crate::output::PendingFile;

static QUIET: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

pub(crate) fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// The error and its causes on one line, whatever line breaks a library put into them. A cause that the message before it
/// has already told is not told twice.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

pub(crate) fn error(error: &anyhow::Error) {
    tell(format_args!("error: {}", one_line(error)));
}

/// A reader of standard error that has gone is no reason to stop.
fn tell(line: std::fmt::Arguments) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Something is not as the user may expect, and the work goes on.
pub(crate) fn warning(text: impl std::fmt::Display) {
    tell(format_args!("warning: {text}"));
}

/// Worth knowing, silenced by `--quiet`.
pub(crate) fn note(text: impl std::fmt::Display) {
    if !quiet() {
        tell(format_args!("{text}"));
    }
}

/// Text as HTML or SVG, also within a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Writes `text` to standard output; a reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Pretty-printed JSON to a file, or to standard output for "-".
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    if path == Path::new("-") {
        return print(&text);
    }
    let file = PendingFile::create(path)?;
    std::fs::write(file.temporary(), text).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let told = anyhow!("disk full").context("cannot write a.png: disk full");
        assert_eq!(one_line(&told), "cannot write a.png: disk full");
        let untold = anyhow!("disk\nfull").context("cannot write a.png");
        assert_eq!(one_line(&untold), "cannot write a.png: disk full");
    }
}
