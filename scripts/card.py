#!/usr/bin/env python3
"""The figures of a model's card: what it gains, what it leaves alone, flicker, tiles against the whole frame, sharpness by gamma.

    pip install numpy pillow          # and GStreamer's x264enc for the rows after H.264
    python3 scripts/card.py --data DATA [--model nano] [--precision auto] [--osdd target/release/osdd] [--tile 512]
                            [--pictures FOLDER] [--json FILE]

DATA holds val/pairs, val/synthetic, val/sharp and val/real as the configurations for training name them. With --pictures every
photograph of val/real is written beside its output at gamma 1 and 0.3, to be looked at. Means are printed; the file has the gain of
each image at gamma 1, too.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
GAMMAS = ["1", "0.7", "0.3", "0"]
BITRATE_KBPS = 4000


class Osdd:
    def __init__(self, program: Path, model: str, precision: str):
        self.program, self.settings = program.resolve(), ["--model", model, "--precision", precision, "-q"]

    def run(self, *arguments: str) -> bytes:
        command = [self.program, *arguments, *self.settings]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    def eval(self, *arguments: str, gammas: list[str] = GAMMAS) -> dict[str, dict]:
        """A row of the report by gamma; "input" is what went in."""
        report = json.loads(self.run("eval", *arguments, "--gamma", ",".join(gammas), "--json", "-"))
        rows = [row for row in report["rows"] if row["method"] != "truth"]
        return {"input" if row["method"] == "input" else f"{row['gamma']:g}": row for row in rows}

    def deblur(self, source: Path, target: Path, *arguments: str) -> list[np.ndarray]:
        self.run("deblur", str(source), "-o", str(target), *arguments)
        return read_all(target)


def read_all(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in sorted(folder.iterdir())]


def linked(folder: Path, files: list[Path]) -> Path:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
    return folder


def named(folder: Path, part: str = "") -> list[Path]:
    return sorted(path for path in folder.iterdir() if part in path.name)


def through_h264(source: Path, target: Path) -> None:
    """The last of 16 frames of a still picture."""
    with tempfile.TemporaryDirectory() as frames:
        elements = (
            "! decodebin ! imagefreeze num-buffers=16 ! videoconvert ! video/x-raw,format=I420,framerate=25/1 "
            f"! x264enc bitrate={BITRATE_KBPS} ! h264parse ! avdec_h264 ! videoconvert ! pngenc ! multifilesink"
        )
        ends = (["filesrc", f"location={source}"], [f"location={frames}/%02d.png"])
        subprocess.run(["gst-launch-1.0", "-q", *ends[0], *elements.split(), *ends[1]], check=True)
        shutil.move(sorted(Path(frames).iterdir())[-1], target)


def compressed(sources: list[Path], folder: Path) -> Path:
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda source: through_h264(source, folder / f"{source.stem}.png"), sources))
    return folder


def sets(data: Path, work: Path) -> dict[str, tuple[Path, Path]]:
    """Blurry and sharp images by what they are."""
    pairs, synthetic, sharp = data / "pairs", data / "synthetic", data / "sharp"
    found = {
        "REDS 001": (named(pairs / "blurry", "reds"), named(pairs / "sharp", "reds")),
        "GoPro 0372": (named(pairs / "blurry", "gopro"), named(pairs / "sharp", "gopro")),
        "trajectories of 10 px": (named(synthetic / "blurry", "_10px"), named(synthetic / "sharp", "_10px")),
        "trajectories of 22 px": (named(synthetic / "blurry", "_22px"), named(synthetic / "sharp", "_22px")),
        "sharp": (named(sharp), named(sharp)),
    }
    linked_sets = {
        name: (linked(work / name / "blurry", blurry), linked(work / name / "sharp", truth))
        for name, (blurry, truth) in found.items()
    }
    for name, blurry, truth in [
        ("pairs after H.264", named(pairs / "blurry"), named(pairs / "sharp")),
        ("sharp after H.264", named(sharp), named(sharp)),
    ]:
        linked_sets[name] = (compressed(blurry, work / name / "blurry"), linked(work / name / "sharp", truth))
    return linked_sets


def gains(osdd: Osdd, data: Path, work: Path) -> dict:
    figures = {}
    for name, (blurry, sharp) in sets(data, work).items():
        rows = osdd.eval("--blurry", str(blurry), "--sharp", str(sharp), "--metrics", "psnr,gradient")
        # Of sharp images against themselves there is no gain.
        gaining = name != "sharp"
        figures[name] = {gamma: means(row, gaining and gamma != "input") for gamma, row in rows.items()}
        if gaining:
            figures[name]["each"] = {image: values["gain"] for image, values in rows["1"]["images"].items()}
        print(f"{name:24}" + "  ".join(cell(gamma, figures[name][gamma]) for gamma in rows), flush=True)
    return figures


def means(row: dict, gaining: bool) -> dict[str, float | None]:
    of_all = {metric: figure["mean"] for metric, figure in row["means"]["all"].items()}
    return {"psnr": of_all["psnr"], "gain": of_all["gain"] if gaining else None, "gradient": of_all["gradient"]}


def cell(gamma: str, figure: dict) -> str:
    gain, psnr = figure["gain"], figure["psnr"]
    decibels = f"{gain:+.2f}" if gain is not None else "same" if psnr is None else f"{psnr:.2f}"
    return f"{gamma}: {decibels} dB, gradient {figure['gradient']:.1f}"


def niqe(osdd: Osdd, data: Path) -> dict[str, float]:
    rows = osdd.eval("--blurry", str(data / "real"), "--metrics", "niqe")
    figures = {gamma: row["means"]["all"]["niqe"]["mean"] for gamma, row in rows.items()}
    print("NIQE of val/real: " + ", ".join(f"{gamma} {value:.2f}" for gamma, value in figures.items()), flush=True)
    return figures


def flicker(osdd: Osdd, data: Path, work: Path) -> float:
    """How much successive frames of two still pictures with noise differ, of what the input's do."""
    before, after = 0.0, 0.0
    for index, path in enumerate(named(data / "sharp")[:2]):
        still = np.asarray(Image.open(path).convert("RGB")).astype(float)
        noise = np.random.default_rng(index)
        source = work / f"still{index}"
        source.mkdir()
        for frame in range(6):
            noisy = (still + noise.normal(0, 3, still.shape)).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(source / f"{frame}.png")
        before += differences(read_all(source))
        after += differences(osdd.deblur(source, work / f"still{index} out", "--gamma", "1"))
    print(f"flicker: {after / before:.3f} of the input's", flush=True)
    return after / before


def differences(frames: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(one - two).mean() for one, two in zip(frames, frames[1:])]))


def tiles(osdd: Osdd, data: Path, work: Path, tile: int) -> dict[str, dict]:
    """Tiles against the whole frame, in levels of 255."""
    source = linked(work / "frames", named(data / "pairs" / "blurry") + named(data / "real", "deepdeblur"))
    figures = {}
    for gamma in ("1", "0"):
        whole = osdd.deblur(source, work / f"whole {gamma}", "--gamma", gamma, "--tile", "0")
        tiled = osdd.deblur(source, work / f"tiled {gamma}", "--gamma", gamma, "--tile", str(tile))
        apart = [np.abs(one - two).max(axis=2) for one, two in zip(whole, tiled)]
        figures[gamma] = {
            "largest": int(max(a.max() for a in apart)),
            "pixels_over_1": [int((a > 1).sum()) for a in apart],
            "pixels": int(sum(a.size for a in apart)),
        }
        print(f"tiles of {tile} against whole frames, gamma {gamma}: {figures[gamma]}", flush=True)
    return figures


def pictures(osdd: Osdd, data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        # What comes as JPEG would be written as JPEG.
        source = Path(work) / "in"
        source.mkdir()
        for path in named(data / "real"):
            ImageOps.exif_transpose(Image.open(path)).convert("RGB").save(source / f"{path.stem}.png")
        folders = [source]
        for gamma in ("1", "0.3"):
            folders.append(Path(work) / gamma)
            osdd.run("deblur", str(source), "-o", str(folders[-1]), "--gamma", gamma)
        for path in named(source):
            shown = [Image.open(side / path.name).convert("RGB") for side in folders]
            width, height = shown[0].size
            sheet = Image.new("RGB", (3 * width, height))
            for index, image in enumerate(shown):
                sheet.paste(image, (index * width, 0))
            sheet.save(folder / f"{path.stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--osdd", type=Path, default=ROOT / "target/release/osdd")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    osdd, data = Osdd(args.osdd, args.model, args.precision), args.data / "val"
    for folder in ("pairs/blurry", "pairs/sharp", "synthetic/blurry", "synthetic/sharp", "sharp", "real"):
        if not (data / folder).is_dir():
            sys.exit(f"{data / folder} is no folder")
    if shutil.which("gst-launch-1.0") is None:
        sys.exit("gst-launch-1.0 is missing; on Debian it is in gstreamer1.0-tools")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        figures = {
            "model": args.model,
            "precision": args.precision,
            "images": gains(osdd, data, work),
            "niqe": niqe(osdd, data),
            "flicker": flicker(osdd, data, work),
            "tiles": tiles(osdd, data, work, args.tile),
        }
    if args.pictures:
        pictures(osdd, data, args.pictures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
