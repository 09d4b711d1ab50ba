"""One step of diffusion, the paper's equation 8."""

import numpy as np
import torch


def one_step(z: torch.Tensor, predicted: torch.Tensor, scheduler: dict) -> torch.Tensor:
    """The latents that `z` and the noise predicted in it stand for."""
    start, end = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = np.linspace(start, end, scheduler["num_train_timesteps"]) ** 2
    alpha = float(np.cumprod(1 - betas)[scheduler["timestep"]])
    return (z - (1 - alpha) ** 0.5 * predicted) / alpha**0.5
