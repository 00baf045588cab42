"""What lies far away in the synthetic worlds: sky, sun, clouds, stars, and ridges of hills, trees or houses."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...choices import check_choice
from .solids import FAR, along, dot
from .texture import (
    Colour,
    Material,
    Patch,
    Vector,
    cell_value,
    fractal,
    keep,
    mix,
    noise_in_space,
    panes,
    rgb,
    smoothstep,
)

CLOUD_BEND = 0.12  # clouds lie on a bent layer, so that they do not crowd without end at the horizon
SUN_RADIUS_DEG = 1.6
KINDS = ("hills", "mountains", "trees", "houses", "islands")


@dataclass(frozen=True)
class Sky:
    """Colours (linear light) and clouds of a sky.

    sun: direction toward it, unit length. cover: share of clouds, 0 to 1. drift: in cloud sizes a second.
    """

    zenith: Colour
    horizon: Colour
    sun: tuple[float, float, float]
    sun_colour: Colour
    glow: float = 0.5
    cover: float = 0.4
    cloud_size: float = 0.8
    cloud_colour: Colour = (1.0, 1.0, 1.0)
    cloud_shade: Colour = (0.5, 0.53, 0.6)
    drift: tuple[float, float] = (0.02, 0.01)
    offset: tuple[float, float] = (0.0, 0.0)
    stars: float = 0.0


@dataclass(frozen=True)
class Ridge:
    """A closed ring of hills, mountains, trees, houses or islands, `distance` around the world's origin; metres."""

    kind: str
    distance: float
    height: float
    material: Material
    detail: float = 3.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self.kind, KINDS, "kind")


def clear_sky(sky: Sky, direction: Vector) -> Tensor:
    """Radiance (3, N) of the sky without clouds and the sun's disc; below the horizon as on it."""
    up = (-direction[1]).clamp(0, 1)
    base = mix(rgb(sky.horizon, up), rgb(sky.zenith, up), 1 - (1 - up) ** 3)
    toward = dot(direction, sky.sun).clamp(0, 1)
    glow = sky.glow * (0.35 * toward**6 + 0.65 * toward**48)
    return base + rgb(sky.sun_colour, up) * (glow * 0.25)


def sun_disc(sky: Sky, direction: Vector) -> Tensor:
    """The sun itself, (3, N)."""
    edge = math.cos(math.radians(SUN_RADIUS_DEG))
    inside = smoothstep(edge - 1.5e-4, edge + 1.5e-4, dot(direction, sky.sun))
    return rgb(sky.sun_colour, inside) * 6 * inside


def stars(sky: Sky, direction: Vector, pixel: float) -> Tensor:
    """Stars as peaks of noise, (N,)."""
    x, y, z = (70 * part for part in direction)
    peaks = smoothstep(0.9, 0.98, noise_in_space(x + 9, y + 20, z + 31))
    return sky.stars * peaks * keep(torch.full_like(peaks, 35 * pixel)) * smoothstep(0.0, 0.2, -direction[1])


def cloud_field(sky: Sky, direction: Vector, pixel: float, time_s: float) -> tuple[Tensor, Tensor]:
    """How dense clouds are, and how much sun reaches them, both (N,) in [0, 1]."""
    up = (-direction[1]).clamp(min=0)
    stretch = 1 / ((up + CLOUD_BEND) * sky.cloud_size)
    x = direction[0] * stretch + sky.offset[0] + sky.drift[0] * time_s
    y = direction[2] * stretch + sky.offset[1] + sky.drift[1] * time_s
    footprint = pixel * stretch * (1 + stretch)
    height = fractal(x, y, footprint, 5)
    threshold = 0.75 - 1.4 * sky.cover
    dense = smoothstep(threshold, threshold + 0.55, height) * smoothstep(0.0, 0.16, up)
    toward = fractal(x + 0.25 * sky.sun[0], y + 0.25 * sky.sun[2], footprint * 1.5, 3)
    lit = (0.75 + 0.7 * (height - toward) - 0.35 * smoothstep(threshold, threshold + 1.2, height)).clamp(0, 1)
    return dense, lit


def sky_light(sky: Sky, direction: Vector, pixel: float, time_s: float) -> Tensor:
    """Radiance (3, N) of the whole sky."""
    light = clear_sky(sky, direction) + sun_disc(sky, direction)
    if sky.stars:
        light = light + stars(sky, direction, pixel)
    if sky.cover:
        dense, lit = cloud_field(sky, direction, pixel, time_s)
        cloud = mix(rgb(sky.cloud_shade, lit), rgb(sky.cloud_colour, lit), lit)
        light = mix(light, cloud, 0.95 * dense)
    return light


def ridge_height(ridge: Ridge, x: Tensor, z: Tensor, footprint: Tensor) -> Tensor:
    """Height in metres over the unit circle's points (x, z)."""
    if ridge.kind == "houses":
        return house_heights(ridge, torch.atan2(x, z))
    u, v = x * ridge.detail + ridge.offset, z * ridge.detail + ridge.offset
    footprint = footprint * ridge.detail
    if ridge.kind == "islands":
        return ridge.height * (fractal(u, v, footprint, 4) - 0.25).clamp(min=0) * 1.5
    if ridge.kind == "trees":
        crowns = 1 - fractal(u * 9, v * 9, footprint * 9, 3).abs()
        return ridge.height * (0.55 + 0.2 * fractal(u, v, footprint, 2) + 0.35 * crowns)
    octaves = 5 if ridge.kind == "mountains" else 2
    return ridge.height * (0.55 + 0.5 * fractal(u, v, footprint, octaves)).clamp(min=0.04)


def house_cell(ridge: Ridge, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which house stands at an angle, where on its front, and how long fronts are in metres."""
    count = max(8, round(ridge.detail * 14))
    place = (angle / (2 * math.pi) + 1) * count
    cell = torch.remainder(place.floor(), count)
    return cell, place - place.floor(), place * 0 + 2 * math.pi * ridge.distance / count


def house_heights(ridge: Ridge, angle: Tensor) -> Tensor:
    """Roof heights of a row of houses, some of them stepped, gaps between some."""
    cell, front, _ = house_cell(ridge, angle)
    row = cell * 0 + 100 * ridge.offset
    tall = cell_value(cell, row) ** 2
    step = (front > 0.3 + 0.5 * cell_value(cell, row + 1)) & (cell_value(cell, row + 2) > 0.4)
    height = ridge.height * (0.25 + 0.75 * tall) * torch.where(step, 0.75, 1.0)
    return torch.where(cell_value(cell, row + 3) < 0.12, 0.1 * ridge.height, height)


def hit_ridge(ridge: Ridge, origin: Vector, direction: Vector, pixel: float) -> Tensor:
    """Distance from within the ring to the ridge; FAR where rays pass over it."""
    (ox, _, oz), (dx, _, dz) = origin, direction
    a = (dx * dx + dz * dz).clamp(min=1e-9)
    b = ox * dx + oz * dz
    distance = (-b + (b * b + a * (ridge.distance**2 - ox * ox - oz * oz)).sqrt()) / a
    x, y, z = along(origin, direction, distance)
    top = ridge_height(ridge, x / ridge.distance, z / ridge.distance, torch.full_like(x, pixel))
    return torch.where((-y >= 0) & (-y < top), distance, FAR)


def ridge_light(ridge: Ridge, sky: Sky, point: Vector, ambient: Colour, pixel: float) -> Tensor:
    """Radiance (3, N) of a ridge's points: slopes lit by the sun, rough by noise."""
    x, y, z = (part / ridge.distance for part in point)
    footprint = torch.full_like(x, pixel)
    if ridge.kind == "houses":
        normal, colour, own = house_front(ridge, point, x, z, footprint)
    else:
        normal, colour, own = hillside(ridge, x, y, z, footprint)
    sun = dot(normal, sky.sun).clamp(min=0)
    return colour * (rgb(sky.sun_colour, sun) * sun + rgb(ambient, sun)) + own


def hillside(ridge: Ridge, x: Tensor, y: Tensor, z: Tensor, footprint: Tensor) -> tuple[Vector, Tensor, Tensor]:
    """Normal, colour and own light of a slope: relief across and up the ring, high parts in the second colour."""
    relief = 2.2 * ridge.distance / ridge.height
    scale = ridge.detail * 3
    angle_x, angle_z = x * scale + ridge.offset, z * scale
    rise = y * scale * relief / 4
    step = 0.35
    here = fractal(angle_x + 0.7 * rise, angle_z + rise, footprint * scale, 4)
    beside = fractal(angle_x + step * z + 0.7 * rise, angle_z - step * x + rise, footprint * scale, 4)
    side = (here - beside) * 1.3
    normal = (-0.7 * x + side * z, torch.full_like(x, -0.6), -0.7 * z - side * x)
    length = dot(normal, normal).sqrt()
    height = -y * ridge.distance / ridge.height
    high = smoothstep(0.55, 0.75, height + 0.35 * here)
    colour = mix(rgb(ridge.material.colour, x), rgb(ridge.material.second, x), high)
    colour = colour * (1 + ridge.material.grain * here).clamp(min=0.2)
    return tuple(part / length for part in normal), colour, 0 * colour


def house_front(ridge: Ridge, point: Vector, x: Tensor, z: Tensor, footprint: Tensor) -> tuple[Vector, Tensor, Tensor]:
    """Normal, colour and own light of a row of houses, each in its own shade, with windows."""
    cell, front, length = house_cell(ridge, torch.atan2(x, z))
    width = footprint * ridge.distance
    patch = Patch(point, front * length, -point[1], width, width)
    pane, lit = panes(ridge.material, patch)
    tint = cell_value(cell, cell * 0 + 50 + 100 * ridge.offset)
    wall = mix(rgb(ridge.material.colour, x), rgb(ridge.material.second, x), tint)
    turned = (cell_value(cell, cell * 0 + 70) - 0.5) * 1.2
    normal = (-x + turned * z, 0 * x, -z - turned * x)
    glass = rgb((0.08, 0.1, 0.13), x)
    return normal, mix(wall, glass, 0.8 * pane), rgb((1.6, 1.1, 0.5), x) * lit
