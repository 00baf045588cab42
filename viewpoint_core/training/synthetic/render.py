"""Ray casting of synthetic worlds: the colour that each direction of the sphere shows, computed, never resampled."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .room import PARTS, behind_walls, corner_light, hit_room, part_surface, within
from .scene import Lamp, Scene, Zone
from .sky import clear_sky, hit_ridge, ridge_light, sky_light
from .solids import (
    FAR,
    along,
    constant,
    dot,
    hit_solid,
    near,
    normalised,
    plane_patch,
    solid_surface,
    take,
    turn,
)
from .texture import Material, Patch, Vector, fractal, mix, rgb, surface_colours

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 21}  # rays at once; on a CPU so many stay in its cache
HORIZON = 2e4  # metres after which the ground is not looked at
DIM = 4e-3  # of a lamp's strength: less is not looked at
LIFT = 2e-3  # metres above a surface at which shadow rays start
CONTACT_REACH, CONTACT_SHADE = 0.35, 0.55
GAMMA = 1 / 2.2


@dataclass
class Hits:
    """What rays meet: distance (N,), and a number (N,): -1 nothing, then floors, the room's parts, solids, ridges."""

    distance: Tensor
    thing: Tensor

    def nearer(self, distance: Tensor, thing: Tensor | int, index: Tensor | None = None) -> None:
        """Keep the nearer of what is known and new hits, of all rays or of those at `index`."""
        if index is None:
            better = distance < self.distance
            self.distance = torch.where(better, distance, self.distance)
            self.thing = torch.where(better, thing, self.thing)
            return
        better = distance < self.distance[index]
        self.distance[index] = torch.where(better, distance, self.distance[index])
        self.thing[index] = torch.where(better, thing, self.thing[index])


@dataclass
class Surface:
    """What light needs to know of points (N,): normal, share of light thrown back and own light (3, N), mirroring."""

    normal: Vector
    albedo: Tensor
    own: Tensor
    gloss: Tensor


def first_room(scene: Scene) -> int:
    """Number of the room's first part."""
    return len(scene.floors)


def first_solid(scene: Scene) -> int:
    """Number of the first solid."""
    return first_room(scene) + PARTS


def first_ridge(scene: Scene) -> int:
    """Number of the first ridge."""
    return first_solid(scene) + len(scene.solids)


def in_zone(zone: Zone, x: Tensor, z: Tensor) -> Tensor:
    """Whether points of the ground lie in a zone."""
    u, _, v = turn((x - zone.centre[0], 0.0, z - zone.centre[1]), -zone.yaw)
    if zone.shape == "disc":
        return u * u + v * v < zone.half[0] ** 2
    inside = u.abs() < zone.half[0]
    return inside if zone.shape == "strip" else inside & (v.abs() < zone.half[1])


def hit_ground(scene: Scene, origin: Vector, direction: Vector) -> Hits:
    """Where rays meet the ground, and which of its zones."""
    down = direction[1] > 1e-6
    distance = torch.where(down, -origin[1] / direction[1].clamp(min=1e-6), FAR)
    distance = torch.where(distance < HORIZON, distance, FAR)
    x, _, z = along(origin, direction, distance.clamp(max=HORIZON))
    thing = torch.where(distance < FAR, 0, -1)
    for number, zone in enumerate(scene.zones, 1):
        thing = torch.where((thing >= 0) & in_zone(zone, x, z), number, thing)
    return Hits(distance, thing)


def hit_all(scene: Scene, origin: Vector, direction: Vector, pixel: float) -> Hits:
    """The nearest thing along every ray."""
    hits = hit_ground(scene, origin, direction)
    if scene.room:
        distance, part = hit_room(scene.room, origin, direction)
        hits.nearer(distance, part + first_room(scene))
    for number, index in near(scene.solids, origin, direction):
        distance = hit_solid(scene.solids[number], take(origin, index), take(direction, index))
        hits.nearer(distance, first_solid(scene) + number, index)
    for number, ridge in enumerate(scene.ridges, first_ridge(scene)):
        index = ((hits.distance > 0.9 * ridge.distance) & (direction[1] < 0.2)).nonzero()[:, 0]
        hits.nearer(hit_ridge(ridge, take(origin, index), take(direction, index), pixel), number, index)
    return hits


def shaded(scene: Scene, origin: Vector, direction: Vector, reach: Tensor) -> Tensor:
    """Whether a solid lies along rays of unit length before `reach` metres (N,); bool (N,)."""
    dark = torch.zeros_like(reach, dtype=torch.bool)
    if not len(reach):  # none of a single ray: `take` cannot tell that from one ray for all
        return dark
    for number, index in near(scene.solids, origin, direction):
        if not scene.solids[number].material.glow:
            ray = take(origin, index), take(direction, index)
            dark[index] |= hit_solid(scene.solids[number], *ray) < reach[index]
    return dark


def floor_surface(number: int, point: Vector, direction: Vector, width: Tensor) -> tuple[Vector, Patch]:
    """Normal and texture patch of the ground and its zones."""
    zero = torch.zeros_like(width)
    return (zero, zero - 1, zero), plane_patch(point, point, direction, 1, width)


def surface_of(scene: Scene, number: int, point: Vector, direction: Vector, width: Tensor) -> tuple[Vector, Patch]:
    """Normal and texture patch of thing `number` at points."""
    if number < first_room(scene):
        return floor_surface(number, point, direction, width)
    if number < first_solid(scene):
        return part_surface(number - first_room(scene), point, direction, width)
    return solid_surface(scene.solids[number - first_solid(scene)], point, direction, width)


def materials(scene: Scene) -> tuple[Material, ...]:
    """The material of every thing but the ridges, by number."""
    walls = scene.room.materials() if scene.room else (scene.ground,) * PARTS
    return (*scene.floors, *walls, *(solid.material for solid in scene.solids))


def rippled(material: Material, patch: Patch, time_s: float) -> Vector:
    """Normal of water: waves that move, smoothed with distance."""
    x, _, z = patch.point
    width = torch.maximum(patch.footprint_u, patch.footprint_v) / material.size[0]
    u, v = x / material.size[0] + 0.35 * time_s, z / material.size[0] + 0.2 * time_s
    slope_x = fractal(u, v, width, 4) - fractal(u + 0.3, v, width, 4)
    slope_z = fractal(u + 7, v - 0.4 * time_s, width, 4) - fractal(u + 7, v + 0.3 - 0.4 * time_s, width, 4)
    return normalised((slope_x * material.grain, torch.full_like(x, -1), slope_z * material.grain))


def gather_surface(
    scene: Scene, thing: Tensor, point: Vector, direction: Vector, width: Tensor, time_s: float
) -> Surface:
    """Surfaces of all points, thing by thing."""
    count = width.shape[0]
    normal = tuple(width.new_zeros(count) for _ in range(3))
    albedo, own, gloss = width.new_zeros(3, count), width.new_zeros(3, count), width.new_zeros(count)
    for number, material in enumerate(materials(scene)):
        index = (thing == number).nonzero()[:, 0]
        if not len(index):
            continue
        n, patch = surface_of(scene, number, take(point, index), take(direction, index), width[index])
        if material.pattern == "ripples":
            n = rippled(material, patch, time_s)
        for whole, part in zip(normal, n, strict=True):
            whole[index] = part
        albedo[:, index], own[:, index] = surface_colours(material, patch)
        gloss[index] = material.gloss
    return Surface(normal, albedo, own, gloss)


def contact_light(scene: Scene, point: Vector) -> Tensor:
    """The share of ambient light that reaches the ground (N,): less beside what stands on it."""
    light = torch.ones_like(point[0])
    for solid in scene.solids:
        if solid.centre[1] + solid.half[1] < -0.05:
            continue
        x, _, z = turn(tuple(p - c for p, c in zip(point, solid.centre, strict=True)), -solid.yaw)
        if solid.shape == "box":
            gap = torch.hypot((x.abs() - solid.half[0]).clamp(min=0), (z.abs() - solid.half[2]).clamp(min=0))
        else:
            foot = math.sqrt(max(0.0, 1 - (solid.centre[1] / solid.half[1]) ** 2)) if solid.shape == "ball" else 1
            gap = (torch.hypot(x, z) - foot * max(solid.half[0], solid.half[2])).clamp(min=0)
        reach = min(2.0, CONTACT_REACH + 0.15 * solid.half[1])
        light = light * (1 - CONTACT_SHADE * torch.exp(-gap / reach))
    return light


def lamp_light(scene: Scene, lamp: Lamp, point: Vector, normal: Vector) -> Tensor:
    """Light (3, N) of a lamp on points, with the shadows of solids."""
    way = tuple(p - place for place, p in zip(lamp.position, point, strict=True))
    distance = dot(way, way).sqrt().clamp(min=0.05)
    facing = (-dot(way, normal) / distance).clamp(min=0)
    strength = facing / (1 + (distance / lamp.reach) ** 2)
    index = (strength > DIM).nonzero()[:, 0]
    ray = tuple(part / distance[index] for part in take(way, index))
    dark = shaded(scene, constant(lamp.position, strength), ray, distance[index])
    strength[index] = torch.where(dark, 0.0, strength[index])
    return rgb(lamp.colour, strength) * strength


def sun_light(scene: Scene, point: Vector, normal: Vector) -> Tensor:
    """Light (3, N) of the sun on points, with the shadows of solids and of the room."""
    strength = dot(normal, scene.sky.sun).clamp(min=0)
    index = (strength > 0).nonzero()[:, 0]
    if scene.room:
        index = index[~behind_walls(scene.room, take(point, index), scene.sky.sun)]
    far = torch.full_like(strength[index], FAR / 2)
    lit = index[~shaded(scene, take(point, index), constant(scene.sky.sun, strength), far)]
    light = torch.zeros_like(strength)
    light[lit] = strength[lit]
    return rgb(scene.sky.sun_colour, light) * light


def ambient_light(scene: Scene, thing: Tensor, point: Vector, normal: Vector) -> Tensor:
    """Light (3, N) from all around: sky above and ground below, or a room's; less in corners and beside solids."""
    upward = 0.5 - 0.5 * normal[1]
    light = mix(rgb(scene.bounce, upward), rgb(scene.ambient, upward), upward)
    if scene.room and scene.room.ceiling:
        inside = within(scene.room, point)
        light = torch.where(inside, rgb(scene.room_ambient, upward) * (0.8 + 0.4 * upward), light)
        light = light * torch.where(inside, corner_light(scene.room, point), 1.0)
    on_ground = (thing < len(scene.floors)).nonzero()[:, 0]
    light[:, on_ground] = light[:, on_ground] * contact_light(scene, take(point, on_ground))
    return light


def light_at(scene: Scene, thing: Tensor, point: Vector, normal: Vector) -> Tensor:
    """All light (3, N) that falls on points."""
    lifted = tuple(p + LIFT * n for p, n in zip(point, normal, strict=True))
    light = ambient_light(scene, thing, point, normal) + sun_light(scene, lifted, normal)
    for lamp in scene.lamps:
        light = light + lamp_light(scene, lamp, lifted, normal)
    return light


def reflected(scene: Scene, surface: Surface, point: Vector, direction: Vector, pixel: float, time_s: float) -> Tensor:
    """Radiance (3, N) seen in mirroring surfaces, and how much of it: Schlick's share."""
    across = dot(direction, surface.normal)
    away = tuple(d - 2 * across * n for d, n in zip(direction, surface.normal, strict=True))
    away = normalised((away[0], torch.where(surface.normal[1] < -0.7, away[1].clamp(max=-1e-3), away[1]), away[2]))
    lifted = tuple(p + LIFT * n for p, n in zip(point, surface.normal, strict=True))
    share = surface.gloss + (0.8 - surface.gloss).clamp(min=0) * (1 + across.clamp(-1, 0)) ** 5
    return share, trace(scene, lifted, away, 2 * pixel, time_s, mirrors=False)


def surface_light(
    scene: Scene,
    thing: Tensor,
    point: Vector,
    direction: Vector,
    width: Tensor,
    pixel: float,
    time_s: float,
    mirrors: bool,
) -> Tensor:
    """Radiance (3, N) that surfaces send along rays."""
    surface = gather_surface(scene, thing, point, direction, width, time_s)
    light = surface.albedo * light_at(scene, thing, point, surface.normal) + surface.own
    index = (surface.gloss > 0).nonzero()[:, 0] if mirrors else []
    if len(index):
        shiny = Surface(
            take(surface.normal, index), surface.albedo[:, index], surface.own[:, index], surface.gloss[index]
        )
        share, seen = reflected(scene, shiny, take(point, index), take(direction, index), pixel, time_s)
        light[:, index] = mix(light[:, index], seen, share)
    return light


def foggy(scene: Scene, light: Tensor, direction: Vector, distance: Tensor) -> Tensor:
    """Light after its way through the air: the horizon's colour takes over with distance."""
    level = (direction[0], direction[1].clamp(max=0) * 0.5, direction[2])
    return mix(clear_sky(scene.sky, normalised(level)), light, torch.exp(-distance / scene.fog))


def trace(scene: Scene, origin: Vector, direction: Vector, pixel: float, time_s: float, mirrors: bool = True) -> Tensor:
    """Radiance (3, N) along rays of unit length. pixel: the angle that one pixel sees, radians."""
    hits = hit_all(scene, origin, direction, pixel)
    light = direction[0].new_zeros(3, direction[0].shape[0])
    open_air = (hits.thing < 0).nonzero()[:, 0]
    light[:, open_air] = sky_light(scene.sky, take(direction, open_air), pixel, time_s)
    solid = ((hits.thing >= 0) & (hits.thing < first_ridge(scene))).nonzero()[:, 0]
    rays, distance = take(direction, solid), hits.distance[solid]
    point = along(take(origin, solid), rays, distance)
    seen = surface_light(scene, hits.thing[solid], point, rays, distance * pixel, pixel, time_s, mirrors)
    light[:, solid] = foggy(scene, seen, rays, distance)
    for number, ridge in enumerate(scene.ridges, first_ridge(scene)):
        index = (hits.thing == number).nonzero()[:, 0]
        rays, distance = take(direction, index), hits.distance[index]
        point = along(take(origin, index), rays, distance)
        light[:, index] = foggy(scene, ridge_light(ridge, scene.sky, point, scene.ambient, pixel), rays, distance)
    return light


def to_picture(light: Tensor, exposure: float) -> Tensor:
    """Radiance to display values in [0, 1], by a rational curve that deepens shadows and saturates softly."""
    x = exposure * light.clamp(min=0)
    return (x * (2.5 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)).clamp(1e-6, 1) ** GAMMA


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one CPU thread: these operations are so small that sharing them out takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pixel_angle(directions: Tensor) -> float:
    """The median angle in radians between vertical neighbours of a grid of directions (h, w, 3)."""
    if directions.shape[0] < 2:
        raise ValueError(f"the grid of directions is {tuple(directions.shape)}; give pixel_rad for a single row")
    steps = (directions[1:] - directions[:-1]).norm(dim=-1)
    return float(steps.median())


def check_directions(directions: Tensor) -> None:
    """Raise ValueError unless the tensor is a grid of directions (h, w, 3)."""
    if directions.ndim != 3 or directions.shape[-1] != 3 or not directions.is_floating_point():
        shape = tuple(directions.shape)
        raise ValueError(f"expected directions as a float tensor (h, w, 3), got {directions.dtype} {shape}")


def render_directions(scene: Scene, directions: Tensor, time_s: float, *, pixel_rad: float | None = None) -> Tensor:
    """What a camera at `time_s` seconds sees along directions (h, w, 3) in its own axes: float32 (3, h, w) in [0, 1].

    One ray a direction, on the directions' device. pixel_rad: the angle to which textures are faded; by default the
    grid's own spacing. Raises ValueError for another shape.
    """
    check_directions(directions)
    pixel = pixel_angle(directions) if pixel_rad is None else pixel_rad
    rays = directions.reshape(-1, 3).double()
    rays = (rays / rays.norm(dim=-1, keepdim=True)) @ scene.camera.rotation(time_s).to(rays).T
    rays = rays.float().T.contiguous()
    origin = constant(scene.camera.position(time_s), rays)
    chunks = rays.split(CHUNK.get(rays.device.type, CHUNK["cuda"]), dim=1)
    with one_thread():
        light = [trace(scene, origin, tuple(chunk), pixel, time_s) for chunk in chunks]
    return to_picture(torch.cat(light, dim=1), scene.exposure).reshape(3, *directions.shape[:2])
