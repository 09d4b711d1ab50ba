//! What a model costs, from the shapes of its parameters alone.

use super::parameter_shapes;
use crate::Result;
use crate::config::ModelConfig;
use crate::nn::BlockKind;

/// Floating-point operations per pixel of the image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operations {
    /// Of convolutions and linear layers that see all channels.
    pub dense: f64,
    /// Of convolutions that see one channel each.
    pub depthwise: f64,
}

impl Operations {
    pub fn total(self) -> f64 {
        self.dense + self.depthwise
    }
}

/// What one pass takes: two operations for each multiplication with a weight. Norms, activations, and what attention does
/// between its weights are left out; they are few beside the convolutions, as is the time embedding, which is there once an
/// image.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn operations_per_pixel(config: &ModelConfig) -> Result<Operations> {
    let shapes = parameter_shapes(config)?;
    let mut sum = Operations::default();
    for (name, shape) in shapes.iter().filter(|(_, shape)| shape.len() > 1) {
        let module = name.strip_suffix(".weight");
        let Some(halvings) = module.and_then(|module| halvings(module, config)) else {
            continue;
        };
        let pixels = (config.vae.patch_size << halvings) as f64;
        let operations = 2.0 * shape.iter().product::<i64>() as f64 / (pixels * pixels);
        match shape[..] {
            [outputs, 1, _, _] if outputs > 1 => sum.depthwise += operations,
            _ => sum.dense += operations,
        }
    }
    Ok(sum)
}

/// How often the image has been halved where a module works, the folding of pixels into channels not counted. None for what
/// does not work on the image.
fn halvings(module: &str, config: &ModelConfig) -> Option<usize> {
    let (vae_last, unet_last) = (
        config.vae.block_out_channels.len() - 1,
        config.unet.block_out_channels.len() - 1,
    );
    let parts: Vec<&str> = module.split('.').collect();
    let number = |i: usize| parts.get(i).and_then(|part| part.parse::<usize>().ok());
    // A 3x3 convolution works after nearest neighbours have doubled the size, a 1x1 convolution before its shuffle does.
    let up = |last: usize, level: usize, block: BlockKind| match (parts.contains(&"upsamplers"), block) {
        (true, BlockKind::Resnet) => last - level - 1,
        _ => last - level,
    };
    let down = |level: usize| level + usize::from(parts.contains(&"downsamplers"));
    match parts[..] {
        ["unet", "time_embedding", ..] | ["prompt", ..] => None,
        ["unet", .., "time_emb_proj"] | ["unet", .., "attn2", "to_k" | "to_v"] => None,
        ["unet", "down_blocks", ..] => Some(vae_last + down(number(2)?)),
        ["unet", "mid_block", ..] => Some(vae_last + unet_last),
        ["unet", "up_blocks", ..] => Some(vae_last + up(unet_last, number(2)?, config.unet.block)),
        ["unet", ..] => Some(vae_last),
        ["vae", "encoder", "conv_in"] | ["vae", "decoder", "conv_out"] => Some(0),
        ["vae", "encoder", "down_blocks", ..] => Some(down(number(3)?)),
        ["vae", "decoder", "up_blocks", ..] => Some(up(vae_last, number(3)?, config.vae.block)),
        ["vae", "skip_blocks", ..] => number(2),
        ["vae", ..] => Some(vae_last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stable Diffusion 2.1's UNet and autoencoder take 4.48 TFLOP at 512x512 with the products of attention, which are not
    /// counted here.
    #[test]
    fn the_presets_cost_what_they_are_meant_to() {
        let gflop = |preset: &str, side: f64| {
            let path = format!("{}/models/{preset}/config.json", env!("CARGO_MANIFEST_DIR"));
            let config = ModelConfig::from_json(&std::fs::read_to_string(path).unwrap(), preset).unwrap();
            operations_per_pixel(&config).unwrap().total() * side * side / 1e9
        };
        let nano = gflop("nano", 256.0);
        assert!((1.0..=3.0).contains(&nano), "{nano}");
        let small = gflop("small", 256.0);
        assert!((20.0..=40.0).contains(&small), "{small}");
        let plain_sd21 = gflop("sd21/variants/plain_vae", 512.0);
        assert!((4200.0..=4600.0).contains(&plain_sd21), "{plain_sd21}");
    }
}
