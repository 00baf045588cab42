"""Cubemaps: the six faces' directions, and faces <-> the ViewPoint map and ERP images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .camera import direction_to_view, view_directions
from .kept import Kept
from .map_layout import check_map, check_map_size, map_directions, unit_pixels
from .resample import (
    MARGIN,
    Grid,
    averages,
    banded_grid,
    check_erp_width,
    check_image,
    filtering,
    pad_edge,
    rows_within,
    sample,
)
from .sphere import EVERY, erp_directions
from .viewpoint_map import MapLookup, banded_lookup, map_filtering, sample_map

FACES = ("F", "R", "B", "L", "U", "D")
FACE_YAW_PITCH = {"F": (0, 0), "R": (90, 0), "B": (180, 0), "L": (-90, 0), "U": (0, 90), "D": (0, -90)}
LOOKUP_PIXELS = 1 << 22  # of faces whose map positions are looked up together; each such stack pads the map anew
FACE_AHEAD = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, -1, 0], [0, 1, 0]], dtype=torch.float64)


def face_directions(face: str, size: int, rows: slice = EVERY) -> Tensor:
    """Direction of every pixel of a cubemap face (90 degrees), or of those in some rows. float64 (size, size, 3)."""
    yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
    return view_directions(size, size, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=90, rows=rows)


def direction_to_faces(direction: Tensor, size: int, margin: int) -> tuple[Tensor, Tensor]:
    """Directions (h, w, 3) to x, y in pixels on the six faces stacked below one another, each with a margin."""
    nearest = (direction @ FACE_AHEAD.T).argmax(-1)
    x, y = torch.zeros_like(direction[..., 0]), torch.zeros_like(direction[..., 0])
    for index, face in enumerate(FACES):
        yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
        face_x, face_y, _ = direction_to_view(direction, size, size, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=90)
        x = torch.where(nearest == index, face_x + margin, x)
        y = torch.where(nearest == index, face_y + margin + index * (size + 2 * margin), y)
    return x, y


def stacked_directions(side: int, fov_deg: float, rows: slice) -> Tensor:
    """Directions of the pixels in some rows of the six faces' views (side, side), stacked below one another."""
    parts = []
    for number, face in enumerate(FACES):
        yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
        own = rows_within(rows, number * side, side)
        parts.append(view_directions(side, side, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=fov_deg, rows=own))
    return torch.cat(parts)


def from_cubemap_samples(map_size: int, size: int) -> int:
    """How many positions `cubemap_to_viewpoint` looks up, those of the faces' margins among them."""
    factor, reduction = filtering(size / 2, unit_pixels(map_size), size)
    return (map_size * factor) ** 2 + 6 * (size + 2 * MARGIN * reduction) ** 2


@Kept
def faces_grid(map_size: int, size: int, filtered: bool) -> Grid:
    """Positions of the map's pixels on the padded stack of six faces."""
    factor, reduction = filtering(size / 2, unit_pixels(map_size), size, filtered=filtered)
    side, margin = map_size * factor, MARGIN * reduction

    def locate(rows: slice) -> tuple[Tensor, Tensor]:
        return direction_to_faces(map_directions(map_size, factor, rows), size, margin)

    return banded_grid(side, side, locate, factor, reduction)


@Kept
def face_margin_grid(size: int, margin: int) -> Grid:
    """Positions, on the stack itself, of the padded faces' pixels: their margins lie on the neighbouring faces."""
    outer = size + 2 * margin
    fov_deg = math.degrees(2 * math.atan(outer / size))
    return banded_grid(
        6 * outer, outer, lambda rows: direction_to_faces(stacked_directions(outer, fov_deg, rows), size, margin)
    )


def check_cubemap(faces: Tensor) -> None:
    """Raise ValueError unless the tensor is a cubemap (..., 6, C, a, a)."""
    check_image(faces, "cubemap")
    if faces.ndim < 4 or faces.shape[-4] != 6 or faces.shape[-1] != faces.shape[-2]:
        raise ValueError(f"a cubemap is six square faces (..., 6, C, a, a); got {tuple(faces.shape)}")


def sample_faces(faces: Tensor, grid: Grid, interpolation: str, on_frame: Callable[[], None]) -> Tensor:
    """Cubemaps (..., 6, C, a, a) at positions (h, w) on their padded stack -> (..., C, h, w), one at a time."""
    size, lead = faces.shape[-1], faces.shape[:-4]
    margin = MARGIN * grid.reduction
    margins = face_margin_grid(size, margin)
    height, width = (side // grid.factor for side in grid.x.shape)
    out = faces.new_empty(lead.numel(), faces.shape[-3], height, width)
    for cubemap, result in zip(faces.reshape(-1, *faces.shape[-4:]), out, strict=True):
        stack = sample(pad_edge(cubemap, margin).movedim(1, 0).flatten(1, 2), margins, interpolation=interpolation)
        result.copy_(sample(stack, grid, interpolation=interpolation))
        on_frame()
    return out.reshape(*lead, *out.shape[1:])


def cubemap_to_viewpoint(
    faces: Tensor, map_size: int, *, interpolation: str = "bicubic", on_frame: Callable[[], None] = lambda: None
) -> Tensor:
    """Cubemaps (..., 6, C, a, a), faces in the order F, R, B, L, U, D -> maps (..., C, map_size, map_size).

    U and D are the views that a camera facing F sees on looking straight up and straight down. `on_frame` is called
    once a cubemap.
    """
    check_cubemap(faces)
    check_map_size(map_size)
    grid = faces_grid(map_size, faces.shape[-1], averages(interpolation))
    return sample_faces(faces, grid, interpolation, on_frame)


@Kept
def erp_faces_grid(width: int, size: int, filtered: bool) -> Grid:
    """Positions of an ERP's pixels on the padded stack of six faces."""
    factor, reduction = filtering(size / 2, width / (2 * math.pi), size, filtered=filtered)
    fine, margin = (width // 2 * factor, width * factor), MARGIN * reduction
    return banded_grid(
        *fine, lambda rows: direction_to_faces(erp_directions(*fine, rows), size, margin), factor, reduction
    )


def cubemap_to_erp(faces: Tensor, width: int, *, interpolation: str = "bicubic") -> Tensor:
    """Cubemaps (..., 6, C, a, a), faces in the order F, R, B, L, U, D -> ERP images (..., C, width / 2, width)."""
    check_cubemap(faces)
    check_erp_width(width)
    grid = erp_faces_grid(width, faces.shape[-1], averages(interpolation))
    return sample_faces(faces, grid, interpolation, lambda: None)


def faces_at_once(side: int) -> int:
    """How many faces of this side, supersampling included, are looked up together: 1, 2, 3 or 6."""
    return next((count for count in (6, 3, 2) if count * side**2 <= LOOKUP_PIXELS), 1)


def to_cubemap_samples(map_size: int, size: int) -> int:
    """How many positions `viewpoint_to_cubemap` looks up at once."""
    side = size * map_filtering(map_size, size / 2)[0]
    return faces_at_once(side) * side**2


@Kept
def faces_lookup(map_size: int, first: int, count: int, size: int, fusion: bool, filtered: bool) -> MapLookup:
    """Map positions of the pixels of `count` faces from number `first` on, stacked below one another."""
    factor, reduction = map_filtering(map_size, size / 2, filtered=filtered)
    side, how = size * factor, {"fusion": fusion, "factor": factor, "reduction": reduction}

    def directions(rows: slice) -> Tensor:
        return stacked_directions(side, 90, slice(rows.start + first * side, rows.stop + first * side))

    return banded_lookup(count * side, side, directions, map_size, **how)


def viewpoint_to_cubemap(
    viewpoint: Tensor,
    size: int,
    *,
    interpolation: str = "bicubic",
    fusion: bool = True,
    on_face: Callable[[], None] = lambda: None,
) -> Tensor:
    """Maps (..., C, S, S) -> cubemaps (..., 6, C, size, size), faces in the order F, R, B, L, U, D. Overlaps as in
    `viewpoint_to_erp`. `on_face` is called once a face of each map."""
    check_map(viewpoint)
    if size <= 0:
        raise ValueError(f"the face size is {size}; expected a positive number of pixels")
    lead, (channels, _, map_size) = viewpoint.shape[:-3], viewpoint.shape[-3:]
    faces = viewpoint.new_empty(lead.numel(), 6, channels, size, size)
    filtered = averages(interpolation)
    count = faces_at_once(size * map_filtering(map_size, size / 2, filtered=filtered)[0])
    for first in range(0, 6, count):
        lookup = faces_lookup(map_size, first, count, size, fusion and filtered, filtered)
        for frame, cubemap in zip(viewpoint.reshape(-1, *viewpoint.shape[-3:]), faces, strict=True):
            stack = sample_map(frame, lookup, interpolation=interpolation)
            cubemap[first : first + count] = stack.unflatten(-2, (count, size)).movedim(-3, 0)
            for _ in range(count):
                on_face()
    return faces.reshape(*lead, *faces.shape[1:])
