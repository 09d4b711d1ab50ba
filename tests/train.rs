//! Training: it learns, it resumes as if it had never stopped, and it refuses what does not fit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use osdd::config::ModelConfig;
use osdd::data::{Image8, MixWeights, Pair, Sources};
use osdd::device::{Device, Precision};
use osdd::metrics::Backbone;
use osdd::train::{
    AdapterStart, AdversarialConfig, LossConfig, PerceptualConfig, PerceptualNetwork, Setup, TrainConfig,
    Trainer, Verdict,
};
use osdd::weights::Weights;

#[path = "common/metric_weights.rs"]
mod metric_weights;

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

const ADVERSARIAL: AdversarialConfig = AdversarialConfig {
    weight: 0.1,
    learning_rate: 1e-3,
};

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// An untrained model's weights.
fn random_weights() -> Weights {
    let trainer = start(train_config("base", 1), None).unwrap();
    Weights {
        config: model_config(),
        base: trainer.averaged_tensors().unwrap(),
        lora_r: None,
        lora_s: None,
    }
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

fn on_cpu() -> Setup {
    Setup {
        device: Device::Cpu,
        ..Setup::default()
    }
}

fn start(config: TrainConfig, init: Option<Weights>) -> osdd::Result<Trainer> {
    let setup = Setup { init, ..on_cpu() };
    Trainer::new(config, model_config(), sources(), setup)
}

/// Runs up to iteration `stop`; gives each step's loss.
fn run(trainer: &mut Trainer, stop: u64) -> Vec<f64> {
    // Tests run side by side; with a thread for every core each, they would only wait for each other.
    tch::set_num_threads(1);
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

/// Stops after 8 of 20 steps and goes on from the checkpoint: the losses must be those of a run that never stopped.
fn resumes_exactly(config: &TrainConfig, init: &dyn Fn() -> Option<Weights>) {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint.safetensors");
    let fresh = || start(config.clone(), init()).unwrap();

    let mut straight = fresh();
    let expected = run(&mut straight, 20);

    let mut first = fresh();
    let mut losses = run(&mut first, 8);
    first.save_checkpoint(&checkpoint).unwrap();
    let mut second = fresh();
    second.resume(&checkpoint).unwrap();
    assert_eq!(second.iteration(), 8);
    losses.extend(run(&mut second, 20));

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
fn resuming_continues_as_if_never_stopped() {
    resumes_exactly(&train_config("base", 20), &|| None);
}

#[test]
fn resuming_continues_with_a_discriminator_a_prompt_accumulation_and_echoes() {
    let mut config = train_config("adapter_s", 20);
    config.loss.adversarial = Some(ADVERSARIAL);
    config.learn_prompt = true;
    config.accumulation = 2;
    config.echo = 3;
    resumes_exactly(&config, &|| Some(random_weights()));
}

#[test]
fn four_pairs_are_learned_by_heart() {
    let mut config = train_config("base", 200);
    config.mix.weights = MixWeights {
        pair: 1.0,
        trajectory: 0.0,
        clip: 0.0,
        sharp: 0.0,
        light: 0.0,
        ..MixWeights::default()
    };
    (config.mix.flip, config.mix.scale_share) = (false, 0.0);
    (config.phases[0].batch_size, config.loss) = (
        4,
        LossConfig {
            l2: 1.0,
            ..LossConfig::default()
        },
    );
    // Patches of different colours, and the same moved sideways over five pixels.
    let pair = |seed: usize| {
        let level =
            |x: usize, y: usize, c: usize| ((x / 5 + 1) * (y / 6 + 2) * (c + seed + 3) * 29 % 200 + 28) as u8;
        let at = |i: usize| (i / 3 % 32, i / 96, i % 3);
        let sharp = (0..32 * 32 * 3).map(at).map(|(x, y, c)| level(x, y, c));
        let mean = |x: usize, y, c| {
            (x..x + 5)
                .map(|x| u32::from(level(x.max(2) - 2, y, c)))
                .sum::<u32>()
                / 5
        };
        let blurry = (0..32 * 32 * 3).map(at).map(|(x, y, c)| mean(x, y, c) as u8);
        let image = |levels| Image8::new(32, 32, levels).unwrap();
        Pair::new(seed.to_string(), image(blurry.collect()), image(sharp.collect())).unwrap()
    };
    let sources = Sources {
        pairs: (0..4).map(pair).collect(),
        ..Sources::default()
    };
    let mut model = model_config();
    (model.vae.block_out_channels, model.unet.block_out_channels) = (vec![48, 32], vec![32, 32]);
    let mut trainer = Trainer::new(config, model, Arc::new(sources), on_cpu()).unwrap();
    let losses = run(&mut trainer, 200);
    let last = mean(&losses[190..]);
    assert!(last < losses[0] / 10.0, "from {} to {last}", losses[0]);
}

#[test]
fn the_evae_learns_with_two_encoders_and_leaves_the_second_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = train_config("evae", 60);
    config.loss = LossConfig {
        l1: 1.0,
        ..LossConfig::default()
    };
    let mut trainer = start(config, None).unwrap();
    // Copies, as the averages move where they lie.
    let before = trainer.averaged_tensors().unwrap();
    let before: BTreeMap<_, _> = before.iter().map(|(name, t)| (name.as_str(), t.copy())).collect();
    let losses = run(&mut trainer, 60);
    assert!(mean(&losses[50..]) < mean(&losses[..10]), "{losses:?}");
    let model = Weights::from_dir(&trainer.save_model(dir.path()).unwrap()).unwrap();
    let moved = |name: &str| (&model.base[name] - &before[name]).abs().max().double_value(&[]) > 2e-3;
    for name in [
        "vae.encoder.conv_in.weight",
        "vae.skip_blocks.0.conv1.weight",
        "vae.decoder.conv_out.weight",
    ] {
        assert!(moved(name), "{name} must learn");
    }
    for name in ["unet.conv_in.weight", "vae.encoder.conv_out.weight"] {
        assert!(!moved(name), "{name} is out of the loss's reach");
    }

    let mut config = train_config("adapter_r", 3);
    config.loss.adversarial = Some(ADVERSARIAL);
    let setup = |latent_encoder| Setup {
        device: Device::Cpu,
        init: Some(random_weights()),
        latent_encoder,
        ..Setup::default()
    };
    let second = dir.path().join("latent_encoder.safetensors");
    let mut with = Trainer::new(config.clone(), model_config(), sources(), setup(Some(second))).unwrap();
    let mut without = Trainer::new(config, model_config(), sources(), setup(None)).unwrap();
    // The first step's loss does not depend on what the discriminator is yet to learn; the third's does.
    let (with, without) = (run(&mut with, 3), run(&mut without, 3));
    assert!(
        (with[0] - without[0]).abs() < 1e-6 && with[2] != without[2],
        "{with:?} {without:?}"
    );
}

#[test]
fn an_evae_with_skips_at_the_highest_resolution_alone_learns() {
    let mut model = model_config();
    model.vae.skip_levels = Some(1);
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(train_config("evae", 40), model, sources(), on_cpu()).unwrap();
    let losses = run(&mut trainer, 40);
    assert!(mean(&losses[30..]) < mean(&losses[..10]), "{losses:?}");
    let saved = Weights::from_dir(&trainer.save_model(dir.path()).unwrap()).unwrap();
    let has = |name: &str| saved.base.contains_key(name);
    assert!(has("vae.skip_blocks.0.conv1.weight") && !has("vae.skip_blocks.1.conv1.weight"));
}

/// The parameters that differ between two models.
fn moved(before: &Weights, after: &Weights) -> Vec<String> {
    let differs = |name: &&String| before.base[*name] != after.base[*name];
    before.base.keys().filter(differs).cloned().collect()
}

#[test]
fn an_adapter_stage_trains_its_adapter_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let save = |config: TrainConfig, init: Weights, name: &str| {
        let mut trainer = start(config, Some(init)).unwrap();
        run(&mut trainer, 5);
        trainer.save_model(&dir.path().join(name)).unwrap()
    };
    let read = |dir: &Path| Weights::from_dir(dir).unwrap();
    let first = save(train_config("adapter_r", 5), random_weights(), "r");
    assert_eq!(moved(&random_weights(), &read(&first)), Vec::<String>::new());
    let mut config = train_config("adapter_s", 5);
    config.learn_prompt = true;
    let second = read(&save(config, read(&first), "s"));
    assert_eq!(moved(&read(&first), &second), ["prompt.embedding"]);
    assert_eq!(second.lora_r, read(&first).lora_r);

    // Other weights under an old adapter would be another model.
    let third = read(&save(train_config("base", 5), second, "base"));
    assert!(third.lora_r.is_none() && third.lora_s.is_none());

    let mut wider = model_config();
    wider.lora.rank += 1;
    let setup = Setup {
        device: Device::Cpu,
        init: Some(read(&first)),
        ..Setup::default()
    };
    let error = Trainer::new(train_config("adapter_s", 5), wider, sources(), setup)
        .err()
        .unwrap();
    assert!(error.to_string().contains("lora"), "{error}");
}

#[test]
fn a_run_does_not_go_on_with_other_frozen_weights() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint.safetensors");
    let config = train_config("adapter_r", 5);
    start(config.clone(), Some(random_weights()))
        .unwrap()
        .save_checkpoint(&checkpoint)
        .unwrap();
    let mut other = random_weights();
    let bias = other.base.get_mut("unet.conv_in.bias").unwrap();
    *bias = &*bias + 1e-3;
    let error = start(config, Some(other))
        .unwrap()
        .resume(&checkpoint)
        .unwrap_err()
        .to_string();
    assert!(error.contains("frozen weights"), "{error}");
}

#[test]
fn crops_that_the_unet_cannot_halve_evenly_are_trained_on() {
    // 40 / 8 = 5, then 3: as 160 with the four levels of Stable Diffusion.
    let mut config = train_config("base", 3);
    config.phases[0].crop_size = 40;
    let mut second = config.phases[0];
    (second.crop_size, second.batch_size) = (48, 1);
    config.phases.push(second);
    let losses = run(&mut start(config, None).unwrap(), 6);
    assert_eq!(losses.len(), 6);
}

#[test]
fn a_plain_vae_learns_with_its_only_encoder() {
    let mut model = model_config();
    (model.vae.skip_layers, model.vae.residual_output) = (0, false);
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(train_config("evae", 40), model, sources(), on_cpu()).unwrap();
    let losses = run(&mut trainer, 40);
    assert!(mean(&losses[30..]) < mean(&losses[..10]), "{losses:?}");
    trainer.save_model(dir.path()).unwrap();
    assert!(!dir.path().join("latent_encoder.safetensors").exists());
}

#[test]
fn bf16_arithmetic_keeps_master_weights_in_float32() {
    let run_in = |precision| {
        let setup = Setup {
            device: Device::Cpu,
            precision,
            ..Setup::default()
        };
        let mut trainer = Trainer::new(train_config("base", 30), model_config(), sources(), setup).unwrap();
        (run(&mut trainer, 30), trainer.averaged_tensors().unwrap())
    };
    let ((exact, _), (rounded, tensors)) = (run_in(Precision::Fp32), run_in(Precision::Bf16));
    assert!(tensors.values().all(|t| t.kind() == tch::Kind::Float));
    assert!(exact != rounded, "bf16 rounds");
    let (exact, rounded) = (mean(&exact[20..]), mean(&rounded[20..]));
    assert!((exact - rounded).abs() < 0.05 * exact, "{exact} {rounded}");
}

#[test]
fn perceptual_terms_of_every_network_are_learned_from() {
    let dir = tempfile::tempdir().unwrap();
    metric_weights::write_lpips(&dir.path().join("lpips_squeeze.safetensors"), Backbone::Squeeze);
    metric_weights::write_dists(&dir.path().join("dists.safetensors"));
    for (network, edge_aware, balanced) in [
        (PerceptualNetwork::LpipsSqueeze, false, true),
        (PerceptualNetwork::Dists, true, false),
    ] {
        let mut config = train_config("base", 12);
        config.loss = LossConfig {
            l1: 1.0,
            perceptual: Some(PerceptualConfig {
                network,
                weight: 1.0,
                edge_aware,
                balanced,
            }),
            ..LossConfig::default()
        };
        let setup = |metrics: &Path| Setup {
            device: Device::Cpu,
            metrics: metrics.to_owned(),
            ..Setup::default()
        };
        let mut trainer = Trainer::new(config.clone(), model_config(), sources(), setup(dir.path())).unwrap();
        let mut terms = Vec::new();
        tch::set_num_threads(1);
        let mut after = |_: &Trainer, progress: &osdd::train::Progress| {
            let term = |name| progress.terms.iter().find(|(n, _)| *n == name).unwrap().1;
            terms.push((term("l1"), term("perceptual"), progress.total));
            Ok(Verdict::Continue)
        };
        trainer.run(1, &mut after).unwrap();
        for (l1, perceptual, total) in &terms {
            assert!(*perceptual > 0.0);
            // Balanced, the term weighs what L1 weighs.
            let expected = if balanced { 2.0 * l1 } else { l1 + perceptual };
            assert!(
                (total - expected).abs() < 1e-4 * expected,
                "{l1} {perceptual} {total}"
            );
        }
        let error = Trainer::new(config, model_config(), sources(), setup(Path::new("nowhere")))
            .err()
            .unwrap();
        let named = error.to_string();
        assert!(
            named.contains(network.file_name()) && named.contains("convert_metrics.py"),
            "{named}"
        );
    }
}

#[test]
fn ten_steps_without_finite_losses_end_the_run() {
    let mut config = train_config("base", 100);
    config.learning_rate = 1e30;
    config.warmup_iterations = 0;
    let mut trainer = start(config, None).unwrap();
    let mut skipped = 0;
    let mut after = |_: &Trainer, progress: &osdd::train::Progress| {
        skipped += u32::from(progress.skipped);
        Ok(Verdict::Continue)
    };
    let error = trainer.run(1, &mut after).unwrap_err().to_string();
    assert!(error.contains("10 steps in a row"), "{error}");
    assert_eq!(skipped, 9, "the tenth ends the run");
}

#[test]
fn one_lora_in_sequence_goes_on_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(train_config("adapter_s", 30), Some(random_weights())).unwrap();
    let trained = run(&mut first, 30);
    let dir = first.save_model(dir.path()).unwrap();
    let mut config = train_config("adapter_r", 1);
    config.mix.seed = 77;
    let first_loss = |config: &TrainConfig| {
        let init = Some(Weights::from_dir(&dir).unwrap());
        run(&mut start(config.clone(), init).unwrap(), 1)[0]
    };
    let fresh = first_loss(&config);
    config.start = AdapterStart::LoraS;
    let continued = first_loss(&config);
    assert!(continued < fresh, "{continued} against {fresh}, {trained:?}");
    config.start = AdapterStart::LoraR;
    let init = Some(Weights::from_dir(&dir).unwrap());
    let error = start(config, init).err().unwrap().to_string();
    assert!(error.contains("lora_r"), "{error}");
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint.safetensors");
    start(train_config("base", 8), None)
        .unwrap()
        .save_checkpoint(&checkpoint)
        .unwrap();
    let mut config = train_config("base", 8);
    config.learning_rate *= 2.0;
    let mut other = start(config, None).unwrap();
    let error = other.resume(&checkpoint).unwrap_err().to_string();
    assert!(
        error.contains("learning_rate") && !error.contains("optimizer"),
        "{error}"
    );
}

#[test]
fn base_and_both_adapters_learn_and_make_a_model_that_loads() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = None;
    for stage in ["base", "adapter_r", "adapter_s"] {
        let mut trainer = start(train_config(stage, 60), init).unwrap();
        let losses = run(&mut trainer, 60);
        assert!(mean(&losses[50..]) < mean(&losses[..10]), "{stage}: {losses:?}");
        let model = trainer.save_model(dir.path()).unwrap();
        init = Some(Weights::from_dir(&model).unwrap());
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
    let error = start(train_config("adapter_r", 8), None).err().unwrap();
    assert!(error.to_string().contains("weights to start from"), "{error}");
}

/// Every JSON file below a folder of models whose path has `part` in it.
fn shipped(part: &str) -> Vec<std::path::PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("models")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "json") && path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn shipped_training_configurations_are_legal_and_complete() {
    let files = shipped("/train/");
    for path in &files {
        let json = std::fs::read_to_string(path).unwrap();
        let config = TrainConfig::from_json(&json, &path.display().to_string()).unwrap();
        config.mix.validate().unwrap();
        assert!(!config.validation.is_empty(), "{}", path.display());
    }
    for preset in ["nano", "small", "sd21"] {
        for name in [
            "adapter_r",
            "adapter_s",
            if preset == "sd21" { "evae" } else { "base" },
        ] {
            let name = format!("{preset}/train/{name}.json");
            assert!(files.iter().any(|path| path.ends_with(&name)), "{name}");
        }
    }
}

#[test]
fn presets_have_the_sizes_they_are_meant_to_have() {
    let millions = |preset: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{preset}/config.json"));
        let config = ModelConfig::from_json(&std::fs::read_to_string(path).unwrap(), preset).unwrap();
        let (vae, unet, prompt) = osdd::model::count_parameters(&config).unwrap();
        (vae + unet + prompt) as f64 / 1e6
    };
    let (nano, small, sd21) = (millions("nano"), millions("small"), millions("sd21"));
    assert!(
        nano <= 2.0 && (10.0..=30.0).contains(&small) && (960.0..975.0).contains(&sd21),
        "{nano} {small} {sd21}"
    );
    for path in shipped("config.json") {
        let json = std::fs::read_to_string(&path).unwrap();
        ModelConfig::from_json(&json, &path.display().to_string()).unwrap();
    }
}

#[test]
fn a_teacher_is_followed_and_has_to_be_there() {
    let with_weight = |teacher| {
        let mut config = train_config("base", 4);
        config.loss = LossConfig {
            teacher,
            ..LossConfig::default()
        };
        config
    };
    let with_teacher = |config: TrainConfig, teacher| {
        let setup = Setup { teacher, ..on_cpu() };
        Trainer::new(config, model_config(), sources(), setup)
    };
    let terms = |teacher: Weights| {
        let mut trainer = with_teacher(with_weight(1.0), Some(teacher)).unwrap();
        let mut seen = Vec::new();
        trainer
            .run(1, &mut |_, progress| {
                seen.push(progress.terms.clone());
                Ok(Verdict::Continue)
            })
            .unwrap();
        assert!(
            seen.iter()
                .all(|terms| terms.len() == 1 && terms[0].0 == "teacher")
        );
        seen.into_iter().map(|terms| terms[0].1).collect::<Vec<_>>()
    };
    // An untrained model passes its input on, and so has nothing to learn from another such.
    let same = terms(random_weights());
    let mut other = random_weights();
    for tensor in other.base.values_mut() {
        *tensor = &*tensor + tensor.randn_like() * 0.05;
    }
    let another = terms(other);
    assert!(same[0] < 1e-6 && another[0] > 1e-3, "{same:?} {another:?}");
    let refusal = |config, teacher| with_teacher(config, teacher).err().unwrap().to_string();
    assert!(refusal(with_weight(1.0), None).contains("--teacher"));
    let l1 = train_config("base", 4);
    assert!(refusal(l1, Some(random_weights())).contains("loss.teacher"));
    let mut odd = with_weight(1.0);
    odd.phases[0].crop_size = 36;
    let multiple = refusal(odd, Some(random_weights()));
    assert!(multiple.contains("multiple of"), "{multiple}");
}
