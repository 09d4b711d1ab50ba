#!/usr/bin/env python3
"""Makes one model's weights of others', for models/README.md's recipe; needs safetensors and numpy.

    mix_weights.py mean OUT.safetensors A.safetensors=0.4 B.safetensors=0.6     weighted mean of what all have; shares sum to one
    mix_weights.py scale OUT.safetensors IN.safetensors lora_r=0.3              an adapter, made weaker

Tensors are float16, as models/nano has them; the mean leaves adapters out.
"""

import sys

import numpy as np
from safetensors.numpy import load_file, save_file


def mean(parts):
    files, shares = zip(*((load_file(path), float(share)) for path, share in (part.rsplit("=", 1) for part in parts)))
    shares = np.array(shares) / sum(shares)
    names = set.intersection(*(set(tensors) for tensors in files))
    return {
        name: sum(share * tensors[name].astype(np.float32) for share, tensors in zip(shares, files)).astype(np.float16)
        for name in sorted(names)
        if not name.startswith("lora_")
    }


def scale(path, setting):
    adapter, factor = setting.rsplit("=", 1)
    tensors = load_file(path)
    factors = {name for name in tensors if name.startswith(adapter + ".") and ".lora_B." in name}
    if not factors:
        sys.exit(f"{path} has no {adapter}")
    return {
        name: (tensor.astype(np.float32) * float(factor)).astype(tensor.dtype) if name in factors else tensor
        for name, tensor in tensors.items()
    }


def main():
    match sys.argv[1:]:
        case ["mean", out, *parts] if len(parts) > 1 and all("=" in part for part in parts):
            save_file(mean(parts), out)
        case ["scale", out, path, setting] if "=" in setting:
            save_file(scale(path, setting), out)
        case _:
            sys.exit(__doc__.strip())


main()
