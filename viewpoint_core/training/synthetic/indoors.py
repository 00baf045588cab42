"""Synthetic worlds within walls: furnished rooms, halls of columns, courtyards."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from .palette import (
    Dice,
    draw_ground,
    draw_paint,
    draw_paving,
    draw_stone,
    draw_wall,
    draw_wood,
    linear,
    near_hsv,
    scaled,
)
from .places import (
    put_bush,
    put_column,
    put_conifer,
    put_crate,
    put_plant,
    put_table,
    put_tree,
)
from .room import Opening, Room
from .scene import Lamp, Zone
from .texture import Material
from .world import World, add_ridges, start


def outdoors_beyond(world: World) -> None:
    """What a room's openings show: trees, hills or houses."""
    dice, room = world.dice, world.room
    world.plot.taken[0] = (0, 0, math.hypot(room.half_x, room.half_z) + 1)
    corner = math.hypot(room.half_x, room.half_z)
    world.plot.scatter(dice.randrange(4, 9), corner + 3, 28, 1.5, dice.pick(put_tree, put_conifer))
    kinds = dice.pick(("hills",), ("trees", "hills"), ("houses",), ("hills", "mountains"))
    add_ridges(world, kinds, linear(0.27, 0.45, 0.42), linear(0.07, 0.2, 0.55), linear(0.6, 0.05, 0.85))


def side_spot(world: World, wall: int, along: float, gap: float) -> tuple[float, float]:
    """The spot `gap` in front of a wall, `along` it from its middle."""
    room = world.room
    across = (room.half_x if wall < 2 else room.half_z) - gap
    across = across if wall % 2 == 0 else -across
    return (across, along) if wall < 2 else (along, across)


def cut_openings(dice: Dice, half_x: float, half_z: float, height: float) -> list[Opening]:
    """Windows and doors side by side on each wall, some walls without, but not the first."""
    openings = []
    for wall in range(4):
        length = half_z if wall < 2 else half_x
        count = max(dice.choices((0, 1, 2, 3), (2, 4, 3, 1))[0], int(wall == 0))
        door, arched = dice.chance(0.4), dice.chance(0.25)
        for number in range(count):
            middle = length * (2 * (number + 1) / (count + 1) - 1)
            wide = min(dice.uniform(0.5, 1.2), 0.75 * length / (count + 1))
            bottom = 0.0 if door and number == 0 else dice.uniform(0.7, 1.0)
            top = min(height - 0.3, dice.uniform(2.0, 2.5))
            openings.append(Opening(wall, middle - wide, middle + wide, bottom, top, arched))
    return openings


def add_window_bars(world: World) -> None:
    """A cross of bars in every window that reaches not to the floor."""
    bar = Material(linear(0.1, 0.05, 0.85), grain=0.05)
    for opening in world.room.openings:
        if opening.bottom == 0 or opening.arched:
            continue
        middle, wide = (opening.left + opening.right) / 2, (opening.right - opening.left) / 2
        high = (opening.top - opening.bottom) / 2
        spot = side_spot(world, opening.wall, middle, -0.15)
        flat = (0.03, 0.05, wide) if opening.wall < 2 else (wide, 0.05, 0.03)
        world.plot.add("box", spot, (0.05, high, 0.05), opening.bottom, bar)
        world.plot.add("box", spot, flat, opening.bottom + high - 0.05, bar)


def has_opening(room: Room, wall: int, along: float, reach: float) -> bool:
    """Whether an opening lies near a place on a wall."""
    return any(o.wall == wall and o.left - reach < along < o.right + reach for o in room.openings)


def furnish(world: World, count: int) -> None:
    """Cupboards, shelves, sofas and pictures along the walls."""
    dice, room = world.dice, world.room
    for _ in range(count):
        wall = dice.randrange(4)
        length = room.half_z if wall < 2 else room.half_x
        place, wide = dice.uniform(-1, 1) * (length - 0.8), dice.uniform(0.4, 0.85)
        deep, high = dice.uniform(0.2, 0.35), dice.pick(0.22, 0.4, 0.5, 1.0)
        spot = side_spot(world, wall, place, deep + 0.02)
        flat = (deep, high, wide) if wall < 2 else (wide, high, deep)
        if not has_opening(room, wall, place, max(wide, 0.7)) and world.plot.claim(spot, 0.6 * wide):
            world.plot.add("box", spot, flat, 0, dice.pick(draw_wood(dice), draw_paint(dice, 0.55)))
            if high < 0.6:
                hang_picture(world, wall, place)


def hang_picture(world: World, wall: int, along: float) -> None:
    """A framed picture on a wall."""
    dice = world.dice
    wide, high = dice.uniform(0.25, 0.6), dice.uniform(0.25, 0.4)
    paint = draw_paint(dice)
    pattern = dice.pick("patches", "stripes", "checker", "tiles")
    second = near_hsv(dice, dice.random(), 0.5, 0.7)
    paint = replace(paint, pattern=pattern, second=second, size=(0.4, 0.4))
    for extra, depth, material in ((0.06, 0.02, draw_wood(dice)), (0.0, 0.03, paint)):
        flat = (depth, high + extra, wide + extra) if wall < 2 else (wide + extra, high + extra, depth)
        world.plot.add("box", side_spot(world, wall, along, depth), flat, 1.55 - high - extra, material)


def hang_lamps(world: World, spots: Sequence[tuple[float, float]], height: float) -> None:
    """Lamps under a ceiling; they are brighter after dark."""
    strength = 1.7 if world.hour.lamps else 1.1
    colour = scaled(near_hsv(world.dice, 0.1, 0.3, 1.0, 0.5), strength)
    bulb = Material(linear(0.1, 0.2, 1), glow=3.0)
    for x, z in spots:
        world.plot.add("ball", (x, z), (0.2, 0.2, 0.2), height - 0.55, bulb)
        world.plot.add("frustum", (x, z), (0.04, 0.1, 0.04), height - 0.2, Material(linear(0, 0, 0.2)))
        world.plot.lamps.append(Lamp((x, -height + 0.36, z), colour, 2.8))


def draw_walls(dice: Dice) -> tuple[Material, Material, Material, Material]:
    """Four walls alike, at times one of another kind."""
    wall = draw_wall(dice)
    walls = [wall] * 4
    if dice.chance(0.4):
        walls[dice.randrange(4)] = draw_wall(dice)
    return tuple(walls)


def row_of_arches(wall: int, length: float, count: int, wide: float, bottom: float, top: float) -> list[Opening]:
    """Equal arches side by side, `wide` from middle to side."""
    middles = [length * (2 * (number + 1) / (count + 1) - 1) for number in range(count)]
    return [Opening(wall, middle - wide, middle + wide, bottom, top, True) for middle in middles]


def lay_rug(world: World) -> None:
    """A rug somewhere on the floor."""
    dice, room = world.dice, world.room
    first, second = near_hsv(dice, dice.random(), 0.35, 0.55), near_hsv(dice, 0.1, 0.3, 0.8)
    rug = Material(first, second, dice.pick("checker", "stripes", "plain", "tiles"), (0.5, 0.5))
    spot = room.half_x * dice.uniform(-0.4, 0.4), room.half_z * dice.uniform(-0.4, 0.4)
    half = dice.uniform(0.8, 1.3), dice.uniform(0.9, 1.6)
    world.zones.append(Zone(dice.pick("rectangle", "disc"), spot, half, rug))


def chamber(dice: Dice) -> World:
    """A furnished room with windows and doors."""
    half_x, half_z, height = dice.uniform(2.8, 4.5), dice.uniform(2.8, 4.5), dice.uniform(2.5, 3.3)
    ground = draw_ground(dice, dice.pick("grass", "earth", "paving", "snow"))
    radii = half_x - 2.1, half_z - 2.1
    world = start(dice, ground, "A furnished room with windows,", radii=radii, height=(1.3, 1.65))
    ceiling = Material(near_hsv(dice, 0.1, 0.06, 0.88), grain=0.05)
    openings = tuple(cut_openings(dice, half_x, half_z, height))
    world.room = Room(half_x, half_z, height, draw_walls(dice), ceiling, openings=openings)
    floor = draw_wood(dice) if dice.chance(0.67) else draw_paving(dice)
    world.zones.append(Zone("rectangle", (0, 0), (half_x, half_z), floor))
    if dice.chance(0.6):
        lay_rug(world)
    furnish(world, dice.randrange(12, 30))
    corner = (half_x - 0.6) * dice.pick(-1, 1), (half_z - 0.6) * dice.pick(-1, 1)
    if world.plot.claim(corner, 0.5):
        dice.pick(put_plant, put_table)(world.plot, corner)
    add_window_bars(world)
    hang_lamps(world, dice.pick([(0.0, 0.0)], [(half_x * 0.45, 0.0), (-half_x * 0.45, 0.0)]), height)
    outdoors_beyond(world)
    return world


def hall(dice: Dice) -> World:
    """A high hall with rows of columns and arched openings."""
    half_x, half_z, height = dice.uniform(4.5, 7), dice.uniform(7, 12), dice.uniform(4, 5.5)
    ground = draw_ground(dice, dice.pick("grass", "sand", "earth"))
    world = start(dice, ground, "A hall of columns with arched openings,", radii=(half_x - 3.2, 3.5))
    openings = []
    for wall, length in enumerate((half_z, half_z, half_x, half_x)):
        count = dice.randrange(2, 5) if wall < 2 else dice.randrange(1, 3)
        if wall == 0 or dice.chance(0.8):
            openings += row_of_arches(wall, length, count, 0.7, dice.pick(0.0, 1.0), height * 0.75)
    ceiling = Material(near_hsv(dice, 0.1, 0.12, 0.85), grain=0.05)
    walls = (draw_wall(dice, dice.pick("plain", "tiles", "bricks")),) * 4
    world.room = Room(half_x, half_z, height, walls, ceiling, openings=tuple(openings), thickness=0.5)
    world.zones.append(Zone("rectangle", (0, 0), (half_x, half_z), draw_paving(dice)))
    stone, radius = draw_stone(dice), dice.uniform(0.22, 0.3)
    row, count = half_x - dice.uniform(0.9, 1.3), dice.randrange(3, 5)
    for number in range(count):
        for side in (-1, 1):
            spot = side * row, half_z * (2 * (number + 1) / (count + 1) - 1)
            put_column(world.plot, spot, height, radius, stone)
    hang_lamps(world, [(0.0, z) for z in (-half_z * 0.5, half_z * 0.5)], height)
    outdoors_beyond(world)
    return world


def courtyard(dice: Dice) -> World:
    """Walls with arches around an open court with plants."""
    half_x, half_z, height = dice.uniform(5.5, 9), dice.uniform(5.5, 9), dice.uniform(2.6, 4.5)
    ground = draw_ground(dice, dice.pick("grass", "sand", "earth"))
    world = start(dice, ground, "A courtyard with arches and plants", radii=(3, 3))
    openings = []
    for wall, length in enumerate((half_z, half_z, half_x, half_x)):
        wide = dice.uniform(0.6, 1.0)
        openings += row_of_arches(wall, length, dice.randrange(int(wall == 0), 5), wide, 0.0, height * 0.8)
    world.room = Room(half_x, half_z, height, draw_walls(dice), openings=tuple(openings), thickness=0.5)
    world.zones.append(Zone("rectangle", (0, 0), (half_x + 0.5, half_z + 0.5), draw_paving(dice)))
    edge = min(half_x, half_z)
    world.plot.scatter(dice.randrange(2, 7), 4.4, edge - 0.6, 0.7, dice.pick(put_plant, put_bush, put_crate))
    column = partial(put_column, height=dice.uniform(2, 4), radius=0.25, stone=draw_stone(dice))
    world.plot.scatter(dice.randrange(5), 4.4, edge - 0.4, 0.5, column)
    outdoors_beyond(world)
    return world
