"""Directions, longitude and latitude, and ERP pixels. Camera axes: x right, y down, z forward; radians inside."""

import math

import torch
from torch import Tensor

EVERY = slice(None)


def pixel_centres(count: int) -> Tensor:
    """Coordinates of `count` pixel centres along one axis, in pixels. float64 (count,): 0.5, 1.5, ...

    The only place where the half pixel is added.
    """
    return torch.arange(count, dtype=torch.float64) + 0.5


def pixel_grid(height: int, width: int, rows: slice = EVERY) -> tuple[Tensor, Tensor]:
    """x and y of all pixel centres of an image, or of those in some rows. Two float64 (height, width)."""
    y, x = torch.meshgrid(pixel_centres(height)[rows], pixel_centres(width), indexing="ij")
    return x, y


def lonlat_to_direction(lon: Tensor, lat: Tensor) -> Tensor:
    """Longitude and latitude in radians (...) to unit directions (..., 3)."""
    return torch.stack([lat.cos() * lon.sin(), -lat.sin(), lat.cos() * lon.cos()], dim=-1)


def direction_to_lonlat(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (..., 3) of any length to longitude in [-pi, pi] and latitude in [-pi/2, pi/2]."""
    x, y, z = direction.unbind(-1)
    return torch.atan2(x, z), torch.atan2(-y, torch.hypot(x, z))


def erp_directions(height: int, width: int, rows: slice = EVERY, columns: slice = EVERY) -> Tensor:
    """Unit direction of every ERP pixel, or of those in a rectangle. float64 (height, width, 3)."""
    y, x = torch.meshgrid(pixel_centres(height)[rows], pixel_centres(width)[columns], indexing="ij")
    return lonlat_to_direction((x / width - 0.5) * (2 * math.pi), (0.5 - y / height) * math.pi)


def erp_area(height: int, width: int) -> Tensor:
    """The part of the sphere that each ERP pixel stands for, float64 (height, width), sum 1."""
    strip = ((0.5 - pixel_centres(height) / height) * math.pi).cos()
    return (strip / strip.sum() / width)[:, None].expand(height, width)


def direction_to_erp(direction: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Directions (..., 3) to ERP positions in pixels: x in [0, width], y in [0, height]."""
    lon, lat = direction_to_lonlat(direction)
    return (lon / (2 * math.pi) + 0.5) * width, (0.5 - lat / math.pi) * height


def rotate_yaw(direction: Tensor, yaw: float) -> Tensor:
    """Turn directions (..., 3) to the right by `yaw` radians."""
    x, y, z = direction.unbind(-1)
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.stack([c * x + s * z, y, c * z - s * x], dim=-1)
