"""Rotations as matrices (..., 3, 3) and as rotation vectors (..., 3): the axis, as long as the angle in radians."""

import torch
from torch import Tensor


def cross_matrix(vector: Tensor) -> Tensor:
    """Vectors (..., 3) to the matrices (..., 3, 3) that take their cross product with what they multiply."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation vectors (..., 3) to matrices (..., 3, 3)."""
    return torch.linalg.matrix_exp(cross_matrix(vector))


def rotation_angle(rotation: Tensor) -> Tensor:
    """Angle of rotations (..., 3, 3) in radians, in [0, pi]; exact for small angles too."""
    return torch.atan2(_twice_sine(rotation).norm(dim=-1), rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)


def rotation_vector(rotation: Tensor) -> Tensor:
    """Matrices (..., 3, 3) to rotation vectors (..., 3), at most pi long."""
    sine, angle = _twice_sine(rotation), rotation_angle(rotation)
    small = sine.norm(dim=-1).clamp(min=1e-12)
    scale = torch.where(angle < 1e-6, torch.full_like(angle, 0.5), angle / small)
    vector = sine * scale[..., None]
    # near half a turn the sine vanishes: the axis is the longest column of R + R^T + (1 - trace) I
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    symmetric = rotation + rotation.mT + (1 - trace)[..., None, None] * torch.eye(3).to(rotation)
    column = symmetric.norm(dim=-2).argmax(-1)
    axis = torch.gather(symmetric, -1, column[..., None, None].expand(*column.shape, 3, 1))[..., 0]
    axis = axis / axis.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    axis = torch.where((axis * sine).sum(-1, keepdim=True) < 0, -axis, axis)
    return torch.where((angle > 3.0)[..., None], axis * angle[..., None], vector)


def _twice_sine(rotation: Tensor) -> Tensor:
    """Axis times twice the sine of the angle."""
    difference = rotation - rotation.mT
    return torch.stack([difference[..., 2, 1], difference[..., 0, 2], difference[..., 1, 0]], dim=-1)
