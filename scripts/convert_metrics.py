#!/usr/bin/env python3
"""Writes the weight files that `osdd eval` and the perceptual losses read, from the files that others publish.

    convert_metrics.py lpips --net vgg --heads vgg.pth --out lpips_vgg.safetensors
    convert_metrics.py lpips --net squeeze --backbone sqz_notop.mat --heads squeeze.pth --out lpips_squeeze.safetensors
    convert_metrics.py dists --weights weights.pt --out dists.safetensors
    convert_metrics.py niqe --parameters niqe_pris_params.npz --out src/metrics/niqe.safetensors

--backbone takes a torchvision state dict (.pth, or .safetensors with the same names); without it, torchvision downloads
its own. LPIPS' heads are lpips/weights/v0.1/*.pth of the package lpips, DISTS' weights are its weights.pt.

SqueezeNet may also come from a MATLAB 5 file of Caffe's SqueezeNet 1.1, whose kernels are [row, column, in, out] and whose
input is blue, green, red in 0..255 less Caffe's mean; both are folded into the first convolution, which has no padding, so
the features stay the same. That network is not torchvision's: its channels are others, so LPIPS' weights of single
channels mean nothing to it. The file then gets each head's mean on all of its channels, and the distances are not
comparable with published ones.

Licences: LPIPS and its heads BSD-2-Clause; torchvision and its weights BSD-3-Clause; DISTS MIT; Caffe's SqueezeNet by
DeepScale BSD-2-Clause (the MATLAB file is the one in github.com/avoroshilov/neural-style, itself GPL-3, which converted
it from Keras weights); NIQE's parameters as in github.com/XPixelGroup/BasicSR, Apache-2.0.

Needs numpy and safetensors; torch for .pth and .pt files; torchvision for its download; scipy for MATLAB files.
"""

import argparse
import sys
from pathlib import Path

try:
    import numpy as np
except ImportError:
    np = None

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
HEADS = {"alex": 5, "vgg": 5, "squeeze": 7}
# Where SqueezeNet's modules stand in torchvision's `features`.
FIRE_INDEX = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
# Red, green, blue: what the converted networks expect of their input, and what Caffe's did.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (122.679, 116.669, 104.006)


class Failure(Exception):
    """One sentence for the user."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    lpips = commands.add_parser("lpips", help="LPIPS 0.1: backbone and heads")
    lpips.add_argument("--net", required=True, choices=list(BACKBONES))
    lpips.add_argument("--backbone", type=Path, help="state dict or MATLAB file; torchvision's own without it")
    lpips.add_argument("--heads", type=Path, required=True, help="the package's weights/v0.1/NET.pth")
    dists = commands.add_parser("dists", help="DISTS: VGG16, alpha and beta")
    dists.add_argument("--backbone", type=Path, help="VGG16's state dict; torchvision's own without it")
    dists.add_argument("--weights", type=Path, required=True, help="the package's weights.pt")
    niqe = commands.add_parser("niqe", help="NIQE's parameters, as the library embeds them")
    niqe.add_argument("--parameters", type=Path, required=True, help="niqe_pris_params.npz")
    for command in (lpips, dists, niqe):
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if np is None:
        sys.exit("convert_metrics: numpy is missing: pip install numpy safetensors")
    try:
        {"lpips": convert_lpips, "dists": convert_dists, "niqe": convert_niqe}[args.command](args)
    except (Failure, OSError) as error:
        sys.exit(f"convert_metrics: {error}")


def convert_lpips(args):
    from_matlab = args.backbone is not None and args.backbone.suffix == ".mat"
    if from_matlab and args.net != "squeeze":
        raise Failure("only SqueezeNet is read from a MATLAB file")
    tensors = squeezenet_from_matlab(args.backbone) if from_matlab else backbone(args.net, args.backbone)
    heads = state_dict(args.heads)
    for k in range(HEADS[args.net]):
        name = f"lin{k}.model.1.weight"
        if name not in heads:
            raise Failure(f"{args.heads} has no {name}: it is not the package's weights/v0.1/{args.net}.pth")
        tensors[name] = np.full_like(heads[name], heads[name].mean()) if from_matlab else heads[name]
    metadata = {"metric": "lpips", "backbone": args.net, "version": "0.1"}
    metadata["heads"] = "averaged over channels" if from_matlab else "as published"
    save(args.out, tensors, metadata)


def convert_dists(args):
    weights = state_dict(args.weights)
    if not {"alpha", "beta"} <= weights.keys():
        raise Failure(f"{args.weights} has no alpha and beta: it is not DISTS' weights.pt")
    tensors = backbone("vgg", args.backbone)
    tensors |= {name: weights[name] for name in ("alpha", "beta")}
    save(args.out, tensors, {"metric": "dists", "backbone": "vgg", "version": "1"})


def convert_niqe(args):
    with np.load(args.parameters) as file:
        mean, covariance = file["mu_pris_param"].ravel(), file["cov_pris_param"]
    if mean.shape != (36,) or covariance.shape != (36, 36):
        raise Failure(f"{args.parameters} does not hold NIQE's 36 features")
    save(args.out, {"mean": mean[None], "covariance": covariance}, {"metric": "niqe"})


def state_dict(path):
    """A file's tensors by name, as numpy arrays."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def backbone(net, path):
    """`features.*` of a torchvision network."""
    if path is None:
        from torchvision import models

        network = getattr(models, BACKBONES[net])(weights="DEFAULT")
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    else:
        tensors = state_dict(path)
    features = {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}
    if not features:
        raise Failure(f"{path} has no features.*: it is not a state dict of torchvision's {BACKBONES[net]}")
    return features


def squeezenet_from_matlab(path):
    """SqueezeNet 1.1 with torchvision's names, shapes and input normalisation."""
    from scipy.io import loadmat

    tensors = {}
    for layer, values in loadmat(path).items():
        if layer.startswith("__"):
            continue
        kernel, bias = (np.float64(array) for array in values[0])
        kernel, bias = kernel.transpose(3, 2, 0, 1), bias.ravel()
        if layer == "conv1":
            kernel = kernel[:, ::-1]  # blue, green, red to red, green, blue
            shift = 255 * np.array(MEAN) - np.array(CAFFE_MEAN)
            bias = bias + np.einsum("oiyx,i->o", kernel, shift)
            kernel = kernel * (255 * np.array(STD))[:, None, None]
            name = "features.0"
        else:
            fire, part = layer.split("/")
            name = f"features.{FIRE_INDEX[int(fire.removeprefix('fire'))]}.{part.replace('squeeze1x1', 'squeeze')}"
        tensors |= {f"{name}.weight": np.float32(kernel), f"{name}.bias": np.float32(bias)}
    return tensors


def save(path, tensors, metadata):
    from safetensors.numpy import save as serialize

    contents = serialize({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(contents)
    temporary.replace(path)


if __name__ == "__main__":
    main()
