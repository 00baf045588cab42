"""A room or courtyard of the synthetic worlds: four thick walls with openings, with or without a ceiling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .solids import FAR, along, plane_patch, safe
from .texture import Material, Patch, Vector

CEILING, JAMB = 4, 5  # parts of a room; 0 to 3 are the walls at +x, -x, +z, -z
PARTS = 6
CORNER_REACH = 0.5  # metres over which corners are darker
CORNER_SHADE = 0.55


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: from `left` to `right` along z or x, from `bottom` to `top` above the floor; metres.

    arched: the upper end is half a circle below `top`.
    """

    wall: int
    left: float
    right: float
    bottom: float
    top: float
    arched: bool = False


@dataclass(frozen=True)
class Room:
    """Walls around the world's origin at x = +-half_x and z = +-half_z, from the ground y = 0 to `height`."""

    half_x: float
    half_z: float
    height: float
    walls: tuple[Material, Material, Material, Material]
    ceiling: Material | None = None
    jamb: Material = Material((0.6, 0.57, 0.52), grain=0.1)
    openings: tuple[Opening, ...] = ()
    thickness: float = 0.3

    def materials(self) -> tuple[Material, ...]:
        """One for each part."""
        return (*self.walls, self.ceiling or self.walls[0], self.jamb)


def contains(opening: Opening, u: Tensor, v: Tensor) -> Tensor:
    """Whether positions along the wall and heights lie in an opening."""
    inside = (u > opening.left) & (u < opening.right) & (v > opening.bottom) & (v < opening.top)
    if not opening.arched:
        return inside
    radius = (opening.right - opening.left) / 2
    over = (v - (opening.top - radius)).clamp(min=0)
    return inside & ((u - opening.left - radius) ** 2 + over**2 < radius**2)


def wall_distances(room: Room, origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Distance from inside to the walls, and which of the four is met."""
    (ox, _, oz), (dx, _, dz) = origin, direction
    to_x = (torch.where(dx > 0, room.half_x, -room.half_x) - ox) / safe(dx)
    to_z = (torch.where(dz > 0, room.half_z, -room.half_z) - oz) / safe(dz)
    wall = torch.where(to_x < to_z, (dx < 0).int(), 2 + (dz < 0).int())
    return torch.minimum(to_x, to_z).clamp(min=0), wall


def through_openings(room: Room, point: Vector, direction: Vector, wall: Tensor) -> tuple[Tensor, Tensor]:
    """For points on walls: whether an opening is entered there, and whether the ray also leaves it outside."""
    (x, y, z), (dx, dy, dz) = point, direction
    on_x = wall < 2
    u, du, across = (torch.where(on_x, a, b) for a, b in ((z, x), (dz, dx), (dx, dz)))
    step = room.thickness / across.abs().clamp(min=1e-6)
    entered, left = torch.zeros_like(on_x), torch.zeros_like(on_x)
    for opening in room.openings:
        here = (wall == opening.wall) & contains(opening, u, -y)
        entered |= here
        left |= here & contains(opening, u + step * du, -y - step * dy)
    return entered, left


def hit_room(room: Room, origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Distance from inside to a room and the part that is met; FAR and -1 for rays that leave it.

    A jamb is taken to lie in the middle of the wall.
    """
    distance, wall = wall_distances(room, origin, direction)
    point = along(origin, direction, distance)
    entered, left = through_openings(room, point, direction, wall)
    height = -point[1]
    part = torch.where(left, -1, torch.where(entered, JAMB, wall))
    part = torch.where((height < 0) & ~entered, wall, part)
    across = torch.where(wall < 2, direction[0], direction[2]).abs().clamp(min=1e-6)
    distance = torch.where(part == JAMB, distance + room.thickness / 2 / across, distance)
    above = height > room.height
    if room.ceiling:
        to_ceiling = (-room.height - origin[1]) / safe(direction[1])
        distance, part = torch.where(above, to_ceiling, distance), torch.where(above, CEILING, part)
    else:
        part = torch.where(above, -1, part)
    return torch.where(part < 0, FAR, distance), part


def within(room: Room, point: Vector) -> Tensor:
    """Whether points lie in the room, its walls' inner faces included."""
    x, y, z = point
    flat = (x.abs() <= room.half_x + 1e-2) & (z.abs() <= room.half_z + 1e-2)
    return flat & (-y <= room.height + 1e-2)


def behind_walls(room: Room, point: Vector, direction: tuple[float, float, float]) -> Tensor:
    """Whether points in the room see walls or ceiling along a direction; False for points elsewhere."""
    ray = tuple(torch.full_like(part, d) for part, d in zip(point, direction, strict=True))
    return within(room, point) & (hit_room(room, point, ray)[1] >= 0)


def corner_light(room: Room, point: Vector) -> Tensor:
    """The share of ambient light that corners leave, (N,): planes other than the point's own take some."""
    x, y, z = point
    gaps = [room.half_x - x.abs(), room.half_z - z.abs(), -y]
    if room.ceiling:
        gaps.append(room.height + y)
    taken = sum(torch.exp(-gap.clamp(min=0) / CORNER_REACH) for gap in gaps) - 1
    return 1 / (1 + CORNER_SHADE * taken.clamp(min=0))


def part_surface(part: int, point: Vector, direction: Vector, width: Tensor) -> tuple[Vector, Patch]:
    """Normal into the room and texture patch of one part; v is measured from the floor up."""
    x, y, z = point
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    if part == CEILING:
        return (zero, one, zero), plane_patch(point, point, direction, 1, width)
    axis = 0 if part < 2 else 2
    if part == JAMB:
        sideways = -direction[0].sign() * 0.7
        return (sideways, 0.4 * one, -direction[2].sign() * 0.6), plane_patch(point, point, direction, 2, width)
    sign = -one if part % 2 == 0 else one
    normal = (sign, zero, zero) if axis == 0 else (zero, zero, sign)
    return normal, plane_patch(point, (x, -y, z), (direction[0], -direction[1], direction[2]), axis, width)
