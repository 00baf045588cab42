"""Things to put into synthetic worlds: trees, houses, columns, furniture, each a few solids on a free spot."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .palette import (
    Dice,
    draw_front,
    draw_leaves,
    draw_paint,
    draw_stone,
    draw_wood,
    linear,
    near_hsv,
    scaled,
)
from .scene import Lamp
from .solids import Solid
from .texture import Material

Spot = tuple[float, float]
TRIES = 40  # after which a plot counts as full


@dataclass
class Plot:
    """The plan of a world: discs (x, z, radius) that are taken, the camera's first. Metres."""

    dice: Dice
    taken: list[tuple[float, float, float]]
    solids: list[Solid] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)

    def free(self, spot: Spot, radius: float) -> bool:
        """Whether a disc touches nothing."""
        return all(math.hypot(spot[0] - x, spot[1] - z) > radius + r for x, z, r in self.taken)

    def claim(self, spot: Spot, radius: float) -> bool:
        """Take a disc if it is free."""
        if not self.free(spot, radius):
            return False
        self.taken.append((*spot, radius))
        return True

    def ring_spot(self, near: float, far: float, radius: float) -> Spot | None:
        """A free spot between two distances, nearer ones more likely; None where none is found."""
        for _ in range(TRIES):
            distance = near * (far / near) ** self.dice.random()
            angle = self.dice.uniform(-math.pi, math.pi)
            spot = distance * math.sin(angle), distance * math.cos(angle)
            if self.claim(spot, radius):
                return spot
        return None

    def scatter(self, count: int, near: float, far: float, radius: float, put: "Put") -> None:
        """Put up to `count` things on free spots."""
        for _ in range(count):
            spot = self.ring_spot(near, far, radius)
            if spot:
                put(self, spot)

    def add(
        self, shape: str, spot: Spot, half: tuple[float, float, float], foot: float, material: Material, **more: float
    ) -> None:
        """Add a solid whose lowest point is `foot` above the ground."""
        self.solids.append(Solid(shape, (spot[0], -foot - half[1], spot[1]), half, material, **more))


Put = Callable[[Plot, Spot], None]


def outward(plot: Plot, spot: Spot, step: float) -> Spot:
    """A spot `step` farther from the middle, a little to a side."""
    angle = math.atan2(spot[0], spot[1]) + plot.dice.uniform(-1.3, 1.3)
    return spot[0] + step * math.sin(angle), spot[1] + step * math.cos(angle)


def put_tree(plot: Plot, spot: Spot) -> None:
    """A trunk with one round crown or several."""
    dice, height = plot.dice, plot.dice.uniform(2.5, 6)
    radius = height * dice.uniform(0.22, 0.34)
    bark = Material(near_hsv(dice, 0.07, 0.45, 0.32), grain=0.4, grain_size=0.3)
    leaves = draw_leaves(dice)
    stem = height * 0.5
    plot.add("frustum", spot, (0.06 * height * 0.7, stem / 2 + 0.2, 0.06 * height * 0.7), 0, bark, taper=0.6)
    plot.add("ball", spot, (radius, height * 0.3, radius), stem - 0.1, leaves)
    for _ in range(dice.randrange(3)):
        part, beside = dice.uniform(0.5, 0.75), outward(plot, spot, radius * 0.8)
        plot.add("ball", beside, (radius * part,) * 3, stem + dice.uniform(-0.1, 0.35) * radius, leaves)


def put_conifer(plot: Plot, spot: Spot, snow: bool = False) -> None:
    """A trunk with two or three cones."""
    dice, height = plot.dice, plot.dice.uniform(3, 8)
    radius = height * dice.uniform(0.2, 0.28)
    needles = draw_leaves(dice, 0.36)
    if snow:
        needles = replace(needles, colour=tuple(0.6 * part + 0.25 for part in needles.colour))
    plot.add("frustum", spot, (0.04 * height, 0.15 * height, 0.04 * height), 0, draw_wood(dice))
    for tier in range(3):
        half = height * 0.2
        wide = radius * (1 - 0.27 * tier)
        plot.add("frustum", spot, (wide, half, wide), height * (0.18 + 0.22 * tier), needles, taper=0.1)


def put_bush(plot: Plot, spot: Spot) -> None:
    """A low ball of leaves."""
    size = plot.dice.uniform(0.35, 0.9)
    plot.add("ball", spot, (size * 1.3, size, size), -0.4 * size, draw_leaves(plot.dice), yaw=plot.dice.uniform(0, 3))


def put_rock(plot: Plot, spot: Spot) -> None:
    """A boulder or a few, half sunk into the ground."""
    dice, size = plot.dice, plot.dice.uniform(0.3, 1.1)
    stone = replace(draw_stone(dice), grain=0.6, grain_size=0.35)
    for _ in range(dice.randrange(1, 4)):
        half = size * dice.uniform(0.8, 1.4), size * dice.uniform(0.5, 1.0), size
        plot.add("ball", spot, half, -0.45 * half[1], stone, yaw=dice.uniform(0, 3))
        spot, size = outward(plot, spot, 0.9 * size), size * dice.uniform(0.5, 0.8)


def put_house(plot: Plot, spot: Spot, lit: bool = False, height: float = 0) -> None:
    """A house with windows, its front toward the middle, under a flat roof or a gable."""
    dice = plot.dice
    front = draw_front(dice, lit)
    floors = max(1, round((height or dice.uniform(3, 14)) / front.size[1]))
    cells = dice.randrange(2, 5), dice.randrange(2, 4)
    half = cells[0] * front.size[0] / 2, floors * front.size[1] / 2, cells[1] * front.size[0] / 2
    yaw = math.atan2(spot[0], spot[1]) + dice.uniform(-0.2, 0.2)
    plot.add("box", spot, half, 0, replace(front), yaw=yaw)
    tiles = near_hsv(dice, 0.02, dice.pick(0.5, 0.1), 0.45)
    roof = Material(tiles, scaled(tiles, 0.5), "bricks", (0.5, 0.35), 0.05, 0.2, 0.2)
    top = 2 * half[1]
    if dice.chance(0.6):
        plot.add("gable", spot, (half[0] + 0.3, dice.uniform(0.3, 0.45) * half[0], half[2] + 0.3), top, roof, yaw=yaw)
    else:
        plot.add("box", spot, (half[0] + 0.2, 0.15, half[2] + 0.2), top, replace(front, pattern="plain"), yaw=yaw)


def put_column(plot: Plot, spot: Spot, height: float, radius: float, stone: Material) -> None:
    """A column with foot and capital."""
    plot.add("box", spot, (radius * 1.4, 0.12, radius * 1.4), 0, stone)
    plot.add("frustum", spot, (radius, height / 2 - 0.2, radius), 0.2, stone, taper=0.85)
    plot.add("box", spot, (radius * 1.4, 0.12, radius * 1.4), height - 0.24, stone)


def put_street_lamp(plot: Plot, spot: Spot, lit: bool) -> None:
    """A post with a ball of light on it."""
    height = plot.dice.uniform(2.8, 3.8)
    post = Material(linear(0.6, 0.1, 0.25), grain=0.1)
    bulb = Material(linear(0.11, 0.25, 1), glow=4.0 if lit else 0.4)
    plot.add("frustum", spot, (0.09, height / 2, 0.09), 0, post, taper=0.7)
    plot.add("ball", spot, (0.22, 0.22, 0.22), height - 0.05, bulb)
    if lit and len(plot.lamps) < 3:
        plot.lamps.append(Lamp((spot[0], -height - 0.2, spot[1]), linear(0.1, 0.4, 1), 5.0))


def put_crate(plot: Plot, spot: Spot) -> None:
    """A box, at times with a smaller one on it."""
    dice, size = plot.dice, plot.dice.uniform(0.3, 0.8)
    material = dice.pick(draw_wood(dice), draw_paint(dice))
    yaw = dice.uniform(0, 3)
    plot.add("box", spot, (size, size * dice.uniform(0.6, 1.2), size), 0, material, yaw=yaw)
    if dice.chance(0.3):
        low = plot.solids[-1]
        plot.add("box", spot, (size * 0.5,) * 3, 2 * low.half[1], draw_paint(dice), yaw=yaw + 0.5)


def put_toy(plot: Plot, spot: Spot) -> None:
    """A ball, a cone, a column or a box in a strong colour."""
    dice, size = plot.dice, plot.dice.uniform(0.4, 1.1)
    paint = draw_paint(dice)
    paint = replace(paint, gloss=dice.pick(0.0, 0.06))
    if dice.chance(0.3):
        paint = replace(paint, pattern="stripes", second=linear(0, 0, 0.9), size=(0.4, 0.4))
    shape = dice.pick("ball", "box", "frustum")
    half = (size, size * (1 if shape == "ball" else dice.uniform(0.7, 2.2)), size)
    plot.add(shape, spot, half, 0, paint, taper=dice.pick(0.0, 0.5, 1.0), yaw=dice.uniform(0, 3))


def put_boat(plot: Plot, spot: Spot) -> None:
    """A hull with a cabin or a mast."""
    dice, yaw = plot.dice, plot.dice.uniform(0, 3)
    size = dice.uniform(1.0, 2.2)
    plot.add("ball", spot, (size * 0.5, size * 0.35, size * 1.4), -0.3 * size, draw_paint(dice), yaw=yaw)
    plot.add("box", spot, (size * 0.28, size * 0.3, size * 0.4), 0.25 * size, Material(linear(0.1, 0.05, 0.9)), yaw=yaw)
    plot.add("frustum", spot, (0.07, size * 1.3, 0.07), 0.3 * size, draw_wood(dice))


def put_table(plot: Plot, spot: Spot) -> None:
    """A table with something on it."""
    dice, wood = plot.dice, draw_wood(plot.dice)
    wide, deep, height = dice.uniform(0.5, 0.9), dice.uniform(0.4, 0.6), dice.uniform(0.65, 0.8)
    plot.add("box", spot, (wide, 0.05, deep), height - 0.05, wood)
    for x, z in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        leg = spot[0] + x * (wide - 0.1), spot[1] + z * (deep - 0.1)
        plot.add("box", leg, (0.06, height / 2 - 0.03, 0.06), 0, wood)
    size = dice.uniform(0.12, 0.2)
    plot.add(dice.pick("ball", "frustum"), spot, (size, size * 1.2, size), height + 0.05, draw_paint(dice), taper=0.6)


def put_plant(plot: Plot, spot: Spot) -> None:
    """A pot with a round plant."""
    size = plot.dice.uniform(0.35, 0.55)
    plot.add("frustum", spot, (0.22, 0.25, 0.22), 0, Material(near_hsv(plot.dice, 0.04, 0.55, 0.6)), taper=1.2)
    plot.add("ball", spot, (size, size * 1.2, size), 0.4, draw_leaves(plot.dice))
