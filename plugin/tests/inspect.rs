//! What `gst-inspect-1.0` prints about the element: applications and their authors rely on all of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version whose wording the golden file has.
const VERSION: &str = "1.22";

fn inspect(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("gst-inspect-1.0")
        .args(arguments)
        .env("GST_PLUGIN_PATH", folder)
        .env("GST_REGISTRY", folder.join("registry.bin"))
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The plugin that was built with this test.
fn plugin() -> PathBuf {
    let test = std::env::current_exe().expect("this test's file");
    test.with_file_name("libgstosdd.so")
}

/// To take over a change that is meant: `OSDD_BLESS=1 cargo test --release -p gst-plugin-osdd --test inspect`.
#[test]
fn the_element_is_described_as_the_golden_file_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let version = inspect(folder.path(), &["--version"]).unwrap_or_default();
    if !version.contains(&format!("GStreamer {VERSION}.")) {
        println!(
            "skipped: the golden file is by gst-inspect-1.0 of GStreamer {VERSION}, here is: {version:?}"
        );
        return;
    }
    std::os::unix::fs::symlink(plugin(), folder.path().join("libgstosdd.so")).expect("a link");
    let text = inspect(folder.path(), &["--no-colors", "osdddeblur"]).expect("it runs again");
    // Where the plugin is, and which version, is not the element's.
    let text = text
        .lines()
        .filter(|line| {
            !line.trim_start().starts_with("Filename") && !line.trim_start().starts_with("Version")
        })
        .map(|line| format!("{}\n", line.trim_end()))
        .collect::<String>();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/osdddeblur.txt");
    if std::env::var_os("OSDD_BLESS").is_some() {
        std::fs::write(&golden, &text).expect("written");
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden file");
    for (number, (line, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, expected, "line {}", number + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}
