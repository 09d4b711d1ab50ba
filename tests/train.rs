//! Training: it learns, it resumes as if it had never stopped, and it refuses what does not fit.

use std::path::Path;
use std::sync::Arc;

use osdd::config::ModelConfig;
use osdd::data::{Image8, Sources};
use osdd::train::{TrainConfig, Trainer, Verdict};
use osdd::weights::Weights;

fn model_config() -> ModelConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small_model.json");
    ModelConfig::from_json(&std::fs::read_to_string(path).unwrap(), "small_model").unwrap()
}

fn train_config(stage: &str, iterations: u64) -> TrainConfig {
    let json = format!(
        r#"{{
            "stage": "{stage}", "seed": 5, "data": {{}},
            "mix": {{ "seed": 5, "weights": {{ "trajectory": 1, "clip": 0, "pair": 0, "sharp": 0, "light": 0 }},
                      "extent_px": [6, 10], "noise_levels": 0 }},
            "phases": [{{ "iterations": {iterations}, "crop_size": 32, "batch_size": 2 }}],
            "optimizer": "muon", "learning_rate": 0.004, "warmup_iterations": 2, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "ema_decay": 0.9, "loss": {{ "l1": 1.0, "fft": 0.5, "edge": 0.1, "amplitude": 0.1 }}
        }}"#
    );
    TrainConfig::from_json(&json, "test").unwrap()
}

/// Photographs of rectangles.
fn sources() -> Arc<Sources> {
    let photo = |seed: usize| {
        let pixel = |i: usize| {
            let (x, y) = (i % 96, i / 96);
            let on = (x / (5 + seed) + y / (7 + seed)).is_multiple_of(2);
            if on { [220, 200, 180] } else { [30, 40, 60] }
        };
        Image8::new(96, 96, (0..96 * 96).flat_map(pixel).collect()).unwrap()
    };
    Arc::new(Sources {
        photos: (0..3).map(photo).collect(),
        ..Sources::default()
    })
}

/// Runs up to iteration `stop`; gives each step's loss.
fn run(trainer: &mut Trainer, stop: u64) -> Vec<f64> {
    let mut losses = Vec::new();
    let mut after = |_: &Trainer, progress: &osdd::train::Progress| {
        losses.push(progress.total);
        Ok(if progress.iteration >= stop {
            Verdict::Stop
        } else {
            Verdict::Continue
        })
    };
    trainer.run(2, &mut after).unwrap();
    losses
}

#[test]
fn resuming_continues_as_if_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint.safetensors");
    let fresh = || Trainer::new(train_config("base", 8), model_config(), None, sources()).unwrap();

    let mut straight = fresh();
    let expected = run(&mut straight, 8);

    let mut first = fresh();
    let mut losses = run(&mut first, 3);
    first.save_checkpoint(&checkpoint).unwrap();
    let mut second = fresh();
    second.resume(&checkpoint).unwrap();
    assert_eq!(second.iteration(), 3);
    losses.extend(run(&mut second, 8));

    assert_eq!(losses.len(), expected.len());
    for (step, (got, expected)) in losses.iter().zip(&expected).enumerate() {
        assert!(
            (got - expected).abs() < 1e-5,
            "step {step}: {got} against {expected}"
        );
    }
    let (a, b) = (
        straight.averaged_tensors().unwrap(),
        second.averaged_tensors().unwrap(),
    );
    for (name, tensor) in &a {
        let difference = (tensor - &b[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{name}: {difference}");
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint.safetensors");
    let trainer = Trainer::new(train_config("base", 8), model_config(), None, sources()).unwrap();
    trainer.save_checkpoint(&checkpoint).unwrap();
    let mut config = train_config("base", 8);
    config.learning_rate *= 2.0;
    let mut other = Trainer::new(config, model_config(), None, sources()).unwrap();
    let error = other.resume(&checkpoint).unwrap_err().to_string();
    assert!(
        error.contains("learning_rate") && !error.contains("optimizer"),
        "{error}"
    );
}

#[test]
fn base_and_both_adapters_learn_and_make_a_model_that_loads() {
    let dir = tempfile::tempdir().unwrap();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let mut init = None;
    for stage in ["base", "adapter_r", "adapter_s"] {
        let mut trainer = Trainer::new(train_config(stage, 60), model_config(), init, sources()).unwrap();
        let losses = run(&mut trainer, 60);
        assert!(mean(&losses[50..]) < mean(&losses[..10]), "{stage}: {losses:?}");
        trainer.save_model(dir.path()).unwrap();
        init = Some(Weights::from_dir(dir.path()).unwrap());
    }
    let weights = init.unwrap();
    for adapter in [weights.lora_r.unwrap(), weights.lora_s.unwrap()] {
        let moved = |(name, tensor): (&String, &tch::Tensor)| {
            name.ends_with("lora_B.weight") && tensor.abs().max().double_value(&[]) > 0.0
        };
        assert!(adapter.iter().any(moved), "B starts at zero and must move");
    }
}

#[test]
fn an_adapter_needs_weights_to_start_from() {
    let error = Trainer::new(train_config("adapter_r", 8), model_config(), None, sources())
        .err()
        .unwrap();
    assert!(error.to_string().contains("weights to start from"), "{error}");
}
