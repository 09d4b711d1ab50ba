//! The whole way from a folder of photographs to a model in the element, by the command line: synth, evae, base, both
//! adapters, eval, deblur; and what happens on the way when something is wrong.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "common/metric_weights.rs"]
mod metric_weights;

const MODEL: &str = include_str!("fixtures/small_model.json");

/// A folder with photographs, pairs made of them, and a model's configuration.
struct Workshop(TempDir);

impl Workshop {
    fn new() -> Self {
        let shop = Workshop(tempfile::tempdir().unwrap());
        for seed in 0..4 {
            shop.photograph(&format!("data/photos/{seed}.png"), seed);
        }
        shop.write("small/config.json", MODEL);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// Rectangles of many colours.
    fn photograph(&self, name: &str, seed: u32) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        let pixel = |x: u32, y: u32| {
            let value = |c: u32| ((x / (7 + seed) + 3) * (y / 9 + 2) * (c + 5) * 31 % 220 + 20) as u8;
            image::Rgb([value(0), value(1), value(2)])
        };
        image::RgbImage::from_fn(180, 150, pixel)
            .save(self.path(name))
            .unwrap();
    }

    /// A training configuration of a few short iterations, with `more` on top.
    fn config(&self, name: &str, stage: &str, more: Value) {
        let mut config = json!({
            "stage": stage, "seed": 5,
            "data": { "photos": ["photos"], "pairs": ["pairs"] },
            "mix": { "seed": 5, "weights": { "trajectory": 1, "clip": 0, "pair": 1, "sharp": 0, "light": 0 },
                     "extent_px": [4, 8] },
            "phases": [{ "iterations": 4, "crop_size": 32, "batch_size": 2 }],
            "optimizer": "muon", "learning_rate": 0.004, "warmup_iterations": 1, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "ema_decay": 0.9, "loss": { "l1": 1.0 },
            "validation": [{ "name": "pairs", "blurry": "pairs/blurry", "sharp": "pairs/sharp" }]
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.write(name, &config.to_string());
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osdd"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env_remove("OSDD_LOG")
            .env("OSDD_METRICS", self.path("metrics"))
            // Tests run side by side.
            .env("OMP_NUM_THREADS", "1");
        command
    }

    fn osdd(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What the command says on standard error.
    fn succeeds(&self, arguments: &str) -> String {
        let output = self.osdd(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "osdd {arguments}: {text}");
        text
    }

    fn fails(&self, arguments: &str) -> String {
        let output = self.osdd(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "osdd {arguments}: {text}");
        let last = text.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("error: "), "{text}");
        last
    }

    fn pairs(&self) {
        self.succeeds("synth --images data/photos --out data/pairs --crop 64 --count 4 --seed 3");
    }
}

fn exists(paths: &[PathBuf]) {
    for path in paths {
        assert!(path.exists(), "{}", path.display());
    }
}

#[test]
fn photographs_become_a_model_in_the_element() {
    let shop = Workshop::new();
    shop.pairs();
    fs::create_dir_all(shop.path("metrics")).unwrap();
    let squeeze = shop.path("metrics/lpips_squeeze.safetensors");
    metric_weights::write_lpips(&squeeze, osdd::metrics::Backbone::Squeeze);
    let perceptual = json!({ "network": "lpips_squeeze", "weight": 1.0, "balanced": true });
    let stage_2 = json!({ "l2": 1.0, "perceptual": { "network": "lpips_squeeze", "weight": 1.0, "edge_aware": true },
                          "adversarial": { "weight": 1.0, "learning_rate": 1e-4 } });

    let train = |what: &str, name: &str, more: &str| {
        shop.succeeds(&format!(
            "train {what} --config {name}.json --model small --data data -o runs/{name} {more}"
        ))
    };
    shop.config(
        "evae.json",
        "evae",
        json!({ "loss": { "l1": 1.0, "perceptual": perceptual } }),
    );
    train("evae", "evae", "");
    shop.config("base.json", "base", json!({ "accumulation": 2 }));
    let said = train("base", "base", "--init runs/evae/model");
    assert!(said.contains("images/s") && said.contains("gain"), "{said}");
    shop.config(
        "r.json",
        "adapter_r",
        json!({ "loss": stage_2, "learn_prompt": true }),
    );
    train(
        "adapter",
        "r",
        "--init runs/base/model --latent-encoder runs/evae/latent_encoder.safetensors",
    );
    let long = json!([{ "iterations": 51, "crop_size": 32, "batch_size": 1 }]);
    shop.config("s.json", "adapter_s", json!({ "loss": stage_2, "phases": long }));
    train("adapter", "s", "--init runs/r/model");
    let run = |name: &str| shop.path("runs/s").join(name);
    exists(
        &[
            "checkpoint.safetensors",
            "log.csv",
            "losses.svg",
            "scores.csv",
            "samples.png",
            "model/config.json",
        ]
        .map(run),
    );
    let log = fs::read_to_string(run("log.csv")).unwrap();
    let header = log.lines().next().unwrap();
    for column in [
        "iteration",
        "images_per_second",
        "data_wait_percent",
        "l2",
        "perceptual",
        "adversarial",
        "discriminator",
    ] {
        assert!(header.split(',').any(|name| name == column), "{header}");
    }

    shop.succeeds(
        "eval --blurry data/pairs/blurry --sharp data/pairs/sharp --model runs/s/model --gamma 0,1 --json eval.json",
    );
    let figures: Value = serde_json::from_str(&fs::read_to_string(shop.path("eval.json")).unwrap()).unwrap();
    assert!(figures.to_string().contains("runs/s/model"), "{figures}");

    // A video goes through the element.
    let status = Command::new("gst-launch-1.0")
        .args("-q videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! x264enc ! mp4mux ! filesink location=clip.mp4".split(' '))
        .current_dir(shop.0.path())
        .status();
    assert!(status.unwrap().success());
    shop.succeeds("deblur clip.mp4 -o sharp.mp4 --model runs/s/model --gamma 0.3");
    exists(&[shop.path("sharp.mp4")]);
}

#[test]
fn an_interrupted_run_goes_on() {
    let shop = Workshop::new();
    shop.pairs();
    shop.config(
        "base.json",
        "base",
        json!({ "phases": [{ "iterations": 100_000, "crop_size": 32, "batch_size": 1 }] }),
    );
    let arguments = "train base --config base.json --model small --data data -o runs/base";
    let mut running = shop.command(arguments).stderr(Stdio::null()).spawn().unwrap();
    let log = shop.path("runs/base/log.csv");
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 2 {
        assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: a signal to our own child.
    unsafe { libc::kill(running.id() as i32, libc::SIGINT) };
    assert_eq!(running.wait().unwrap().code(), Some(130));
    let error = shop.fails(arguments);
    assert!(error.contains("--resume"), "{error}");
    let iteration = || -> u64 {
        let text = fs::read_to_string(&log).unwrap();
        text.lines()
            .last()
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let (before, mut resumed) = (iteration(), shop.command(&format!("{arguments} --resume")));
    let mut resumed = resumed.stderr(Stdio::null()).spawn().unwrap();
    while iteration() <= before {
        assert!(resumed.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: as above.
    unsafe { libc::kill(resumed.id() as i32, libc::SIGINT) };
    assert_eq!(resumed.wait().unwrap().code(), Some(130));
    let text = fs::read_to_string(&log).unwrap();
    let rows: Vec<&str> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').next().unwrap())
        .collect();
    let expected: Vec<String> = (1..=rows.len()).map(|i| (50 * i).to_string()).collect();
    assert_eq!(rows, expected, "no row is there twice");

    let other = shop.fails(&arguments.replace("base.json", "missing.json"));
    assert!(other.contains("missing.json"), "{other}");
    shop.config(
        "base.json",
        "base",
        json!({ "learning_rate": 0.1, "phases": [{ "iterations": 100_000, "crop_size": 32, "batch_size": 1 }] }),
    );
    let error = shop.fails(&format!("{arguments} --resume"));
    assert!(
        error.contains("learning_rate") && !error.contains("phases"),
        "{error}"
    );
}

#[test]
fn a_full_disk_keeps_the_old_checkpoint_and_the_run_going() {
    let shop = Workshop::new();
    shop.pairs();
    shop.config("base.json", "base", json!({}));
    let arguments =
        "train base --config base.json --model small --data data -o runs/base --checkpoint-minutes 0";
    shop.succeeds(arguments);
    let checkpoint = shop.path("runs/base/checkpoint.safetensors");
    let before = fs::read(&checkpoint).unwrap();
    // A limit on the size of files fails a write as a full disk does; the model fits into it, the checkpoint does not.
    let limit = 4 + fs::metadata(shop.path("runs/base/model/model.safetensors"))
        .unwrap()
        .len()
        / 1024;
    let limited = |arguments: &str| {
        let output = Command::new("bash")
            .args([
                "-c",
                &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" {arguments}"),
            ])
            .arg(env!("CARGO_BIN_EXE_osdd"))
            .current_dir(shop.0.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap().to_owned();
        assert!(
            last.contains("cannot write") && last.contains("checkpoint.safetensors"),
            "{text}"
        );
        text
    };
    limited(&format!("{arguments} --resume"));
    assert!(
        fs::read(&checkpoint).unwrap() == before,
        "the old checkpoint is intact"
    );
    let files = fs::read_dir(shop.path("runs/base")).unwrap().flatten();
    let left: Vec<_> = files
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!left.iter().any(|name| name.ends_with(".tmp")), "{left:?}");

    let text = limited(&arguments.replace("runs/base", "runs/full"));
    for iteration in 1..=4 {
        assert!(
            text.contains(&format!("no checkpoint at iteration {iteration}")),
            "{text}"
        );
    }
    exists(&[shop.path("runs/full/model/model.safetensors")]);
}

#[test]
fn wrong_data_is_named() {
    let shop = Workshop::new();
    shop.pairs();
    shop.config("base.json", "base", json!({}));
    let train =
        |config: &str| format!("train base --config {config} --model small --data data -o runs/{config}");

    shop.write("data/photos/broken.png", "not a picture");
    let said = shop.succeeds(&train("base.json"));
    assert!(
        said.contains("broken.png") && said.contains("1 of 5 image(s)"),
        "{said}"
    );

    fs::create_dir_all(shop.path("data/nothing")).unwrap();
    shop.config("empty.json", "base", json!({ "data": { "photos": ["nothing"] } }));
    let error = shop.fails(&train("empty.json"));
    assert!(error.contains("data/nothing"), "{error}");

    let phases = |crops: [u32; 2]| json!({ "phases": crops.map(|c| json!({ "iterations": 1, "crop_size": c, "batch_size": 1 })) });
    shop.config("odd.json", "base", phases([32, 36]));
    let error = shop.fails(&train("odd.json"));
    assert!(error.contains("36") && error.contains("multiple of 8"), "{error}");
    shop.config("none.json", "base", json!({ "loss": {} }));
    assert!(shop.fails(&train("none.json")).contains("no term"));
    shop.config(
        "negative.json",
        "base",
        json!({ "loss": { "l1": 1.0, "fft": -1.0 } }),
    );
    assert!(shop.fails(&train("negative.json")).contains("fft"));

    shop.config(
        "large.json",
        "base",
        json!({ "phases": [{ "iterations": 2, "crop_size": 256, "batch_size": 1 }] }),
    );
    // Images smaller than the crop are mirrored at their borders.
    shop.succeeds(&train("large.json"));

    let error = shop.fails(&train("base.json").replace("train base", "train adapter"));
    assert!(error.contains("another stage"), "{error}");
    let missing = Path::new("nothing.json");
    assert!(
        shop.fails(&train("nothing.json"))
            .contains(&missing.display().to_string())
    );
}
