//! In which arithmetic a model runs on a device.

use tch::Kind;

use crate::Result;
use crate::config::ModelConfig;
use crate::device::{Device, Precision};
use crate::nn::{BlockKind, NormKind, Products, cpu_lanes};

/// What a precision means for a model on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Never [`Precision::Auto`].
    pub precision: Precision,
    /// Of parameters and feature maps.
    pub kind: Kind,
    /// Of layers that are fused for the CPU.
    pub products: Products,
    /// Whether nearly all of the model's work is done by such layers.
    pub fused: bool,
    /// Whether large tiles are the best: the layers need little memory, and no statistics of the tile.
    pub large_tiles: bool,
}

impl Arithmetic {
    /// `precision` for a model on `device`, which is not [`Device::Auto`]. A model that is fused for the CPU takes bf16 for its
    /// products alone, and only where the CPU multiplies that faster; then [`Precision::Auto`] is that too.
    ///
    /// # Errors
    /// fp16 on a CPU.
    pub fn new(config: &ModelConfig, device: Device, precision: Precision) -> Result<Self> {
        let fusable = device == Device::Cpu && can_be_fused(config);
        let fast = fusable && Products::Bfloat16.are_fast();
        if fast && matches!(precision, Precision::Auto | Precision::Bf16) {
            return Ok(Arithmetic {
                precision: Precision::Bf16,
                kind: Kind::Float,
                products: Products::Bfloat16,
                fused: true,
                large_tiles: true,
            });
        }
        let (precision, kind) = precision.resolve(device)?;
        let fused = fusable && kind == Kind::Float;
        Ok(Arithmetic {
            precision,
            kind,
            products: Products::Float32,
            fused,
            large_tiles: fused || device != Device::Cpu && is_local(config),
        })
    }
}

/// Whether a model is made of gated blocks, each pixel normalised by itself and none attending to others.
fn is_local(config: &ModelConfig) -> bool {
    let (vae, unet) = (&config.vae, &config.unet);
    let gated = [vae.block, unet.block] == [BlockKind::Gated; 2];
    let channel = [vae.norm, unet.norm] == [NormKind::Channel; 2];
    gated && channel && !vae.mid_attention && !unet.self_attention
}

/// Whether nearly all of such a model's layers have fused ones for this CPU.
fn can_be_fused(config: &ModelConfig) -> bool {
    let (vae, unet) = (&config.vae, &config.unet);
    let attention = unet.cross_attention.contains(&true);
    let widths = vae.block_out_channels.iter().chain(&unet.block_out_channels);
    let mut widths = widths.chain([&vae.latent_channels]);
    let whole = cpu_lanes().is_some_and(|lanes| widths.all(|width| width % lanes as i64 == 0));
    // Without patches the first and last layer, three channels wide at full size, have none.
    is_local(config) && unet.time_embed_dim == 0 && !attention && whole && vae.patch_size > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_is_fused_for_the_cpu_and_auto_takes_what_is_fast() {
        let config = crate::weights::load_config("nano").unwrap();
        let on = |device, precision| Arithmetic::new(&config, device, precision).unwrap();
        let exact = on(Device::Cpu, Precision::Fp32);
        assert_eq!((exact.precision, exact.kind), (Precision::Fp32, Kind::Float));
        assert_eq!(
            (exact.products, exact.fused),
            (Products::Float32, cpu_lanes().is_some())
        );
        let auto = on(Device::Cpu, Precision::Auto);
        match exact.fused && Products::Bfloat16.are_fast() {
            true => assert_eq!(auto, on(Device::Cpu, Precision::Bf16)),
            false => assert_eq!(auto, exact),
        }
        assert_eq!(auto.kind, Kind::Float);
        let gpu = on(Device::Cuda(0), Precision::Auto);
        assert_eq!((gpu.precision, gpu.kind), (Precision::Bf16, Kind::BFloat16));
        assert!(!gpu.fused && gpu.large_tiles && exact.large_tiles == exact.fused);
    }
}
