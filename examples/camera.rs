//! A camera in a window: change gamma, compare with the input, and record an MP4 while you look.
//!
//! ```text
//! cargo run --release --example camera -- [--test | --source SOURCE] [--sink SINK]
//! ```
//!
//! Keys in the window, or letters and Enter at the terminal: `+` and `-` change gamma, `c` compares, `r` records and
//! stops recording, `q` quits. A click into the window moves the line of the comparison. The window is the sink's
//! own, so that nothing but GStreamer is needed. Without a source it is the first camera; any elements that make raw
//! video will do, as in `--source "v4l2src device=/dev/video1"`.
//!
//! GStreamer must find the plugin: `make install`, or GST_PLUGIN_PATH=target/release.

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

/// The test picture is small enough for the default model on a CPU.
const TEST: &str = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1";

/// What the recording needs of a frame on its way to the file. Frames wait here while the encoder is busy.
const RECORDING: &str = "queue max-size-bytes=0 max-size-buffers=0 max-size-time=5000000000 ! videoconvert \
    ! x264enc tune=zerolatency speed-preset=veryfast ! h264parse ! mp4mux ! filesink name=file async=false";

/// What the user wants.
enum Command {
    Key(char),
    /// The line of the comparison, from the left in 0..=1.
    Line(f64),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("camera: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "usage: camera [--test | --source SOURCE] [--sink SINK]";

fn run() -> Result<()> {
    let (mut source, mut sink) = ("autovideosrc".to_string(), "autovideosink".to_string());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--test" => source = TEST.into(),
            "--source" => source = arguments.next().context("--source needs an element")?,
            "--sink" => sink = arguments.next().context("--sink needs an element")?,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => bail!("{USAGE}"),
        }
    }
    gst::init()?;
    let camera = Camera::new(&source, &sink)?;
    let (commands, received) = channel();
    listen_to_window(&camera.deblur, commands.clone());
    listen_to_terminal(commands);
    println!("+ and - change gamma, c compares, r records, q quits");
    let done = camera.run(&received);
    camera.pipeline.set_state(gst::State::Null)?;
    done
}

/// Key presses and clicks come up from the window as navigation events.
fn listen_to_window(deblur: &gst::Element, commands: Sender<Command>) {
    let pad = deblur.static_pad("src").expect("a filter has a source pad");
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |pad, probe| {
        let structure = probe.event().and_then(|event| event.structure());
        let command = structure
            .filter(|s| s.name() == "application/x-gst-navigation")
            .and_then(|s| match s.get::<&str>("event").ok()? {
                "key-press" => match s.get::<&str>("key").ok()? {
                    "plus" | "KP_Add" | "Up" => Some(Command::Key('+')),
                    "minus" | "KP_Subtract" | "Down" => Some(Command::Key('-')),
                    key => key.chars().next().filter(|_| key.len() == 1).map(Command::Key),
                },
                "mouse-button-press" => {
                    let caps = pad.current_caps()?;
                    let width = caps.structure(0)?.get::<i32>("width").ok()?;
                    let line = s.get::<f64>("pointer_x").ok()? / f64::from(width);
                    Some(Command::Line(line.clamp(0.0, 1.0)))
                }
                _ => None,
            });
        // Nobody listens any more once the program ends.
        let _ = command.map(|command| commands.send(command));
        gst::PadProbeReturn::Ok
    });
}

fn listen_to_terminal(commands: Sender<Command>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            for key in line.chars() {
                let _ = commands.send(Command::Key(key));
            }
        }
    });
}

struct Camera {
    pipeline: gst::Pipeline,
    deblur: gst::Element,
    tee: gst::Element,
    status: gst::Element,
}

impl Camera {
    fn new(source: &str, sink: &str) -> Result<Self> {
        // Both branches of the tee show what the element makes; only the window has the line of text. A model that is too
        // slow lets frames pass, so that the camera never waits.
        let launch = format!(
            "{source} ! videoconvert ! videoscale ! video/x-raw,width=[1,640] ! queue leaky=downstream max-size-buffers=2 \
             ! osdddeblur name=deblur depth=1 late-policy=passthrough ! tee name=tee \
             ! queue ! videoconvert ! textoverlay name=status valignment=top halignment=left font-desc=\"Sans 16\" shaded-background=true ! {sink}"
        );
        let pipeline =
            gst::parse::launch(&launch).context("cannot build the pipeline; is the plugin installed?")?;
        let pipeline = pipeline
            .downcast::<gst::Pipeline>()
            .expect("several elements make a pipeline");
        let element = |name| pipeline.by_name(name).expect("the launch line names it");
        let (deblur, tee, status) = (element("deblur"), element("tee"), element("status"));
        // The end of a recording is an end of the stream in one branch; without this only the end of all is told.
        pipeline.set_property("message-forward", true);
        Ok(Camera {
            pipeline,
            deblur,
            tee,
            status,
        })
    }

    /// Plays until the user quits or something fails.
    fn run(&self, commands: &Receiver<Command>) -> Result<()> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        // Where the state change fails, the message that says why is on the bus.
        let _ = self.pipeline.set_state(gst::State::Playing);
        let (mut recording, mut quitting) = (None, false);
        while !quitting || recording.is_some() {
            for command in commands.try_iter() {
                match command {
                    Command::Line(line) => self.deblur.set_property("compare-position", line),
                    Command::Key('+') => self.change_gamma(0.1),
                    Command::Key('-') => self.change_gamma(-0.1),
                    Command::Key('c') => self.switch_compare(),
                    Command::Key('r') => self.switch_recording(&mut recording),
                    Command::Key('q') => {
                        quitting = true;
                        recording.iter_mut().for_each(Recording::stop);
                    }
                    Command::Key(_) => {}
                }
            }
            self.show_status(recording.is_some());
            let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(50)) else {
                continue;
            };
            if let Some(written) = recording.take_if(|recording| recording.is_ended_by(&message)) {
                written.remove(&self.pipeline, &self.tee)?;
            }
            match message.view() {
                gst::MessageView::Error(error) => bail!("{}", error.error()),
                gst::MessageView::Warning(warning) => eprintln!("camera: warning: {}", warning.error()),
                gst::MessageView::Latency(_) => self.pipeline.recalculate_latency()?,
                gst::MessageView::Eos(_) => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    fn show_status(&self, recording: bool) {
        let gamma = self.deblur.property::<f64>("gamma");
        let recording = if recording { "   recording" } else { "" };
        self.status
            .set_property("text", format!("gamma {gamma:.1}{recording}"));
    }

    fn change_gamma(&self, step: f64) {
        let gamma = self.deblur.property::<f64>("gamma") + step;
        self.deblur.set_property("gamma", gamma.clamp(0.0, 1.0));
    }

    /// Off or split. Side by side would change the size of the frames, which the file could not follow.
    fn switch_compare(&self) {
        let compare = self.deblur.property_value("compare");
        let off = gst::glib::EnumValue::from_value(&compare).is_some_and(|(_, value)| value.nick() == "off");
        self.deblur
            .set_property_from_str("compare", if off { "split" } else { "off" });
    }

    fn switch_recording(&self, recording: &mut Option<Recording>) {
        match recording {
            Some(recording) => recording.stop(),
            None => match Recording::start(&self.pipeline, &self.tee) {
                Ok(started) => *recording = Some(started),
                Err(error) => eprintln!("camera: {error:#}"),
            },
        }
    }
}

/// A branch of the pipeline that comes and goes while the others play on.
struct Recording {
    bin: gst::Bin,
    tee_pad: gst::Pad,
    file: String,
    stopping: bool,
}

impl Recording {
    fn start(pipeline: &gst::Pipeline, tee: &gst::Element) -> Result<Self> {
        let names = (1..).map(|number| format!("camera-{number}.mp4"));
        let file = names
            .into_iter()
            .find(|name| !std::path::Path::new(name).exists())
            .expect("names do not run out");
        let bin = gst::parse::bin_from_description(RECORDING, true).context("cannot record")?;
        let sink = bin.by_name("file").expect("the description names it");
        sink.set_property("location", &file);
        // Opens the file, so that one that cannot be written does not stop the camera.
        if bin.set_state(gst::State::Paused).is_err() {
            bin.set_state(gst::State::Null)?;
            bail!("cannot write {file}");
        }
        pipeline.add(&bin)?;
        bin.sync_state_with_parent()?;
        let tee_pad = tee
            .request_pad_simple("src_%u")
            .context("the tee has no pad left")?;
        tee_pad.link(&bin.static_pad("sink").expect("the bin has the queue's pad"))?;
        Ok(Recording {
            bin,
            tee_pad,
            file,
            stopping: false,
        })
    }

    /// Takes the branch off the tee and tells it that this is the end: the muxer then completes the file.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        // Between two frames, whichever thread that is in.
        self.tee_pad.add_probe(gst::PadProbeType::IDLE, |pad, _| {
            if let Some(peer) = pad.peer() {
                let _ = pad.unlink(&peer);
                peer.send_event(gst::event::Eos::new());
            }
            gst::PadProbeReturn::Remove
        });
    }

    /// Whether the message says that the file is complete.
    fn is_ended_by(&self, message: &gst::Message) -> bool {
        let forwarded = message
            .structure()
            .filter(|structure| structure.name() == "GstBinForwarded");
        let forwarded = forwarded.and_then(|structure| structure.get::<gst::Message>("message").ok());
        forwarded.is_some_and(|forwarded| {
            forwarded.type_() == gst::MessageType::Eos && forwarded.src() == Some(self.bin.upcast_ref())
        })
    }

    fn remove(self, pipeline: &gst::Pipeline, tee: &gst::Element) -> Result<()> {
        self.bin.set_state(gst::State::Null)?;
        pipeline.remove(&self.bin)?;
        tee.release_request_pad(&self.tee_pad);
        println!("wrote {}", self.file);
        Ok(())
    }
}
