use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use osdd::data::{Image8, PairFolder};
use serde_json::Value;
use tempfile::TempDir;

use super::picture;

fn osdd(folder: &TempDir, threads: usize, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env_remove("OSDD_LOG")
        .output()
        .expect("osdd starts")
}

fn succeeds(folder: &TempDir, arguments: &str) -> String {
    let output = osdd(folder, 2, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "osdd {arguments}: {text}");
    text
}

fn fails(folder: &TempDir, arguments: &str, code: i32) -> String {
    let output = osdd(folder, 2, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "osdd {arguments}: {text}");
    text
}

fn save(image: &Image8, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (width, height) = (image.width as u32, image.height as u32);
    image::RgbImage::from_raw(width, height, image.data.clone())
        .unwrap()
        .save(path)
        .unwrap();
}

/// Photographs of 260x180, 220x180 and 90x180 in `photos/`, 20 frames in `clip/`.
fn scene() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, width, seed) in [("b.png", 260, 1), ("a.png", 220, 2), ("c.png", 90, 3)] {
        save(
            &picture(width, 180, seed),
            &folder.path().join("photos").join(name),
        );
    }
    for frame in 0..20 {
        let path = folder.path().join(format!("clip/{frame:03}.png"));
        save(&picture(140, 110, frame), &path);
    }
    folder
}

/// Every file under a folder with its bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() {
            files.extend(
                contents(&entry)
                    .into_iter()
                    .map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)),
            );
        } else {
            files.insert(name, fs::read(&entry).unwrap());
        }
    }
    files
}

fn manifest(folder: &TempDir, out: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.path().join(out).join("synth.json")).unwrap()).unwrap()
}

const RANDOM: &str = "synth --images photos --clips clip --crop 96 --extent 3..9 --seed 4";

#[test]
fn the_same_seed_gives_the_same_files_on_any_number_of_threads_and_after_an_interruption() {
    let folder = scene();
    succeeds(&folder, &format!("{RANDOM} --count 12 --out a"));
    let all = contents(&folder.path().join("a"));
    assert!(
        osdd(&folder, 1, &format!("{RANDOM} --count 12 --out b"))
            .status
            .success()
    );
    assert_eq!(all, contents(&folder.path().join("b")));

    // As an interruption leaves it: a pair without its record, others missing altogether.
    for name in all
        .keys()
        .filter(|name| name.contains("00000") || name.contains("000007"))
    {
        if name.ends_with("json") || name.contains("000007") {
            fs::remove_file(folder.path().join("b").join(name)).unwrap();
        }
    }
    fs::remove_file(folder.path().join("b/contact_sheet.png")).unwrap();
    succeeds(&folder, &format!("{RANDOM} --count 12 --out b --resume"));
    assert_eq!(all, contents(&folder.path().join("b")));

    let other = fails(
        &folder,
        &format!("{RANDOM} --count 12 --out b --resume --noise 2"),
        1,
    );
    assert!(other.contains("mix.noise_levels differ"), "{other}");
    let refused = fails(&folder, &format!("{RANDOM} --count 12 --out b"), 1);
    assert!(refused.contains("not empty; --resume"), "{refused}");
    fs::write(folder.path().join("b/blurry/mine.png"), "keep").unwrap();
    succeeds(&folder, &format!("{RANDOM} --out b --force --count 3"));
    assert_eq!(fs::read_dir(folder.path().join("b/sharp")).unwrap().count(), 3);
    assert!(folder.path().join("b/blurry/mine.png").exists());
}

#[test]
fn what_cannot_be_replaced_stays() {
    let folder = scene();
    succeeds(&folder, &format!("{RANDOM} --count 3 --out b"));
    let count = || fs::read_dir(folder.path().join("b/sharp")).unwrap().count();
    fails(&folder, "synth --images nowhere --crop 96 --out b --force", 1);
    assert_eq!(count(), 3);
    let refused = fails(&folder, "synth --images b/sharp --crop 64 --out b --force", 1);
    assert!(refused.contains("choose another --out"), "{refused}");
    assert_eq!(count(), 3);
}

#[test]
fn what_is_no_clip_is_an_error() {
    let folder = scene();
    for (name, content) in [("notes.mp4", "no video"), ("empty.mp4", "")] {
        fs::write(folder.path().join(name), content).unwrap();
        let refused = fails(&folder, &format!("synth --clips {name} --crop 64 --out c"), 1);
        assert!(refused.contains(name), "{refused}");
    }
}

#[test]
fn pairs_can_be_trained_on_and_come_with_what_made_them() {
    let folder = scene();
    let kinds = "trajectory,rotation,layered,defocus,clip,sharp";
    succeeds(&folder, &format!("{RANDOM} --out out --count 30 --kinds {kinds}"));
    let out = folder.path().join("out");
    let pairs = PairFolder::read(&out).unwrap();
    assert_eq!((pairs.pairs.len(), pairs.skipped), (30, 0));
    let manifest = manifest(&folder, "out");
    assert_eq!(manifest["complete"], true);
    let mut seen = BTreeMap::new();
    for (pair, record) in pairs.pairs.iter().zip(manifest["pairs"].as_array().unwrap()) {
        assert_eq!(record["name"], pair.name);
        assert_eq!(pair.sharp.size(), (96, 96));
        let kind = record["kind"].as_str().unwrap();
        *seen.entry(kind.to_owned()).or_insert(0) += 1;
        let same = pair.blurry.load().unwrap() == pair.sharp.load().unwrap();
        assert_eq!(same, ["defocus", "sharp"].contains(&kind), "{}", pair.name);
        let json = fs::read(out.join("kernels").join(pair.name.replace("png", "json"))).unwrap();
        let kernels: Value = serde_json::from_slice(&json).unwrap();
        let kernels = kernels["kernels"].as_array().unwrap();
        let expected = match kind {
            "rotation" => 9,
            "layered" => 1 + record["objects"].as_array().unwrap().len(),
            "clip" | "sharp" => 0,
            _ => 1,
        };
        assert_eq!(kernels.len(), expected, "{kind}");
        for kernel in kernels {
            let light: f64 = kernel["taps"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["weight"].as_f64().unwrap())
                .sum();
            assert!((light - 1.0).abs() < 1e-4, "{light}");
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
    let sheet = image::open(out.join("contact_sheet.png")).unwrap();
    assert!(sheet.width() > 1000);
}

#[test]
fn the_truth_of_a_crop_is_the_source_itself() {
    // 260x180 in crops of 96 that overlap by 16: 4 x 3, twice each.
    let folder = scene();
    let text = succeeds(
        &folder,
        "synth --images photos --out out --crop 96 --overlap 16 --variants 2 --kinds trajectory,rotation --extent 5",
    );
    assert!(
        text.contains("skipped c.png: 90x180 is smaller than 96 pixels"),
        "{text}"
    );
    let manifest = manifest(&folder, "out");
    let records = manifest["pairs"].as_array().unwrap();
    assert_eq!(records.len(), 2 * (3 * 3 + 4 * 3));
    assert_eq!(manifest["skipped"][0]["file"], "c.png");
    for record in records {
        let sharp = image::open(
            folder
                .path()
                .join("out/sharp")
                .join(record["name"].as_str().unwrap()),
        )
        .unwrap();
        let source = folder
            .path()
            .join("photos")
            .join(record["source"]["file"].as_str().unwrap());
        let place = |key: &str| record["source"][key].as_u64().unwrap() as u32;
        let (x, y) = (place("x"), place("y"));
        // Room for the blur: no border was invented.
        assert!(x >= 1 && y >= 1, "{record}");
        let crop = image::open(source).unwrap().crop_imm(x, y, 96, 96);
        assert_eq!(crop.as_bytes(), sharp.as_bytes(), "{record}");
    }
}

#[test]
fn a_clip_is_averaged_over_successive_frames_and_whole() {
    let folder = scene();
    succeeds(
        &folder,
        "synth --clips clip --out out --crop 0 --clip-frames 7 --kinds clip",
    );
    let manifest = manifest(&folder, "out");
    let records = manifest["pairs"].as_array().unwrap();
    let first: Vec<_> = records
        .iter()
        .map(|record| record["source"]["frames"]["first"].as_u64().unwrap())
        .collect();
    assert_eq!(first, [0, 7]);
    let sharp = image::open(folder.path().join("out/sharp/000001_clip.png")).unwrap();
    let middle = image::open(folder.path().join("clip/010.png")).unwrap();
    assert_eq!(sharp.as_bytes(), middle.as_bytes());
}

#[test]
fn wrong_input_is_told_and_one_broken_file_stops_nothing() {
    let folder = scene();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let text = fails(&folder, "synth --images empty --out out", 1);
    assert!(text.contains("no readable image in empty"), "{text}");
    let text = fails(&folder, "synth --out out", 2);
    assert!(text.contains("--images, --clips, or both"), "{text}");
    let text = fails(
        &folder,
        "synth --images photos --out out --crop 64 --overlap 64",
        2,
    );
    assert!(text.contains("--overlap 64 must be below --crop 64"), "{text}");
    let text = fails(&folder, "synth --images photos --out out --crop 2000", 1);
    assert!(
        text.contains("skipped a.png: 220x180 is smaller than 2000 pixels"),
        "{text}"
    );
    let text = fails(
        &folder,
        "synth --images photos --out out --config photos/a.png",
        1,
    );
    assert!(text.contains("cannot read photos/a.png"), "{text}");

    fs::write(folder.path().join("photos/broken.jpg"), b"not a picture").unwrap();
    let bytes = fs::read(folder.path().join("photos/a.png")).unwrap();
    fs::write(folder.path().join("photos/half.png"), &bytes[..bytes.len() / 2]).unwrap();
    let text = succeeds(
        &folder,
        "synth --images photos --out out --count 8 --crop 64 --kinds light",
    );
    for name in ["broken.jpg", "half.png", "2 of 5 image(s) in photos skipped"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert_eq!(fs::read_dir(folder.path().join("out/blurry")).unwrap().count(), 8);
}
