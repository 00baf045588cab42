"""A synthetic world while it is drawn: hour, sky, camera, ridges and mounds, and the scene that it becomes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .palette import Dice, Hour, blend, draw_hour, draw_sky, scaled
from .places import Plot
from .room import Room
from .scene import CameraPath, Scene, Zone
from .sky import Ridge, Sky
from .texture import Colour, Material

CLEARANCE = 0.9  # metres between the camera's way and whatever stands


@dataclass
class World:
    """A world while it is drawn."""

    dice: Dice
    hour: Hour
    sky: Sky
    camera: CameraPath
    plot: Plot
    ground: Material
    caption: str
    zones: list[Zone] = field(default_factory=list)
    ridges: list[Ridge] = field(default_factory=list)
    room: Room | None = None
    fog: float = 600.0


def draw_camera(dice: Dice, radii: tuple[float, float], height: tuple[float, float]) -> CameraPath:
    """A way around an ellipse within `radii`, at a walk, the camera turning slowly."""
    part = dice.uniform(0.65, 1.0)
    a, b = (radius * part * dice.uniform(0.75, 1) for radius in radii)
    speed = dice.uniform(0.7, 1.5)
    return CameraPath(
        radii=(a, b),
        turns=dice.pick(-1, 1) * speed / max(a, b),
        phase=dice.uniform(-math.pi, math.pi),
        height=dice.uniform(*height),
        yaw=dice.uniform(-180, 180),
        yaw_rate=dice.uniform(-9, 9),
        sway=(dice.uniform(0, 8), dice.uniform(0, 2.5), dice.uniform(0, 1.5)),
        sway_period=dice.uniform(3, 6),
        rise=dice.uniform(0, 0.15),
    )


def start(
    dice: Dice,
    ground: Material,
    caption: str,
    *,
    radii: tuple[float, float] = (3.5, 3.5),
    height: tuple[float, float] = (1.4, 2.0),
) -> World:
    """An empty world with its hour, sky, ground and camera."""
    hour = draw_hour(dice)
    camera = draw_camera(dice, radii, height)
    plot = Plot(dice, [(0.0, 0.0, max(camera.radii) + CLEARANCE)])
    return World(dice, hour, draw_sky(dice, hour), camera, plot, ground, f"{caption} {hour.name}")


def finish(world: World, seed: int, theme: str) -> Scene:
    """The scene of a world that is drawn: light follows from sky and ground."""
    sky, hour = world.sky, world.hour
    average = blend(sky.horizon, sky.zenith, 0.5)
    ambient = scaled(blend(average, sky.sun_colour, 0.12), 0.35 + 0.75 * hour.ambient)
    lit = blend(ambient, sky.sun_colour, 0.2)
    ground = blend(world.ground.colour, world.ground.second, 0.5)
    bounce = tuple(0.9 * g * part + 0.15 * a for g, part, a in zip(ground, lit, ambient, strict=True))
    exposure = (1.0 if hour.lamps else 0.75) * world.dice.uniform(0.9, 1.2) * (1.15 - 0.5 * ground[1])
    room_ambient = scaled(blend(ambient, (0.5, 0.45, 0.4), 0.75), 0.8 if hour.lamps else 1.05)
    return Scene(
        seed, theme, world.caption, world.camera, sky, world.ground, ambient, bounce, tuple(world.zones),
        tuple(world.plot.solids), tuple(world.ridges), world.room, room_ambient, tuple(world.plot.lamps), world.fog,
        exposure,
    )  # fmt: skip


def add_ridges(world: World, kinds: Sequence[str], green: Colour, rock: Colour, top: Colour) -> None:
    """Rings of hills and the like, from near to far, each bluer by the air between."""
    dice = world.dice
    distance = dice.uniform(50, 80)
    sizes = {"trees": 0.11, "houses": 0.28, "hills": 0.16, "mountains": 0.34, "islands": 0.12}
    for kind in kinds:
        first = near_shade(dice, green if kind in ("hills", "trees", "islands") else rock)
        second = top if kind == "mountains" else scaled(first, dice.uniform(0.6, 1.4))
        material = Material(first, second, grain=dice.uniform(0.3, 0.6), size=(4.0, 3.2), lit=0.3 * world.hour.lamps)
        height = distance * sizes[kind] * dice.uniform(0.7, 1.3)
        world.ridges.append(Ridge(kind, distance, height, material, dice.uniform(1.5, 4), dice.uniform(0, 100)))
        world.fog = max(150.0, distance * dice.uniform(0.8, 2.5))
        distance *= dice.uniform(2.2, 3.5)


def near_shade(dice: Dice, colour: Colour) -> Colour:
    """A colour a little lighter or darker."""
    return scaled(colour, dice.uniform(0.75, 1.25))


def mounds(world: World, count: int, near: float = 14, far: float = 45) -> None:
    """Low hills of the ground's own stuff."""
    for _ in range(count):
        wide = world.dice.uniform(4, 10)
        spot = world.plot.ring_spot(near, far, wide)
        if spot:
            half = wide, wide * world.dice.uniform(0.12, 0.3), wide * world.dice.uniform(0.6, 1)
            world.plot.add("ball", spot, half, -half[1], world.ground, yaw=world.dice.uniform(0, 3))
