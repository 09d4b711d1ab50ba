//! What a user can set: plain values with their defaults, and the properties that show them.

use gst::prelude::*;
use osdd::engine::{Device, EngineConfig};

use super::imp::Engine;

/// The arithmetic of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstOsddDeblurPrecision")]
pub enum Precision {
    #[default]
    #[enum_value(name = "Auto: bfloat16 where it is fast, else float32", nick = "auto")]
    Auto,
    #[enum_value(name = "32-bit floating point", nick = "fp32")]
    Fp32,
    #[enum_value(name = "bfloat16", nick = "bf16")]
    Bf16,
    #[enum_value(name = "16-bit floating point", nick = "fp16")]
    Fp16,
}

impl From<Precision> for osdd::engine::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto => Self::Auto,
            Precision::Fp32 => Self::Fp32,
            Precision::Bf16 => Self::Bf16,
            Precision::Fp16 => Self::Fp16,
        }
    }
}

/// How input and output are shown together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstOsddDeblurCompare")]
pub enum Compare {
    #[default]
    #[enum_value(name = "Off: only the output", nick = "off")]
    Off,
    #[enum_value(
        name = "Split: input left of compare-position, output right of it",
        nick = "split"
    )]
    Split,
    #[enum_value(
        name = "Side by side: input left, output right, twice as wide",
        nick = "side-by-side"
    )]
    SideBySide,
}

/// What happens to a frame that quality of service says is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstOsddDeblurLatePolicy")]
pub enum LatePolicy {
    #[default]
    #[enum_value(name = "Process: deblur it nevertheless", nick = "process")]
    Process,
    #[enum_value(name = "Passthrough: send it on as it came", nick = "passthrough")]
    Passthrough,
    #[enum_value(name = "Drop: leave it out", nick = "drop")]
    Drop,
}

/// The values of all properties that can be written.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub gamma: f64,
    pub model: String,
    pub device: String,
    pub precision: Precision,
    pub tile_size: i32,
    pub tile_overlap: i32,
    pub tile_batch: i32,
    pub reuse_threshold: f64,
    pub skip_sharp: f64,
    pub depth: i32,
    pub strength: f64,
    pub compare: Compare,
    pub compare_position: f64,
    pub compare_labels: bool,
    pub late_policy: LatePolicy,
    pub message_stats: bool,
}

impl Settings {
    /// Has a running engine work with what may change while it does.
    pub fn apply(&self, engine: &Engine) {
        engine.set_gamma(self.gamma);
        engine.set_strength(self.strength);
    }
}

impl Default for Settings {
    fn default() -> Self {
        let engine = EngineConfig::default();
        Self {
            gamma: engine.gamma,
            device: engine.device.to_string(),
            precision: Precision::default(),
            tile_size: engine.tile_size.map_or(-1, |size| size as i32),
            tile_overlap: engine.tile_overlap.map_or(-1, |overlap| overlap as i32),
            tile_batch: engine.tile_batch as i32,
            reuse_threshold: engine.reuse_threshold,
            skip_sharp: engine.skip_sharp,
            depth: engine.depth as i32,
            strength: engine.strength,
            compare: Compare::default(),
            compare_position: 0.5,
            compare_labels: true,
            late_policy: LatePolicy::default(),
            message_stats: false,
            model: engine.model,
        }
    }
}

impl Settings {
    /// What the engine is told at start.
    ///
    /// # Errors
    ///
    /// The device is not one of `auto`, `cpu` and `cuda:N`.
    pub fn engine_config(&self) -> osdd::Result<EngineConfig> {
        Ok(EngineConfig {
            model: self.model.clone(),
            device: self.device.parse::<Device>()?,
            precision: self.precision.into(),
            tile_size: usize::try_from(self.tile_size).ok(),
            tile_overlap: usize::try_from(self.tile_overlap).ok(),
            tile_batch: self.tile_batch as usize,
            reuse_threshold: self.reuse_threshold,
            skip_sharp: self.skip_sharp,
            depth: self.depth as usize,
            gamma: self.gamma,
            strength: self.strength,
        })
    }

    /// Takes over a property's new value; `stats` and names of others are left to the caller.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        // GObject has checked type and range against the property's specification.
        fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
            value
                .get::<'a>()
                .unwrap_or_else(|_| unreachable!("GObject checks the type of a property"))
        }
        let defaults = Self::default;
        match name {
            "gamma" => self.gamma = get(value),
            "model" => self.model = get::<Option<String>>(value).unwrap_or_else(|| defaults().model),
            "device" => self.device = get::<Option<String>>(value).unwrap_or_else(|| defaults().device),
            "precision" => self.precision = get(value),
            "tile-size" => self.tile_size = get(value),
            "tile-overlap" => self.tile_overlap = get(value),
            "tile-batch" => self.tile_batch = get(value),
            "reuse-threshold" => self.reuse_threshold = get(value),
            "skip-sharp" => self.skip_sharp = get(value),
            "depth" => self.depth = get(value),
            "strength" => self.strength = get(value),
            "compare" => self.compare = get(value),
            "compare-position" => self.compare_position = get(value),
            "compare-labels" => self.compare_labels = get(value),
            "late-policy" => self.late_policy = get(value),
            "message-stats" => self.message_stats = get(value),
            _ => unreachable!("GObject asks only for properties that are there"),
        }
    }

    /// A property's value.
    pub fn get(&self, name: &str) -> glib::Value {
        match name {
            "gamma" => self.gamma.to_value(),
            "model" => self.model.to_value(),
            "device" => self.device.to_value(),
            "precision" => self.precision.to_value(),
            "tile-size" => self.tile_size.to_value(),
            "tile-overlap" => self.tile_overlap.to_value(),
            "tile-batch" => self.tile_batch.to_value(),
            "reuse-threshold" => self.reuse_threshold.to_value(),
            "skip-sharp" => self.skip_sharp.to_value(),
            "depth" => self.depth.to_value(),
            "strength" => self.strength.to_value(),
            "compare" => self.compare.to_value(),
            "compare-position" => self.compare_position.to_value(),
            "compare-labels" => self.compare_labels.to_value(),
            "late-policy" => self.late_policy.to_value(),
            "message-stats" => self.message_stats.to_value(),
            _ => unreachable!("GObject asks only for properties that are there"),
        }
    }
}

/// The properties, in the order in which `gst-inspect-1.0` prints equals.
pub(crate) fn properties() -> Vec<glib::ParamSpec> {
    let defaults = Settings::default();
    vec![
        glib::ParamSpecDouble::builder("gamma")
            .nick("Gamma")
            .blurb("1 = true to the input, lower = more generated detail; a frame is made with one value")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(defaults.gamma)
            .controllable()
            .mutable_playing()
            .build(),
        glib::ParamSpecString::builder("model")
            .nick("Model")
            .blurb("Name of a preset, or a folder with a model")
            .default_value(Some(defaults.model.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("device")
            .nick("Device")
            .blurb("Where the model runs: auto, cpu, cuda or cuda:N")
            .default_value(Some(defaults.device.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("precision", defaults.precision)
            .nick("Precision")
            .blurb("Arithmetic of the model")
            .mutable_ready()
            .build(),
        glib::ParamSpecInt::builder("tile-size")
            .nick("Tile size")
            .blurb("Largest edge of a tile in pixels, a multiple of 64 (0 = the whole frame as one tile, -1 = chosen by the engine)")
            .minimum(-1)
            .maximum(8192)
            .default_value(defaults.tile_size)
            .mutable_ready()
            .build(),
        glib::ParamSpecInt::builder("tile-overlap")
            .nick("Tile overlap")
            .blurb("Pixels that neighbouring tiles share and blend; of small tiles half their edge at most (-1 = what the model asks for)")
            .minimum(-1)
            .maximum(4096)
            .default_value(defaults.tile_overlap)
            .mutable_ready()
            .build(),
        glib::ParamSpecInt::builder("tile-batch")
            .nick("Tile batch")
            .blurb("Tiles that run at once (0 = chosen by the engine)")
            .minimum(0)
            .maximum(256)
            .default_value(defaults.tile_batch)
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("reuse-threshold")
            .nick("Reuse threshold")
            .blurb("Show a tile again while no sample of it changes by more than this, in levels of 255 (0 = never)")
            .minimum(0.0)
            .maximum(255.0)
            .default_value(defaults.reuse_threshold)
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("skip-sharp")
            .nick("Skip sharp tiles")
            .blurb("Show the input where the blur of a tile, 0 (sharp) to 1, is less than this (0 = nowhere)")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(defaults.skip_sharp)
            .mutable_ready()
            .build(),
        glib::ParamSpecInt::builder("depth")
            .nick("Depth")
            .blurb("Frames in flight: 1 = lowest latency, 2 or more = the model works while frames come and go")
            .minimum(1)
            .maximum(16)
            .default_value(defaults.depth)
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("strength")
            .nick("Strength")
            .blurb("Mix of output and input: 1 = the model's output, 0 = the input, bit for bit")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(defaults.strength)
            .controllable()
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("compare", defaults.compare)
            .nick("Compare")
            .blurb("Show input and output together")
            .mutable_playing()
            .build(),
        glib::ParamSpecDouble::builder("compare-position")
            .nick("Compare position")
            .blurb("Where split parts the picture, from the left: 0 = only the output, 1 = only the input")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(defaults.compare_position)
            .controllable()
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("compare-labels")
            .nick("Compare labels")
            .blurb("Write BEFORE and AFTER into compared pictures, where there is room")
            .default_value(defaults.compare_labels)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("late-policy", defaults.late_policy)
            .nick("Late policy")
            .blurb("What happens to a frame that is late: by QoS, or on a live source that the model cannot follow")
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("message-stats")
            .nick("Message statistics")
            .blurb("Post the statistics as an element message every second, and at the end of the stream")
            .default_value(defaults.message_stats)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Frames in, out, late, passed and dropped; mean time per stage in ns; tiles; device, model, gamma")
            .read_only()
            .build(),
    ]
}
