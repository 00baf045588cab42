"""Pinhole views on the sphere: view pixels <-> directions."""

import math

import torch
from torch import Tensor

from .sphere import EVERY, pixel_grid


def check_fov(fov_deg: float) -> None:
    """Raise ValueError unless the horizontal field of view lies in (0, 180) degrees."""
    if not 0.0 < fov_deg < 180.0:
        raise ValueError(f"fov_deg is {fov_deg}; a perspective view needs a horizontal field of view between 0 and 180")


def focal_length(width: int, fov_deg: float) -> float:
    """Focal length in pixels of a view `width` pixels wide, which is also its pixels per radian at the centre."""
    check_fov(fov_deg)
    return width / 2 / math.tan(math.radians(fov_deg) / 2)


def view_rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Tensor:
    """Camera-to-world rotation, float64 (3, 3): yaw turns right, pitch looks up, roll turns the camera clockwise.

    Raises ValueError for angles that are not finite.
    """
    if not all(map(math.isfinite, (yaw_deg, pitch_deg, roll_deg))):
        raise ValueError(f"yaw, pitch and roll are {yaw_deg}, {pitch_deg} and {roll_deg}; expected finite degrees")
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    about_y = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    about_x = [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    about_z = [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    rotations = [torch.tensor(matrix, dtype=torch.float64) for matrix in (about_y, about_x, about_z)]
    return rotations[0] @ rotations[1] @ rotations[2]


def view_directions(
    height: int,
    width: int,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    fov_deg: float = 90,
    rows: slice = EVERY,
) -> Tensor:
    """Direction of every pixel of a view with square pixels, or of those in some rows. float64 (height, width, 3); not
    of unit length."""
    x, y = pixel_grid(height, width, rows)
    focal = focal_length(width, fov_deg)
    rays = torch.stack([(x - width / 2) / focal, (y - height / 2) / focal, torch.ones_like(x)], dim=-1)
    return rays @ view_rotation(yaw_deg, pitch_deg, roll_deg).T


def direction_to_view(
    direction: Tensor,
    height: int,
    width: int,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    fov_deg: float = 90,
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (..., 3) to view positions x, y in pixels and a bool tensor, True where the view sees them; where it
    does not, the position is the view's centre. What lies up to a millionth of a pixel beside the view is seen."""
    focal = focal_length(width, fov_deg)
    ray = direction @ view_rotation(yaw_deg, pitch_deg, roll_deg)
    depth = ray[..., 2]
    safe = depth.clamp(min=1e-9)
    x = ray[..., 0] / safe * focal + width / 2
    y = ray[..., 1] / safe * focal + height / 2
    beside = torch.maximum((x - width / 2).abs() - width / 2, (y - height / 2).abs() - height / 2)
    seen = (depth > 1e-9) & (beside <= 1e-6)  # map pixels lie on a face view's very edge: rounding must not choose
    return torch.where(seen, x, width / 2), torch.where(seen, y, height / 2), seen
