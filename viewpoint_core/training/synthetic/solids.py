"""Solids of the synthetic worlds and where rays meet them: boxes, upright frustums (columns, cones), ellipsoids.

World axes: x right, y down, z forward, metres; the ground is y = 0. A vector is three tensors (N,), or
(1,) where it is the same for all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...choices import check_choice
from .texture import Material, Patch, Vector, stretched, wrapped_length

FAR = 1e6
SLACK = 0.02  # square metres: spheres a little wider, as float32 rounds
SHAPES = ("box", "frustum", "ball", "gable")
# The unit gable: planes n . p = d around it, as (nx, ny, nz, d); its ridge runs along z at y = -1.
GABLE = ((2, -1, 0, 1), (-2, -1, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1))


@dataclass(frozen=True)
class Solid:
    """A box, frustum, ball or gable (a roof) that fills `half` sizes around `centre`, turned by `yaw` radians.

    The turn is about the vertical. taper: a frustum's radius at its top, its foot being 1; 0 is a cone.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: Material
    yaw: float = 0.0
    taper: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.shape, SHAPES, "shape")

    @property
    def reach(self) -> float:
        """Radius of a sphere around the solid."""
        x, y, z = self.half
        around = max(x, z) * max(1, self.taper) if self.shape == "frustum" else math.hypot(x, z)
        return max(self.half) if self.shape == "ball" else math.hypot(around, y)


def dot(a: Vector, b: Vector) -> Tensor:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(origin: Vector, direction: Vector, distance: Tensor) -> Vector:
    """The points at a distance along rays."""
    return tuple(o + distance * d for o, d in zip(origin, direction, strict=True))


def take(vector: Vector, index: Tensor) -> Vector:
    """Some of the vectors; one that is the same for all stays."""
    return vector if len(vector[0]) == 1 else tuple(part[index] for part in vector)


def turn(vector: Vector, yaw: float) -> Vector:
    """Vectors turned to the right about the vertical by `yaw` radians."""
    x, y, z = vector
    c, s = math.cos(yaw), math.sin(yaw)
    return c * x + s * z, y, c * z - s * x


def to_local(solid: Solid, origin: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """Rays in the solid's own frame, in metres from its centre."""
    offset = tuple(o - c for o, c in zip(origin, solid.centre, strict=True))
    return turn(offset, -solid.yaw), turn(direction, -solid.yaw)


def constant(values: Sequence[float], like: Tensor) -> Vector:
    """One vector for all, parts (1,)."""
    return tuple(torch.tensor([value], dtype=like.dtype, device=like.device) for value in values)


def near(solids: Sequence[Solid], origin: Vector, direction: Vector) -> list[tuple[int, Tensor]]:
    """Which rays of unit length (N,) may meet which solids: those that pass its sphere. [(number, indices), ...]."""
    start, ray = torch.stack(origin), torch.stack(direction)
    spheres = torch.tensor([(*solid.centre, solid.reach) for solid in solids], dtype=ray.dtype, device=ray.device)
    centre, reach = spheres.reshape(-1, 4).split([3, 1], dim=1)
    one = torch.ones_like(start[:1])
    beyond = (centre**2).sum(1, keepdim=True) - reach**2 - SLACK
    outside = torch.cat([-2 * centre, beyond, torch.ones_like(reach)], dim=1)
    outside = outside @ torch.cat([start, one, (start**2).sum(0, keepdim=True)])
    ahead = torch.cat([centre, torch.ones_like(reach)], dim=1) @ torch.cat(along_axis(start, ray))
    meets = ahead >= torch.where(outside > 0, outside.abs().sqrt(), -FAR)
    number, index = meets.nonzero().unbind(1)
    counts = torch.bincount(number, minlength=len(solids)).tolist()
    return [(k, part) for k, part in enumerate(index.split(counts)) if len(part)]


def along_axis(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Rays (3, N) and minus how far along them they start: c @ ray + that is how far ahead c lies."""
    offset = -(start * ray).sum(0, keepdim=True)
    return ray.expand(-1, offset.shape[1]), offset


def safe(x: Tensor) -> Tensor:
    """Never zero."""
    return torch.where(x.abs() < 1e-9, torch.full_like(x, 1e-9), x)


def hit_box(origin: Vector, direction: Vector) -> Tensor:
    """Distance to the box [-1, 1]^3 from outside; FAR where it is missed."""
    enter, leave = None, None
    for o, d in zip(origin, direction, strict=True):
        step = 1 / safe(d)
        first, second = (-1 - o) * step, (1 - o) * step
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        enter = low if enter is None else torch.maximum(enter, low)
        leave = high if leave is None else torch.minimum(leave, high)
    return torch.where((leave >= enter) & (enter > 0), enter, FAR)


def hit_gable(origin: Vector, direction: Vector) -> Tensor:
    """Distance to the unit gable from outside; FAR where it is missed."""
    enter, leave = torch.full_like(direction[0], -FAR), torch.full_like(direction[0], FAR)
    for *normal, offset in GABLE:
        toward = safe(dot(direction, normal))
        distance = (offset - dot(origin, normal)) / toward
        enter = torch.where(toward < 0, torch.maximum(enter, distance), enter)
        leave = torch.where(toward > 0, torch.minimum(leave, distance), leave)
    return torch.where((leave >= enter) & (enter > 0), enter, FAR)


def hit_ball(origin: Vector, direction: Vector) -> Tensor:
    """Distance to the unit ball from outside; FAR where it is missed."""
    a, b, c = dot(direction, direction), dot(origin, direction), dot(origin, origin) - 1
    root = (b * b - a * c).clamp(min=0).sqrt()
    distance = (-b - root) / a
    return torch.where((b * b > a * c) & (distance > 0), distance, FAR)


def hit_frustum(origin: Vector, direction: Vector, taper: float) -> Tensor:
    """Distance from outside to the unit frustum, of radius 1 at y = 1 (its foot) and `taper` at y = -1."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    middle, slope = (1 + taper) / 2, (1 - taper) / 2
    radius, growth = middle + slope * oy, slope * dy
    a = safe(dx * dx + dz * dz - growth * growth)
    b = ox * dx + oz * dz - radius * growth
    c = ox * ox + oz * oz - radius * radius
    inside = b * b - a * c
    root = inside.clamp(min=0).sqrt()
    best = torch.full_like(dx, FAR)
    for distance in ((-b - root) / a, (-b + root) / a):
        good = (inside > 0) & (distance > 0) & ((oy + distance * dy).abs() <= 1)
        best = torch.where(good, torch.minimum(best, distance), best)
    for y, r in ((-1, taper), (1, 1.0)):
        distance = (y - oy) / safe(dy)
        on_cap = (ox + distance * dx) ** 2 + (oz + distance * dz) ** 2 <= r * r
        best = torch.where(on_cap & (distance > 0), torch.minimum(best, distance), best)
    return best


def hit_solid(solid: Solid, origin: Vector, direction: Vector) -> Tensor:
    """Distance along rays (N,), in units of the direction's length; FAR where they miss. Rays start outside."""
    o, d = to_local(solid, origin, direction)
    o = tuple(part / half for part, half in zip(o, solid.half, strict=True))
    d = tuple(part / half for part, half in zip(d, solid.half, strict=True))
    if solid.shape == "frustum":
        return hit_frustum(o, d, solid.taper)
    return {"box": hit_box, "ball": hit_ball, "gable": hit_gable}[solid.shape](o, d)


def plane_patch(point: Vector, local: Vector, direction: Vector, axis: Tensor | int, width: Tensor) -> Patch:
    """A patch of a plane across `axis` (0 x, 1 y, 2 z): u runs along x or z, v along y or z. width: across the ray."""
    axis = torch.as_tensor(axis, device=width.device)
    (x, y, z), (dx, dy, dz) = local, direction
    u, du = torch.where(axis == 0, z, x), torch.where(axis == 0, dz, dx)
    v, dv = torch.where(axis == 1, z, y), torch.where(axis == 1, dz, dy)
    dn = torch.where(axis == 0, dx, torch.where(axis == 1, dy, dz))
    return Patch(point, u, v, width * stretched(du, dn), width * stretched(dv, dn))


def round_patch(solid: Solid, point: Vector, local: Vector, direction: Vector, normal: Vector, width: Tensor) -> Patch:
    """A patch of a frustum or ball: u runs around it, v upright."""
    x, y, z = local
    angle = torch.atan2(x, z)
    across = dot(direction, normal)
    tangent = direction[0] * angle.cos() - direction[2] * angle.sin()
    u = wrapped_length(angle, max(solid.half[0], solid.half[2]), solid.material.size[0])
    return Patch(point, u, y, width * stretched(tangent, across), width * stretched(direction[1], across))


def normalised(vector: Vector) -> Vector:
    """Vectors of unit length."""
    length = dot(vector, vector).sqrt().clamp(min=1e-9)
    return vector[0] / length, vector[1] / length, vector[2] / length


def box_normal(local: Vector) -> tuple[Tensor, Vector]:
    """The axis of a unit box's face on which points lie, and the face's normal."""
    axis = torch.stack([part.abs() for part in local]).argmax(0)
    return axis, tuple(part.sign() * (axis == k) for k, part in enumerate(local))


def gable_normal(solid: Solid, local: Vector) -> tuple[Tensor, Vector]:
    """The axis that a unit gable's face lies across most, and the face's normal in the solid's frame."""
    face = torch.stack([dot(local, normal) - offset for *normal, offset in GABLE]).argmax(0)
    planes = torch.tensor([plane[:3] for plane in GABLE], dtype=local[0].dtype, device=face.device)
    return torch.tensor([0, 0, 1, 2, 2], device=face.device)[face], normalised(
        tuple(part / half for part, half in zip(planes[face].unbind(1), solid.half, strict=True))
    )


def round_normal(solid: Solid, local: Vector) -> Vector:
    """Normal of a frustum or ball at points of its unit shape, in the solid's frame."""
    x, y, z = local
    hx, hy, hz = solid.half
    if solid.shape == "ball":
        return normalised((x / hx, y / hy, z / hz))
    slope = (1 - solid.taper) / 2
    radius = (1 + solid.taper) / 2 + slope * y
    cap = (y.abs() > 0.9999) & (x * x + z * z < (radius * 0.9999) ** 2)
    side = normalised((x / hx, -slope * radius / hy, z / hz))
    return tuple(torch.where(cap, c, s) for c, s in zip((0 * x, y.sign(), 0 * x), side, strict=True))


def solid_surface(solid: Solid, point: Vector, direction: Vector, width: Tensor) -> tuple[Vector, Patch]:
    """Normal in the world and texture patch where rays meet a solid."""
    local, ray = to_local(solid, point, direction)
    unit = tuple(part / half for part, half in zip(local, solid.half, strict=True))
    if solid.shape in ("box", "gable"):
        axis, normal = box_normal(unit) if solid.shape == "box" else gable_normal(solid, unit)
        return turn(normal, solid.yaw), plane_patch(point, local, ray, axis, width)
    normal = round_normal(solid, unit)
    return turn(normal, solid.yaw), round_patch(solid, point, local, ray, normal, width)
