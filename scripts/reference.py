#!/usr/bin/env python3
"""nano or small in PyTorch, and on a CPU in ONNX Runtime, beside `osdd bench`: do they compute the same, and which is faster?

    pip install torch numpy pillow safetensors onnx onnxruntime
    python3 scripts/reference.py [--model models/nano] [--device cpu] [--size 640x360] [--rounds 5] [--threads 2] [--json FILE]

Whole frames, gamma 1, float32 unless said. PyTorch and ONNX Runtime get pixels as float tensors and count their best of 8
frames; osdd is the mean of 20 frames with all conversions from and to 8 bits. Rounds are interleaved, their medians reported.
Fails where the outputs differ.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent


def merged(model: Path, config: dict) -> dict[str, torch.Tensor]:
    """The weights at gamma 1, float32: W + alpha / rank * B A."""
    files = {}
    for file in sorted(model.glob("*.safetensors")):
        files |= load_file(file)
    tensors = {name: t.float() for name, t in files.items() if not name.startswith("lora_")}
    scale = config["lora"]["alpha"] / config["lora"]["rank"]
    for name, a in files.items():
        if name.startswith("lora_r.") and name.endswith(".lora_A.weight"):
            b = files[name.replace("lora_A", "lora_B")].float()
            target = name.removeprefix("lora_r.").replace(".lora_A", "")
            product = b.flatten(1) @ a.float().flatten(1)
            tensors[target] += scale * product.view_as(tensors[target])
    return tensors


class Nano(nn.Module):
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
        alpha = alpha_cumprod(self.config["scheduler"])
        z = (z - (1 - alpha) ** 0.5 * self.noise(z)) / alpha**0.5
        return x + self.decode(z, skips)


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


def alpha_cumprod(scheduler: dict) -> float:
    start, end = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = np.linspace(start, end, scheduler["num_train_timesteps"]) ** 2
    return float(np.cumprod(1 - betas)[scheduler["timestep"]])


def best_of(run, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/nano")
    parser.add_argument("--osdd", type=Path, default=ROOT / "target/release/osdd")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.osdd = args.osdd.resolve()
    width, height = map(int, args.size.split("x"))
    torch.set_num_threads(args.threads)
    config = json.loads((args.model / "config.json").read_text())
    # Float32 as it says.
    torch.backends.cudnn.allow_tf32 = False
    model = Nano(config, merged(args.model, config)).eval().to(args.device)

    # Padded to the model's multiple at the end, as osdd does.
    image = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.kron(image, np.ones((8, 8, 1), np.uint8))[:height, :width]
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    x = F.pad(x, (0, -width % 32, 0, -height % 32), mode="reflect").contiguous(memory_format=torch.channels_last)
    x = x.to(args.device)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rounded, x16 = Nano(config, merged(args.model, config)).eval().bfloat16().to(args.device), x.bfloat16()
        runs = {
            "PyTorch eager, channels-last": lambda: model(x),
            "PyTorch eager, channels-last, bfloat16": lambda: rounded(x16),
        }
        expected = model(x)
        differences = {}
        try:
            if args.device != "cpu":
                raise ImportError("it is for the CPU")
            import onnx  # noqa: F401
            import onnxruntime

            file = str(Path(folder) / "nano.onnx")
            torch.onnx.export(model, (x.contiguous(),), file, dynamo=False, opset_version=17)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = args.threads
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: x.contiguous().numpy()}
            runs["ONNX Runtime"] = lambda: session.run(None, feed)
            differences["ONNX Runtime"] = float(np.abs(session.run(None, feed)[0] - expected.numpy()).max())
        except ImportError as missing:
            print(f"ONNX Runtime left out: {missing}", file=sys.stderr)
        try:
            compiled, compiled16 = torch.compile(model), torch.compile(rounded)
            compiled(x)
            runs["PyTorch, torch.compile"] = lambda: compiled(x)
            if args.device != "cpu":
                compiled16(x16)
                runs["PyTorch, torch.compile, bfloat16"] = lambda: compiled16(x16)
            differences["PyTorch, torch.compile"] = float((compiled(x) - expected).abs().max())
        except Exception as reason:
            print(f"torch.compile left out: {str(reason).splitlines()[0]}", file=sys.stderr)

        Image.fromarray(image).save(Path(folder) / "in.png")
        command = [args.osdd, "deblur", "in.png", "-o", "out.png", "--model", args.model.resolve()]
        exact = ["--tile", "0", "--precision", "fp32", "--device", args.device]
        subprocess.run([*command, "--gamma", "1", "-q", *exact], cwd=folder, check=True)
        ours = np.asarray(Image.open(Path(folder) / "out.png")).astype(int)
        theirs = ((expected[0, :, :height, :width].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).cpu().numpy().astype(int)
        levels = int(np.abs(ours - theirs).max())
        print(f"largest difference to PyTorch in levels of 255: osdd {levels}")
        for name, difference in differences.items():
            print(f"largest difference to PyTorch in [-1, 1]: {name} {difference:.1e}")
        if levels > 1 or any(difference > 1e-4 for difference in differences.values()):
            sys.exit("the outputs differ")

        times: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, run in runs.items():
                best_of(run, 2)
                times.setdefault(name, []).append(best_of(run, 8))
            bench = [args.osdd, "bench", "--model", args.model, "--size", args.size, "--device", args.device, "--gamma", "1"]
            for tile, precision in ((0, "fp32"), (512, "fp32"), (0, "auto")):
                output = subprocess.run(
                    [*bench, "--tile", str(tile), "--precision", precision, "--frames", "20", "--rounds", "1", "--json", "-", "-q"],
                    check=True,
                    capture_output=True,
                    env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
                ).stdout
                engine = json.loads(output)["sizes"][0]["engine"]
                name = f"osdd, {precision}, " + ("whole frame" if tile == 0 else f"tiles of at most {tile}")
                times.setdefault(name, []).append(1e3 / engine["frames_per_second"])
    report = {name: statistics.median(values) for name, values in times.items()}
    for name, value in sorted(report.items(), key=lambda item: item[1]):
        print(f"{value:8.1f} ms  {name}")
    if args.json:
        result = {"size": args.size, "threads": args.threads, "ms": report, "rounds": times}
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
