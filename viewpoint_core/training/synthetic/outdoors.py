"""Synthetic worlds under the open sky: meadows, winter, deserts, seas, towns, temples, galleries."""

import math
from dataclasses import replace
from functools import partial

from .palette import (
    Dice,
    blend,
    draw_ground,
    draw_paving,
    draw_stone,
    draw_wood,
    linear,
    scaled,
)
from .places import (
    Put,
    put_boat,
    put_bush,
    put_column,
    put_conifer,
    put_crate,
    put_house,
    put_rock,
    put_street_lamp,
    put_toy,
    put_tree,
)
from .scene import Zone
from .texture import Material
from .world import World, add_ridges, mounds, start


def meadow(dice: Dice) -> World:
    """Grass, trees, bushes, rocks, a path, hills around."""
    world = start(dice, draw_ground(dice, dice.pick("grass", "grass", "earth")), "A meadow with trees and hills")
    if dice.chance(0.6):
        middle, half = (dice.uniform(-2, 2), 0), (dice.uniform(0.7, 1.4), 0)
        world.zones.append(Zone("strip", middle, half, draw_ground(dice, "earth"), dice.uniform(0, 3)))
    mounds(world, dice.randrange(5))
    trees = dice.pick(put_tree, put_tree, put_conifer)
    world.plot.scatter(dice.randrange(8, 15), 5.0, 24, 1.6, trees)
    world.plot.scatter(dice.randrange(2, 8), 4.5, 16, 0.8, put_bush)
    world.plot.scatter(dice.randrange(5), 4.5, 14, 1.3, put_rock)
    kinds = dice.pick(("trees", "hills"), ("hills", "mountains"), ("hills",), ("trees", "hills", "mountains"))
    add_ridges(world, kinds, linear(0.27, 0.5, 0.42), linear(0.6, 0.15, 0.45), linear(0.6, 0.05, 0.9))
    return world


def winter(dice: Dice) -> World:
    """Snow, conifers, mountains."""
    world = start(dice, draw_ground(dice, "snow"), "A snowy landscape with firs and mountains")
    mounds(world, dice.randrange(2, 6))
    world.plot.scatter(dice.randrange(8, 14), 5.0, 24, 1.7, partial(put_conifer, snow=dice.chance(0.6)))
    world.plot.scatter(dice.randrange(5), 4.5, 15, 1.3, put_rock)
    world.plot.scatter(dice.randrange(2), 11, 22, 4.0, partial(put_house, lit=world.hour.lamps, height=5.5))
    kinds = dice.pick(("trees", "mountains"), ("hills", "mountains"), ("mountains",))
    add_ridges(world, kinds, linear(0.4, 0.3, 0.4), linear(0.6, 0.2, 0.5), linear(0.6, 0.04, 0.95))
    return world


def desert(dice: Dice) -> World:
    """Sand or bare rock, boulders, ruins or cactus-like posts, dunes."""
    world = start(dice, draw_ground(dice, dice.pick("sand", "sand", "rock")), "A desert with dunes, boulders and ruins")
    mounds(world, dice.randrange(3, 9), 12, 60)
    world.plot.scatter(dice.randrange(3, 9), 4.8, 22, 1.4, put_rock)
    stone = draw_stone(dice)
    height, radius = dice.uniform(2, 4.5), dice.uniform(0.25, 0.45)
    world.plot.scatter(dice.randrange(7), 5, 20, 0.9, partial(put_column, height=height, radius=radius, stone=stone))
    if dice.chance(0.4):
        spot = world.plot.ring_spot(25, 60, 13)
        if spot:
            world.plot.add("frustum", spot, (13, 6, 13), 0, replace(stone, grain=0.4), taper=0.0)
    sand = blend(world.ground.colour, world.ground.second, 0.5)
    kinds = dice.pick(("hills",), ("hills", "mountains"), ("mountains",))
    add_ridges(world, kinds, sand, scaled(sand, 0.6), scaled(sand, 1.1))
    return world


def sea(dice: Dice) -> World:
    """Water with islands, boats and rocks around a wooden deck."""
    world = start(
        dice, draw_ground(dice, "water"), "A wooden deck on the sea, boats and islands around", radii=(2.6, 2.6)
    )
    reach = max(world.camera.radii)
    half = reach + dice.uniform(0.8, 1.6), reach + dice.uniform(1.5, 8)
    yaw = dice.uniform(0, 3)
    world.zones.append(Zone("rectangle", (0, 0), half, draw_wood(dice), yaw))
    post = draw_wood(dice)
    for x in (-1, 1):
        for step in range(-2, 3):
            u, v = x * (half[0] + 0.1), step * half[1] / 2
            spot = u * math.cos(yaw) + v * math.sin(yaw), v * math.cos(yaw) - u * math.sin(yaw)
            world.plot.add("frustum", spot, (0.13, 0.55, 0.13), -0.2, post)
    world.plot.taken[0] = (0, 0, max(half) + 1)
    world.plot.scatter(dice.randrange(2, 6), max(half) + 2, 30, 2.2, put_boat)
    world.plot.scatter(dice.randrange(5), max(half) + 1.5, 25, 1.4, put_rock)
    kinds = dice.pick(("islands",), ("islands", "islands"), ("hills",), ("islands", "mountains"))
    add_ridges(world, kinds, linear(0.25, 0.4, 0.4), linear(0.6, 0.2, 0.45), linear(0.6, 0.05, 0.8))
    return world


def town(dice: Dice) -> World:
    """A square or a street between houses."""
    ground = draw_ground(dice, dice.pick("asphalt", "paving", "paving"))
    world = start(dice, ground, "A town square with houses, trees and street lamps")
    houses = partial(put_house, lit=world.hour.lamps)
    if dice.chance(0.5):
        world.caption = world.caption.replace("square", "street")
        street(world, houses)
    else:
        count = dice.randrange(8, 12)
        for number in range(count):
            angle = 2 * math.pi * (number + dice.uniform(-0.15, 0.15)) / count
            distance = dice.uniform(11, 15)
            spot = distance * math.sin(angle), distance * math.cos(angle)
            world.plot.claim(spot, 3.5)
            houses(world.plot, spot)
    lamps = partial(put_street_lamp, lit=world.hour.lamps)
    world.plot.scatter(dice.randrange(2, 5), 4.8, 9, 0.4, lamps)
    world.plot.scatter(dice.randrange(1, 5), 5, 11, 1.0, dice.pick(put_tree, put_crate))
    kinds = dice.pick(("houses",), ("houses", "houses"), ("trees", "hills"))
    add_ridges(world, kinds, linear(0.27, 0.45, 0.4), linear(0.07, 0.25, 0.6), linear(0.6, 0.1, 0.6))
    return world


def street(world: World, houses: Put) -> None:
    """Two rows of houses along z, a carriageway between them."""
    dice = world.dice
    wide = max(world.camera.radii) + dice.uniform(0.5, 2)
    world.zones.append(Zone("strip", (0, 0), (wide, 0), draw_ground(dice, "asphalt")))
    paint = Material(linear(0.12, 0.05, 0.85), grain=0.1)
    world.zones += [Zone("rectangle", (0, 4.5 * step), (0.09, 1.2), paint) for step in range(-6, 7)]
    for side in (-1, 1):
        z = -34 + dice.uniform(0, 4)
        while z < 34:
            front = len(world.plot.solids)
            spot = side * (wide + dice.uniform(6, 7.5)), z
            houses(world.plot, spot)
            world.plot.solids[front:] = [replace(part, yaw=side * math.pi / 2) for part in world.plot.solids[front:]]
            world.plot.taken.append((*spot, 4.5))
            z += 2 * world.plot.solids[front].half[0] + dice.pick(0.0, 0.0, 2.5)


def temple(dice: Dice) -> World:
    """Columns in a ring or in rows, with beams on them, on a paved floor."""
    outside = draw_ground(dice, dice.pick("grass", "sand", "earth", "rock"))
    world = start(dice, outside, "An open temple of columns on a paved floor", radii=(3, 3))
    stone, height, radius = draw_stone(dice), dice.uniform(3.2, 5), dice.uniform(0.25, 0.42)
    put = partial(put_column, height=height, radius=radius, stone=stone)
    (ring_of_columns if dice.chance(0.5) else rows_of_columns)(world, put, height, stone)
    world.plot.scatter(dice.randrange(3, 7), 12, 30, 1.3, dice.pick(put_tree, put_conifer))
    world.plot.scatter(dice.randrange(4), 10, 20, 1.0, put_rock)
    green = blend(world.ground.colour, world.ground.second, 0.5)
    kinds = dice.pick(("hills",), ("hills", "mountains"), ("trees", "hills"))
    add_ridges(world, kinds, scaled(green, 0.8), linear(0.6, 0.15, 0.45), linear(0.6, 0.05, 0.8))
    return world


def ring_of_columns(world: World, put: Put, height: float, stone: Material) -> None:
    """Columns on a circle, a beam from each to the next."""
    dice = world.dice
    count, reach = dice.randrange(7, 12), max(world.camera.radii) + dice.uniform(1.6, 3.5)
    world.zones.append(Zone("disc", (0, 0), (reach + 1.2, 0), draw_paving(dice)))
    for number in range(count):
        angle, beam = (2 * math.pi * (number + half) / count for half in (0, 0.5))
        put(world.plot, (reach * math.sin(angle), reach * math.cos(angle)))
        middle = reach * math.cos(math.pi / count)
        half = reach * math.sin(math.pi / count) + 0.15, 0.25, 0.3
        world.plot.add("box", (middle * math.sin(beam), middle * math.cos(beam)), half, height, stone, yaw=beam)
    world.plot.taken[0] = (0, 0, reach + 1)


def rows_of_columns(world: World, put: Put, height: float, stone: Material) -> None:
    """Two rows of columns along z, at times under a roof."""
    dice = world.dice
    wide, step = max(world.camera.radii) + dice.uniform(1.3, 2.2), dice.uniform(2.4, 3.4)
    count = dice.randrange(3, 5)
    far = step * count + 1
    world.zones.append(Zone("rectangle", (0, 0), (wide + 1, far + 0.5), draw_paving(dice)))
    for side in (-1, 1):
        for number in range(-count, count + 1):
            put(world.plot, (side * wide, number * step))
        world.plot.add("box", (side * wide, 0), (0.35, 0.25, far), height, stone)
    if dice.chance(0.5):
        world.plot.add("box", (0, 0), (wide + 0.6, 0.15, far + 0.2), height + 0.5, draw_wood(dice))
    world.plot.taken[0] = (0, 0, math.hypot(wide, far) + 0.5)


def gallery(dice: Dice) -> World:
    """Balls, cones, boxes and columns in strong colours on a paved plain."""
    world = start(dice, draw_paving(dice), "A paved plain with coloured balls, cones, boxes and columns", radii=(3, 3))
    world.plot.scatter(dice.randrange(9, 18), 4.4, 22, 1.2, put_toy)
    stone = draw_stone(dice)
    column = partial(put_column, height=dice.uniform(3, 6), radius=0.4, stone=stone)
    world.plot.scatter(dice.randrange(5), 5, 18, 0.8, column)
    kinds, green = dice.pick("hills", "houses", "mountains", "trees"), linear(dice.pick(0.27, 0.1, 0.6), 0.4, 0.45)
    add_ridges(world, (kinds,), green, linear(0.6, 0.2, 0.5), linear(0.6, 0.05, 0.85))
    return world
