//! Folders that are something else, or not all there, and tensors that are not as they should be.

use std::fs;
use std::path::Path;

use osdd::config::WeightsDtype;
use osdd::nn::TensorMap;
use osdd::weights::{ImportOptions, Weights};
use osdd::{Error, ErrorKind};
use serde_json::{Value, json};
use tch::Kind;

use crate::folder::{
    Folder, WEIGHTS, assert_gives_what_diffusers_gives, error_of, import, options, repository, shard_name,
    write_json,
};

/// Changes a folder; the sentence about it has these words.
type Case = (&'static str, fn(&Folder), &'static [&'static str]);

fn unet(folder: &Folder, fields: Value) {
    folder.set("unet/config.json", fields);
}

fn schedule(folder: &Folder, fields: Value) {
    folder.set("scheduler/scheduler_config.json", fields);
}

#[test]
fn other_models_are_named() {
    let cases: &[Case] = &[
        (
            "SD1.5",
            |f| unet(f, json!({ "cross_attention_dim": 768 })),
            &["Stable Diffusion 1.x", "name a folder"],
        ),
        (
            "SDXL by its UNet",
            |f| {
                unet(
                    f,
                    json!({ "cross_attention_dim": 2048, "addition_embed_type": "text_time" }),
                )
            },
            &["Stable Diffusion XL"],
        ),
        (
            "SDXL by its pipeline, where nothing else is there yet",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "_class_name": "StableDiffusionXLPipeline" }),
                );
                fs::remove_dir_all(f.path("unet")).unwrap();
            },
            &["Stable Diffusion XL"],
        ),
        (
            "SDXL by its two text encoders",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "text_encoder_2": ["transformers", "CLIP"] }),
                )
            },
            &["Stable Diffusion XL", "two text encoders"],
        ),
        (
            "inpainting",
            |f| unet(f, json!({ "in_channels": 9 })),
            &["inpainting", "9 channels"],
        ),
        (
            "depth",
            |f| unet(f, json!({ "in_channels": 5 })),
            &["depth-to-image"],
        ),
        (
            "upscaler",
            |f| unet(f, json!({ "in_channels": 7 })),
            &["x4 upscaler"],
        ),
        (
            "ControlNet in place of the UNet",
            |f| unet(f, json!({ "_class_name": "ControlNetModel" })),
            &["ControlNet"],
        ),
        (
            "a transformer",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "_class_name": "PixArtPipeline", "unet": null }),
                )
            },
            &["without a UNet", "PixArtPipeline"],
        ),
        (
            "projections as convolutions",
            |f| unet(f, json!({ "use_linear_projection": false })),
            &["unet/config.json", "use_linear_projection is false", "true"],
        ),
        (
            "that field left out",
            |f| unet(f, json!({ "use_linear_projection": null })),
            &["use_linear_projection is absent"],
        ),
        (
            "two cross-attentions",
            |f| unet(f, json!({ "only_cross_attention": [true, false, false, false] })),
            &["only_cross_attention"],
        ),
        (
            "another block",
            |f| {
                unet(
                    f,
                    json!({ "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"] }),
                )
            },
            &["down_block_types", "CrossAttnDownBlock2D or DownBlock2D"],
        ),
        (
            "up blocks that do not mirror the down blocks",
            |f| {
                unet(
                    f,
                    json!({ "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"] }),
                )
            },
            &["up_block_types", "mirror image"],
        ),
        (
            "several transformers a layer",
            |f| unet(f, json!({ "transformer_layers_per_block": [1, 2, 4, 4] })),
            &["transformer_layers_per_block"],
        ),
        (
            "a field from the future",
            |f| unet(f, json!({ "rotary_embedding": "3d" })),
            &["rotary_embedding is \"3d\"", "left out"],
        ),
        (
            "other latents",
            |f| f.set("vae/config.json", json!({ "latent_channels": 16 })),
            &["in_channels is 4", "unless it is 16"],
        ),
        (
            "shifted latents",
            |f| f.set("vae/config.json", json!({ "shift_factor": 0.1 })),
            &["vae/config.json", "shift_factor is 0.1"],
        ),
        (
            "another autoencoder",
            |f| f.set("vae/config.json", json!({ "_class_name": "AutoencoderTiny" })),
            &["AutoencoderTiny", "AutoencoderKL"],
        ),
        (
            "linear betas",
            |f| schedule(f, json!({ "beta_schedule": "linear" })),
            &["beta_schedule is \"linear\"", "scaled_linear"],
        ),
        (
            "betas not given at all, as in flow matching",
            |f| schedule(f, json!({ "beta_schedule": null })),
            &["beta_schedule is absent"],
        ),
        (
            "zero terminal SNR",
            |f| schedule(f, json!({ "rescale_betas_zero_snr": true })),
            &["rescale_betas_zero_snr is true"],
        ),
        (
            "a UNet that predicts the sample",
            |f| schedule(f, json!({ "prediction_type": "sample" })),
            &["prediction_type is \"sample\"", "epsilon or v_prediction"],
        ),
    ];
    refused(cases);
}

#[test]
fn incomplete_folders_say_what_is_missing() {
    let cases: &[Case] = &[
        (
            "missing files",
            |f| {
                fs::remove_file(f.path("vae/config.json")).unwrap();
                fs::remove_file(f.weights("unet")).unwrap();
            },
            &[
                "vae/config.json and unet/diffusion_pytorch_model.safetensors are missing",
                "download",
            ],
        ),
        (
            "no index",
            |f| fs::remove_file(f.path("model_index.json")).unwrap(),
            &["model_index.json is missing"],
        ),
        (
            "a shard",
            |f| {
                f.shard("unet");
                fs::remove_file(f.path("unet").join(shard_name(1))).unwrap();
            },
            &["unet/diffusion_pytorch_model-00002-of-00002.safetensors is missing"],
        ),
        (
            "a download that goes on",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                fs::create_dir_all(f.path(".cache/huggingface/download/vae")).unwrap();
                fs::write(f.path(".cache/huggingface/download/vae/abc.incomplete"), "x").unwrap();
            },
            &["is missing", "unfinished: abc.incomplete"],
        ),
        (
            "cut off in its data",
            |f| {
                let bytes = fs::read(f.weights("vae")).unwrap();
                fs::write(f.weights("vae"), &bytes[..bytes.len() - 10]).unwrap();
            },
            &[
                "vae/diffusion_pytorch_model.safetensors",
                "the download has stopped",
            ],
        ),
        (
            "cut off in its header",
            |f| {
                let bytes = fs::read(f.weights("unet")).unwrap();
                fs::write(f.weights("unet"), &bytes[..1000]).unwrap();
            },
            &["1000 of", "the download has stopped"],
        ),
        (
            "an empty file",
            |f| fs::write(f.weights("vae"), "").unwrap(),
            &["0 bytes"],
        ),
        (
            "a web page",
            |f| fs::write(f.weights("vae"), "<!DOCTYPE html><title>Sign in</title>").unwrap(),
            &["does not begin with a header"],
        ),
        (
            "a damaged header",
            |f| {
                let mut bytes = fs::read(f.weights("vae")).unwrap();
                bytes[20] = 7;
                fs::write(f.weights("vae"), bytes).unwrap();
            },
            &["header is damaged"],
        ),
        (
            "git-lfs pointers",
            |f| {
                let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
                fs::write(f.weights("unet"), pointer).unwrap();
            },
            &["git-lfs pointer", "git lfs pull"],
        ),
        (
            "half a JSON file",
            |f| fs::write(f.path("vae/config.json"), "{\"act_fn\":").unwrap(),
            &["vae/config.json", "not valid JSON"],
        ),
        (
            "a link to nowhere",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                std::os::unix::fs::symlink("../../blobs/0123", f.weights("vae")).unwrap();
            },
            &["link to a file that is not there"],
        ),
        (
            "fp16 only",
            |f| {
                fs::rename(
                    f.weights("unet"),
                    f.path("unet/diffusion_pytorch_model.fp16.safetensors"),
                )
                .unwrap()
            },
            &["only the fp16 variant", "--allow-fp16"],
        ),
        (
            "another variant only",
            |f| {
                fs::rename(
                    f.weights("unet"),
                    f.path("unet/diffusion_pytorch_model.non_ema.safetensors"),
                )
                .unwrap()
            },
            &["non_ema", "no diffusion_pytorch_model.safetensors"],
        ),
        (
            "pickles only",
            |f| fs::rename(f.weights("vae"), f.path("vae/diffusion_pytorch_model.bin")).unwrap(),
            &[
                "diffusion_pytorch_model.bin",
                "may run code",
                "safe_serialization",
            ],
        ),
        (
            "an index that leads elsewhere",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                let index = f.path("vae").join(format!("{WEIGHTS}.index.json"));
                write_json(&index, &json!({ "weight_map": { "a": "../../x.safetensors" } }));
            },
            &["index names no safetensors files beside it"],
        ),
    ];
    refused(cases);
}

fn refused(cases: &[Case]) {
    for (name, change, expected) in cases {
        let folder = Folder::new();
        change(&folder);
        let error = error_of(folder.root(), &options());
        let text = error.to_string();
        for words in *expected {
            assert!(text.contains(words), "{name}: '{words}' is not in: {text}");
        }
        assert_eq!(text.lines().count(), 1, "{name}: {text}");
        assert_eq!(error.kind(), ErrorKind::Read, "{name}: {text}");
    }
}

#[test]
fn each_tensor_is_checked() {
    let name = "encoder.conv_in.weight";
    let error = |part: &str, change: &dyn Fn(&mut TensorMap)| {
        let folder = Folder::new();
        folder.change(part, |tensors| change(tensors));
        let error = error_of(folder.root(), &options());
        assert!(
            error.to_string().contains(&format!("{part}/{WEIGHTS}")),
            "{error}"
        );
        error
    };
    let missing = error("vae", &|t| drop(t.remove(name)));
    assert!(
        matches!(&missing, Error::TensorMissing { name: n, .. } if n == name),
        "{missing}"
    );
    let unexpected = error("vae", &|t| {
        drop(t.insert("encoder.extra".into(), t[name].shallow_clone()))
    });
    assert!(
        matches!(&unexpected, Error::TensorUnexpected { name, .. } if name == "encoder.extra"),
        "{unexpected}"
    );
    // As many numbers, in another shape.
    let shape = error("unet", &|t| {
        let turned = t["conv_in.weight"].transpose(0, 1).contiguous();
        t.insert("conv_in.weight".into(), turned);
    });
    assert!(
        matches!(&shape, Error::TensorShape { name, .. } if name == "conv_in.weight"),
        "{shape}"
    );
    // Only the autoencoder's attention may come as a convolution.
    let convolution = error("unet", &|t| {
        let name = "mid_block.attentions.0.proj_in.weight";
        let wide = t[name].unsqueeze(-1).unsqueeze(-1);
        t.insert(name.into(), wide);
    });
    assert!(matches!(convolution, Error::TensorShape { .. }), "{convolution}");
    let dtype = error("vae", &|t| {
        let integer = t[name].to_kind(Kind::Int64);
        t.insert(name.into(), integer);
    });
    assert!(
        matches!(&dtype, Error::TensorDtype { got, .. } if got == "I64"),
        "{dtype}"
    );
    let nan = error("unet", &|t| {
        let _ = t["conv_in.weight"].view([-1]).get(3).fill_(f64::NAN);
    });
    assert!(
        matches!(&nan, Error::TensorNotFinite { name, .. } if name == "conv_in.weight"),
        "{nan}"
    );
    let both = error("vae", &|t| {
        let name = "decoder.mid_block.attentions.0.to_q.bias";
        t.insert(name.replace("to_q", "query"), t[name].shallow_clone());
    });
    assert!(matches!(both, Error::TensorTwice { .. }), "{both}");
}

#[test]
fn half_precision_needs_consent() {
    let folder = Folder::new();
    for part in ["unet", "vae"] {
        folder.change(part, |tensors| {
            tensors.values_mut().for_each(|t| *t = t.to_kind(Kind::Half));
        });
    }
    let text = error_of(folder.root(), &options()).to_string();
    assert!(text.contains("this is an fp16 variant"), "{text}");
    for part in ["unet", "vae"] {
        let variant = folder.path(part).join("diffusion_pytorch_model.fp16.safetensors");
        fs::rename(folder.weights(part), variant).unwrap();
    }
    let consent = ImportOptions {
        allow_fp16: true,
        ..options()
    };
    import(folder.root(), &folder.path("out"), &consent).unwrap();
    assert_eq!(
        Weights::from_dir(&folder.path("out"))
            .unwrap()
            .config
            .weights_dtype,
        WeightsDtype::F16
    );
    assert_gives_what_diffusers_gives(&folder.path("out"), "epsilon", 0.02);
}

#[test]
fn numbers_beyond_half_precision_are_refused() {
    let folder = Folder::new();
    folder.change("unet", |tensors| {
        let _ = tensors["conv_in.bias"].view([-1]).get(0).fill_(1e6);
    });
    let half = ImportOptions {
        dtype: Some(WeightsDtype::F16),
        ..options()
    };
    let error = error_of(folder.root(), &half);
    assert!(error.to_string().contains("unet.conv_in.bias"), "{error}");
}

#[test]
fn places_that_are_no_folder_of_a_model() {
    let folder = Folder::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let text = |path: &Path| error_of(path, &options()).to_string();
    assert!(text(&folder.weights("unet")).contains("single-file checkpoint"));
    assert!(
        text(&folder.path("unet"))
            .contains("one part of a model (UNet2DConditionModel); name the folder above")
    );
    assert!(text(elsewhere.path()).contains("no model_index.json"));
    fs::write(elsewhere.path().join("v2-1_512-ema-pruned.ckpt"), "x").unwrap();
    assert!(text(elsewhere.path()).contains("single-file checkpoint v2-1_512-ema-pruned.ckpt"));
    write_json(
        &elsewhere.path().join("config.json"),
        &json!({ "_class_name": "ControlNetModel" }),
    );
    assert!(text(elsewhere.path()).contains("this is a ControlNet"));
    assert!(text(&repository("models/nano")).contains("model of osdd already"));
    assert_eq!(
        error_of(&elsewhere.path().join("nothing"), &options()).kind(),
        ErrorKind::NotFound
    );
}
