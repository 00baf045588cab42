"""A panorama turned as a whole: another front, a level horizon, a camera that looks around."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .camera import view_rotation
from .camera_path import CameraPath
from .resample import Grid, banded_grid, check_erp, check_interpolation, sample
from .sphere import direction_to_erp, erp_directions
from .views import check_frames


def rotation_grid(height: int, width: int, rotation: Tensor) -> Grid:
    """Where the pixels of a turned ERP lie on the one before, for a camera-to-world rotation (3, 3)."""
    return banded_grid(
        height, width, lambda rows: direction_to_erp(erp_directions(height, width, rows) @ rotation.T, height, width)
    )


def rotate_erp(
    erp: Tensor,
    rotation: Tensor,
    *,
    interpolation: str = "bicubic",
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """What a camera of this camera-to-world rotation (3, 3) sees of ERP images (..., C, H, 2H), as such images.

    Bicubic values may leave the source's range a little. `on_frame` is called once an image. Raises ValueError for an
    image that is not 2:1.
    """
    check_erp(erp)
    grid = rotation_grid(*erp.shape[-2:], rotation)
    return sample(erp, grid, interpolation=interpolation, border="erp", on_frame=on_frame)


def rolled(erp: Tensor, columns: int, on_frame: Callable[[], None]) -> Tensor:
    """ERP images (..., C, H, 2H) moved to the right by whole pixels, one after another."""
    out = erp.new_empty(erp.shape)
    for source, result in zip(erp.reshape(-1, *erp.shape[-3:]), out.view(-1, *erp.shape[-3:]), strict=True):
        result.copy_(source.roll(columns, dims=-1))
        on_frame()
    return out


def reorient_erp(
    erp: Tensor,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    path: CameraPath | None = None,
    interpolation: str = "bicubic",
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """ERP images (..., C, H, 2H) whose centre shows what lay at these angles before, turned clockwise by roll_deg.

    A turn to the side by whole pixels moves them and computes none. With a path the ERP is a video (T, C, H, 2H) with a
    frame for each of its cameras, or one frame (1, C, H, 2H) that all of them look at; the angles turn the path as a
    whole, and its fields of view do not count. `on_frame` is called once a frame. Raises ValueError for images that are
    not 2:1, and where lengths differ.
    """
    check_erp(erp)
    check_interpolation(interpolation)
    if path is None:
        rotation = view_rotation(yaw_deg, pitch_deg, roll_deg)
        columns = yaw_deg / 360 * erp.shape[-1]
        if pitch_deg == roll_deg == 0 and math.isclose(columns, round(columns), abs_tol=1e-6):
            return rolled(erp, -round(columns), on_frame)
        return rotate_erp(erp, rotation, interpolation=interpolation, on_frame=on_frame)
    if erp.ndim != 4 or len(erp) != 1:
        check_frames(erp, path, "erp")
    turned, before = erp.new_empty(len(path), *erp.shape[1:]), None
    rotations = path.turned(yaw_deg, pitch_deg, roll_deg).rotations()
    for source, rotation, result in zip(erp.expand(len(path), -1, -1, -1), rotations, turned, strict=True):
        if before is None or not torch.equal(rotation, before):
            grid, before = rotation_grid(*erp.shape[-2:], rotation), rotation
        result.copy_(sample(source, grid, interpolation=interpolation, border="erp"))
        on_frame()
    return turned
