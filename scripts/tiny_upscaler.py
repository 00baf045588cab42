"""Tiny upscale models in the file format of Real-ESRGAN's compact networks, which ComfyUI's own loader reads.

With some random features they are networks; with none they interpolate bilinearly, exactly but for the border.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

RGB = 3


def bilinear_taps(scale: int) -> Tensor:
    """Weights (scale, 3) of a pixel and its two neighbours for each of the pixels that it becomes along one axis."""
    offset = (torch.arange(scale) + 0.5) / scale - 0.5
    return torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=1)


def bilinear_kernels(scale: int) -> Tensor:
    """The last convolution (3 scale^2, 3, 3, 3): bilinear upscaling less the nearest pixel, which the network adds."""
    taps = bilinear_taps(scale)
    kernel = torch.einsum("iy,jx->ijyx", taps, taps)
    kernel[:, :, 1, 1] -= 1
    weight = torch.zeros(RGB, scale * scale, RGB, 3, 3)
    for channel in range(RGB):
        weight[channel, :, channel] = kernel.reshape(-1, 3, 3)
    return weight.reshape(-1, RGB, 3, 3)


def upscaler_weights(scale: int, features: int = 0, layers: int = 1, seed: int = 4) -> dict[str, Tensor]:
    """Weights: three channels that carry the picture through, and `features` random ones that add fine detail.

    Near a border the convolutions see zeros beyond it, as every such network does.
    """
    generator = torch.Generator().manual_seed(seed)
    width, weights = RGB + features, {}
    carry = torch.eye(RGB)
    for index in range(layers + 1):
        inputs = width if index else RGB
        weight = torch.randn(width, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
        weight[:RGB] = 0
        weight[:RGB, :RGB, 1, 1] = carry
        slope = torch.full((width,), 0.2)
        slope[:RGB] = 1
        weights |= {f"body.{2 * index}.weight": weight, f"body.{2 * index}.bias": torch.zeros(width)}
        weights[f"body.{2 * index + 1}.weight"] = slope
    last = torch.randn(RGB * scale * scale, width, 3, 3, generator=generator) * (0.1 / width**0.5)
    last -= last.mean(dim=(1, 2, 3), keepdim=True)
    last[:, :RGB] = bilinear_kernels(scale)
    name = f"body.{2 * (layers + 1)}"
    return weights | {f"{name}.weight": last, f"{name}.bias": torch.zeros(len(last))}


def write_upscaler(path: Path, scale: int, *, features: int = 0, layers: int = 1, seed: int = 4) -> None:
    """Write such a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(upscaler_weights(scale, features, layers, seed), path, metadata={"format": "pt"})
