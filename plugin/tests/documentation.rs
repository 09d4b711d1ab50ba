//! The documentation cannot drift: its launch lines run, its tables have every property, format and counter of the
//! element, the messages that it explains are the element's, and the C example compiles as it says.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use gst::prelude::*;

const PAGE: &str = "plugin/docs/osdddeblur.md";
const TROUBLESHOOTING: &str = "plugin/docs/troubleshooting.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// README, the pages and the element's documentation comment, each with its name.
fn documents() -> Vec<(String, String)> {
    let mut files = vec!["README.md".to_string()];
    let pages = std::fs::read_dir(root().join("plugin/docs")).expect("the pages");
    let pages = pages.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    files.extend(
        pages
            .filter(|name| name.ends_with(".md"))
            .map(|name| format!("plugin/docs/{name}")),
    );
    let mut documents: Vec<_> = files
        .into_iter()
        .map(|file| (file.clone(), read(&file)))
        .collect();
    let source = "plugin/src/deblur/mod.rs";
    let text = read(source);
    let comment = text.lines().filter_map(|line| line.strip_prefix("//! "));
    documents.push((source.into(), comment.collect::<Vec<_>>().join("\n")));
    documents
}

/// The arguments of every gst-launch-1.0 that begins a line, after white space and variables of the environment.
fn launch_lines(text: &str) -> Vec<Vec<String>> {
    let is_variable = |word: &str| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    let text = text.replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.find(|word| !is_variable(word))? != "gst-launch-1.0" {
            return None;
        }
        let words = split(line).into_iter().skip_while(|word| is_variable(word));
        Some(words.skip(1).collect())
    });
    lines.collect()
}

/// The words of a line as the shell has them, as far as these lines go: white space parts, quotes join.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars().chain([' ']) {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            _ => word.push(c),
        }
    }
    assert!(quote.is_none(), "a quote is not closed: {line}");
    words
}

/// What a line needs of a machine, made in a folder of its own.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// A clip of six small frames, and a model folder.
    fn new() -> Self {
        init();
        let machine = Machine {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let clip = machine.path("clip.avi");
        let line = format!(
            "videotestsrc num-buffers=6 ! video/x-raw,width=64,height=48 ! jpegenc ! avimux ! filesink location={clip}"
        );
        let pipeline = gst::parse::launch(&line).expect("a pipeline");
        let errors = play(&pipeline.downcast().expect("a pipeline"));
        assert!(errors.is_empty(), "{errors:?}");
        write_model(&machine.folder.path().join("model"), small_config(), 1);
        machine
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").into()
    }

    /// The rule by which a line becomes one that runs here; everything else stays as it is.
    ///
    /// - options of gst-launch-1.0 are left out
    /// - a camera is a live test source, and a test source makes six frames
    /// - a file that is read is the clip, as a name or as a URI; a file that is written is in the temporary folder
    /// - a window is a fakesink, a model's folder is a tiny model, the installed `small` that of the sources, and no GPU is asked for
    fn adapt(&self, words: &[String]) -> Vec<String> {
        let mut adapted = Vec::<String>::new();
        let mut element = String::new();
        for word in words.iter().skip_while(|word| word.starts_with('-')) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let starts_element = adapted
                .last()
                .is_none_or(|last| last == "!" || last.ends_with('.'));
            if starts_element {
                element.clone_from(word);
            }
            match (name, element.as_str()) {
                ("v4l2src" | "autovideosrc", _) if starts_element => {
                    adapted.extend(["videotestsrc", "is-live=true", "num-buffers=6"].map(String::from));
                }
                ("videotestsrc", _) if starts_element => {
                    adapted.extend(["videotestsrc", "num-buffers=6"].map(String::from));
                }
                ("num-buffers", "videotestsrc") | ("device", "v4l2src") => {}
                ("autovideosink", _) => adapted.push("fakesink".into()),
                ("location", "filesrc") => adapted.push(format!("location={}", self.path("clip.avi"))),
                ("location", _) => adapted.push(format!("location={}", self.path("written"))),
                ("uri", _) => adapted.push(format!("uri=file://{}", self.path("clip.avi"))),
                ("model", _) if value.contains('/') => adapted.push(format!("model={}", self.path("model"))),
                ("model", _) if value == "small" => {
                    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/small");
                    adapted.push(format!("model={sources}"));
                }
                ("device", _) if value.starts_with("cuda") => adapted.push("device=auto".into()),
                ("playbin", _) => adapted
                    .extend(["playbin", "video-sink=fakesink", "audio-sink=fakesink"].map(String::from)),
                _ => adapted.push(word.clone()),
            }
        }
        adapted
    }
}

/// Whether an element is in the pipeline or in a bin of it, whoever put it there.
fn deblur_in(pipeline: &gst::Pipeline) -> Option<gst::Element> {
    let elements = pipeline.iterate_recurse().into_iter().filter_map(Result::ok);
    let is_ours = |element: &gst::Element| {
        element
            .factory()
            .is_some_and(|factory| factory.name() == "osdddeblur")
    };
    elements.into_iter().find(is_ours)
}

/// Whether this is an element of GStreamer's for CUDA that is there only where a GPU is, and not here.
fn needs_gpu(word: &str) -> bool {
    (word.starts_with("nvh26") || word.starts_with("cuda")) && gst::ElementFactory::find(word).is_none()
}

#[test]
fn every_launch_line_runs() {
    let machine = Machine::new();
    let mut count = 0;
    for (document, text) in documents() {
        for words in launch_lines(&text) {
            let line = format!("{document}: {}", words.join(" "));
            if let Some(element) = words.iter().find(|word| needs_gpu(word)) {
                println!("left out: {line}: there is no {element}, which needs a GPU");
                continue;
            }
            let adapted = machine.adapt(&words);
            let arguments = adapted.iter().map(String::as_str).collect::<Vec<_>>();
            let pipeline = gst::parse::launchv(&arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
            let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
            let frames = frames_through(&pipeline);
            let errors = play(&pipeline);
            assert!(errors.is_empty(), "{line}: {errors:?}\nas {}", adapted.join(" "));
            let frames = frames.load(std::sync::atomic::Ordering::SeqCst);
            // Where the policy is to drop, a slow machine drops; the first frame finds nobody at work.
            let least = if line.contains("late-policy=drop") { 1 } else { 6 };
            assert!(frames >= least, "{line}: {frames} frames came through");
            count += 1;
        }
    }
    assert!(
        count >= 10,
        "only {count} lines were found: is the documentation still where it was?"
    );
}

/// Counts the frames that leave the element.
fn frames_through(pipeline: &gst::Pipeline) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let frames = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let counter = std::sync::Arc::clone(&frames);
    let count_buffers = move |element: &gst::Element| {
        let counter = std::sync::Arc::clone(&counter);
        let src = element.static_pad("src").expect("a source pad");
        src.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            gst::PadProbeReturn::Ok
        });
    };
    match deblur_in(pipeline) {
        Some(element) => count_buffers(&element),
        // A player has it as a property, and takes it into the pipeline when it knows its streams.
        None => count_buffers(&pipeline.property::<gst::Element>("video-filter")),
    }
    frames
}

/// The cells of the rows of tables, without the dashes below the head.
fn table_rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| !cells[0].starts_with("---"))
}

/// What the table says of a property before the advice: name, type, range, default, when it can be changed.
fn documented(pspec: &glib::ParamSpec) -> [String; 5] {
    let (kind, range) = if let Some(double) = pspec.downcast_ref::<glib::ParamSpecDouble>() {
        ("double", format!("{} to {}", double.minimum(), double.maximum()))
    } else if let Some(int) = pspec.downcast_ref::<glib::ParamSpecInt>() {
        ("int", format!("{} to {}", int.minimum(), int.maximum()))
    } else if let Some(values) = pspec.downcast_ref::<glib::ParamSpecEnum>() {
        let class = values.enum_class();
        let values = class.values().iter().map(|value| value.nick().to_string());
        ("enum", values.collect::<Vec<_>>().join(", "))
    } else if pspec.is::<glib::ParamSpecString>() {
        ("string", String::new())
    } else if pspec.is::<glib::ParamSpecBoolean>() {
        ("boolean", String::new())
    } else {
        ("structure", String::new())
    };
    let writable = pspec.flags().contains(glib::ParamFlags::WRITABLE);
    let default = match (writable, glib::EnumValue::from_value(pspec.default_value())) {
        (false, _) => String::new(),
        (true, Some((_, value))) => value.nick().to_string(),
        (true, None) => match pspec.default_value().get::<String>() {
            Ok(text) => text,
            Err(_) => pspec
                .default_value()
                .transform::<String>()
                .expect("text")
                .get()
                .expect("text"),
        },
    };
    let default = match default.parse::<f64>() {
        Ok(number) => format!("{}", (number * 1e6).round() / 1e6),
        Err(_) => default.to_lowercase(),
    };
    let flags = pspec.flags();
    let change = match (writable, flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING)) {
        (false, _) => "read only",
        (true, false) => "READY",
        (true, true) if flags.contains(gst::PARAM_FLAG_CONTROLLABLE) => "any time, controllable",
        (true, true) => "any time",
    };
    [
        format!("`{}`", pspec.name()),
        kind.into(),
        range,
        default,
        change.into(),
    ]
}

#[test]
fn the_table_has_every_property_as_it_is() {
    let element = deblur();
    let page = read(PAGE);
    let rows = table_rows(&page).skip_while(|cells| cells[0] != "property");
    let rows = rows
        .skip(1)
        .take_while(|cells| cells.len() == 6 && cells[0].starts_with('`'));
    let mut rows = rows.collect::<Vec<_>>();
    let own = element.type_();
    for pspec in element
        .list_properties()
        .iter()
        .filter(|pspec| pspec.owner_type() == own)
    {
        let expected = documented(pspec);
        let row = rows.iter().position(|cells| cells[0] == expected[0]);
        let row = rows.remove(row.unwrap_or_else(|| panic!("{} is not in {PAGE}", expected[0])));
        assert_eq!(row[..5], expected, "{PAGE}");
        assert!(!row[5].is_empty(), "{} has no advice in {PAGE}", expected[0]);
    }
    assert!(
        rows.is_empty(),
        "{PAGE} has properties that are not there: {rows:?}"
    );
}

#[test]
fn the_page_has_every_format_and_every_counter() {
    let page = read(PAGE);
    let mut listed = table_rows(&page)
        .filter(|cells| cells.len() == 2)
        .skip(1)
        .flat_map(|cells| cells[1].split_whitespace().map(String::from).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    let mut accepted = formats();
    listed.sort();
    accepted.sort();
    assert_eq!(listed, accepted);

    let stats = deblur().property::<gst::Structure>("stats");
    for (field, _) in stats.iter() {
        assert!(page.contains(&format!("`{field}`")), "{field} is not in {PAGE}");
    }
    assert!(page.contains(stats.name().as_str()));
}

/// A message stands in the first cell of the table, with an ellipsis for what differs.
#[test]
fn the_messages_that_are_explained_are_the_elements() {
    let sources =
        ["caps", "error", "flow", "imp", "reports"].map(|name| read(&format!("plugin/src/deblur/{name}.rs")));
    let sources = sources.concat().replace("\\\"", "\"");
    let text = read(TROUBLESHOOTING);
    let rows = table_rows(&text).filter(|cells| cells.len() == 2).skip(1);
    let mut count = 0;
    for cells in rows {
        for part in cells[0].split('…').map(str::trim).filter(|part| !part.is_empty()) {
            assert!(
                sources.contains(part),
                "{TROUBLESHOOTING}: {:?} is no message: {part:?}",
                cells[0]
            );
        }
        count += 1;
    }
    // One for each that the element can post.
    let posted =
        sources.matches("gst::error_msg!(").count() + sources.matches("element_imp_warning!(").count();
    assert_eq!(
        count, posted,
        "{TROUBLESHOOTING} explains another number of messages"
    );
}

/// Runs a line of the shell in a folder: whether it went well, and what it wrote to standard error.
fn shell(folder: &Path, line: &str) -> (bool, String) {
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env("GST_PLUGIN_PATH", folder)
        .env("GST_REGISTRY", folder.join("registry.bin"))
        .env("LC_ALL", "C")
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text)
}

#[test]
fn the_c_example_compiles_as_it_says_and_plays() {
    let source = root().join("examples/c/deblur.c");
    let text = std::fs::read_to_string(&source).expect("the example");
    let compile = text
        .lines()
        .find_map(|line| line.trim_start_matches([' ', '*']).strip_prefix("cc "));
    let compile = compile.expect("it says how to compile it");
    let machine = Machine::new();
    let folder = machine.folder.path();
    std::fs::copy(&source, folder.join("deblur.c")).expect("copied");
    if !shell(folder, "command -v cc").0 {
        println!("skipped: there is no C compiler");
        return;
    }
    let (compiled, errors) = shell(folder, &format!("cc -Werror {compile}"));
    assert!(compiled, "{errors}");

    let plugin = std::env::current_exe()
        .expect("this test's file")
        .with_file_name("libgstosdd.so");
    std::os::unix::fs::symlink(plugin, folder.join("libgstosdd.so")).expect("a link");
    let (played, errors) = shell(folder, "./deblur clip.avi 0.5 fakesink");
    assert!(played, "{errors}");
    let (played, errors) = shell(folder, "./deblur nothing.avi 0.5 fakesink");
    assert!(!played);
    assert_eq!(errors.lines().count(), 1, "one sentence: {errors}");
}
