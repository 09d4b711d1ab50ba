#!/usr/bin/env python3
"""A model in PyTorch, and on a CPU in ONNX Runtime, beside `osdd bench`: do they compute the same, and which is faster?

    pip install torch numpy pillow safetensors          # and diffusers for models like sd21, onnx and onnxruntime for nano
    python3 scripts/reference.py [--model models/nano] [--device cpu] [--size 640x360] [--frames 8] [--rounds 5]
                                 [--threads 2] [--random-weights] [--json FILE]

Whole frames, gamma 1, float32 unless said. PyTorch and ONNX Runtime get pixels as float tensors and count the best of their
frames; osdd is the mean of its own with all conversions from and to 8 bits. Rounds are interleaved, their medians reported.
Fails where the outputs differ: by more than a level of 255 in float32, or where osdd's own choice of precision is less than
45 dB from it.
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
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from reference_gated import GatedModel

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


def write_random(config: dict, folder: Path) -> Path:
    if config["vae"].get("block") == "gated":
        sys.exit("--random-weights is for models like sd21; those of gated blocks have weights")
    random_model = of_diffusers("random_model")
    state = random_model(config).state_dict()
    folder.mkdir()
    save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def reference(config: dict, tensors: dict[str, torch.Tensor]) -> nn.Module:
    if config["vae"].get("block") == "gated":
        return GatedModel(config, tensors).eval()
    return of_diffusers("DiffusersModel")(config, tensors).eval()


def of_diffusers(name: str):
    try:
        import reference_diffusers
    except ImportError as missing:
        sys.exit(f"{missing}: pip install diffusers")
    return getattr(reference_diffusers, name)


def size_multiple(config: dict) -> int:
    levels = len(config["vae"]["block_out_channels"]) + len(config["unet"]["block_out_channels"]) - 2
    return config["vae"].get("patch_size", 1) << levels


def picture(width: int, height: int) -> np.ndarray:
    """Squares of 8x8 pixels, [H, W, 3]."""
    image = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.kron(image, np.ones((8, 8, 1), np.uint8))[:height, :width]


def levels_of(output: torch.Tensor, width: int, height: int) -> np.ndarray:
    """[H, W, 3], 0 to 255."""
    pixels = (output[0, :, :height, :width].float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().permute(1, 2, 0).cpu().numpy().astype(int)


def best_of(run, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


class Osdd:
    """The program that is measured."""

    def __init__(self, program: Path, model: Path, device: str, threads: int):
        self.program, self.model, self.device = program.resolve(), model.resolve(), device
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def run(self, *arguments: str) -> bytes:
        command = [self.program, *arguments, "--model", self.model, "--device", self.device, "--gamma", "1", "-q"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=self.environment).stdout

    def deblur(self, image: np.ndarray, precision: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "in.png", Path(folder) / "out.png"
            Image.fromarray(image).save(before)
            self.run("deblur", str(before), "-o", str(after), "--tile", "0", "--precision", precision)
            return np.asarray(Image.open(after)).astype(int)

    def milliseconds(self, size: str, tile: int, precision: str, frames: int) -> float:
        settings = ["--size", size, "--tile", str(tile), "--precision", precision, "--frames", str(frames)]
        report = self.run("bench", *settings, "--only", "engine", "--rounds", "1", "--json", "-")
        return 1e3 / json.loads(report)["frames_per_second"]


def with_onnx(model: nn.Module, x: torch.Tensor, threads: int, file: str):
    """A run of the model, exported to `file`, which gives its output."""
    import onnx  # noqa: F401
    import onnxruntime

    torch.onnx.export(model, (x.contiguous(),), file, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.contiguous().numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def references(config: dict, tensors: dict, x: torch.Tensor, threads: int, folder: Path):
    """What is compared: of float32, whose outputs have to agree, and of bfloat16."""
    on_gpu = x.device.type != "cpu"
    model = reference(config, tensors).to(x.device)
    runs = {"PyTorch eager, channels-last": lambda: model(x)}
    rounded, x16 = reference(config, tensors).bfloat16().to(x.device), x.bfloat16()
    of_bf16 = {"PyTorch eager, channels-last, bfloat16": lambda: rounded(x16)}
    if not on_gpu and isinstance(model, GatedModel):
        try:
            runs["ONNX Runtime"] = with_onnx(model, x, threads, str(folder / "model.onnx"))
        except ImportError as missing:
            print(f"ONNX Runtime left out: {missing}", file=sys.stderr)
    try:
        compiled = torch.compile(model)
        compiled(x)
        runs["PyTorch, torch.compile"] = lambda: compiled(x)
        if on_gpu:
            compiled16 = torch.compile(rounded)
            compiled16(x16)
            of_bf16["PyTorch, torch.compile, bfloat16"] = lambda: compiled16(x16)
    except Exception as reason:
        print(f"torch.compile left out: {str(reason).splitlines()[0]}", file=sys.stderr)
    return runs, of_bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/nano")
    parser.add_argument("--random-weights", action="store_true", help="only the configuration of a model like sd21")
    parser.add_argument("--osdd", type=Path, default=ROOT / "target/release/osdd")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--frames", type=int, default=8, help="at least 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    torch.set_num_threads(args.threads)
    # Float32 as it says.
    torch.backends.cudnn.allow_tf32 = False
    config = json.loads((args.model / "config.json").read_text())

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model = write_random(config, Path(folder) / "model") if args.random_weights else args.model
        osdd = Osdd(args.osdd, model, args.device, args.threads)
        # Padded to the model's multiple at the end, as osdd does.
        image, multiple = picture(width, height), size_multiple(config)
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        x = x.contiguous(memory_format=torch.channels_last).to(args.device)
        runs, of_bf16 = references(config, merged(model, config), x, args.threads, Path(folder))
        agree(osdd, image, runs)

        times: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, run in (runs | of_bf16).items():
                best_of(run, 2)
                times.setdefault(name, []).append(best_of(run, args.frames))
            for tile, precision in ((0, "fp32"), (512, "fp32"), (0, "auto")):
                name = f"osdd, {precision}, " + ("whole frame" if tile == 0 else f"tiles of at most {tile}")
                times.setdefault(name, []).append(osdd.milliseconds(args.size, tile, precision, args.frames))
    report = {name: statistics.median(values) for name, values in times.items()}
    for name, value in sorted(report.items(), key=lambda item: item[1]):
        print(f"{value:8.1f} ms  {name}")
    if args.json:
        result = {"size": args.size, "device": args.device, "threads": args.threads, "ms": report, "rounds": times}
        args.json.write_text(json.dumps(result, indent=2))


def agree(osdd: Osdd, image: np.ndarray, runs: dict) -> None:
    """Ends the program where outputs differ."""
    height, width, _ = image.shape
    outputs = {name: run() for name, run in runs.items()}
    expected = next(iter(outputs.values()))
    pixels = levels_of(expected, width, height)
    levels = int(np.abs(osdd.deblur(image, "fp32") - pixels).max())
    print(f"largest difference to PyTorch in levels of 255: osdd {levels}")
    rounded = osdd.deblur(image, "auto") - pixels
    decibels = 10 * np.log10(255**2 / max(float((rounded**2).mean()), 1e-9))
    print(f"osdd with --precision auto against PyTorch in float32: {decibels:.1f} dB")
    largest = float(expected.abs().max())
    relative = {name: float((output - expected).abs().max()) / largest for name, output in outputs.items()}
    for name, difference in list(relative.items())[1:]:
        print(f"largest difference to PyTorch, of its largest value: {name} {difference:.1e}")
    if levels > 1 or decibels < 45 or any(difference > 1e-3 for difference in relative.values()):
        sys.exit("the outputs differ")


if __name__ == "__main__":
    main()
