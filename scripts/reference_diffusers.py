"""`sd21` and models like it, with group norms and residual blocks, from diffusers' own classes."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from reference_step import one_step

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/fixtures"))
from evae import EnhancedAutoencoderKL  # noqa: E402


class DiffusersModel(nn.Module):
    """[1, 3, H, W] in [-1, 1], sides multiples of 64 at the scale of `sd21`. Its tensors have the names of our files."""

    def __init__(self, config: dict, tensors: dict[str, torch.Tensor] | None = None):
        super().__init__()
        self.config = config
        self.unet = unet(config)
        self.vae = EnhancedAutoencoderKL(autoencoder(config["vae"]))
        tokens, width = config["prompt"]["tokens"], config["unet"]["cross_attention_dim"]
        self.prompt = nn.ParameterDict({"embedding": 0.02 * torch.randn(1, tokens, width)})
        if tensors is not None:
            self.load_state_dict(tensors, assign=True)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaling, scheduler = self.config["vae"]["scaling_factor"], self.config["scheduler"]
        mode, skips = self.vae.encode_with_skips(x)
        z = mode * scaling
        noise = self.unet(z, scheduler["timestep"], encoder_hidden_states=self.prompt["embedding"], return_dict=False)[0]
        return self.vae.decode_with_skips(one_step(z, noise, scheduler) / scaling, skips)


def random_model(config: dict, seed: int = 1) -> DiffusersModel:
    """As the layers start, but that the decoder listens to its skips."""
    torch.manual_seed(seed)
    model = DiffusersModel(config)
    for block in model.vae.decoder.up_blocks:
        for conv in (block.resnets[0].conv1, block.resnets[0].conv_shortcut):
            own = conv.in_channels - conv.out_channels
            nn.init.normal_(conv.weight.data[:, own:], std=(conv.weight[0].numel()) ** -0.5)
    return model


def unet(config: dict) -> UNet2DConditionModel:
    ours, vae = config["unet"], config["vae"]
    required(config["scheduler"].get("prediction_type", "epsilon") == "epsilon", "prediction_type")
    required(ours["self_attention"] and ours["ff_mult"] == 4, "self_attention and ff_mult")
    crossing = ours["cross_attention"]
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=vae["latent_channels"],
        out_channels=vae["latent_channels"],
        block_out_channels=ours["block_out_channels"],
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossing],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossing)],
        layers_per_block=ours["layers_per_block"],
        # diffusers' name for the number of heads.
        attention_head_dim=ours["num_attention_heads"],
        cross_attention_dim=ours["cross_attention_dim"],
        time_embedding_dim=ours["time_embed_dim"],
        norm_num_groups=ours["norm"]["group"]["num_groups"],
        use_linear_projection=True,
    )


def autoencoder(ours: dict) -> AutoencoderKL:
    levels = len(ours["block_out_channels"])
    required(ours.get("patch_size", 1) == 1 and not ours.get("residual_output"), "patch_size and residual_output")
    required(ours["mid_block"] and ours["mid_attention"], "mid_block and mid_attention")
    required(ours["decoder_layers_per_block"] == ours["layers_per_block"] + 1, "decoder_layers_per_block")
    required(ours["skip_layers"] == 2 and ours.get("skip_levels") in (None, levels), "skip_layers and skip_levels")
    return AutoencoderKL(
        latent_channels=ours["latent_channels"],
        block_out_channels=ours["block_out_channels"],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=ours["layers_per_block"],
        norm_num_groups=ours["norm"]["group"]["num_groups"],
    )


def required(met: bool, what: str) -> None:
    if not met:
        sys.exit(f"no reference for a model whose {what} differ from Stable Diffusion's")
