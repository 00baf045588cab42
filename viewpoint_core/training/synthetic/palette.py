"""Colours and skies from which synthetic worlds are drawn: hours of the day, materials, random numbers."""

import colorsys
import math
import random
from dataclasses import dataclass, replace
from typing import TypeVar

from .sky import Sky
from .texture import Colour, Material

Choice = TypeVar("Choice")


class Dice(random.Random):
    """Random numbers of one scene."""

    def pick(self, *choices: Choice) -> Choice:
        """One of several."""
        return self.choice(choices)

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return self.random() < share


@dataclass(frozen=True)
class Hour:
    """An hour of the day or a weather: colours as hue, saturation, value; the sun's height in degrees.

    lamps: whether lamps and windows are lit.
    """

    name: str
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    sun: tuple[float, float, float]
    strength: float
    elevation: tuple[float, float]
    ambient: float
    glow: float
    cover: tuple[float, float]
    lamps: bool = False
    stars: float = 0.0


HOURS = (
    Hour(
        "under a blue sky", (0.60, 0.75, 0.72), (0.57, 0.25, 0.92), (0.12, 0.08, 1), 2.6, (30, 65), 0.75, 0.5, (0, 0.6)
    ),
    Hour(
        "in the morning", (0.59, 0.55, 0.75), (0.11, 0.22, 0.97), (0.10, 0.30, 1), 2.4, (14, 28), 0.65, 0.9, (0.1, 0.6)
    ),
    Hour(
        "at sunset", (0.66, 0.45, 0.55), (0.07, 0.55, 0.95), (0.08, 0.45, 1), 2.0, (6, 14), 0.45, 1.4, (0.2, 0.65), True
    ),
    Hour(
        "on a cloudy day", (0.60, 0.16, 0.72), (0.58, 0.07, 0.86), (0.12, 0.04, 1), 1.1, (30, 60), 0.7, 0.3, (0.65, 0.9)
    ),
    Hour(
        "at dusk", (0.63, 0.52, 0.36), (0.96, 0.32, 0.70), (0.02, 0.28, 1), 0.6, (5, 12), 0.32, 1.0, (0, 0.5), True, 0.5
    ),
    Hour(
        "at night", (0.63, 0.70, 0.24), (0.61, 0.55, 0.38), (0.60, 0.15, 1), 0.8, (25, 60), 0.24, 0.5, (0, 0.4), True, 1
    ),
)
HOUR_WEIGHTS = (5, 3, 3, 3, 2, 1.3)


def linear(hue: float, saturation: float, value: float) -> Colour:
    """A colour as a picker shows it, in linear light."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(1, max(0, saturation)), min(1, max(0, value)))
    return red**2.2, green**2.2, blue**2.2


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour, lighter or darker."""
    return tuple(part * factor for part in colour)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Between two colours."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def near_hsv(dice: Dice, hue: float, saturation: float, value: float, spread: float = 1.0) -> Colour:
    """A colour close to another."""
    return linear(
        hue + spread * dice.uniform(-0.02, 0.02),
        saturation + spread * dice.uniform(-0.1, 0.1),
        value * (1 + spread * dice.uniform(-0.15, 0.15)),
    )


def draw_hour(dice: Dice) -> Hour:
    """An hour, bright ones more often."""
    return dice.choices(HOURS, HOUR_WEIGHTS)[0]


def draw_sky(dice: Dice, hour: Hour) -> Sky:
    """The sky of an hour."""
    azimuth, elevation = dice.uniform(-math.pi, math.pi), math.radians(dice.uniform(*hour.elevation))
    level = math.cos(elevation)
    sun = scaled(near_hsv(dice, *hour.sun, 0.5), hour.strength)
    horizon = near_hsv(dice, *hour.horizon, 0.6)
    cloud = scaled(blend(linear(0, 0, 0.95), sun, 0.35), 0.25 + hour.ambient)
    return Sky(
        zenith=near_hsv(dice, *hour.zenith, 0.6),
        horizon=horizon,
        sun=(level * math.sin(azimuth), -math.sin(elevation), level * math.cos(azimuth)),
        sun_colour=sun,
        glow=hour.glow,
        cover=max(0.0, dice.uniform(*hour.cover)),
        cloud_size=dice.uniform(0.5, 1.3),
        cloud_colour=cloud,
        cloud_shade=blend(scaled(cloud, 0.35), horizon, 0.45),
        drift=(dice.uniform(-0.06, 0.06), dice.uniform(-0.06, 0.06)),
        offset=(dice.uniform(0, 200), dice.uniform(0, 200)),
        stars=hour.stars,
    )


def draw_ground(dice: Dice, kind: str) -> Material:
    """The ground: grass, sand, snow, earth, rock, paving, asphalt or water."""
    size = dice.uniform(2.5, 7)
    natural = Material((0, 0, 0), pattern="patches", size=(size, size), grain=0.35, grain_size=dice.uniform(0.3, 0.6))
    colours = {
        "grass": ((0.28, 0.55, 0.46), (0.23, 0.48, 0.54)),
        "sand": ((0.10, 0.38, 0.72), (0.08, 0.45, 0.58)),
        "snow": ((0.58, 0.05, 0.90), (0.61, 0.16, 0.74)),
        "earth": ((0.07, 0.45, 0.45), (0.16, 0.40, 0.42)),
        "rock": ((0.08, 0.12, 0.50), (0.10, 0.18, 0.36)),
    }
    if kind in colours:
        first, second = (near_hsv(dice, *hsv) for hsv in colours[kind])
        return replace(natural, colour=first, second=second, grain=0.2 if kind == "snow" else 0.55)
    if kind == "water":
        colour = near_hsv(dice, 0.54, 0.7, 0.28)
        return Material(
            colour, pattern="ripples", size=(dice.uniform(0.8, 1.6),) * 2, grain=dice.uniform(0.15, 0.4), gloss=0.06
        )
    if kind == "asphalt":
        return Material(near_hsv(dice, 0.6, 0.05, 0.34), grain=0.35, grain_size=0.4)
    return draw_paving(dice)


def draw_paving(dice: Dice) -> Material:
    """Slabs, cobbles or squares of two colours."""
    side = dice.uniform(0.4, 1.1)
    stone = near_hsv(dice, dice.uniform(0.03, 0.12), dice.uniform(0.08, 0.35), dice.uniform(0.5, 0.75))
    joint = scaled(stone, 0.35)
    pattern = dice.pick("tiles", "tiles", "bricks", "checker")
    size = (side, side * 0.6) if pattern == "bricks" else (side, side)
    second = scaled(stone, dice.uniform(0.3, 0.6)) if pattern == "checker" else joint
    return Material(stone, second, pattern, size, line=0.05, variation=0.25, grain=0.2, gloss=dice.pick(0.0, 0.0, 0.05))


def draw_wall(dice: Dice, pattern: str | None = None, bright: float = 0.7) -> Material:
    """A wall's plaster, bricks, boards or stripes."""
    pattern = pattern or dice.pick("plain", "plain", "bricks", "stripes", "planks", "tiles")
    hue, saturation = dice.pick(
        (0.08, 0.25), (0.12, 0.15), (0.58, 0.2), (0.3, 0.15), (0.02, 0.4), (0.1, 0.06), (0.5, 0.25)
    )
    if pattern == "bricks":
        colour = near_hsv(dice, 0.03, 0.5, 0.55)
        return Material(colour, near_hsv(dice, 0.1, 0.1, 0.65), pattern, (0.5, 0.2), 0.035, 0.3, 0.2)
    colour = near_hsv(dice, hue, saturation, bright)
    size = {"planks": (2.4, 0.25), "tiles": (0.6, 0.6), "stripes": (dice.uniform(0.3, 0.7), 1.0)}.get(
        pattern, (1.0, 1.0)
    )
    second = scaled(colour, dice.uniform(0.5, 0.8)) if pattern == "stripes" else scaled(colour, 0.45)
    return Material(colour, second, pattern, size, 0.025, 0.15, 0.12, 0.8)


def draw_paint(dice: Dice, value: float = 0.7) -> Material:
    """A strong plain colour."""
    return Material(near_hsv(dice, dice.random(), dice.uniform(0.4, 0.8), value), grain=0.1, grain_size=0.5)


def draw_stone(dice: Dice) -> Material:
    """Hewn stone."""
    return Material(near_hsv(dice, dice.uniform(0.06, 0.13), 0.18, 0.72), grain=0.3, grain_size=dice.uniform(0.3, 0.8))


def draw_wood(dice: Dice) -> Material:
    """Dark or light wood."""
    colour = near_hsv(dice, 0.07, 0.55, dice.uniform(0.35, 0.65))
    return Material(colour, scaled(colour, 0.5), "planks", (1.4, 0.2), 0.015, 0.25, 0.2, 0.3)


def draw_leaves(dice: Dice, hour_hue: float = 0.27) -> Material:
    """A tree's crown."""
    hue = dice.pick(hour_hue, hour_hue, hour_hue - 0.04, hour_hue + 0.05)
    return Material(near_hsv(dice, hue, 0.6, 0.42), grain=0.65, grain_size=dice.uniform(0.35, 0.7))


def draw_front(dice: Dice, lit: bool) -> Material:
    """A house's front with windows."""
    hue, saturation, value = dice.pick(
        (0.08, 0.3, 0.75), (0.03, 0.45, 0.6), (0.12, 0.2, 0.8), (0.58, 0.12, 0.6), (0.0, 0.02, 0.7), (0.1, 0.45, 0.7)
    )
    size = (dice.uniform(1.8, 3.2), dice.uniform(2.6, 3.4))
    glass = near_hsv(dice, 0.58, 0.35, 0.25)
    colour = near_hsv(dice, hue, saturation, value)
    return Material(colour, glass, "windows", size, grain=0.15, lit=dice.uniform(0.2, 0.5) if lit else 0.0)
