"""The ViewPoint map's layout (paper 3.2): its four subregions, directions <-> positions on it, and what weighs where.

The map is a square of side S: subregions L, F over B, R, each of side r = S/2. (p, q) are coordinates in a subregion's
face plane, p right, q down, in units of half a face side; one unit is r / (2 sqrt2) pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .resample import (
    check_image,
    rows_within,
)
from .sphere import EVERY, pixel_grid, rotate_yaw

MAP_MULTIPLE = 32
SQRT2 = math.sqrt(2)
EASED_BELOW = 0.4  # a share of U's blend; 0.45 falls below a bound of the test against the published panoramas


@dataclass(frozen=True)
class Subregion:
    """One quadrant of the map: its row and column, its face's yaw, and the face's up in map axes times sqrt2."""

    face: str
    row: int
    column: int
    yaw_deg: float
    up: tuple[int, int]


SUBREGIONS = (
    Subregion("L", 0, 0, -90, (-1, -1)),
    Subregion("F", 0, 1, 0, (1, -1)),
    Subregion("B", 1, 0, 180, (-1, 1)),
    Subregion("R", 1, 1, 90, (1, 1)),
)


def check_map_size(map_size: int) -> None:
    """Raise ValueError unless the map's side is a positive multiple of 32 (VAE 8 x, patch 2 x, two halves)."""
    if map_size <= 0 or map_size % MAP_MULTIPLE:
        raise ValueError(f"the ViewPoint map's side is {map_size}; expected a positive multiple of {MAP_MULTIPLE}")


def check_map(viewpoint: Tensor) -> None:
    """Raise ValueError unless the tensor (..., C, S, S) is a ViewPoint map."""
    check_image(viewpoint, "ViewPoint map")
    height, width = viewpoint.shape[-2:]
    if height != width:
        raise ValueError(f"a ViewPoint map is square; got {width} x {height} (width x height)")
    check_map_size(width)


def erp_width_for_map(map_size: int) -> int:
    """ERP width whose resolution matches a map of this side: W = 4 ceil8(r / sqrt2)."""
    return 4 * 8 * math.ceil(map_size / 2 / SQRT2 / 8)


def unit_pixels(map_size: int) -> float:
    """Pixels of half a face side, which is also the map's pixels per radian at a face's centre."""
    return map_size / 4 / SQRT2


def subregion_to_direction(p: Tensor, q: Tensor) -> Tensor:
    """Face-plane coordinates (...) in the diamond |p| + |q| <= 2 to directions (..., 3) in the subregion's own frame.

    Equations 3-4 place the half disc of U in the upper corner.
    """
    one = torch.ones_like(p)
    face = torch.stack([p, q, one], dim=-1)
    side = torch.stack([p.sign(), q, 2 - p.abs()], dim=-1)
    down = torch.stack([p, one, 2 - q], dim=-1)
    d = -1 - q
    theta = torch.atan2(d, p)
    s = theta.sin() + theta.cos().abs()
    up = torch.stack([p * s, -one, 1 - d * s], dim=-1)
    out = torch.where((p.abs() > 1)[..., None], side, face)
    out = torch.where((q > 1)[..., None], down, out)
    return torch.where((q < -1)[..., None], up, out)


def direction_to_subregion(direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (..., 3) in a subregion's own frame to p, q and the fusion weight there, 0 where it is not seen.

    Weights (equations 5-12): 1 - |p|/2 on the blocks shared with a neighbour, 1 on the blocks toward U and D, and on U
    one minus the distance from the middle of U's edge, so that it vanishes on the arc of the half disc. Where two are
    blended on U, `ease_share` is applied to their shares.
    """
    x, y, z = direction.unbind(-1)
    largest = direction.abs().amax(-1)
    tolerance = 1e-9 * largest
    ax, ay = x.abs().clamp(min=1e-12), y.abs().clamp(min=1e-12)
    on_face = (z >= largest - tolerance) & (z > 0)
    on_side = (x.abs() >= z) & (z >= y.abs() - tolerance) & ~on_face
    on_down = (y >= z) & (z >= x.abs() - tolerance) & (y > 0) & ~on_face
    a, b = x / ay, 1 - z / ay
    rho = torch.hypot(a, b)
    above = (y < 0) & (b >= 0) & (rho <= 1 + 1e-6) & ~on_face
    theta = torch.atan2(b, a)
    s = theta.sin() + theta.cos().abs()

    zero, depth = torch.zeros_like(x), z.clamp(min=1e-12)
    p = torch.where(on_face, x / depth, zero)
    q = torch.where(on_face, y / depth, zero)
    p, q = torch.where(on_side, x.sign() * (2 - z / ax), p), torch.where(on_side, y / ax, q)
    p, q = torch.where(on_down, x / ay, p), torch.where(on_down, 2 - z / ay, q)
    p, q = torch.where(above, a / s, p), torch.where(above, -1 - b / s, q)

    shared = p.abs() > q.abs()
    weight = torch.where(shared, 1 - p.abs() / 2, torch.ones_like(p))
    weight = torch.where(above, (1 - rho).clamp(min=0) + 1e-9, weight)  # never 0 / 0 where arcs meet
    return p, q, torch.where(on_face | on_side | on_down | above, weight, zero)


def on_up(direction: Tensor) -> Tensor:
    """Whether directions (..., 3) lie on the face U."""
    x, y, z = direction.unbind(-1)
    return y <= -torch.maximum(x.abs(), z.abs())


def ease_share(share: Tensor) -> Tensor:
    """Shares in [0, 1/2] of the lighter of two subregions on U, brought to 0 without a slope.

    Going there in a straight line, as on U's arcs, leaves a crease. Above EASED_BELOW they stay as they are.
    """
    t = share / EASED_BELOW
    return torch.where(t < 1, EASED_BELOW * t * t * (2 - t), share)


def weight_on_grid(p: Tensor, q: Tensor, weight: Tensor, map_size: int) -> Tensor:
    """Weights on the shared blocks as equations 5-8 have them: W_ij is 0 and 1 at the centres of a block's corner
    pixels, not on their corners. Twins still sum to 1."""
    n = map_size // 4
    return torch.where(p.abs() > q.abs(), ((2 * n * weight - 1) / (2 * (n - 1))).clamp(0, 1), weight)


def map_directions(map_size: int, factor: int = 1, rows: slice = EVERY) -> Tensor:
    """Direction of every map pixel, float64 (S, S, 3); with factor f, of f x f points inside each: (f S, f S, 3), or of
    those in some rows of that."""
    check_map_size(map_size)
    side = map_size // 2
    band = slice(*rows.indices(map_size * factor)[:2])
    out = torch.empty(band.stop - band.start, map_size * factor, 3, dtype=torch.float64)
    for region in SUBREGIONS:
        top, left = region.row * side * factor, region.column * side * factor
        part = rows_within(band, top, side * factor)
        x, y = pixel_grid(side * factor, side * factor, part)
        x, y = (x / factor - side / 2) / unit_pixels(map_size), (y / factor - side / 2) / unit_pixels(map_size)
        own = rotate_yaw(subregion_to_direction(*pixels_to_subregion(x, y, region)), math.radians(region.yaw_deg))
        out[part.start + top - band.start :, left:][: len(own), : side * factor] = own
    return out


def pixels_to_subregion(x: Tensor, y: Tensor, region: Subregion) -> tuple[Tensor, Tensor]:
    """Positions from the subregion's centre, in units of half a face side along the map's axes, to p and q."""
    up_x, up_y = (component / SQRT2 for component in region.up)
    return -up_y * x + up_x * y, -(up_x * x + up_y * y)  # right = (-up_y, up_x)


def subregion_pixels(p: Tensor, q: Tensor, region: Subregion, side: int) -> tuple[Tensor, Tensor]:
    """Face-plane coordinates to positions in pixels of the subregion, whose side is given."""
    up_x, up_y = (component / SQRT2 for component in region.up)
    unit = unit_pixels(2 * side)
    return (-up_y * p - up_x * q) * unit + side / 2, (up_x * p - up_y * q) * unit + side / 2


# The shared blocks (equations 9-12): region, its block's row and column, the neighbour, and the quarter turns
# (counter-clockwise) that lay the neighbour's twin block over it.
TWINS = (
    ("F", 0, 0, "L", -1),
    ("F", 1, 1, "R", 1),
    ("B", 0, 0, "L", 1),
    ("B", 1, 1, "R", -1),
    ("L", 0, 1, "F", 1),
    ("L", 1, 0, "B", -1),
    ("R", 0, 1, "F", -1),
    ("R", 1, 0, "B", 1),
)
