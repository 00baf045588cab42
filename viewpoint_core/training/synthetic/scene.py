"""A synthetic world: what stands in it, its light, and the camera's way through it."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ...camera import view_rotation
from .room import Room
from .sky import Ridge, Sky
from .solids import Solid
from .texture import Colour, Material


@dataclass(frozen=True)
class CameraPath:
    """A closed way around the world's origin, so that it may go on for ever; metres, seconds, degrees.

    radii: of the ellipse along x and z. turns: radians of the ellipse a second, negative for the other way.
    yaw_rate: steady turning of the camera a second; sway: how far yaw, pitch and roll go back and forth.
    """

    radii: tuple[float, float]
    turns: float
    phase: float
    height: float
    yaw: float
    yaw_rate: float
    sway: tuple[float, float, float]
    sway_period: float
    rise: float = 0.1

    def position(self, time_s: float) -> tuple[float, float, float]:
        """x, y, z at a time."""
        angle = self.phase + self.turns * time_s
        rise = self.rise * math.sin(0.8 * angle + 1)
        return self.radii[0] * math.cos(angle), -self.height - rise, self.radii[1] * math.sin(angle)

    def rotation(self, time_s: float) -> Tensor:
        """Camera-to-world rotation, float64 (3, 3)."""
        swing = 2 * math.pi * time_s / self.sway_period + self.phase
        yaw, pitch, roll = self.sway
        return view_rotation(
            self.yaw + self.yaw_rate * time_s + yaw * math.sin(swing),
            pitch * math.sin(1.3 * swing + 1),
            roll * math.sin(0.9 * swing + 2),
        )


@dataclass(frozen=True)
class Lamp:
    """A point light: place, colour in linear light, and the metres over which it halves."""

    position: tuple[float, float, float]
    colour: Colour
    reach: float = 3.0


@dataclass(frozen=True)
class Zone:
    """A part of the ground with its own material: "disc" or "strip" or "rectangle", turned by `yaw` radians; metres.

    half: half sizes along x and z; a disc's radius is the first, a strip has no end along z.
    """

    shape: str
    centre: tuple[float, float]
    half: tuple[float, float]
    material: Material
    yaw: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A world that `draw_scene` made from a seed; render it with `render_directions`.

    ambient: light from all around, outside and inside a room. bounce: light from below. fog: metres after which 63 %
    of what lies outside is lost in the horizon's colour. exposure: factor on light before it becomes a picture.
    caption: one sentence about what is there.
    """

    seed: int
    theme: str
    caption: str
    camera: CameraPath
    sky: Sky
    ground: Material
    ambient: Colour
    bounce: Colour
    zones: tuple[Zone, ...] = ()
    solids: tuple[Solid, ...] = ()
    ridges: tuple[Ridge, ...] = ()
    room: Room | None = None
    room_ambient: Colour = (0.3, 0.3, 0.3)
    lamps: tuple[Lamp, ...] = ()
    fog: float = 600.0
    exposure: float = 1.0

    @cached_property
    def floors(self) -> tuple[Material, ...]:
        """The ground's material, then its zones'."""
        return (self.ground, *(zone.material for zone in self.zones))
