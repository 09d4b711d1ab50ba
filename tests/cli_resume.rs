//! Videos that were interrupted: what is left, and that the next run goes on from there.
#![cfg(all(feature = "cli", unix))]

#[path = "common/media.rs"]
mod media;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use media::*;
use tempfile::TempDir;

/// Starts the tool and waits until `ready`.
fn started(folder: &TempDir, arguments: &str, ready: impl Fn() -> bool) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_osdd"))
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("osdd starts");
    while !ready() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it was ready");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child
}

/// The same, and then sends it a signal.
fn interrupted(folder: &TempDir, arguments: &str, signal: &str, ready: impl Fn() -> bool) -> Child {
    let child = started(folder, arguments, ready);
    // Twice at once, as `timeout` does it, is still one request.
    let id = child.id().to_string();
    for _ in 0..2 {
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill runs").success());
    }
    child
}

/// Key frames in the records that a run writes, see `src/bin/osdd/video/journal.rs`.
fn key_frames(journal: &Path) -> usize {
    let bytes = fs::read(journal).unwrap_or_default();
    let (mut at, mut count) = (0, 0);
    while let Some(header) = bytes.get(at..at + 62) {
        let is_key = header[4..6] == [0, 1] && header[42] & 0x20 == 0;
        count += usize::from(is_key);
        at += 62 + u32::from_be_bytes(header[6..10].try_into().unwrap()) as usize;
    }
    count
}

#[test]
fn an_interrupt_before_there_is_anything_leaves_nothing() {
    let folder = folder();
    make_mp4(&folder, "in.mp4", 2000);
    let child = interrupted(&folder, "deblur in.mp4 -o out.mp4", "INT", || {
        names(&folder).len() > 1
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("nothing of in.mp4 is kept"), "{text}");
    assert_eq!(names(&folder), ["in.mp4"]);
}

/// VP9 has the most key frames of the tool's formats. Sound is what the muxer waits for while it gets what is kept.
#[test]
fn a_video_goes_on_where_it_was_interrupted_and_where_it_was_killed() {
    const FRAMES: usize = 420;
    let folder = folder();
    let video = VIDEO.replace("num-buffers=10", &format!("num-buffers={FRAMES} pattern=ball"));
    let sound = "audiotestsrc num-buffers=788 samplesperbuffer=1024 ! audio/x-raw,rate=48000 ! audioconvert";
    play(&launch(
        &folder,
        &format!(
            "{video} ! {H264} ! queue ! matroskamux name=m ! filesink location=@in.mkv {sound} ! opusenc ! queue ! m."
        ),
    ));
    succeeds(&folder, "deblur in.mkv -o whole.webm");
    let journal = folder.path().join(".out.webm.journal");
    let growing = journal.join("growing.gdp");
    let groups = |wanted| key_frames(&growing) >= wanted;

    let child = interrupted(&folder, "deblur in.mkv -o out.webm", "INT", || groups(2));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("frames of in.mkv are kept: --resume"), "{text}");
    assert!(!folder.path().join("out.webm").exists());

    // Nothing of it is lost by accident.
    let text = fails(&folder, "deblur in.mkv -o out.webm");
    assert!(text.contains("--resume goes on from there"), "{text}");
    let text = fails(&folder, "deblur in.mkv -o out.webm --resume --gamma 0.1");
    assert!(text.contains("other settings"), "{text}");

    let mut child = interrupted(&folder, "deblur in.mkv -o out.webm --resume", "KILL", || {
        groups(2)
    });
    child.wait().unwrap();
    let text = succeeds(&folder, "deblur in.mkv -o out.webm --resume");
    assert!(text.contains("goes on after"), "{text}");
    assert!(!journal.exists());

    let [whole, resumed] = ["whole.webm", "out.webm"].map(|name| streams(&folder, name));
    assert_eq!(resumed["video/x-vp9"].times.len(), FRAMES);
    same_times(&whole["video/x-vp9"], &resumed["video/x-vp9"]);
    assert_eq!(whole["audio/x-opus"].data, resumed["audio/x-opus"].data);
}

#[test]
fn two_runs_do_not_write_one_video_and_force_starts_anew() {
    let folder = folder();
    make_mp4(&folder, "in.mp4", 2000);
    let journal = folder.path().join(".out.mp4.journal");
    let growing = journal.join("growing.gdp");
    let mut other = started(&folder, "deblur in.mp4 -o out.mp4", || key_frames(&growing) > 0);
    let text = fails(&folder, "deblur in.mp4 -o out.mp4 --force");
    assert!(text.contains("another osdd writes out.mp4"), "{text}");
    other.kill().unwrap();
    other.wait().unwrap();

    make_mp4(&folder, "short.mp4", FRAMES);
    succeeds(&folder, "deblur short.mp4 -o out.mp4 --force");
    assert_eq!(streams(&folder, "out.mp4")["video/x-h264"].times.len(), FRAMES);
    assert!(!journal.exists());
}
