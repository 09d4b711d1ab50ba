//! Attention layers.

use tch::Tensor;

use super::{ImageNorm, Linear, NormKind, Params};
use crate::Result;

/// Multi-head attention of tokens on themselves or on a context.
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    /// Queries of `channels`, keys and values of `context_channels`, all projected to `channels`; `bias` on q, k and v.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, channels: i64, context_channels: i64, heads: i64, bias: bool) -> Result<Self> {
        Ok(Attention {
            to_q: Linear::new(&p.pp("to_q"), channels, channels, bias)?,
            to_k: Linear::new(&p.pp("to_k"), context_channels, channels, bias)?,
            to_v: Linear::new(&p.pp("to_v"), context_channels, channels, bias)?,
            to_out: Linear::new(&p.pp("to_out.0"), channels, channels, true)?,
            heads,
        })
    }

    /// Keys and values of `tokens` `[B or 1, M, C_context]`, to be attended to: `[B or 1, heads, M, C / heads]` each.
    pub fn context(&self, tokens: &Tensor) -> [Tensor; 2] {
        [&self.to_k, &self.to_v].map(|layer| self.split(layer.forward(tokens)))
    }

    /// `x` `[B, N, C]`, `context` from [`Attention::context`]; gives `[B, N, C]`.
    pub fn forward(&self, x: &Tensor, context: &[Tensor; 2]) -> Tensor {
        let q = self.split(self.to_q.forward(x));
        let [k, v] = context
            .each_ref()
            .map(|t| t.expand([x.size()[0], -1, -1, -1], false));
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false);
        self.to_out.forward(&y.transpose(1, 2).flatten(2, 3))
    }

    /// Tokens `[B, N, C]` head by head.
    fn split(&self, t: Tensor) -> Tensor {
        let (b, n, c) = t.size3().expect("tokens have three dimensions");
        t.view([b, n, self.heads, c / self.heads]).transpose(1, 2)
    }
}

/// Single-head self-attention over all pixels, in the middle of the autoencoder.
pub struct AttnBlock {
    group_norm: ImageNorm,
    attention: Attention,
}

impl AttnBlock {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, channels: i64, norm: NormKind, eps: f64) -> Result<Self> {
        Ok(AttnBlock {
            group_norm: ImageNorm::new(&p.pp("group_norm"), norm, channels, eps)?,
            attention: Attention::new(p, channels, channels, 1, true)?,
        })
    }

    /// `[B, C, H, W]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let tokens = self.group_norm.forward(x).flatten(2, 3).transpose(1, 2);
        let y = self.attention.forward(&tokens, &self.attention.context(&tokens));
        x + y.transpose(1, 2).reshape(x.size())
    }
}
