//! Synthetic blur: the same bytes on any machine, for every kind of sample, in training and from the command line.

use osdd::data::{Clip, Image8, MixConfig, Pair, Sources, sample};

/// `osdd synth` as a process.
#[cfg(feature = "cli")]
#[path = "synth/command.rs"]
mod command;

/// A picture of soft stripes, rectangles and grain, from integer arithmetic only.
fn picture(width: usize, height: usize, seed: usize) -> Image8 {
    let value = |i: usize| {
        let (x, y, channel) = (i / 3 % width, i / 3 / width, i % 3);
        let stripes = (x * (3 + seed % 5) + y * (2 + channel)) % 256;
        let on = (x / (9 + seed % 7) + y / 11).is_multiple_of(2);
        let grain = (i * 7919 + seed * 104_729) % 31;
        let lamp = (x + 3 * seed) % 61 < 3 && y % 47 < 3;
        if lamp {
            255
        } else {
            ((if on { stripes } else { 255 - stripes / 2 }) * 7 / 8 + grain) as u8
        }
    };
    Image8::new(width, height, (0..width * height * 3).map(value).collect()).unwrap()
}

fn sources() -> Sources {
    Sources {
        photos: (0..3).map(|i| picture(200 + 40 * i, 180, i)).collect(),
        clips: vec![Clip::new((0..20).map(|i| picture(160, 120, 5 + i)).collect()).unwrap()],
        pairs: vec![Pair::new("p".into(), picture(130, 140, 40), picture(130, 140, 41)).unwrap()],
    }
}

/// FNV-1a over the levels of some samples.
fn fingerprint(sources: &Sources, json: &str) -> String {
    let config: MixConfig = serde_json::from_str(json).unwrap();
    config.check_sources(sources).unwrap();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for index in 0..6 {
        let made = sample(sources, &config, index);
        for value in made.blurry.iter().chain(&made.sharp) {
            let level = (value * 255.0).round() as u8;
            hash = (hash ^ u64::from(level)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

const NONE: &str = r#""trajectory": 0, "clip": 0, "pair": 0, "sharp": 0, "light": 0, "rotation": 0, "layered": 0, "defocus": 0"#;

/// A mix of one kind.
fn only(kind: &str, more: &str) -> String {
    let weights = NONE.replace(&format!("\"{kind}\": 0"), &format!("\"{kind}\": 1"));
    format!(r#"{{ "seed": 3, "crop_size": 96, "weights": {{ {weights} }}{more} }}"#)
}

#[test]
fn samples_have_the_same_bytes_on_any_machine() {
    let sources = sources();
    let cases = [
        ("mix", r#"{ "crop_size": 64 }"#.to_owned()),
        ("trajectory", only("trajectory", "")),
        (
            "log-uniform",
            only("trajectory", r#", "extent_distribution": "log_uniform""#),
        ),
        (
            "gamma 2.2",
            only(
                "trajectory",
                r#", "response_weights": { "gamma22": 1 }, "noise_levels": 0"#,
            ),
        ),
        ("saturated", only("trajectory", r#", "saturation_share": 1"#)),
        ("clip", only("clip", "")),
        ("pair", only("pair", "")),
        ("sharp", only("sharp", "")),
        ("light", only("light", "")),
        ("rotation", only("rotation", "")),
        ("layered", only("layered", "")),
        (
            "portrait",
            only(
                "layered",
                r#", "object_motion_share": 0.5, "background_defocus_share": 0.5"#,
            ),
        ),
        ("defocus", only("defocus", "")),
        (
            "degraded",
            only(
                "rotation",
                r#", "shot_noise_levels": 4, "read_noise_levels": 0.2, "jpeg_share": 1, "keep_inside": true"#,
            ),
        ),
        ("H.264", only("trajectory", r#", "h264_share": 1"#)),
        (
            "4:2:0",
            only("sharp", r#", "chroma_subsampling_share": 1, "jpeg_share": 0.5"#),
        ),
    ];
    let made: Vec<String> = cases
        .iter()
        .map(|(name, json)| format!("{name} {}", fingerprint(&sources, json)))
        .collect();
    assert_eq!(
        made,
        [
            "mix 9e74c5a1db933560",
            "trajectory 6f5cefe3deb50063",
            "log-uniform 84e36af6b9e52b03",
            "gamma 2.2 617de6ca0b0bdd34",
            "saturated f5f0d7c155f135fe",
            "clip 61eda623d077af0b",
            "pair bd135737ca7220a9",
            "sharp 81bc9795b041eeb3",
            "light 8996a82e6a593f24",
            "rotation e347792233246967",
            "layered 61cbdd7e044ac202",
            "portrait 02fac3034518a65c",
            "defocus bcae96deb3f3adb6",
            "degraded 1a89517851c38004",
            "H.264 39e58f5fc4dea98f",
            "4:2:0 07002078cbe12810"
        ]
    );
}
