"""Flow matching (paper, equations 1-2) in Wan's convention: x_sigma = (1 - sigma) x_0 + sigma noise, v = noise - x_0.

The paper's t is 1 - sigma. Wan's timestep is 1000 sigma.
"""

from collections.abc import Callable

import torch
from torch import Tensor

DISTRIBUTIONS = ("logit_normal", "uniform")


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1 for shift > 1: shift sigma / (1 + (shift - 1) sigma); 0 and 1 stay."""
    if shift <= 0:
        raise ValueError(f"shift is {shift}; expected a positive number")
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_quantile(quantile: Tensor, how: str, shift: float = 1.0) -> Tensor:
    """Noise levels in (0, 1) at quantiles in (0, 1) of a distribution, float32; shift as in `shift_sigma`.

    how: "logit_normal" (the logistic of a standard normal) or "uniform".
    """
    if how not in DISTRIBUTIONS:
        raise ValueError(f"noise levels {how!r} are unknown; expected {' or '.join(DISTRIBUTIONS)}")
    quantile = quantile.double().clamp(1e-6, 1 - 1e-6)
    sigma = torch.special.ndtri(quantile).sigmoid() if how == "logit_normal" else quantile
    return shift_sigma(sigma, shift).float()


def sample_sigmas(
    batch: int,
    how: str = "logit_normal",
    shift: float = 1.0,
    *,
    rank: int = 0,
    world: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random noise levels (batch,) for one process of `world`, stratified over the joined batch.

    Each of the batch * world samples takes another stratum of the distribution, in random order. Every process must
    come with its generator in the same state: all draw the joined batch, and each takes its own part of it.
    """
    count = batch * world
    strata = torch.randperm(count, generator=generator)
    within = torch.rand(count, generator=generator, dtype=torch.float64)
    quantile = (strata + within) / count
    return sigma_quantile(quantile[rank * batch : (rank + 1) * batch], how, shift)


def fixed_sigmas(count: int, how: str = "logit_normal", shift: float = 1.0) -> Tensor:
    """Noise levels (count,) at the middles of equal parts of the distribution, for losses to compare over time."""
    return sigma_quantile((torch.arange(count, dtype=torch.float64) + 0.5) / count, how, shift)


def add_noise(x_0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma (equation 1): x_0 and noise (B, ...), sigma (B,)."""
    sigma = sigma.to(x_0).reshape(-1, *[1] * (x_0.ndim - 1))
    return (1 - sigma) * x_0 + sigma * noise


def velocity(x_0: Tensor, noise: Tensor) -> Tensor:
    """What the model predicts: v = noise - x_0 (equation 1's derivative by sigma)."""
    return noise - x_0


def flow_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (equation 2) of each sample: (B, ...) -> (B,), in float32."""
    return (predicted.float() - target.float()).square().flatten(1).mean(1)


def sampling_sigmas(steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels (steps + 1,) from 1 down to 0 for `euler_sample`."""
    return shift_sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()


def euler_sample(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor) -> Tensor:
    """Follow dx/dsigma = v from noise (B, ...) at sigmas[0] to sigmas[-1].

    predict takes x (B, ...) and sigma (B,) to the velocity.
    """
    x = noise
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (following - sigma) * predict(x, sigma.expand(len(x)).to(x.device))
    return x
