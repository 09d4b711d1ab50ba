//! Where the weights of perceptual metrics are looked for.

use std::path::{Path, PathBuf};

/// The folder the user named, else `$OSDD_METRICS`, else `~/.local/share/osdd/metrics`.
pub(crate) fn folder(named: Option<&Path>) -> PathBuf {
    if let Some(path) = named {
        return path.to_owned();
    }
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = variable("OSDD_METRICS") {
        return path;
    }
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    data.unwrap_or_default().join("osdd/metrics")
}
