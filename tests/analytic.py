"""Functions of direction with known values everywhere, and measures of images on the sphere."""

import math
from pathlib import Path

import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parents[2] / "shared"


def smooth(direction: Tensor) -> Tensor:
    """A smooth function of direction (..., h, w, 3) -> (..., 3, h, w), in [0, 1], without any symmetry."""
    x, y, z = (direction / direction.norm(dim=-1, keepdim=True)).unbind(-1)
    values = [x + 0.4 * y * z, y - 0.5 * x * z + 0.2 * z, z * z - 0.6 * x * y + 0.3 * x]
    return (0.5 + 0.3 * torch.stack(values, dim=-3)).float()


def pixel_solid_angle(height: int) -> Tensor:
    """Solid angle of an ERP pixel of each row, float64 (height, 1); sums to 4 pi over the image."""
    edges = torch.linspace(math.pi / 2, -math.pi / 2, height + 1, dtype=torch.float64).sin()
    return (edges[:-1] - edges[1:])[:, None] * (math.pi / height)


def ws_psnr(image: Tensor, other: Tensor) -> float:
    """PSNR of ERP images (C, H, W) in [0, 1], pixels weighed by their solid angle."""
    area = pixel_solid_angle(image.shape[-2])
    error = ((image.double() - other.double()) ** 2).mean(0, keepdim=True)
    return float(-10 * torch.log10((error * area).sum() / (area.sum() * image.shape[-1])))
