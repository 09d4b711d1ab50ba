"""`nano` and `small`, models of gated blocks, in plain PyTorch; diffusers has no such block."""

import torch
from torch import nn
from torch.nn import functional as F

from reference_step import one_step


class GatedModel(nn.Module):
    """A model of gated blocks, from its configuration and named tensors. [1, 3, H, W] in [-1, 1], sides multiples of 32."""

    def __init__(self, config: dict, tensors: dict[str, torch.Tensor]):
        super().__init__()
        self.config = config
        self.names = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            self.register_buffer(self.names[name], tensor.contiguous(memory_format=layout))

    def t(self, name: str) -> torch.Tensor | None:
        return getattr(self, self.names[name]) if name in self.names else None

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.t(f"{name}.weight")
        padding = weight.shape[2] // 2 if stride == 1 else 0
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, self.t(f"{name}.bias"), stride, padding, 1, groups)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.t(f"{name}.weight"), self.t(f"{name}.bias"))

    def tokens_norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.t(f"{name}.weight"), self.t(f"{name}.bias"), eps)

    def norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return self.tokens_norm(name, x.permute(0, 2, 3, 1), eps).permute(0, 3, 1, 2)

    def block(self, name: str, x: torch.Tensor, eps: float, skip: torch.Tensor | None = None) -> torch.Tensor:
        x = x if skip is None else torch.cat([x, skip], 1)
        if f"{name}.conv_shortcut.weight" in self.names:
            x = self.conv(f"{name}.conv_shortcut", x)
        h = self.conv(f"{name}.conv_dw", self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x, eps)))
        x = x + self.conv(f"{name}.conv2", gate(h))
        h = self.conv(f"{name}.ff.net.0.proj", self.norm(f"{name}.norm2", x, eps))
        return x + self.conv(f"{name}.ff.net.2", gate(h))

    def attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        heads = self.config["unet"]["num_attention_heads"][-1]
        b, c, h, w = x.shape
        tokens = self.norm(f"{name}.norm", x, 1e-6).permute(0, 2, 3, 1).reshape(b, h * w, c)
        tokens = self.linear(f"{name}.proj_in", tokens)
        inner = f"{name}.transformer_blocks.0"

        def split(t: torch.Tensor) -> torch.Tensor:
            return t.view(1, t.shape[1], heads, c // heads).transpose(1, 2)

        prompt = self.t("prompt.embedding")
        q = split(self.linear(f"{inner}.attn2.to_q", self.tokens_norm(f"{inner}.norm2", tokens, 1e-5)))
        k, v = split(self.linear(f"{inner}.attn2.to_k", prompt)), split(self.linear(f"{inner}.attn2.to_v", prompt))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.linear(f"{inner}.attn2.to_out.0", y)
        value, gated = self.linear(f"{inner}.ff.net.0.proj", self.tokens_norm(f"{inner}.norm3", tokens, 1e-5)).chunk(2, -1)
        tokens = tokens + self.linear(f"{inner}.ff.net.2", value * F.gelu(gated))
        return x + self.linear(f"{name}.proj_out", tokens).view(b, h, w, c).permute(0, 3, 1, 2)

    def up(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return unpatchify(self.conv(f"{name}.upsamplers.0.conv", x), 2)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        vae, e = self.config["vae"], "vae.encoder"
        h = self.conv(f"{e}.conv_in", patchify(x, vae["patch_size"]))
        skips = []
        for level in range(len(vae["block_out_channels"])):
            for i in range(layers(vae["layers_per_block"], level)):
                h = self.block(f"{e}.down_blocks.{level}.resnets.{i}", h, 1e-6)
            skips.append(self.conv(f"vae.skip_blocks.{level}.conv1", h))
            if f"{e}.down_blocks.{level}.downsamplers.0.conv.weight" in self.names:
                h = self.conv(f"{e}.down_blocks.{level}.downsamplers.0.conv", h, stride=2)
        moments = self.conv(f"{e}.conv_out", F.silu(self.norm(f"{e}.conv_norm_out", h, 1e-6)))
        return self.conv("vae.quant_conv", moments).chunk(2, 1)[0] * vae["scaling_factor"], skips

    def decode(self, z: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        vae, d = self.config["vae"], "vae.decoder"
        h = self.conv(f"{d}.conv_in", self.conv("vae.post_quant_conv", z / vae["scaling_factor"]))
        levels = len(vae["block_out_channels"])
        for i in range(levels):
            h = h + skips.pop()
            for j in range(layers(vae["decoder_layers_per_block"], levels - 1 - i)):
                h = self.block(f"{d}.up_blocks.{i}.resnets.{j}", h, 1e-6)
            if f"{d}.up_blocks.{i}.upsamplers.0.conv.weight" in self.names:
                h = self.up(f"{d}.up_blocks.{i}", h)
        h = self.conv(f"{d}.conv_out", F.silu(self.norm(f"{d}.conv_norm_out", h, 1e-6)))
        return unpatchify(h, vae["patch_size"])

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        unet = self.config["unet"]
        levels, count = len(unet["block_out_channels"]), unet["layers_per_block"]
        h = self.conv("unet.conv_in", z)
        residuals = [h]
        for level in range(levels):
            for i in range(count):
                h = self.block(f"unet.down_blocks.{level}.resnets.{i}", h, 1e-5)
                residuals.append(h)
            if level + 1 < levels:
                h = self.conv(f"unet.down_blocks.{level}.downsamplers.0.conv", h, stride=2)
                residuals.append(h)
        h = self.block("unet.mid_block.resnets.0", h, 1e-5)
        h = self.attention("unet.mid_block.attentions.0", h)
        h = self.block("unet.mid_block.resnets.1", h, 1e-5)
        for i in range(levels):
            for j in range(count + 1):
                h = self.block(f"unet.up_blocks.{i}.resnets.{j}", h, 1e-5, residuals.pop())
            if i + 1 < levels:
                h = self.up(f"unet.up_blocks.{i}", h)
        return self.conv("unet.conv_out", F.silu(self.norm("unet.conv_norm_out", h, 1e-5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, skips = self.encode(x)
        return x + self.decode(one_step(z, self.noise(z), self.config["scheduler"]), skips)


def layers(per_block: int | list[int], level: int) -> int:
    return per_block if isinstance(per_block, int) else per_block[level]


def gate(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, 1)
    return first * second


def patchify(x: torch.Tensor, patch: int) -> torch.Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // patch, patch, w // patch, patch).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, patch * patch * c, h // patch, w // patch).contiguous(memory_format=torch.channels_last)


def unpatchify(x: torch.Tensor, patch: int) -> torch.Tensor:
    b, c, h, w = x.shape
    c = c // (patch * patch)
    return x.view(b, patch, patch, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c, h * patch, w * patch)
