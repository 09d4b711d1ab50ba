//! The command `osdd` as a process: what it writes, what it refuses, what it says, how it exits.
#![cfg(feature = "cli")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};
use serde_json::Value;
use tempfile::TempDir;
use tool::osdd;

fn succeeds(folder: &TempDir, arguments: &str) -> String {
    let output = osdd(folder, arguments);
    assert!(output.status.success(), "osdd {arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("standard output is text")
}

/// The one line on standard error of a command that fails with `code`.
fn fails(folder: &TempDir, arguments: &str, code: i32) -> String {
    let output = osdd(folder, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "osdd {arguments}: {text}");
    assert_eq!(text.lines().count(), 1, "osdd {arguments}: {text}");
    assert!(text.starts_with("error: "), "osdd {arguments}: {text}");
    text
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Something with edges.
fn checkers(width: u32, height: u32) -> DynamicImage {
    ImageBuffer::from_fn(width, height, |x, y| {
        let light = if (x / 8 + y / 8) % 2 == 0 { 200 } else { 40 };
        Rgb([light, (x * 3 % 256) as u8, (y * 3 % 256) as u8])
    })
    .into()
}

fn open(folder: &TempDir, name: &str) -> DynamicImage {
    image::open(folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files in a folder, hidden ones too.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn help_tells_what_each_command_does() {
    let folder = folder();
    let help = succeeds(&folder, "--help");
    for command in ["deblur", "eval", "bench", "models", "Examples:"] {
        assert!(help.contains(command), "{command}:\n{help}");
    }
    let help = succeeds(&folder, "deblur --help");
    for option in [
        "--gamma",
        "--compare",
        "--resume",
        "--force",
        "--tile",
        "clip.mov",
    ] {
        assert!(help.contains(option), "{option}:\n{help}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = folder();
    checkers(16, 16).save(folder.path().join("a.png")).unwrap();
    for arguments in [
        "",
        "sharpen",
        "deblur",
        "deblur a.png",
        "deblur a.png -o b.png --gamma 2",
        "deblur a.png -o b.png --tile 100",
        "deblur a.png -o b.png --device tpu",
        "deblur a.png -o b.png --resume --force",
        "deblur a.png -o b.mp4",
        "deblur a.png -o b.docx",
        "deblur a.png a.png -o out",
        "deblur a.png a.png -o one.png",
        "deblur a.png -o -",
        "deblur a.png -o b.png --gamma -1",
        "deblur a.png -o b.png --reuse-threshold 256",
        "deblur a.png -o b.png --skip-sharp -0.1",
        "bench --size 10",
    ] {
        let output = osdd(&folder, arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "osdd {arguments}: {}",
            stderr(&output)
        );
        assert!(!output.stderr.is_empty(), "osdd {arguments}");
    }
    assert_eq!(names(folder.path()), ["a.png"]);
}

#[test]
fn a_missing_input_is_one_line_and_exit_code_1() {
    let folder = folder();
    let text = fails(&folder, "deblur none.png -o out.png", 1);
    assert!(
        text.contains("none.png") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn a_missing_model_is_one_line_and_exit_code_1() {
    let folder = folder();
    checkers(16, 16).save(folder.path().join("a.png")).unwrap();
    let text = fails(&folder, "deblur a.png -o b.png --model none", 1);
    assert!(text.contains("none"), "{text}");
    assert_eq!(names(folder.path()), ["a.png"]);
}

#[test]
fn a_damaged_image_is_one_line_and_exit_code_1() {
    let folder = folder();
    fs::write(folder.path().join("a.png"), "this is no picture").unwrap();
    let text = fails(&folder, "deblur a.png -o b.png", 1);
    assert!(text.contains("a.png"), "{text}");
    assert_eq!(names(folder.path()), ["a.png"]);
}

/// A decoder makes up what a JPEG file has lost.
#[test]
fn a_jpeg_that_is_cut_short_is_a_warning() {
    let folder = folder();
    checkers(160, 120).save(folder.path().join("a.jpg")).unwrap();
    let whole = fs::read(folder.path().join("a.jpg")).unwrap();
    fs::write(folder.path().join("cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    let warned = |name| {
        let output = osdd(&folder, &format!("deblur {name} -o {name}.png"));
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).contains("warning: cut.jpg is cut short")
    };
    assert!(warned("cut.jpg"));
    assert!(!warned("a.jpg"));
}

#[test]
fn an_image_keeps_its_size_and_changes() {
    let folder = folder();
    let input = checkers(70, 45);
    input.save(folder.path().join("a.png")).unwrap();
    succeeds(&folder, "deblur a.png -o new/b.png");
    let output = open(&folder, "new/b.png");
    assert_eq!(
        (output.width(), output.height(), output.color()),
        (70, 45, input.color())
    );
    assert_ne!(output, input);
    assert_eq!(names(&folder.path().join("new")), ["b.png"]);
}

#[test]
fn no_strength_is_the_input_in_every_layout() {
    let folder = folder();
    let rgb = checkers(33, 21);
    let gray16: DynamicImage = ImageBuffer::from_fn(33, 21, |x, y| Luma([(x * 1987 + y * 31) as u16])).into();
    for (name, image) in [
        ("rgb.png", rgb.clone()),
        ("gray.png", rgb.to_luma8().into()),
        ("gray16.png", gray16),
        ("rgb.bmp", rgb.clone()),
        ("rgb.webp", rgb.clone()),
        ("rgb16.tiff", rgb.to_rgb16().into()),
    ] {
        image.save(folder.path().join(name)).unwrap();
        succeeds(&folder, &format!("deblur {name} -o out/{name} --strength 0"));
        assert_eq!(open(&folder, &format!("out/{name}")), image, "{name}");
    }
}

#[test]
fn what_is_sharp_can_be_left_alone() {
    let folder = folder();
    let image = checkers(150, 90);
    image.save(folder.path().join("in.png")).unwrap();
    succeeds(&folder, "deblur in.png -o out.png --skip-sharp 1");
    assert_eq!(open(&folder, "out.png"), image);
}

#[test]
fn sixteen_bits_stay_sixteen_bits() {
    let folder = folder();
    let input = ImageBuffer::from_fn(40, 30, |x, y| {
        Rgb([(x * 1601) as u16, (y * 2003) as u16, (x * y * 53) as u16])
    });
    DynamicImage::from(input)
        .save(folder.path().join("a.png"))
        .unwrap();
    succeeds(&folder, "deblur a.png -o b.png");
    let output = open(&folder, "b.png");
    assert_eq!(output.color(), image::ColorType::Rgb16);
    // Eight bits widened to sixteen have equal bytes everywhere.
    assert!(
        output
            .to_rgb16()
            .iter()
            .any(|sample| sample >> 8 != sample & 0xff)
    );
}

#[test]
fn transparency_and_gray_are_kept() {
    let folder = folder();
    let alpha = |x: u32, y: u32| ((x * 7 + y * 3) % 256) as u8;
    let rgba = ImageBuffer::from_fn(40, 30, |x, y| {
        Rgba([(x * 5) as u8, (y * 5) as u8, 90, alpha(x, y)])
    });
    DynamicImage::from(rgba.clone())
        .save(folder.path().join("a.png"))
        .unwrap();
    let gray = ImageBuffer::from_fn(40, 30, |x, y| LumaA([(x * 6) as u8, alpha(x, y)]));
    DynamicImage::from(gray)
        .save(folder.path().join("b.png"))
        .unwrap();
    succeeds(&folder, "deblur a.png b.png -o out");
    let output = open(&folder, "out/a.png");
    assert_eq!(output.color(), image::ColorType::Rgba8);
    assert!(
        output
            .to_rgba8()
            .pixels()
            .zip(rgba.pixels())
            .all(|(out, input)| out[3] == input[3])
    );
    let output = open(&folder, "out/b.png");
    assert_eq!(output.color(), image::ColorType::La8);
    assert!(
        output
            .to_luma_alpha8()
            .enumerate_pixels()
            .all(|(x, y, pixel)| pixel[1] == alpha(x, y))
    );

    let text = fails(&folder, "deblur a.png -o c.jpg", 1);
    assert!(text.contains("transparency"), "{text}");
    assert_eq!(names(folder.path()), ["a.png", "b.png", "out"]);
    // Nothing to be seen through.
    let opaque = DynamicImage::from(rgba).to_rgb8();
    let opaque = DynamicImage::from(opaque).to_rgba8();
    opaque.save(folder.path().join("opaque.png")).unwrap();
    succeeds(&folder, "deblur opaque.png -o c.jpg");
    assert_eq!(open(&folder, "c.jpg").color(), image::ColorType::Rgb8);
}

/// A gray TIFF of 8x8 pixels a page, little-endian, with a profile of type "undefined".
fn tiff(pages: u32) -> Vec<u8> {
    let mut profile = vec![0; 128];
    profile[16..20].copy_from_slice(b"GRAY");
    let mut file = b"II*\0".to_vec();
    file.extend(200_u32.to_le_bytes());
    file.resize(8 + 64, 90);
    file.extend(profile);
    for page in 0..pages {
        let entries: [(u16, u16, u32, u32); 9] = [
            (256, 3, 1, 8),
            (257, 3, 1, 8),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (278, 3, 1, 8),
            (279, 4, 1, 64),
            (34675, 7, 128, 72),
        ];
        file.extend(9_u16.to_le_bytes());
        for (tag, kind, count, value) in entries {
            file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            file.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        let next = file.len() as u32 + 4;
        file.extend(if page + 1 < pages { next } else { 0 }.to_le_bytes());
    }
    file
}

#[test]
fn a_tiff_keeps_its_profile_and_is_one_page() {
    let folder = folder();
    fs::write(folder.path().join("a.tif"), tiff(1)).unwrap();
    succeeds(&folder, "deblur a.tif -o b.tif");
    succeeds(&folder, "deblur b.tif -o b.png");
    let reader = image::ImageReader::open(folder.path().join("b.png")).unwrap();
    let mut decoder = reader.into_decoder().unwrap();
    let profile = image::ImageDecoder::icc_profile(&mut decoder).unwrap();
    assert_eq!(profile.map(|profile| profile.len()), Some(128));
    fs::write(folder.path().join("c.tif"), tiff(2)).unwrap();
    let text = fails(&folder, "deblur c.tif -o d.tif", 1);
    assert!(text.contains("several pages"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_pipe_in_a_folder_is_not_waited_for() {
    let folder = folder();
    fs::create_dir(folder.path().join("in")).unwrap();
    checkers(20, 20).save(folder.path().join("in/a.png")).unwrap();
    let made = Command::new("mkfifo").arg(folder.path().join("in/pipe")).status();
    assert!(made.unwrap().success());
    succeeds(&folder, "deblur in -o out");
    assert_eq!(names(&folder.path().join("out")), ["a.png"]);
}

#[test]
fn nobody_has_to_listen_to_warnings() {
    let folder = folder();
    checkers(20, 20).save(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("b.png"), "broken").unwrap();
    let mut osdd = Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(["deblur", "a.png", "b.png", "-o", "out"])
        .current_dir(folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(osdd.stderr.take());
    assert_eq!(osdd.wait().unwrap().code(), Some(1));
    assert_eq!(names(&folder.path().join("out")), ["a.png"]);
}

#[test]
fn side_by_side_is_twice_as_wide_and_begins_with_the_input() {
    let folder = folder();
    let input = checkers(40, 30);
    input.save(folder.path().join("a.png")).unwrap();
    succeeds(&folder, "deblur a.png -o b.png --compare side-by-side");
    let output = open(&folder, "b.png");
    assert_eq!((output.width(), output.height()), (80, 30));
    assert_eq!(output.crop_imm(0, 0, 40, 30), input);
    assert_ne!(output.crop_imm(40, 0, 40, 30), input);
}

#[test]
fn existing_outputs_are_refused_skipped_or_replaced() {
    let folder = folder();
    checkers(20, 20).save(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("b.png"), "mine").unwrap();
    let text = fails(&folder, "deblur a.png -o b.png", 1);
    assert!(text.contains("b.png") && text.contains("--force"), "{text}");
    succeeds(&folder, "deblur a.png -o b.png --resume");
    assert_eq!(fs::read_to_string(folder.path().join("b.png")).unwrap(), "mine");
    succeeds(&folder, "deblur a.png -o b.png --force");
    assert_eq!(open(&folder, "b.png").width(), 20);
}

#[test]
fn an_input_is_never_overwritten() {
    let folder = folder();
    let input = checkers(20, 20);
    fs::create_dir(folder.path().join("in")).unwrap();
    input.save(folder.path().join("in/a.png")).unwrap();
    for arguments in [
        "deblur in/a.png -o in/a.png --force",
        "deblur in -o in --force",
        "deblur in/a.png -o in/../in/a.png --force",
    ] {
        let text = fails(&folder, arguments, 1);
        assert!(text.contains("never overwritten"), "{text}");
    }
    assert_eq!(open(&folder, "in/a.png"), input);
}

#[test]
fn a_folder_gives_a_folder_and_names_what_it_cannot_read() {
    let folder = folder();
    let path = folder.path().join("in");
    fs::create_dir_all(path.join("deeper")).unwrap();
    checkers(20, 20).save(path.join("a.png")).unwrap();
    checkers(24, 20).save(path.join("b.JPG")).unwrap();
    fs::write(path.join("broken.png"), "this is no picture").unwrap();
    fs::write(path.join("notes.txt"), "buy milk").unwrap();
    fs::write(path.join(".hidden.png"), "neither is this").unwrap();
    let output = osdd(&folder, "deblur in -o out");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("broken.png") && text.contains("notes.txt"),
        "{text}"
    );
    assert!(
        text.contains("folders in folders are not searched: in/deeper"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("error: 1 of 3 files failed"), "{text}");
    assert_eq!(names(&folder.path().join("out")), ["a.png", "b.JPG"]);
    assert_eq!(open(&folder, "out/b.JPG").width(), 24);

    fs::remove_file(path.join("broken.png")).unwrap();
    checkers(28, 20).save(path.join("c.png")).unwrap();
    succeeds(&folder, "deblur in -o out --resume");
    assert_eq!(names(&folder.path().join("out")), ["a.png", "b.JPG", "c.png"]);
}

#[test]
fn models_lists_nano() {
    let folder = folder();
    assert!(succeeds(&folder, "models").contains("nano"));
    let models: Value = serde_json::from_str(&succeeds(&folder, "models --json")).expect("JSON");
    let nano = models
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["name"] == "nano")
        .expect("nano is built in");
    assert!(nano["parameters"].as_u64().unwrap() > 0);
    assert!(nano["bytes"].as_u64().unwrap() > 0);
    assert!(!nano["checksum"].as_str().unwrap().is_empty());
}

#[test]
fn models_lists_what_a_name_leads_to_and_can_be_used() {
    let folder = folder();
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano");
    for (place, files) in [
        ("own/mine", &["config.json", "model.safetensors"][..]),
        ("data/osdd/models/mine", &["config.json", "model.safetensors"]),
        ("own/unfinished", &["config.json"]),
    ] {
        let place = folder.path().join(place);
        fs::create_dir_all(&place).expect("made");
        for file in files {
            fs::copy(nano.join(file), place.join(file)).expect("copied");
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(["models", "--json"])
        .env("OSDD_MODELS", folder.path().join("own"))
        .env("XDG_DATA_HOME", folder.path().join("data"))
        .output()
        .expect("osdd starts");
    let models: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names = models
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| &model["name"]);
    assert_eq!(names.collect::<Vec<_>>(), ["nano", "mine"]);
    let origin = models[1]["origin"].as_str().expect("text");
    assert!(origin.ends_with("own/mine"), "{origin}");
    let said = stderr(&output);
    assert!(said.contains("another mine is found first"), "{said}");
    assert!(said.contains("unfinished left out: tensor"), "{said}");
}
