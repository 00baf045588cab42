"""Pictures as 8-bit pixels, and their size."""

import torch
from torch import Tensor


def to_uint8(picture: Tensor) -> Tensor:
    """A picture in [0, 1], any shape, as uint8 of the same shape, rounded; what lies beyond [0, 1] is cut off."""
    return (picture.float().clamp(0, 1) * 255).round().to(torch.uint8)


def fit_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """A size shrunk to a longest side; 0: as it is."""
    scale = min(1.0, longest_side / max(width, height)) if longest_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))
