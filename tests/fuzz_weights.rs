//! Model files at random: bytes that changed, files that end early or are in pieces, configurations that say anything. Loading them
//! gives a model or an error, never a panic, not even one that becomes an error. `PROPTEST_CASES` sets the number of cases.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use osdd::config::ModelConfig;
use osdd::engine::{Device, Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};
use osdd::nn::Init;
use osdd::weights::Weights;
use proptest::prelude::*;
use serde_json::Value;

const CONFIG: &str = include_str!("fixtures/small_model.json");

/// Panics of any thread.
static PANICS: LazyLock<AtomicU64> = LazyLock::new(|| {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(panic);
    }));
    AtomicU64::new(0)
});

/// The weights of a good model with both adapters, as its file has them.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let config = ModelConfig::from_json(CONFIG, "small_model").expect("a configuration");
    let shapes = osdd::model::parameter_shapes(&config).expect("shapes");
    let lora = osdd::weights::lora_shapes(&config).expect("shapes");
    let random = |(name, shape): (String, Vec<i64>)| {
        let tensor = Init::Normal(0.1).values(1, &name, &shape).expect("a tensor");
        (name, tensor)
    };
    let weights = Weights {
        config,
        base: shapes.into_iter().map(random).collect(),
        lora_r: Some(lora.clone().into_iter().map(random).collect()),
        lora_s: Some(lora.into_iter().map(random).collect()),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    weights.save(folder.path()).expect("saved");
    std::fs::read(folder.path().join("model.safetensors")).expect("read")
});

/// A folder with this configuration and these weights.
fn folder(config: &str, weights: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    std::fs::write(folder.path().join("model.safetensors"), weights).expect("written");
    folder
}

/// A model that loads must also run, or say why not.
fn load_and_run(folder: &Path) {
    let before = PANICS.load(Ordering::SeqCst);
    try_to_run(folder);
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a panic became an error");
}

fn try_to_run(folder: &Path) {
    if Weights::from_dir(folder).is_err() {
        return;
    }
    let config = EngineConfig {
        model: folder.display().to_string(),
        device: Device::Cpu,
        tile_size: Some(0),
        ..EngineConfig::default()
    };
    if let Ok(engine) = Engine::new(config)
        && engine.send(Frame::new(16, 16, PixelFormat::Rgb8)).is_ok()
    {
        let _ = engine.receive();
    }
}

/// Places in a file: half of them in the header, where a byte means most.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![0..9_usize, 0..6000_usize, any::<usize>()]
}

#[derive(Clone, Debug)]
enum Change {
    Byte(usize, u8),
    End(usize),
    Append(Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|(at, value)| Change::Byte(at, value)),
        1 => place().prop_map(Change::End),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Change::Append),
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3_i64..40).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
        proptest::collection::vec(-1_i64..20, 0..4).prop_map(Value::from),
    ]
}

/// Every value that is not an object, in the order of the file.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Object(fields) => fields.values_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn weight_files_of_any_bytes(changes in proptest::collection::vec(change(), 1..4)) {
        let mut bytes = GOOD.clone();
        for change in changes {
            let length = bytes.len().max(1);
            match change {
                Change::Byte(at, value) => {
                    if let Some(byte) = bytes.get_mut(at % length) {
                        *byte = value;
                    }
                }
                Change::End(at) => bytes.truncate(at % length),
                Change::Append(more) => bytes.extend(more),
            }
        }
        load_and_run(folder(CONFIG, &bytes).path());
    }

    /// Weights in two files, as large ones are, of which one is not what it was: cut anywhere, or the other one again.
    #[test]
    fn weights_in_pieces(change in change(), twice in any::<bool>()) {
        let two = folder(CONFIG, &GOOD);
        let second = two.path().join("model-00002-of-00002.safetensors");
        let mut bytes = GOOD.clone();
        match change {
            Change::Byte(at, value) => {
                let length = bytes.len();
                bytes[at % length] = value;
            }
            Change::End(at) => bytes.truncate(at % GOOD.len()),
            Change::Append(more) => bytes.extend(more),
        }
        std::fs::write(&second, if twice { &GOOD } else { &bytes }).expect("written");
        load_and_run(two.path());
    }

    #[test]
    fn configurations_of_any_values(changes in proptest::collection::vec((any::<prop::sample::Index>(), json_value()), 1..3)) {
        let mut config = serde_json::from_str::<Value>(CONFIG).expect("JSON");
        for (which, value) in changes {
            let mut leaves = leaves(&mut config);
            let index = which.index(leaves.len());
            *leaves[index] = value;
        }
        load_and_run(folder(&config.to_string(), &GOOD).path());
    }

    #[test]
    fn configurations_of_any_text(text in ".{0,300}") {
        prop_assert!(ModelConfig::from_json(&text, "any").is_err());
    }
}
