//! The metrics: what they are called, which way is better, and how they are computed.

use clap::ValueEnum;
use serde::Serialize;

/// A metric of osdd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metric {
    /// Peak signal-to-noise ratio
    Psnr,
    /// Structural similarity
    Ssim,
    /// LPIPS on AlexNet
    LpipsAlex,
    /// LPIPS on VGG16
    LpipsVgg,
    /// LPIPS on SqueezeNet 1.1
    LpipsSqueeze,
    /// DISTS
    Dists,
    /// NIQE, which needs no truth
    Niqe,
    /// Mean difference of neighbouring pixels: how sharp it looks, needs no truth
    Gradient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// A column of the tables.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Column {
    /// Its name in JSON.
    pub key: String,
    /// Its name for people.
    pub name: String,
    pub unit: &'static str,
    /// `None`: a description, neither good nor bad.
    pub better: Option<Better>,
    pub needs_truth: bool,
    #[serde(skip)]
    pub digits: usize,
    /// With its sign, as a difference.
    #[serde(skip)]
    pub signed: bool,
}

impl Column {
    pub fn new(key: &str, name: &str, better: Option<Better>, needs_truth: bool, digits: usize) -> Self {
        Self {
            key: key.to_owned(),
            name: name.to_owned(),
            unit: "",
            better,
            needs_truth,
            digits,
            signed: false,
        }
    }

    /// The metric's PSNR above that of the input: no metric of its own, and the first thing that one looks for.
    pub fn gain() -> Self {
        Self {
            unit: "dB",
            signed: true,
            ..Self::new("gain", "gain", Some(Better::Higher), true, 2)
        }
    }

    /// A figure as people read it, without its unit; "-" where there is none.
    pub fn format(&self, value: Option<f64>) -> String {
        let digits = self.digits;
        match value {
            None => "-".to_owned(),
            Some(value) if value.is_infinite() => "inf".to_owned(),
            Some(value) if self.signed => format!("{:+.digits$}", value),
            Some(value) => format!("{:.digits$}", value),
        }
    }

    /// Which way is better, as an arrow.
    pub fn arrow(&self) -> &'static str {
        match self.better {
            Some(Better::Higher) => "↑",
            Some(Better::Lower) => "↓",
            None => "",
        }
    }
}

impl Metric {
    pub(super) const ALL: [Self; 8] = [
        Self::Psnr,
        Self::Ssim,
        Self::LpipsAlex,
        Self::LpipsVgg,
        Self::LpipsSqueeze,
        Self::Dists,
        Self::Niqe,
        Self::Gradient,
    ];

    pub(super) fn column(self) -> Column {
        use Better::{Higher, Lower};
        match self {
            Self::Psnr => Column {
                unit: "dB",
                ..Column::new("psnr", "PSNR", Some(Higher), true, 2)
            },
            Self::Ssim => Column::new("ssim", "SSIM", Some(Higher), true, 4),
            Self::LpipsAlex => Column::new("lpips_alex", "LPIPS alex", Some(Lower), true, 4),
            Self::LpipsVgg => Column::new("lpips_vgg", "LPIPS vgg", Some(Lower), true, 4),
            Self::LpipsSqueeze => Column::new("lpips_squeeze", "LPIPS squeeze", Some(Lower), true, 4),
            Self::Dists => Column::new("dists", "DISTS", Some(Lower), true, 4),
            Self::Niqe => Column::new("niqe", "NIQE", Some(Lower), false, 2),
            Self::Gradient => Column {
                unit: "1/1000",
                ..Column::new("gradient", "gradient", None, false, 2)
            },
        }
    }

    /// The file with its weights, for a metric that needs some.
    pub(super) fn weights(self) -> Option<&'static str> {
        match self {
            Self::LpipsAlex => Some("lpips_alex.safetensors"),
            Self::LpipsVgg => Some("lpips_vgg.safetensors"),
            Self::LpipsSqueeze => Some("lpips_squeeze.safetensors"),
            Self::Dists => Some("dists.safetensors"),
            _ => None,
        }
    }
}
