//! `osdd deblur` on video files, and `osdd bench`: everything of the command line that goes through the element.
#![cfg(feature = "cli")]

#[path = "common/media.rs"]
mod media;

use std::fs;
use std::sync::Mutex;

use gst::prelude::*;
use media::*;
use serde_json::Value;
use tempfile::TempDir;

/// 10 frames and as much sound.
fn make(folder: &TempDir, name: &str, muxer: &str, video: &str, audio: &str) {
    let sound = "audiotestsrc num-buffers=18 samplesperbuffer=1024 ! audio/x-raw,rate=48000 ! audioconvert";
    play(&launch(
        folder,
        &format!(
            "{video} ! queue ! {muxer} name=m ! filesink location=@{name} {sound} ! {audio} ! queue ! m."
        ),
    ));
}

#[test]
fn frames_and_sound_survive_in_matroska() {
    let folder = folder();
    make(
        &folder,
        "in.mkv",
        "matroskamux",
        &format!("{VIDEO} ! {H264}"),
        "opusenc",
    );
    succeeds(&folder, "deblur in.mkv -o out.mkv");
    let (before, after) = (streams(&folder, "in.mkv"), streams(&folder, "out.mkv"));
    assert_eq!(after["video/x-h264"].times.len(), FRAMES);
    same_times(&before["video/x-h264"], &after["video/x-h264"]);
    assert_ne!(before["video/x-h264"].data, after["video/x-h264"].data);
    assert_eq!(
        before["audio/x-opus"].data, after["audio/x-opus"].data,
        "the sound was encoded again"
    );
    assert_eq!(names(&folder), ["in.mkv", "out.mkv"]);
}

#[test]
fn frames_and_sound_survive_in_mp4_and_from_there_to_matroska() {
    let folder = folder();
    make(
        &folder,
        "in.mp4",
        "mp4mux",
        &format!("{VIDEO} ! {H264}"),
        "avenc_aac",
    );
    succeeds(&folder, "deblur in.mp4 -o out.mp4");
    succeeds(&folder, "deblur in.mp4 -o out.mkv");
    let before = streams(&folder, "in.mp4");
    for name in ["out.mp4", "out.mkv"] {
        let after = streams(&folder, name);
        assert_eq!(after["video/x-h264"].times.len(), FRAMES, "{name}");
        same_times(&before["video/x-h264"], &after["video/x-h264"]);
        assert_eq!(
            before["audio/mpeg"].data, after["audio/mpeg"].data,
            "{name}: the sound was encoded again"
        );
    }
}

#[test]
fn sound_that_begins_late_is_waited_for() {
    let folder = folder();
    let video = VIDEO.replace("num-buffers=10", "num-buffers=250");
    let sound = "audiotestsrc num-buffers=40 samplesperbuffer=1024 timestamp-offset=8000000000 ! audio/x-raw,rate=48000";
    play(&launch(
        &folder,
        &format!(
            "{video} ! {H264} ! queue ! matroskamux name=m ! filesink location=@in.mkv {sound} ! audioconvert ! opusenc ! queue ! m."
        ),
    ));
    for name in ["out.mkv", "out.webm"] {
        succeeds(&folder, &format!("deblur in.mkv -o {name}"));
        let streams = streams(&folder, name);
        let video = streams.iter().find(|(format, _)| format.starts_with("video/"));
        assert_eq!(video.expect("a video").1.times.len(), 250, "{name}");
        let sound = &streams["audio/x-opus"].times;
        assert!(
            sound[0] >= gst::ClockTime::from_mseconds(7900),
            "{name}: {:?}",
            sound[0]
        );
    }
}

#[test]
fn sound_that_the_container_refuses_is_encoded_again_with_a_warning() {
    let folder = folder();
    make(
        &folder,
        "in.mkv",
        "matroskamux",
        &format!("{VIDEO} ! {H264}"),
        "vorbisenc",
    );
    let text = succeeds(&folder, "deblur in.mkv -o out.mp4");
    assert!(text.contains("warning") && text.contains("vorbis"), "{text}");
    let after = streams(&folder, "out.mp4");
    assert_eq!(after["video/x-h264"].times.len(), FRAMES);
    assert!(!after["audio/mpeg"].data.is_empty());
}

#[test]
fn webm_is_vp9_and_avi_is_h264() {
    let folder = folder();
    make(
        &folder,
        "in.mkv",
        "matroskamux",
        &format!("{VIDEO} ! {H264}"),
        "opusenc",
    );
    succeeds(&folder, "deblur in.mkv -o out.webm");
    let after = streams(&folder, "out.webm");
    assert_eq!(after["video/x-vp9"].times.len(), FRAMES);
    assert!(after.contains_key("audio/x-opus"));
    succeeds(&folder, "deblur in.mkv -o out.avi");
    let after = streams(&folder, "out.avi");
    assert_eq!(after["video/x-h264"].data.len(), FRAMES);
    assert!(after.contains_key("audio/mpeg"));
}

#[test]
fn the_last_frames_of_a_webm_are_written() {
    let folder = folder();
    let video = VIDEO.replace("num-buffers=10", "num-buffers=60");
    play(&launch(
        &folder,
        &format!("{video} ! {H264} ! matroskamux ! filesink location=@in.mkv"),
    ));
    succeeds(&folder, "deblur in.mkv -o out.webm --strength 0");
    assert_eq!(streams(&folder, "out.webm")["video/x-vp9"].times.len(), 60);
}

#[test]
fn what_the_element_warns_of_is_told() {
    let folder = folder();
    let pq = VIDEO.replace("format=I420", "format=I420_10LE,colorimetry=bt2100-pq");
    play(&launch(
        &folder,
        &format!("{pq} ! {H264} ! matroskamux ! filesink location=@hdr.mkv"),
    ));
    let text = succeeds(&folder, "deblur hdr.mkv -o out.mkv");
    assert!(
        text.contains("warning: hdr.mkv: HDR video (PQ or HLG) is not deblurred"),
        "{text}"
    );
}

#[test]
fn times_of_a_variable_frame_rate_survive() {
    let folder = folder();
    let pipeline = launch(
        &folder,
        &format!("{VIDEO} ! identity name=drop ! {H264} ! mp4mux ! filesink location=@in.mp4"),
    );
    let (drop, counter) = (pipeline.by_name("drop").unwrap(), Mutex::new(0));
    drop.static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let mut index = counter.lock().unwrap();
            *index += 1;
            if matches!(*index, 3 | 4 | 7) {
                gst::PadProbeReturn::Handled
            } else {
                gst::PadProbeReturn::Ok
            }
        });
    play(&pipeline);
    let before = streams(&folder, "in.mp4");
    assert_eq!(before["video/x-h264"].times.len(), 7);
    for name in ["out.mp4", "out.mkv", "out.webm"] {
        succeeds(&folder, &format!("deblur in.mp4 -o {name}"));
        let after = streams(&folder, name);
        same_times(&before["video/x-h264"], after.values().next().unwrap());
    }
}

#[test]
fn a_video_that_is_to_be_turned_comes_out_upright() {
    let folder = folder();
    make_mp4(&folder, "in.mp4", FRAMES);
    // As a telephone held upright writes it: the matrix of the track header turns by 90 degrees.
    let path = folder.path().join("in.mp4");
    let mut file = fs::read(&path).unwrap();
    let header = file.windows(4).position(|window| window == b"tkhd").unwrap();
    let matrix = [0, 0x1_0000, 0, -0x1_0000, 0, 0, 48 << 16, 0, 0x4000_0000];
    let bytes: Vec<u8> = matrix
        .iter()
        .flat_map(|number: &i32| number.to_be_bytes())
        .collect();
    file[header + 44..][..bytes.len()].copy_from_slice(&bytes);
    fs::write(&path, file).unwrap();
    let look = |name: &str| {
        let video = streams(&folder, name).remove("video/x-h264").unwrap();
        let turned = video
            .tags
            .iter()
            .find_map(|tags| Some(tags.get::<gst::tags::ImageOrientation>()?.get().to_owned()));
        (video.field::<i32>("width"), video.field::<i32>("height"), turned)
    };
    assert_eq!(look("in.mp4"), (Some(64), Some(48), Some("rotate-90".to_owned())));
    for name in ["out.mp4", "out.mkv"] {
        succeeds(&folder, &format!("deblur in.mp4 -o {name}"));
        assert_eq!(look(name), (Some(48), Some(64), None), "{name}");
    }
}

#[test]
fn an_odd_size_stays() {
    let folder = folder();
    let video = VIDEO
        .replace("width=64", "width=61")
        .replace("height=48", "height=47");
    play(&launch(
        &folder,
        &format!("{video} ! vp8enc deadline=1 ! matroskamux ! filesink location=@in.mkv"),
    ));
    succeeds(&folder, "deblur in.mkv -o out.mp4");
    let video = &streams(&folder, "out.mp4")["video/x-h264"];
    assert_eq!(video.times.len(), 10);
    assert_eq!(
        (video.field::<i32>("width"), video.field::<i32>("height")),
        (Some(61), Some(47))
    );
}

#[test]
fn ten_bits_and_full_colour_survive() {
    let folder = folder();
    let video = VIDEO.replace("I420", "Y444_10LE");
    play(&launch(
        &folder,
        &format!("{video} ! {H264} ! matroskamux ! filesink location=@in.mkv"),
    ));
    succeeds(&folder, "deblur in.mkv -o out.mkv");
    let after = streams(&folder, "out.mkv");
    let video = &after["video/x-h264"];
    assert_eq!(video.field::<&str>("chroma-format"), Some("4:4:4"));
    assert_eq!(video.field::<u32>("bit-depth-luma"), Some(10));
}

#[test]
fn subtitles_are_kept_or_named() {
    let folder = folder();
    let lines =
        "1\n00:00:00,000 --> 00:00:00,100\n<i>Tom & Jerry</i>\n\n2\n00:00:00,200 --> 00:00:00,300\nAgain\n";
    fs::write(folder.path().join("in.srt"), lines).unwrap();
    play(&launch(
        &folder,
        &format!(
            "{VIDEO} ! {H264} ! matroskamux name=m ! filesink location=@in.mkv filesrc location=@in.srt ! subparse \
             ! capssetter join=false replace=true caps=text/x-raw,format=utf8 ! m."
        ),
    ));
    succeeds(&folder, "deblur in.mkv -o out.mkv");
    let text = |name: &str| streams(&folder, name)["text/x-raw"].data.clone();
    assert_eq!(text("in.mkv").len(), 2);
    assert_eq!(text("out.mkv"), text("in.mkv"));
    let said = succeeds(&folder, "deblur in.mkv -o out.avi");
    assert!(said.contains("subtitle") && said.contains("left out"), "{said}");
    assert!(!streams(&folder, "out.avi").contains_key("text/x-raw"));
}

#[test]
fn side_by_side_video_is_twice_as_wide() {
    let folder = folder();
    make_mp4(&folder, "in.mp4", FRAMES);
    succeeds(
        &folder,
        "deblur in.mp4 -o out.mp4 --compare side-by-side --quality 10 --gamma 0.2",
    );
    assert_eq!(
        streams(&folder, "out.mp4")["video/x-h264"].field::<i32>("width"),
        Some(128)
    );
}

#[test]
fn tiles_that_stand_still_can_be_shown_again() {
    let folder = folder();
    let moving = VIDEO.replace("videotestsrc", "videotestsrc pattern=snow");
    make(
        &folder,
        "in.mkv",
        "matroskamux",
        &format!("{moving} ! {H264}"),
        "opusenc",
    );
    let later_frames = |arguments: &str| -> usize {
        succeeds(&folder, &format!("deblur in.mkv -o out.mkv -f {arguments}"));
        let video = &streams(&folder, "out.mkv")["video/x-h264"];
        assert_eq!(video.data.len(), FRAMES);
        video.data[1..].iter().map(Vec::len).sum()
    };
    // Whatever changes is less than this, so every frame shows the first.
    let frozen = later_frames("--reuse-threshold 255");
    let moving = later_frames("");
    assert!(10 * frozen < moving, "{frozen} bytes, {moving}");
}

#[test]
fn what_is_no_video_is_one_line_and_leaves_nothing() {
    let folder = folder();
    fs::write(
        folder.path().join("text.mp4"),
        "This is not a film, it is a text about one.\n".repeat(99),
    )
    .unwrap();
    fs::write(folder.path().join("empty.mp4"), "").unwrap();
    play(&launch(
        &folder,
        "audiotestsrc num-buffers=9 ! opusenc ! matroskamux ! filesink location=@sound.mkv",
    ));
    let there = names(&folder);
    let text = fails(&folder, "deblur text.mp4 -o out.mp4");
    assert!(text.contains("neither an image nor a video"), "{text}");
    let text = fails(&folder, "deblur empty.mp4 -o out.mp4");
    assert!(
        text.contains("empty.mp4") && text.contains("it is empty"),
        "{text}"
    );
    let text = fails(&folder, "deblur sound.mkv -o out.mp4");
    assert!(text.contains("no video"), "{text}");
    for (quality, output, scale) in [
        (51, "out.mp4", "H.264, 0 to 50"),
        (64, "out.webm", "VP9, 0 to 63"),
    ] {
        let arguments = format!("deblur text.mp4 -o {output} --quality {quality}");
        let output = osdd(&folder, &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(scale) && text.lines().count() == 1, "{text}");
    }
    let text = fails(&folder, "deblur none.mp4 -o out.mp4");
    assert!(text.contains("No such file"), "{text}");
    let text = fails(&folder, "deblur sound.mkv -o out.mp4 --model none");
    assert!(text.starts_with("error: "), "{text}");
    assert_eq!(names(&folder), there);
}

#[test]
fn a_missing_model_stops_a_video_with_one_line() {
    let folder = folder();
    make_mp4(&folder, "in.mp4", FRAMES);
    let text = fails(&folder, "deblur in.mp4 -o out.mp4 --model none");
    // As for an image: no word of properties, which this program does not have.
    assert!(
        text.contains("no model 'none'") && !text.contains("property"),
        "{text}"
    );
    let text = fails(&folder, "deblur in.mp4 -o out.mp4 --device cpu --precision fp16");
    assert!(text.contains("precision cannot be fp16"), "{text}");
    assert_eq!(names(&folder), ["in.mp4"]);
}

#[test]
fn a_folder_may_hold_videos_too() {
    let folder = folder();
    fs::create_dir(folder.path().join("in")).unwrap();
    make_mp4(&folder, "in/a.mp4", FRAMES);
    fs::write(folder.path().join("in/b.mp4"), "nonsense").unwrap();
    // As camcorders name theirs; such files are not written.
    fs::copy(folder.path().join("in/a.mp4"), folder.path().join("in/00001.MTS")).unwrap();
    let output = osdd(&folder, "deblur in -o out");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("skipped") && text.contains("b.mp4"), "{text}");
    for name in ["out/a.mp4", "out/00001.MTS.mp4"] {
        assert_eq!(streams(&folder, name)["video/x-h264"].times.len(), FRAMES);
    }
}

#[test]
fn a_video_that_is_cut_short_is_a_warning() {
    let folder = folder();
    let video = VIDEO.replace("num-buffers=10", "num-buffers=100");
    make(
        &folder,
        "in.webm",
        "webmmux",
        &format!("{video} ! vp8enc deadline=1"),
        "opusenc",
    );
    let whole = fs::read(folder.path().join("in.webm")).unwrap();
    fs::write(folder.path().join("cut.webm"), &whole[..whole.len() / 2]).unwrap();
    let warned = |name| {
        let output = osdd(&folder, &format!("deblur {name} -o {name}.mp4"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text.contains("is it cut short?")
    };
    assert!(warned("cut.webm"));
    assert!(!warned("in.webm"));
}

#[test]
fn bench_measures_every_kind() {
    let folder = folder();
    let output = osdd(
        &folder,
        "bench --size 64x48 --size 128x96 --frames 8 --rounds 1 --json - --plot bench.svg",
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let model = &report["models"][0];
    assert_eq!(model["model"], "nano");
    assert_eq!(model["left_out"].as_array().map(Vec::len), Some(0));
    let size = &model["sizes"][0];
    assert_eq!(size["size"], "64x48");
    for kind in ["engine", "pipeline", "moving_gamma"] {
        assert!(size[kind]["frames_per_second"].as_f64().unwrap() > 0.0, "{kind}");
        assert_eq!(size[kind]["frames_lost"], 0, "{kind}");
        assert!(size[kind]["peak_memory_mib"].as_u64().unwrap() > 0, "{kind}");
    }
    assert!(size["pipeline_over_engine"].as_f64().unwrap() > 0.0);
    assert!(size["pipeline"]["convert_ms"].as_f64().unwrap() > 0.0);
    let plot = fs::read_to_string(folder.path().join("bench.svg")).expect("a plot");
    assert_eq!(plot.matches("<circle").count(), 2, "{plot}");
    assert!(report["hardware"]["threads"].as_u64().unwrap() > 0);
    let date = report["date"].as_str().unwrap();
    assert!(date.len() == 20 && date.ends_with('Z'), "{date}");
}

#[test]
fn bench_needs_no_weights_for_speed_alone() {
    let folder = folder();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/small_model.json");
    fs::create_dir(folder.path().join("untrained")).expect("a folder");
    fs::copy(config, folder.path().join("untrained/config.json")).expect("a copy");
    let bench = "bench --size 64x48 --frames 8 --rounds 1 --model ./untrained --json -";
    let output = osdd(&folder, bench);
    assert!(!output.status.success(), "it has no weights");
    let one = osdd(&folder, &format!("{bench} --random-weights --only model"));
    assert!(one.status.success(), "{one:?}");
    let output = osdd(&folder, &format!("{bench} --random-weights"));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let model = &report["models"][0];
    assert_eq!(model["model"], "./untrained, random weights");
    assert!(model["sizes"][0]["engine"]["frames_per_second"].as_f64() > Some(0.0));
}
