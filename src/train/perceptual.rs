//! The perceptual term: LPIPS or DISTS, also between edges (EA-DISTS; paper, section 3.4).

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{PerceptualConfig, PerceptualNetwork};
use crate::metrics::{Dists, Lpips, Sobel};
use crate::{Error, Result};

/// A network and how its distance is used.
pub(super) struct Perceptual {
    config: PerceptualConfig,
    network: Network,
    sobel: Sobel,
}

enum Network {
    Lpips(Lpips),
    Dists(Dists),
}

impl Perceptual {
    /// Reads the network's file from the folder `metrics`.
    ///
    /// # Errors
    /// A file that is missing or broken.
    pub fn open(config: PerceptualConfig, metrics: &Path, device: Device) -> Result<Self> {
        let path = metrics.join(config.network.file_name());
        if !path.is_file() {
            return Err(Error::Train(format!(
                "the perceptual loss needs {}; scripts/convert_metrics.py makes it",
                path.display()
            )));
        }
        let network = match config.network {
            PerceptualNetwork::Dists => Network::Dists(Dists::open_on(&path, device)?),
            _ => Network::Lpips(Lpips::open_on(&path, device)?),
        };
        Ok(Perceptual {
            config,
            network,
            sobel: Sobel::new(device),
        })
    }

    pub fn config(&self) -> &PerceptualConfig {
        &self.config
    }

    /// Mean distance of a batch, both `[B, 3, H, W]` in [0, 1].
    pub fn distance(&self, output: &Tensor, truth: &Tensor) -> Tensor {
        let mut distance = self.features(output, truth);
        if self.config.edge_aware {
            distance += self.features(&self.sobel.magnitude(output), &self.sobel.magnitude(truth));
        }
        distance.mean(Kind::Float)
    }

    fn features(&self, output: &Tensor, truth: &Tensor) -> Tensor {
        match &self.network {
            Network::Lpips(lpips) => lpips.forward(output, truth),
            Network::Dists(dists) => dists.forward(output, truth),
        }
    }
}
