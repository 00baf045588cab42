"""How a panorama lies on the flat picture that a model sees: the ViewPoint map, or, to compare, ERP or a cubemap.

Each has about as many pixels as the map of the same `map_size`, its sides multiples of 16 (VAE 8 x, patch 2 x).
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from ..choices import check_choice
from ..cubemap import FACES, cubemap_to_erp, face_directions
from ..kept import Kept
from ..map_layout import check_map_size, map_directions
from ..resample import Grid, banded_grid, filtering, rows_within, sample, sample_erp
from ..sphere import EVERY, direction_to_erp, erp_directions
from ..viewpoint_map import erp_to_viewpoint, viewpoint_to_erp

VIEWPOINT, ERP, CUBEMAP = "viewpoint", "erp", "cubemap"
LAYOUTS = (VIEWPOINT, ERP, CUBEMAP)
CELL = 16


def check_layout(layout: str) -> None:
    """Raise ValueError for a layout that does not exist."""
    check_choice(layout, LAYOUTS, "layout")


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


def build_layout_directions(layout: str, map_size: int, factor: int = 1, rows: slice = EVERY) -> Tensor:
    """Direction of every pixel of a layout's picture, float64 (h, w, 3); with factor f, of f x f points inside each; or
    of those in some rows (uncached)."""
    height, width = (side * factor for side in picture_size(layout, map_size))
    if layout == VIEWPOINT:
        return map_directions(map_size, factor, rows)
    if layout == ERP:
        return erp_directions(height, width, rows)
    side, band = height // 2, slice(*rows.indices(height)[:2])
    parts = []
    for top, faces in ((0, FACES[:3]), (side, FACES[3:])):
        own = rows_within(band, top, side)
        parts.append(torch.cat([face_directions(face, side, own) for face in faces], dim=1))
    return torch.cat(parts)


layout_directions = Kept(build_layout_directions)


@Kept
def erp_source_grid(layout: str, map_size: int, source_width: int) -> Grid:
    """Positions of an ERP's or a cubemap's pixels on an ERP image of this width."""
    height, width = picture_size(layout, map_size)
    density = width / (2 * math.pi) if layout == ERP else height / 4  # at a face's centre half its side is a radian
    factor, reduction = filtering(source_width / (2 * math.pi), density, source_width // 2)

    def locate(rows: slice) -> tuple[Tensor, Tensor]:
        directions = build_layout_directions(layout, map_size, factor, rows)
        return direction_to_erp(directions, source_width // 2, source_width)

    return banded_grid(height * factor, width * factor, locate, factor, reduction)


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
    return sample_erp(picture, erp_directions(width // 2, width))
