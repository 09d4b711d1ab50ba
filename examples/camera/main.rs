//! A camera in a window: change gamma, compare with the input, and record an MP4 while you look.
//!
//! ```text
//! cargo run --release --example camera -- [--test | --source SOURCE] [--sink SINK]
//! ```
//!
//! In the window are a slider for gamma, a switch to compare and a button to record; a click into the picture moves the
//! line of the comparison. Keys there, or letters and Enter at the terminal, do the same: `+` and `-` change gamma, `c`
//! compares, `r` records and stops recording, `q` quits. The window is the sink's own, and what is in it is drawn into the
//! video, so that nothing but GStreamer is needed. Without a source it is the first camera; any elements that make raw
//! video will do, as in `--source "v4l2src device=/dev/video1"`.
//!
//! GStreamer must find the plugin: `make install`, or GST_PLUGIN_PATH=target/release.

mod controls;
mod recording;

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

use controls::{Controls, Place, Shown};
use recording::Recording;

/// The test picture is small enough for the default model on a CPU.
const TEST: &str = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1";

/// What the user wants.
enum Command {
    Key(char),
    /// A click, or the mouse drawn with its button down.
    Mouse(Place),
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

/// Key presses and the mouse come up from the window as navigation events.
fn listen_to_window(deblur: &gst::Element, commands: Sender<Command>) {
    let pad = deblur.static_pad("src").expect("a filter has a source pad");
    let mut dragged = None;
    let mut command = move |pad: &gst::Pad, structure: &gst::StructureRef| {
        let mouse = || {
            let controls = Controls::of(&pad.current_caps()?)?;
            let at = |name| structure.get::<f64>(name).ok();
            Some((controls, at("pointer_x")?, at("pointer_y")?))
        };
        match structure.get::<&str>("event").ok()? {
            "key-press" => match structure.get::<&str>("key").ok()? {
                "plus" | "KP_Add" | "Up" => Some(Command::Key('+')),
                "minus" | "KP_Subtract" | "Down" => Some(Command::Key('-')),
                key => key.chars().next().filter(|_| key.len() == 1).map(Command::Key),
            },
            "mouse-button-press" => {
                let (controls, x, y) = mouse()?;
                let place = controls.place(x, y);
                dragged = Some(place);
                Some(Command::Mouse(place))
            }
            "mouse-move" => {
                let (controls, x, _) = mouse()?;
                controls.drag(dragged?, x).map(Command::Mouse)
            }
            "mouse-button-release" => {
                dragged = None;
                None
            }
            _ => None,
        }
    };
    let listener = std::sync::Mutex::new(move |pad: &gst::Pad, structure: &gst::StructureRef| {
        // Nobody listens any more once the program ends.
        let _ = command(pad, structure).map(|command| commands.send(command));
    });
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |pad, probe| {
        let structure = probe.event().and_then(|event| event.structure());
        if let Some(structure) = structure.filter(|s| s.name() == "application/x-gst-navigation") {
            listener.lock().expect("nothing panics under it")(pad, structure);
        }
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
    overlay: gst::Element,
}

impl Camera {
    fn new(source: &str, sink: &str) -> Result<Self> {
        // Both branches of the tee show what the element makes; only the window has the controls. A model that is too
        // slow lets frames pass, so that the camera never waits. The format is one that encoders take: a recording that begins
        // must not change it.
        let launch = format!(
            "{source} ! videoconvert ! videoscale ! video/x-raw,format=I420,width=[1,640] ! queue leaky=downstream max-size-buffers=2 \
             ! osdddeblur name=deblur depth=1 late-policy=passthrough ! tee name=tee \
             ! queue ! videoconvert ! rsvgoverlay name=controls ! videoconvert ! {sink}"
        );
        let pipeline =
            gst::parse::launch(&launch).context("cannot build the pipeline; is the plugin installed?")?;
        let pipeline = pipeline
            .downcast::<gst::Pipeline>()
            .expect("several elements make a pipeline");
        let element = |name| pipeline.by_name(name).expect("the launch line names it");
        let (deblur, tee, overlay) = (element("deblur"), element("tee"), element("controls"));
        // The end of a recording is an end of the stream in one branch; without this only the end of all is told.
        pipeline.set_property("message-forward", true);
        Ok(Camera {
            pipeline,
            deblur,
            tee,
            overlay,
        })
    }

    /// Plays until the user quits or something fails.
    fn run(&self, commands: &Receiver<Command>) -> Result<()> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        // Where the state change fails, the message that says why is on the bus.
        let _ = self.pipeline.set_state(gst::State::Playing);
        let (mut recording, mut quitting) = (None, false);
        let mut shown = None;
        while !quitting || recording.is_some() {
            for command in commands.try_iter() {
                match command {
                    Command::Mouse(Place::Gamma(gamma)) => self.deblur.set_property("gamma", gamma),
                    Command::Mouse(Place::Picture(line)) => {
                        self.deblur.set_property("compare-position", line)
                    }
                    Command::Mouse(Place::Compare) => self.switch_compare(),
                    Command::Mouse(Place::Record) => self.switch_recording(&mut recording),
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
            self.show_controls(recording.is_some(), &mut shown);
            let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(50)) else {
                continue;
            };
            if let Some(written) = recording.take_if(|recording| recording.is_ended_by(&message)) {
                written.remove(&self.pipeline, &self.tee)?;
            }
            match message.view() {
                gst::MessageView::Error(error) => match &recording {
                    Some(recording) if recording.is_source_of(&message) => {
                        bail!("recording into {}: {}", recording.file(), error.error())
                    }
                    _ => bail!("{}", error.error()),
                },
                gst::MessageView::Warning(warning) => eprintln!("camera: warning: {}", warning.error()),
                gst::MessageView::Latency(_) => self.pipeline.recalculate_latency()?,
                gst::MessageView::Eos(_) => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Draws the controls anew where they have changed.
    fn show_controls(&self, recording: bool, shown: &mut Option<(Controls, Shown)>) {
        let pad = self.deblur.static_pad("src").expect("a filter has a source pad");
        let Some(controls) = pad.current_caps().and_then(|caps| Controls::of(&caps)) else {
            return;
        };
        let now = Shown {
            gamma: self.deblur.property("gamma"),
            comparing: self.compares(),
            recording,
        };
        if shown.replace((controls, now)) != Some((controls, now)) {
            self.overlay.set_property("data", controls.draw(now));
        }
    }

    fn compares(&self) -> bool {
        let compare = self.deblur.property_value("compare");
        gst::glib::EnumValue::from_value(&compare).is_some_and(|(_, value)| value.nick() != "off")
    }

    fn change_gamma(&self, step: f64) {
        let gamma = self.deblur.property::<f64>("gamma") + step;
        self.deblur.set_property("gamma", gamma.clamp(0.0, 1.0));
    }

    /// Off or split. Side by side would change the size of the frames, which the file could not follow.
    fn switch_compare(&self) {
        let compare = if self.compares() { "off" } else { "split" };
        self.deblur.set_property_from_str("compare", compare);
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
