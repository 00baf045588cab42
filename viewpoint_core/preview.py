"""A small panorama of a map that is still being made: any even side, down to the latent's own cells."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .map_layout import MAP_MULTIPLE
from .viewpoint_map import viewpoint_to_erp

PREVIEW_WIDTH = 512


def resize_subregions(viewpoint: Tensor, map_size: int) -> Tensor:
    """Maps (N, C, s, s) with an even side s -> (N, C, map_size, map_size), each subregion by itself: none bleeds into
    the next."""
    rows = []
    for row in viewpoint.chunk(2, dim=-2):
        parts = [
            F.interpolate(part, size=(map_size // 2, map_size // 2), mode="bilinear") for part in row.chunk(2, dim=-1)
        ]
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=-2)


def preview_panorama(viewpoint: Tensor) -> Tensor:
    """A map (C, s, s) of any even side s, float, to an ERP (C, PREVIEW_WIDTH / 2, PREVIEW_WIDTH).

    The side is brought to the next multiple of 32, which the layout needs: a latent of the paper's map has 92.
    """
    side = viewpoint.shape[-1]
    if viewpoint.ndim != 3 or viewpoint.shape[-2] != side or side % 2:
        raise ValueError(f"expected a square map (C, s, s) with an even side, got {tuple(viewpoint.shape)}")
    frame = viewpoint[None].float()
    map_size = math.ceil(side / MAP_MULTIPLE) * MAP_MULTIPLE
    if map_size != side:
        frame = resize_subregions(frame, map_size)
    return viewpoint_to_erp(frame, PREVIEW_WIDTH, interpolation="bilinear")[0]
