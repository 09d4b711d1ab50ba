//! The command as a process: what it says, how it exits.

use std::fs;
use std::process::{Command, Output};

use osdd::config::WeightsDtype;
use osdd::weights::Weights;
use serde_json::{Value, json};

use crate::folder::{Folder, assert_gives_what_diffusers_gives, options};

fn osdd(folder: &Folder, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(arguments.split_whitespace())
        .current_dir(folder.root())
        .output()
        .unwrap()
}

fn says(folder: &Folder, arguments: &str, code: i32) -> String {
    let output = osdd(folder, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "osdd {arguments}: {text}");
    text
}

#[test]
fn imports_checks_and_verifies() {
    let folder = Folder::new();
    let checked = says(&folder, "import --diffusers . --check", 0);
    assert!(
        checked.contains("unet: 686 tensors checked, 0 made here"),
        "{checked}"
    );
    assert!(
        checked.contains("unet.cross_attention_dim: 16, not 1024"),
        "{checked}"
    );
    let written = says(&folder, "import --diffusers . --out models/tiny --dtype bf16", 0);
    assert!(written.contains("predicts the noise (epsilon)"), "{written}");
    assert!(written.contains("not used: text_encoder"), "{written}");
    let model = Weights::from_dir(&folder.path("models/tiny")).unwrap();
    assert_eq!(model.base["prompt.embedding"].size(), [1, 77, 16]);
    assert_eq!(model.config.weights_dtype, WeightsDtype::Bf16);
    let verified = says(&folder, "import --verify models/tiny", 0);
    assert!(
        verified.contains("all 955 imported tensors are as they were"),
        "{verified}"
    );

    let listed = Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(["models", "--json"])
        .env("OSDD_MODELS", folder.path("models"))
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let tiny = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["name"] == "tiny");
    let numbers = model.base.values().map(|t| t.numel() as u64).sum::<u64>();
    assert_eq!(tiny.unwrap()["parameters"], numbers);
}

#[test]
fn a_configuration_of_ones_own_decides_on_skips_and_prompt() {
    let folder = Folder::new();
    let mut config = options().config.unwrap();
    config.vae.skip_layers = 0;
    fs::write(folder.path("plain.json"), serde_json::to_string(&config).unwrap()).unwrap();
    says(&folder, "import --diffusers . -o out --config plain.json", 0);
    let model = Weights::from_dir(&folder.path("out")).unwrap();
    assert_eq!(model.base.len(), 686 + 248 + 1);
    assert_gives_what_diffusers_gives(&folder.path("out"), "epsilon", 1e-4);
}

#[test]
fn wrong_folders_and_wrong_usage() {
    let folder = Folder::new();
    folder.set("unet/config.json", json!({ "cross_attention_dim": 768 }));
    let text = says(&folder, "import --diffusers . --out out", 1);
    assert!(
        text.starts_with("error: ") && text.contains("Stable Diffusion 1.x"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!folder.path("out").exists());
    for arguments in [
        "import",
        "import --diffusers .",
        "import --out out",
        "import --diffusers . --out out --check",
        "import --verify out --diffusers .",
    ] {
        says(&folder, arguments, 2);
    }
}
