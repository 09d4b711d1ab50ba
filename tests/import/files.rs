//! The hub's cache and notes, and the files that an import writes.

use std::fs;
use std::ops::ControlFlow;

use osdd::nn::TensorMap;
use osdd::weights::{DiffusersFolder, save_safetensors, verify_import};
use osdd::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::folder::{Folder, WEIGHTS, error_of, import, options, read};

/// `blobs` named after their SHA-256, and links to them, as the hub's client lays out its cache.
#[test]
fn the_hubs_cache_is_found_through_its_links_and_its_checksums_hold() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--someone--tiny");
    let snapshot = model.join("snapshots/0a1b");
    fs::create_dir_all(model.join("blobs")).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots/other")).unwrap();
    let folder = Folder::new();
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        &format!("unet/{WEIGHTS}"),
        &format!("vae/{WEIGHTS}"),
    ];
    for file in files {
        let bytes = fs::read(folder.path(file)).unwrap();
        let sum: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let link = snapshot.join(file);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(model.join("blobs").join(&sum), bytes).unwrap();
        std::os::unix::fs::symlink(model.join("blobs").join(&sum), link).unwrap();
    }
    let text = error_of(&model, &options()).to_string();
    assert!(text.contains("2 snapshots"), "{text}");
    assert!(
        error_of(cache.path(), &options())
            .to_string()
            .contains("models--someone--tiny")
    );
    fs::write(model.join("refs/main"), "0a1b\n").unwrap();
    for dir in [&model, &model.join("snapshots"), &snapshot] {
        let opened = DiffusersFolder::open(dir, &options()).unwrap();
        let manifest = opened.check(&mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        assert!(manifest.files.iter().all(|file| file.as_on_the_hub));
    }

    let blob = snapshot.join("unet").join(WEIGHTS).canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blob, bytes).unwrap();
    let text = error_of(&model, &options()).to_string();
    assert!(text.contains("as on the hub"), "{text}");
}

/// A download into a plain folder has its checksums in notes beside it, which end to count when a file is replaced.
#[test]
fn the_hubs_notes_beside_a_download_are_believed_until_the_file_changes() {
    let folder = Folder::new();
    let notes = folder.path(".cache/huggingface/download/vae");
    fs::create_dir_all(&notes).unwrap();
    let note = |time: f64| {
        let sum = "0".repeat(64);
        fs::write(
            notes.join(format!("{WEIGHTS}.metadata")),
            format!("c0ffee\n{sum}\n{time}\n"),
        )
        .unwrap();
    };
    note(4e9);
    assert!(
        error_of(folder.root(), &options())
            .to_string()
            .contains("as on the hub")
    );
    note(1e9);
    let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
    let manifest = opened.check(&mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert!(manifest.files.iter().all(|file| !file.as_on_the_hub));
}

#[test]
fn a_model_appears_whole_or_not_at_all() {
    let folder = Folder::new();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("model");
    let is_empty = || fs::read_dir(parent.path()).unwrap().next().is_none();
    let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
    let stopped = opened.import(&out, &mut |progress| match progress.tensors {
        700.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(stopped.unwrap().is_none());
    assert!(is_empty());

    // NaN in the last tensor that is read.
    folder.change("vae", |tensors| {
        let _ = tensors["quant_conv.weight"].view([-1]).get(0).fill_(f64::NAN);
    });
    assert!(import(folder.root(), &out, &options()).is_err());
    assert!(is_empty());

    let folder = Folder::new();
    fs::create_dir(&out).unwrap();
    folder.import(&out);
    let error = import(folder.root(), &out, &options()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_changed_model_is_noticed() {
    let folder = Folder::new();
    let out = folder.path("out");
    let written = folder.import(&out);
    let verify = || verify_import(&out, &mut |_| ControlFlow::Continue(()));
    assert_eq!(verify().unwrap().unwrap(), written);

    // Adapters that are trained later lie beside it.
    let lora = TensorMap::from([(
        "lora_r.x".to_owned(),
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
    )]);
    save_safetensors(&out.join("lora.safetensors"), &lora, None).unwrap();
    assert!(verify().unwrap().is_some());

    let path = out.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = verify().unwrap_err();
    assert!(
        error.to_string().contains("no longer what was imported"),
        "{error}"
    );

    let mut tensors = read(&path);
    tensors.remove("unet.conv_out.bias");
    save_safetensors(&path, &tensors, None).unwrap();
    let error = verify().unwrap_err();
    assert!(
        matches!(error, Error::TensorMissing { .. } | Error::Config { .. }),
        "{error}"
    );
    fs::remove_file(out.join("import.json")).unwrap();
    assert_eq!(verify().unwrap_err().kind(), ErrorKind::NotFound);
}
