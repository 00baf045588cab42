"""How a panorama lies on the flat picture that a model sees: the ViewPoint map, or, to compare, ERP or a cubemap.

Each has about as many pixels as the map of the same `map_size`, its sides multiples of 16 (VAE 8 x, patch 2 x).
"""

import math
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from ..cubemap import FACES, cubemap_to_erp, face_directions
from ..map_layout import check_map_size, map_directions
from ..resample import Grid, filtering, sample
from ..sphere import direction_to_erp, erp_directions
from ..viewpoint_map import erp_to_viewpoint, viewpoint_to_erp

VIEWPOINT, ERP, CUBEMAP = "viewpoint", "erp", "cubemap"
LAYOUTS = (VIEWPOINT, ERP, CUBEMAP)
CELL = 16


def check_layout(layout: str) -> None:
    """Raise ValueError for a layout that does not exist."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")


def picture_size(layout: str, map_size: int) -> tuple[int, int]:
    """Height and width of a layout's picture: an ERP of 2:1, or faces F R B over L U D; about S x S pixels."""
    check_layout(layout)
    check_map_size(map_size)
    if layout == VIEWPOINT:
        return map_size, map_size
    pieces = 2 if layout == ERP else 6
    side = CELL * max(1, round(map_size / math.sqrt(pieces) / CELL))
    return (side, 2 * side) if layout == ERP else (2 * side, 3 * side)


def faces_to_picture(faces: Tensor) -> Tensor:
    """Cubemaps (..., 6, C, a, a) -> pictures (..., C, 2 a, 3 a): F R B over L U D."""
    return rearrange(faces, "... (i j) c h w -> ... c (i h) (j w)", i=2)


def picture_to_faces(picture: Tensor) -> Tensor:
    """The inverse of `faces_to_picture`."""
    return rearrange(picture, "... c (i h) (j w) -> ... (i j) c h w", i=2, j=3)


@lru_cache(8)
def layout_directions(layout: str, map_size: int, factor: int = 1) -> Tensor:
    """Direction of every pixel of a layout's picture, float64 (h, w, 3); with factor f, of f x f points inside each."""
    height, width = (side * factor for side in picture_size(layout, map_size))
    if layout == VIEWPOINT:
        return map_directions(map_size, factor)
    if layout == ERP:
        return erp_directions(height, width)
    faces = torch.stack([face_directions(face, height // 2) for face in FACES])
    return faces_to_picture(faces.movedim(-1, 1)).movedim(0, -1)


@lru_cache(8)
def erp_source_grid(layout: str, map_size: int, source_width: int) -> Grid:
    """Positions of an ERP's or a cubemap's pixels on an ERP image of this width."""
    height, width = picture_size(layout, map_size)
    density = width / (2 * math.pi) if layout == ERP else height / 4  # at a face's centre half its side is a radian
    factor, reduction = filtering(source_width / (2 * math.pi), density, source_width // 2)
    directions = layout_directions(layout, map_size, factor)
    x, y = direction_to_erp(directions, source_width // 2, source_width)
    return Grid(x.float(), y.float(), factor, reduction)


def from_erp(erp: Tensor, layout: str, map_size: int) -> Tensor:
    """ERP images (..., C, H, 2H) -> a layout's pictures (..., C, h, w)."""
    if layout == VIEWPOINT:
        return erp_to_viewpoint(erp, map_size)
    return sample(erp, erp_source_grid(layout, map_size, erp.shape[-1]), border="erp")


def to_erp(picture: Tensor, layout: str, width: int) -> Tensor:
    """A layout's pictures (..., C, h, w) -> ERP images (..., C, width / 2, width)."""
    check_layout(layout)
    if layout == VIEWPOINT:
        return viewpoint_to_erp(picture, width)
    if layout == CUBEMAP:
        return cubemap_to_erp(picture_to_faces(picture), width)
    directions = erp_directions(width // 2, width)
    x, y = direction_to_erp(directions, *picture.shape[-2:])
    return sample(picture, Grid(x.float(), y.float()), border="erp")
