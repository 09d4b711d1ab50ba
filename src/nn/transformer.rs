//! The transformer of the UNet: self-attention, cross-attention to the prompt, feed-forward.

use tch::Tensor;

use super::{Attention, ImageNorm, LayerNorm, Linear, NormKind, Params};
use crate::Result;

/// Gated GELU feed-forward: `ff.net.0.proj` to two times `inner`, `ff.net.2` back.
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn new(p: &Params, channels: i64, inner: i64) -> Result<Self> {
        Ok(FeedForward {
            proj: Linear::new(&p.pp("net.0.proj"), channels, inner * 2, true)?,
            out: Linear::new(&p.pp("net.2"), inner, channels, true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let halves = self.proj.forward(x).chunk(2, -1);
        self.out.forward(&(&halves[0] * halves[1].gelu("none")))
    }
}

struct BasicTransformerBlock {
    /// `norm1` and `attn1`; absent where the receptive field must stay bounded.
    self_attention: Option<(LayerNorm, Attention)>,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

/// Widths of a [`Transformer2DModel`].
#[derive(Clone, Copy)]
pub struct TransformerShape {
    pub channels: i64,
    pub context_channels: i64,
    pub heads: i64,
    pub self_attention: bool,
    /// Inner width of the feed-forward, in multiples of `channels` (diffusers: 4).
    pub ff_mult: i64,
    pub norm: NormKind,
}

impl BasicTransformerBlock {
    fn new(p: &Params, shape: TransformerShape) -> Result<Self> {
        let (c, heads) = (shape.channels, shape.heads);
        Ok(BasicTransformerBlock {
            self_attention: if shape.self_attention {
                let attn1 = Attention::new(&p.pp("attn1"), c, c, heads, false)?;
                Some((LayerNorm::new(&p.pp("norm1"), c)?, attn1))
            } else {
                None
            },
            norm2: LayerNorm::new(&p.pp("norm2"), c)?,
            attn2: Attention::new(&p.pp("attn2"), c, shape.context_channels, heads, false)?,
            norm3: LayerNorm::new(&p.pp("norm3"), c)?,
            ff: FeedForward::new(&p.pp("ff"), c, c * shape.ff_mult)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &[Tensor; 2]) -> Tensor {
        let mut x = x.shallow_clone();
        if let Some((norm1, attn1)) = &self.self_attention {
            let tokens = norm1.forward(&x);
            x = &x + attn1.forward(&tokens, &attn1.context(&tokens));
        }
        x = &x + self.attn2.forward(&self.norm2.forward(&x), context);
        &x + self.ff.forward(&self.norm3.forward(&x))
    }
}

/// Normalise, project, one transformer block over the pixels as tokens, project back, add (linear projections).
pub struct Transformer2DModel {
    norm: ImageNorm,
    proj_in: Linear,
    block: BasicTransformerBlock,
    proj_out: Linear,
}

impl Transformer2DModel {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, shape: TransformerShape) -> Result<Self> {
        let c = shape.channels;
        Ok(Transformer2DModel {
            norm: ImageNorm::new(&p.pp("norm"), shape.norm, c, 1e-6)?,
            proj_in: Linear::new(&p.pp("proj_in"), c, c, true)?,
            block: BasicTransformerBlock::new(&p.pp("transformer_blocks.0"), shape)?,
            proj_out: Linear::new(&p.pp("proj_out"), c, c, true)?,
        })
    }

    /// Keys and values of the `prompt` `[1, M, C_context]`: the same for every image.
    pub fn context(&self, prompt: &Tensor) -> [Tensor; 2] {
        self.block.attn2.context(prompt)
    }

    /// `x` `[B, C, H, W]`, `context` from [`Transformer2DModel::context`]; gives `[B, C, H, W]`.
    pub fn forward(&self, x: &Tensor, context: &[Tensor; 2]) -> Tensor {
        let (b, c, h, w) = x.size4().expect("a feature map has four dimensions");
        let tokens = self.norm.forward(x).permute([0, 2, 3, 1]).reshape([b, h * w, c]);
        let tokens = self.block.forward(&self.proj_in.forward(&tokens), context);
        let y = self.proj_out.forward(&tokens).view([b, h, w, c]);
        x + y.permute([0, 3, 1, 2])
    }
}
