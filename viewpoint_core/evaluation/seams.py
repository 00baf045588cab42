"""How strong a panorama's steps are along the lines where a projection may leave one, against its gradient beside them.

A line is points on the sphere and, at each, the direction across it. The same line, moved sideways by some degrees,
shows what gradient the picture has there anyway.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..resample import check_erp, sample_erp

SEAM, EDGES, ARCS = "left-right seam", "face edges", "U arcs"
LINES = (SEAM, EDGES, ARCS)
BESIDE_DEG = (-14.0, -11.0, -8.0, -5.0, 5.0, 8.0, 11.0, 14.0)
POINTS = 400
ROUNDING = 1e-6


class Line(NamedTuple):
    """Unit directions float64 (n, 3) on a line and the unit directions across it there."""

    points: Tensor
    across: Tensor


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) of unit length."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def line_of(curve: Tensor) -> Line:
    """A line from directions (n + 2, 3) along it: the first and last only give the way."""
    points = normalised(curve)
    along = points[2:] - points[:-2]
    return Line(points[1:-1], normalised(torch.linalg.cross(points[1:-1], along)))


def joined(lines: list[Line]) -> Line:
    """Several lines as one."""
    return Line(torch.cat([line.points for line in lines]), torch.cat([line.across for line in lines]))


def seam_line() -> Line:
    """The meridian at longitude 180, where an ERP's left and right edges meet."""
    lat = torch.linspace(-1.4, 1.4, POINTS, dtype=torch.float64)
    return line_of(torch.stack([0 * lat, -lat.sin(), -lat.cos()], dim=-1))


def edge_lines() -> Line:
    """The twelve edges of the cube of faces F, R, B, L, U, D."""
    t = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    edges = []
    for axis in range(3):
        for u in (-1.0, 1.0):
            for v in (-1.0, 1.0):
                parts = [torch.full_like(t, u), torch.full_like(t, v)]
                parts.insert(axis, t)
                edges.append(line_of(torch.stack(parts, dim=-1)))
    return joined(edges)


def arc_lines() -> Line:
    """The arcs on U: half circles around the middles of U's edges, where a subregion's half disc ends (3.2)."""
    angle = torch.linspace(0.02, math.pi - 0.02, POINTS, dtype=torch.float64)
    a, b = angle.cos(), 1 - angle.sin()  # from the middle of the edge that U shares with F, toward the zenith
    one = torch.ones_like(a)
    sides = ((a, b), (b, -a), (-a, -b), (-b, a))
    return joined([line_of(torch.stack([x, -one, z], dim=-1)) for x, z in sides])


@lru_cache(1)
def all_lines() -> dict[str, Line]:
    """The lines by name."""
    return {SEAM: seam_line(), EDGES: edge_lines(), ARCS: arc_lines()}


def moved(line: Line, angle: float) -> Line:
    """A line moved across itself by an angle in radians."""
    c, s = math.cos(angle), math.sin(angle)
    return Line(c * line.points + s * line.across, c * line.across - s * line.points)


def step_across(erp: Tensor, line: Line, step: float) -> Tensor:
    """Mean absolute difference over `step` radians across a line, of ERP images (..., C, H, 2H): a scalar."""
    ends = torch.stack([moved(line, sign * step / 2).points for sign in (-1, 1)])
    values = sample_erp(erp, ends, interpolation="bilinear")
    return (values[..., 0, :] - values[..., 1, :]).abs().mean()


def seam_steps(erp: Tensor) -> dict[str, tuple[float, float]]:
    """(step across, gradient beside) for each kind of line, of ERP images (..., C, H, 2H): mean absolute differences
    over one pixel of the ERP. Raises ValueError for images that are not 2:1.
    """
    check_erp(erp)
    step = 2 * math.pi / erp.shape[-1]
    found = {}
    for name, line in all_lines().items():
        beside = [step_across(erp, moved(line, math.radians(angle)), step) for angle in BESIDE_DEG]
        found[name] = (float(step_across(erp, line, step)), float(torch.stack(beside).mean()))
    return found


def seam_ratios(*steps: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Steps across over gradients beside, by kind of line, of one or several panoramas' `seam_steps` together.

    1 where nothing shows. Of a single panorama it also depends on what happens to lie on the line.
    """
    across, beside = ({name: sum(found[name][part] for found in steps) for name in LINES} for part in (0, 1))
    return {name: across[name] / beside[name] if beside[name] > ROUNDING else 1.0 for name in LINES}
