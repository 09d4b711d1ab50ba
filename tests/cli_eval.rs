//! `osdd eval` as a process: figures, tables, pages, and what happens when something is missing.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use image::{DynamicImage, ImageBuffer, Rgb};
use serde_json::Value;
use tempfile::TempDir;

fn command(folder: &TempDir, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_osdd"));
    command
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .env(
            "PYTHONPATH",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pyiqa"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HOME", folder.path())
        .env_remove("XDG_DATA_HOME")
        .env_remove("OSDD_METRICS")
        .env_remove("OSDD_LOG");
    command
}

fn osdd(folder: &TempDir, arguments: &str) -> Output {
    command(folder, arguments).output().expect("osdd starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(folder: &TempDir, arguments: &str) -> String {
    let output = osdd(folder, arguments);
    assert!(output.status.success(), "osdd {arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("standard output is text")
}

/// What an `eval` of these arguments says as JSON.
fn report(folder: &TempDir, arguments: &str) -> Value {
    serde_json::from_str(&succeeds(folder, &format!("eval {arguments} --json -"))).expect("JSON")
}

/// The last line on standard error of a command that fails with `code`.
fn fails(folder: &TempDir, arguments: &str, code: i32) -> String {
    let output = osdd(folder, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "osdd {arguments}: {text}");
    text.lines().last().expect("an error").to_owned()
}

/// Something with edges.
fn checkers(width: u32, height: u32) -> DynamicImage {
    ImageBuffer::from_fn(width, height, |x, y| {
        let light = if (x / 8 + y / 8) % 2 == 0 { 200 } else { 40 };
        Rgb([light, (x * 3 % 256) as u8, (y * 3 % 256) as u8])
    })
    .into()
}

fn save(folder: &TempDir, name: &str, image: &DynamicImage) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).unwrap();
    image.save(path).unwrap();
}

/// Two pairs, `a_1px` blurred less than `b_2px`.
fn pairs() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, blur) in [("a_1px", 0.8), ("b_2px", 1.6)] {
        save(&folder, &format!("sharp/{name}.png"), &checkers(48, 48));
        save(
            &folder,
            &format!("blurry/{name}.png"),
            &checkers(48, 48).blur(blur),
        );
    }
    folder
}

/// Files in a folder, hidden ones too.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

fn rows<'a>(report: &'a Value, method: &str) -> Vec<&'a Value> {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().filter(|row| row["method"] == method).collect()
}

fn mean(row: &Value, group: &str, metric: &str) -> f64 {
    let mean = &row["means"][group][metric]["mean"];
    mean.as_f64()
        .unwrap_or_else(|| panic!("{group}, {metric}: {mean}"))
}

#[test]
fn pairs_are_measured_at_every_gamma_and_by_group() {
    let folder = pairs();
    let report = report(
        &folder,
        "--blurry blurry --sharp sharp --gamma 0,0.5 --gamma 1 --group 2px --metrics psnr,gradient",
    );
    assert_eq!(report["groups"]["all"], 2);
    assert_eq!(report["groups"]["2px"], 1);
    let (input, truth, outputs) = (
        rows(&report, "input")[0],
        rows(&report, "truth")[0],
        rows(&report, "model"),
    );
    let gammas: Vec<f64> = outputs.iter().filter_map(|row| row["gamma"].as_f64()).collect();
    assert_eq!(gammas, [0.0, 0.5, 1.0]);
    assert!(outputs.iter().all(|row| row["model"] == "nano"));

    let psnr = |image: &str| input["images"][image]["psnr"].as_f64().unwrap();
    assert!(psnr("a_1px") > psnr("b_2px"));
    assert_eq!(mean(input, "2px", "psnr"), psnr("b_2px"));
    assert!((mean(input, "all", "psnr") - (psnr("a_1px") + psnr("b_2px")) / 2.0).abs() < 1e-9);
    assert!(mean(truth, "all", "gradient") > mean(input, "all", "gradient"));
    assert!(truth["means"]["all"]["psnr"]["mean"].is_null());
    for row in &outputs {
        let gain = mean(row, "all", "psnr") - mean(input, "all", "psnr");
        assert!((gain - mean(row, "all", "gain")).abs() < 1e-9);
        assert_eq!(row["means"]["all"]["gain"]["images"], 2);
    }
    let psnrs: Vec<f64> = outputs.iter().map(|row| mean(row, "all", "psnr")).collect();
    assert!(psnrs[0] != psnrs[1] && psnrs[1] != psnrs[2], "{psnrs:?}");
}

#[test]
fn a_table_names_models_gammas_and_metrics() {
    let folder = pairs();
    let (from, mine) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano"),
        folder.path().join("my/nano"),
    );
    fs::create_dir_all(&mine).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), mine.join(name)).unwrap();
    }
    let table = succeeds(
        &folder,
        "eval --blurry blurry --sharp sharp --metrics psnr,gradient --gamma 0,1 --model nano --model my/nano/ --group 1px",
    );
    for text in [
        "all (means over 2 images)",
        "1px (one image: a_1px)",
        "PSNR",
        "gain",
        "dB ↑",
        "my/nano",
    ] {
        assert!(table.contains(text), "{text}:\n{table}");
    }
    for line in table.lines() {
        assert!(line.chars().count() <= 110, "{line}");
    }
    // The same weights by another name give the same figures, after the names.
    let figures = |start: &str| -> Vec<&str> {
        let line = table.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start}:\n{table}"));
        line.split_whitespace().skip(1).collect()
    };
    assert_eq!(figures("nano "), figures("my/nano "), "{table}");
}

#[test]
fn the_input_alone_needs_no_model() {
    let folder = pairs();
    let report = report(&folder, "--blurry blurry --sharp sharp --model none");
    assert_eq!(report["rows"].as_array().unwrap().len(), 2);
    assert!(mean(rows(&report, "input")[0], "all", "psnr") > 10.0);
    assert!(report["setup"].is_null());
}

#[test]
fn sharp_images_alone_show_the_harm() {
    let folder = pairs();
    let report = report(&folder, "--sharp sharp --metrics psnr");
    assert!(rows(&report, "truth").is_empty());
    let input = &rows(&report, "input")[0]["means"]["all"]["psnr"];
    assert!(input["mean"].is_null());
    assert_eq!((&input["images"], &input["infinite"]), (&0.into(), &2.into()));
    assert!(mean(rows(&report, "model")[0], "all", "psnr") > 20.0);
}

#[test]
fn blurry_images_alone_get_what_needs_no_truth() {
    let folder = pairs();
    let report = report(&folder, "--blurry blurry/b_2px.png");
    let keys: Vec<&str> = report["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|metric| metric["key"].as_str())
        .collect();
    assert!(keys.contains(&"gradient") && !keys.contains(&"psnr"), "{keys:?}");
    let sharper = mean(rows(&report, "model")[0], "all", "gradient");
    assert!(sharper > mean(rows(&report, "input")[0], "all", "gradient"));
    let text = fails(&folder, "eval --blurry blurry --metrics psnr", 2);
    assert!(text.contains("--sharp"), "{text}");
}

#[test]
fn a_metric_that_cannot_be_had_is_named_or_absent() {
    let folder = pairs();
    let output = osdd(&folder, "eval --blurry blurry --sharp sharp --model none");
    let (table, notes) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
    assert!(output.status.success(), "{notes}");
    for text in [
        "LPIPS vgg",
        "DISTS",
        "dists.safetensors",
        "convert_metrics.py",
        "osdd/metrics",
    ] {
        assert!(notes.contains(text), "{text}: {notes}");
    }
    assert!(!table.contains("DISTS") && table.contains("SSIM"), "{table}");
    // NIQE needs 96x96 pixels.
    assert!(table.contains("NIQE: no image has"), "{table}");

    let asked = "eval --blurry blurry --sharp sharp --metrics dists";
    let text = fails(&folder, &format!("{asked} --metrics-weights here"), 1);
    assert!(text.contains("dists.safetensors is not in here"), "{text}");
    fs::create_dir(folder.path().join("here")).unwrap();
    fs::write(folder.path().join("here/dists.safetensors"), "no tensors").unwrap();
    let text = fails(&folder, &format!("{asked} --metrics-weights here"), 1);
    assert!(text.contains("here/dists.safetensors"), "{text}");

    save(&folder, "large/a.png", &checkers(192, 96).blur(1.0));
    save(&folder, "large/b.png", &checkers(64, 96));
    let report = report(&folder, "--blurry large --model none --metrics niqe");
    let niqe = &rows(&report, "input")[0]["means"]["all"]["niqe"];
    assert_eq!(niqe["images"], 1);
    assert!(niqe["mean"].is_number());
}

#[test]
fn two_files_are_a_pair_whatever_their_names() {
    let folder = pairs();
    let one = report(
        &folder,
        "--blurry blurry/a_1px.png --sharp sharp/b_2px.png --model none --metrics psnr",
    );
    let both = report(
        &folder,
        "--blurry blurry --sharp sharp --model none --metrics psnr",
    );
    // Both sharp images are the same picture.
    assert_eq!(
        rows(&one, "input")[0]["images"]["a_1px"],
        rows(&both, "input")[0]["images"]["a_1px"]
    );
}

#[test]
fn what_cannot_be_read_is_named_and_left_out() {
    let folder = pairs();
    for kind in ["sharp", "blurry"] {
        fs::write(folder.path().join(kind).join("broken.png"), "this is no picture").unwrap();
        save(
            &folder,
            &format!("{kind}/wide.png"),
            &checkers(if kind == "sharp" { 64 } else { 48 }, 48),
        );
    }
    let arguments = "eval --blurry blurry --sharp sharp --json report.json";
    let output = osdd(&folder, arguments);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("broken is left out") && text.contains("wide is left out"),
        "{text}"
    );
    assert!(text.contains("2 of 4 images are left out"), "{text}");
    let report: Value =
        serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).expect("JSON");
    assert_eq!(report["groups"]["all"], 2);
    assert_eq!(report["left_out"][0]["name"], "broken");
    assert!(
        report["left_out"][1]["reason"]
            .as_str()
            .unwrap()
            .contains("64x48")
    );

    let text = fails(&folder, "eval --sharp sharp/broken.png --html page.html", 1);
    assert!(text.contains("none of the 1 images"), "{text}");
    assert!(!names(folder.path()).iter().any(|name| name.contains("page.html")));
}

#[test]
fn outputs_are_those_of_deblur_and_never_replace_inputs() {
    let folder = pairs();
    succeeds(&folder, "eval --blurry blurry --gamma 0.5,1 --outputs out");
    assert_eq!(names(&folder.path().join("out/nano")), ["0.5", "1"]);
    assert_eq!(
        names(&folder.path().join("out/nano/0.5")),
        ["a_1px.png", "b_2px.png"]
    );
    succeeds(&folder, "deblur blurry/a_1px.png -o a.png --gamma 0.5");
    let open = |name: &str| image::open(folder.path().join(name)).unwrap();
    assert_eq!(open("out/nano/0.5/a_1px.png"), open("a.png"));

    let text = fails(&folder, "eval --blurry out/nano/1 --gamma 1 --outputs out", 1);
    assert!(text.contains("never overwritten"), "{text}");
}

/// The JSON that the page's script reads.
fn page_data(page: &str) -> Value {
    let (_, data) = page.split_once("id=\"data\">").expect("data");
    serde_json::from_str(data.split("</script>").next().unwrap()).expect("JSON")
}

#[test]
fn the_page_needs_no_other_file_and_shows_plots_and_crops() {
    let folder = pairs();
    save(&folder, "sharp/<c>.png", &checkers(400, 100));
    save(&folder, "blurry/<c>.png", &checkers(400, 100).blur(2.0));
    succeeds(
        &folder,
        "eval --blurry blurry --sharp sharp --metrics psnr,gradient --gamma 0,1 --group px --html page.html --html-size 96",
    );
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    for outside in ["http:", "https:", "<link", "@import", "url(", "src=\""] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Two metrics for each of two groups.
    assert_eq!(page.matches("role=\"img\"").count(), 4);
    assert!(page.contains("<strong>"));

    let data = page_data(&page);
    let exhibits = data["exhibits"].as_array().unwrap();
    assert_eq!(exhibits.len(), 3);
    let wide = exhibits
        .iter()
        .find(|exhibit| exhibit["name"] == "<c>")
        .expect("<c>");
    let labels: Vec<&str> = wide["versions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|version| version["label"].as_str())
        .collect();
    assert_eq!(labels, ["input", "truth", "nano, gamma 0", "nano, gamma 1"]);
    let crop = |version: usize| {
        let uri = wide["versions"][version]["uri"].as_str().unwrap();
        let data = uri.strip_prefix("data:image/jpeg;base64,").expect("a JPEG");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        image::load_from_memory(&bytes).unwrap()
    };
    assert_eq!((crop(0).width(), crop(0).height()), (96, 64));
    assert_ne!(crop(0), crop(1));
    assert_ne!(crop(2), crop(3));

    succeeds(
        &folder,
        "eval --blurry blurry --model none --html page.html --html-images 2",
    );
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert_eq!(page_data(&page)["exhibits"].as_array().unwrap().len(), 2);
    assert!(page.contains("2 of 3 images"));
}

#[test]
fn pyiqa_scores_what_the_model_gives() {
    let folder = pairs();
    let report = report(
        &folder,
        "--blurry blurry --sharp sharp --metrics gradient --outputs out --pyiqa --pyiqa-metrics brightness,difference",
    );
    let metrics = report["metrics"].as_array().unwrap();
    let better = |key: &str| {
        &metrics
            .iter()
            .find(|metric| metric["key"] == key)
            .expect("a metric")["better"]
    };
    assert_eq!(
        (better("brightness"), better("difference")),
        (&"higher".into(), &"lower".into())
    );
    let samples = |name: &str| {
        image::open(folder.path().join(name))
            .unwrap()
            .into_rgb8()
            .into_raw()
    };
    let (output, sharp) = (samples("out/nano/0.7/b_2px.png"), samples("sharp/b_2px.png"));
    let brightness = output.iter().map(|value| f64::from(*value)).sum::<f64>() / output.len() as f64;
    let differences = output.iter().zip(&sharp).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let difference = differences.sum::<f64>() / output.len() as f64;
    let figures = &rows(&report, "model")[0]["images"]["b_2px"];
    assert!((figures["brightness"].as_f64().unwrap() - brightness).abs() < 1e-9);
    assert!((figures["difference"].as_f64().unwrap() - difference).abs() < 1e-9);
    assert!(rows(&report, "truth")[0]["images"]["b_2px"]["brightness"].is_number());
    assert!(rows(&report, "truth")[0]["images"]["b_2px"]["difference"].is_null());

    let output = osdd(
        &folder,
        "eval --blurry blurry --pyiqa python3 --pyiqa-metrics picky",
    );
    assert!(output.status.success());
    let warnings = stderr(&output).matches("image too small").count();
    assert_eq!(warnings, 1, "{}", stderr(&output));
}

#[test]
fn pyiqa_trouble_is_one_sentence_before_the_work() {
    let folder = pairs();
    let fails = |arguments: &str| {
        fails(
            &folder,
            &format!("eval --blurry blurry --outputs out {arguments}"),
            1,
        )
    };
    let text = fails("--pyiqa no-such-python");
    assert!(
        text.contains("cannot run no-such-python") && text.contains("--pyiqa="),
        "{text}"
    );
    let text = fails("--pyiqa --pyiqa-metrics clipiqa");
    assert!(text.contains("no metric 'clipiqa'"), "{text}");
    let text = fails("--pyiqa --pyiqa-metrics weightless");
    assert!(
        text.contains("cannot load weightless") && text.contains("no network"),
        "{text}"
    );
    let text = fails("--pyiqa --pyiqa-metrics deadly");
    assert!(
        text.contains("exit status: 3") && text.contains("out of luck"),
        "{text}"
    );
    assert!(!folder.path().join("out").exists());

    let mut command = command(&folder, "eval --blurry blurry --outputs out --pyiqa");
    let output = command.env("PYTHONPATH", folder.path()).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("python3 -m pip install pyiqa"), "{text}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = pairs();
    for arguments in [
        "",
        "--blurry blurry --gamma 0,2",
        "--blurry blurry --gamma much",
        "--blurry blurry --metrics beauty",
        "--blurry blurry --group 3px",
        "--blurry blurry --model nano --model nano",
        "--blurry blurry --tile 100",
        "--blurry blurry --pyiqa-metrics musiq",
        "--blurry blurry --html-size 100",
    ] {
        fails(&folder, &format!("eval {arguments}"), 2);
    }
    for (arguments, reason) in [
        ("--blurry none", "none"),
        ("--blurry blurry --model nowhere", "nowhere"),
        ("--blurry blurry --sharp .", "holds no images"),
        ("--blurry blurry/a_1px.png --sharp none.png", "none.png"),
    ] {
        let text = fails(&folder, &format!("eval {arguments}"), 1);
        assert!(text.contains(reason), "{arguments}: {text}");
    }
}

#[test]
fn an_interrupted_eval_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..12 {
        save(&folder, &format!("blurry/{index}.png"), &checkers(256, 256));
    }
    let mut child = command(
        &folder,
        "eval --blurry blurry --gamma 0,0.5,1 --html page.html --json a.json --outputs out",
    )
    .stderr(Stdio::null())
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    // Until the first output is there, which is before the last.
    while !folder.path().join("out/nano/0/0.png").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(folder.path()), ["blurry", "out"]);
    for gamma in names(&folder.path().join("out/nano")) {
        for name in names(&folder.path().join("out/nano").join(gamma)) {
            assert!(!name.starts_with('.'), "{name}");
        }
    }
}
