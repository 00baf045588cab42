"""Pictures as 8-bit pixels."""

import torch
from torch import Tensor


def to_uint8(picture: Tensor) -> Tensor:
    """A picture in [0, 1], any shape, as uint8 of the same shape, rounded; what lies beyond [0, 1] is cut off."""
    return (picture.float().clamp(0, 1) * 255).round().to(torch.uint8)
