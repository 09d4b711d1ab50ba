//! The engine: order, depth, flush, errors, γ, strength, and tiles that cannot be seen.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use osdd::engine::{Device, Engine, EngineConfig, Precision, SendError};
use osdd::frame::{Frame, PixelFormat};
use osdd::{Error, ErrorKind};

fn config() -> EngineConfig {
    EngineConfig {
        device: Device::Cpu,
        ..EngineConfig::default()
    }
}

/// A frame with structure at every scale, another for each seed.
fn frame(width: usize, height: usize, seed: usize) -> Frame {
    let mut frame = Frame::new(width, height, PixelFormat::Rgb8);
    for y in 0..height {
        for x in 0..width {
            let waves = [3.0, 7.0, 17.0, 41.0, 97.0].map(|period: f64| {
                let (u, v) = (x as f64 + 2.0 * seed as f64, y as f64 * 0.7 + seed as f64);
                ((u + v) * std::f64::consts::TAU / period).sin() * ((u - v) * 2.1 / period).cos()
            });
            let block = if (x / 23 + y / 31 + seed).is_multiple_of(2) {
                0.25
            } else {
                -0.25
            };
            let value = 0.5 + block + waves.iter().sum::<f64>() / 12.0;
            for channel in 0..3 {
                let tint = 1.0 - 0.15 * channel as f64;
                frame.data[(y * width + x) * 3 + channel] = (value * tint * 255.0).clamp(0.0, 255.0) as u8;
            }
        }
    }
    frame
}

fn one(engine: &Engine, frame: Frame) -> Frame {
    engine.send(frame).unwrap();
    engine.receive().unwrap().unwrap().frame
}

fn largest_and_mean_difference(a: &Frame, b: &Frame) -> (u8, f64) {
    let differences: Vec<u8> = a.data.iter().zip(&b.data).map(|(x, y)| x.abs_diff(*y)).collect();
    let sum: u64 = differences.iter().map(|d| u64::from(*d)).sum();
    (
        *differences.iter().max().unwrap(),
        sum as f64 / differences.len() as f64,
    )
}

/// The layers of one run on threads that it has for itself, those of the other ask for the same ones each time.
#[test]
fn engines_of_both_kinds_can_start_at_once() {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano");
    let folder = tempfile::tempdir().unwrap();
    let weights = "model.safetensors";
    std::fs::copy(nano.join(weights), folder.path().join(weights)).unwrap();
    let text = std::fs::read_to_string(nano.join("config.json")).unwrap();
    let mut model: serde_json::Value = serde_json::from_str(&text).unwrap();
    model["unet"]["norm"] = serde_json::json!({ "group": { "num_groups": 8 } });
    std::fs::write(folder.path().join("config.json"), model.to_string()).unwrap();
    let of_groups = folder.path().display().to_string();
    let (started, all) = mpsc::channel();
    for _ in 0..4 {
        for model in ["nano".to_owned(), of_groups.clone()] {
            let started = started.clone();
            thread::spawn(move || started.send(Engine::new(EngineConfig { model, ..config() }).map(drop)));
        }
        for _ in 0..2 {
            let engine = all.recv_timeout(Duration::from_secs(300));
            engine.expect("neither waits for the other").unwrap();
        }
    }
}

#[test]
fn frames_come_back_in_order_with_their_input() {
    let engine = Engine::new(EngineConfig { depth: 3, ..config() }).unwrap();
    let mut received = Vec::new();
    let mut sent = 0;
    while received.len() < 8 {
        while sent < 8 && engine.in_flight() < engine.depth() {
            assert_eq!(engine.send(frame(40, 24, sent)).unwrap(), sent as u64);
            sent += 1;
        }
        received.push(engine.receive().unwrap().unwrap());
    }
    for (i, output) in received.iter().enumerate() {
        assert_eq!(output.id, i as u64);
        assert_eq!(output.input, frame(40, 24, i));
        assert_eq!((output.frame.width, output.frame.height), (40, 24));
    }
    assert!(engine.receive().unwrap().is_none());
    let stats = engine.stats();
    assert_eq!(
        (stats.frames_in, stats.frames_out, stats.frames_dropped),
        (8, 8, 0)
    );
}

#[test]
fn depth_bounds_what_is_in_flight() {
    let engine = Engine::new(EngineConfig { depth: 2, ..config() }).unwrap();
    engine.send(frame(32, 32, 0)).unwrap();
    engine.send(frame(32, 32, 1)).unwrap();
    let third = frame(32, 32, 2);
    match engine.send(third.clone()) {
        Err(SendError::Full(back)) => assert_eq!(back, third),
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.receive().unwrap().unwrap().id, 0);
    assert_eq!(engine.send(third).unwrap(), 2);
}

#[test]
fn flush_forgets_frames_and_wakes_a_waiting_receiver() {
    let engine = Arc::new(Engine::new(EngineConfig { depth: 4, ..config() }).unwrap());
    for round in 0..20 {
        for i in 0..4 {
            engine.send(frame(64, 48, i)).unwrap();
        }
        let waiting = {
            let engine = engine.clone();
            thread::spawn(move || {
                let mut received = 0;
                while engine.receive().unwrap().is_some() {
                    received += 1;
                }
                received
            })
        };
        if round % 2 == 0 {
            thread::yield_now();
        }
        engine.flush();
        assert!(waiting.join().unwrap() <= 4);
        assert_eq!(engine.in_flight(), 0);
    }
    let id = engine.send(frame(64, 48, 9)).unwrap();
    let output = engine.receive().unwrap().unwrap();
    assert_eq!(output.id, id);
    assert_eq!(output.input, frame(64, 48, 9));
    let stats = engine.stats();
    assert!(stats.frames_dropped + stats.frames_out >= stats.frames_in);
}

#[test]
fn dropping_an_engine_with_frames_in_flight_ends() {
    for sent in 0..4 {
        let engine = Engine::new(EngineConfig { depth: 4, ..config() }).unwrap();
        for i in 0..sent {
            engine.send(frame(64, 64, i)).unwrap();
        }
        drop(engine);
    }
}

#[test]
fn gamma_is_read_once_a_frame_and_two_gammas_differ() {
    let engine = Engine::new(config()).unwrap();
    let picture = frame(96, 64, 5);
    let at = |gamma: f64| {
        engine.set_gamma(gamma);
        engine.send(picture.clone()).unwrap();
        let output = engine.receive().unwrap().unwrap();
        assert_eq!(output.gamma, gamma);
        output.frame
    };
    let (low, high) = (at(0.0), at(1.0));
    assert_ne!(low, high);
    assert_eq!(at(0.0), low, "moving gamma back gives the first result again");
    engine.send_with(picture.clone(), 1.0, 1.0).unwrap();
    assert_eq!(engine.receive().unwrap().unwrap().frame, high);
    assert_eq!(engine.gamma(), 0.0);
    engine.set_gamma(f64::NAN);
    assert_eq!(engine.gamma(), 0.0);
    engine.set_gamma(7.0);
    assert_eq!(engine.gamma(), 1.0);
}

#[test]
fn strength_zero_is_the_input_and_half_lies_between() {
    let engine = Engine::new(config()).unwrap();
    let picture = frame(70, 50, 3);
    engine.set_strength(0.0);
    assert_eq!(one(&engine, picture.clone()), picture);
    assert_eq!(engine.stats().tiles_run, 0);
    engine.set_strength(1.0);
    let full = one(&engine, picture.clone());
    engine.set_strength(0.5);
    let half = one(&engine, picture.clone());
    for ((input, full), half) in picture.data.iter().zip(&full.data).zip(&half.data) {
        let (low, high) = (input.min(full), input.max(full));
        assert!((low.saturating_sub(1)..=high.saturating_add(1)).contains(half));
    }
}

/// Blocks of random colours, seen by a camera that moved 24 px to the side: what a tile does with it depends on far pixels.
fn smeared(width: usize, height: usize) -> Frame {
    let block = |x: usize, y: usize, channel: usize| {
        let place = (x / 12 + 131 * (y / 12)) as u32;
        (place.wrapping_mul(2_654_435_761) >> (7 * channel) & 255) as u8
    };
    let mut picture = Frame::new(width, height, PixelFormat::Rgb8);
    for (i, sample) in picture.data.iter_mut().enumerate() {
        let (x, y, channel) = (i / 3 % width, i / 3 / width, i % 3);
        let sum: u32 = (0..24).map(|dx| u32::from(block(x + dx, y, channel))).sum();
        *sample = (sum / 24) as u8;
    }
    picture
}

#[test]
fn tiles_cannot_be_seen() {
    let [tiled, whole] = [512, 0].map(|tile_size| {
        let config = EngineConfig {
            tile_size: Some(tile_size),
            ..config()
        };
        Engine::new(config).unwrap()
    });
    for (width, height) in [(1280, 720), (961, 543)] {
        let picture = smeared(width, height);
        for gamma in [0.0, 1.0] {
            tiled.set_gamma(gamma);
            whole.set_gamma(gamma);
            let (a, b) = (one(&tiled, picture.clone()), one(&whole, picture.clone()));
            let (largest, mean) = largest_and_mean_difference(&a, &b);
            assert!(
                largest <= 1 && mean <= 0.1,
                "{width}x{height}, gamma {gamma}: {largest}/255 at most, {mean:.4}/255 on average"
            );
        }
    }
    assert!(tiled.stats().tiles_run > whole.stats().tiles_run);
}

#[test]
fn the_overlap_is_what_the_model_or_the_caller_asks_for() {
    let overlap = |tile_overlap, tile_size| {
        let config = EngineConfig {
            tile_overlap,
            tile_size,
            ..config()
        };
        Engine::new(config).unwrap().info().tile_overlap
    };
    assert_eq!(overlap(None, None), 128);
    assert_eq!(overlap(Some(40), None), 40);
    // More than small tiles have.
    assert_eq!(overlap(None, Some(64)), 128);
    assert_eq!(
        osdd::weights::load_config("models/small").unwrap().tile_overlap,
        256
    );
}

#[test]
fn every_size_works_down_to_one_pixel() {
    let engine = Engine::new(EngineConfig {
        tile_size: Some(64),
        tile_overlap: Some(16),
        ..config()
    })
    .unwrap();
    for (width, height) in [(1, 1), (1, 90), (17, 13), (64, 64), (65, 63), (130, 5)] {
        let output = one(&engine, frame(width, height, 2));
        assert_eq!((output.width, output.height), (width, height));
    }
}

#[test]
fn alpha_and_sixteen_bits_are_kept() {
    let engine = Engine::new(config()).unwrap();
    let mut picture = Frame::new(33, 21, PixelFormat::Rgba16);
    let samples: Vec<u16> = (0..33 * 21 * 4).map(|i| (i * 2311 % 65536) as u16).collect();
    for (bytes, sample) in picture.data.chunks_exact_mut(2).zip(&samples) {
        bytes.copy_from_slice(&sample.to_ne_bytes());
    }
    let output = one(&engine, picture.clone());
    let alpha = |f: &Frame| f.data.chunks_exact(8).map(|p| [p[6], p[7]]).collect::<Vec<_>>();
    assert_eq!(alpha(&output), alpha(&picture));
    let odd_low_bytes = output
        .data
        .chunks_exact(2)
        .filter(|s| u16::from_ne_bytes([s[0], s[1]]) % 257 != 0);
    assert!(
        odd_low_bytes.count() > 1000,
        "more than 8 bits of precision come out"
    );
}

#[test]
fn bad_settings_and_models_are_errors_with_a_kind() {
    let kind = |change: fn(&mut EngineConfig)| {
        let mut config = config();
        change(&mut config);
        Engine::new(config).err().expect("must fail").kind()
    };
    assert_eq!(kind(|c| c.model = "no/such/model".into()), ErrorKind::NotFound);
    assert_eq!(kind(|c| c.device = Device::Cuda(63)), ErrorKind::Device);
    assert_eq!(kind(|c| c.depth = 0), ErrorKind::Settings);
    assert_eq!(kind(|c| c.tile_size = Some(65)), ErrorKind::Settings);
}

#[test]
fn a_malformed_frame_comes_back_and_the_engine_goes_on() {
    let engine = Engine::new(config()).unwrap();
    let mut short = frame(20, 20, 0);
    short.data.pop();
    match engine.send(short) {
        Err(SendError::Failed(
            _,
            Error::FrameSize {
                expected: 1200,
                got: 1199,
                ..
            },
        )) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(one(&engine, frame(20, 20, 0)).width, 20);
}

#[test]
fn a_failure_on_the_worker_reaches_the_caller_and_stays() {
    let engine = Engine::new(config()).unwrap();
    // Longer than any tile grid: the worker fails, not the sender.
    engine
        .send(Frame::new((1 << 20) + 1, 1, PixelFormat::Rgb8))
        .unwrap();
    let error = engine.receive().unwrap_err();
    assert!(error.to_string().contains("1048577x1"), "{error}");
    match engine.send(frame(8, 8, 0)) {
        Err(SendError::Failed(_, Error::Worker(reason))) => assert!(reason.contains("1048577x1")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_behind_a_failure_are_answered_too() {
    let engine = Engine::new(EngineConfig { depth: 3, ..config() }).unwrap();
    engine
        .send(Frame::new((1 << 20) + 1, 1, PixelFormat::Rgb8))
        .unwrap();
    let behind = engine.send(frame(8, 8, 0)).is_ok();
    assert!(engine.receive().is_err());
    if behind {
        assert!(engine.receive().is_err());
    }
    assert!(engine.receive().unwrap().is_none());
}

#[test]
fn engines_share_one_model_and_do_not_disturb_each_other() {
    let engines: Vec<Engine> = (0..3)
        .map(|i| {
            Engine::new(EngineConfig {
                gamma: i as f64 / 2.0,
                ..config()
            })
            .unwrap()
        })
        .collect();
    let picture = frame(48, 32, 4);
    let first: Vec<Frame> = engines.iter().map(|e| one(e, picture.clone())).collect();
    engines[0].set_gamma(1.0);
    assert_eq!(one(&engines[0], picture.clone()), first[2]);
    assert_eq!(one(&engines[1], picture.clone()), first[1]);
}

#[test]
fn a_scene_that_stands_still_is_made_once() {
    let engine = Engine::new(EngineConfig {
        reuse_threshold: 1.0,
        tile_size: Some(64),
        tile_overlap: Some(0),
        ..config()
    })
    .unwrap();
    let mut frame = Frame::new(120, 50, PixelFormat::Rgb8);
    for (i, sample) in frame.data.iter_mut().enumerate() {
        *sample = (i * i % 251) as u8;
    }
    let mut outputs = Vec::new();
    // The third frame moves in its right half alone, the fourth has another gamma.
    for (i, gamma) in [1.0, 1.0, 1.0, 0.2].into_iter().enumerate() {
        if i == 2 {
            for row in frame.data.chunks_exact_mut(3 * 120) {
                row[3 * 100] ^= 64;
            }
        }
        engine.set_gamma(gamma);
        engine.send(frame.clone()).unwrap();
        outputs.push(engine.receive().unwrap().unwrap().frame.data);
        let stats = engine.stats();
        let expected = [(2, 0), (2, 2), (3, 3), (5, 3)][i];
        assert_eq!((stats.tiles_run, stats.tiles_reused), expected, "frame {i}");
    }
    assert_eq!(outputs[0], outputs[1]);
    assert_ne!(outputs[1], outputs[2]);
    assert_ne!(outputs[2], outputs[3]);
}

#[test]
fn alpha_moves_while_its_scene_stands_still() {
    let engine = Engine::new(EngineConfig {
        reuse_threshold: 1.0,
        ..config()
    })
    .unwrap();
    for format in [PixelFormat::Rgba8, PixelFormat::Rgba16] {
        let mut frame = Frame::new(64, 50, format);
        for (i, sample) in frame.data.iter_mut().enumerate() {
            *sample = (i * i % 251) as u8;
        }
        let restored = |frame: &Frame| {
            engine.send(frame.clone()).unwrap();
            engine.receive().unwrap().unwrap().frame.data
        };
        let pixel = format.bytes_per_pixel();
        let parts = |data: &[u8]| -> (Vec<u8>, Vec<u8>) {
            let pixels = data.chunks_exact(pixel).map(|p| p.split_at(pixel / 4 * 3));
            let (colours, alphas): (Vec<_>, Vec<_>) = pixels.unzip();
            (colours.concat(), alphas.concat())
        };
        let first = restored(&frame);
        for sample in frame.data.chunks_exact_mut(pixel) {
            sample[pixel - 1] ^= 255;
        }
        let second = restored(&frame);
        assert_eq!(parts(&second).0, parts(&first).0);
        assert_eq!(parts(&second).1, parts(&frame.data).1);
    }
    assert_eq!(engine.stats().tiles_reused, 2);
}

#[test]
fn a_gpu_gives_what_the_cpu_gives() {
    let on_gpu = EngineConfig {
        device: Device::Cuda(0),
        ..config()
    };
    if Engine::new(on_gpu).is_err() {
        eprintln!("left out: there is no GPU");
        return;
    }
    let mut input = Frame::new(640, 360, PixelFormat::Rgb16);
    for (to, from) in input.data.chunks_exact_mut(2).zip(frame(640, 360, 1).data) {
        to.copy_from_slice(&(257 * u16::from(from)).to_ne_bytes());
    }
    let restored = |device, precision| {
        let engine = Engine::new(EngineConfig {
            device,
            precision,
            ..config()
        });
        let output = one(&engine.unwrap(), input.clone());
        let samples = output.data.chunks_exact(2);
        samples
            .map(|s| f64::from(u16::from_ne_bytes([s[0], s[1]])) / 65535.0)
            .collect::<Vec<_>>()
    };
    let expected = restored(Device::Cpu, Precision::Fp32);
    let differences = |precision| -> Vec<f64> {
        let got = restored(Device::Cuda(0), precision);
        got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect()
    };
    let worst = differences(Precision::Fp32).into_iter().fold(0.0, f64::max);
    // Without libtorch's headers it stays TF32.
    let allowed = if cfg!(libtorch_headers) { 1e-4 } else { 5e-3 };
    assert!(worst <= allowed, "float32 is off by {worst} of full scale");
    let bf16 = differences(Precision::Bf16);
    let mean_square = bf16.iter().map(|d| d * d).sum::<f64>() / bf16.len() as f64;
    let psnr = -10.0 * mean_square.log10();
    assert!(psnr >= 45.0, "bf16 is {psnr:.1} dB from float32");
}
