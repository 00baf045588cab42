"""Textures of the synthetic worlds, faded or averaged to the size of a pixel: noise, lines, cells, materials.

Lengths are metres, colours linear light. A footprint is the width of what one pixel sees, in the texture's own units.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...choices import check_choice
from ...smoothstep import smoothstep as unit_smoothstep

Colour = tuple[float, float, float]
Vector = tuple[Tensor, Tensor, Tensor]

TABLE_SIDE = 256
TABLE_SEED = 2024
FADE_FROM, FADE_TO = 0.8, 2.6  # steps of the lattice that a pixel spans: what averaging over it leaves of noise
OCTAVE_TURN = (0.8, 0.6)  # cosine and sine: octaves on turned lattices hide each other's axes
PATTERNS = ("plain", "patches", "ripples", "bricks", "tiles", "planks", "stripes", "checker", "windows")


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    colour, second: linear light; what `second` is depends on the pattern: mortar, panes, other squares, other patches.
    size: a cell's width and height. line: width of lines between cells. variation: how much cells differ. grain: noise
    on top, of size `grain_size`. gloss: share of light that it mirrors at right angles. glow: light of its own, times
    `colour`. lit: share of windows with light behind them.
    """

    colour: Colour
    second: Colour = (0.1, 0.1, 0.1)
    pattern: str = "plain"
    size: tuple[float, float] = (1.0, 1.0)
    line: float = 0.04
    variation: float = 0.15
    grain: float = 0.25
    grain_size: float = 0.6
    gloss: float = 0.0
    glow: float = 0.0
    lit: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self.pattern, PATTERNS, "pattern")


@dataclass(frozen=True)
class Patch:
    """Where rays meet one surface, all (N,): the point in the world, u and v along the surface, their footprints."""

    point: Vector
    u: Tensor
    v: Tensor
    footprint_u: Tensor
    footprint_v: Tensor


def rgb(colour: Colour, like: Tensor) -> Tensor:
    """A colour as (3, 1)."""
    return torch.tensor(colour, dtype=like.dtype, device=like.device)[:, None]


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    return unit_smoothstep((x - low) / (high - low))


@lru_cache(4)
def noise_table(device: torch.device) -> Tensor:
    """The random numbers in [0, 1) behind all noise, the same everywhere."""
    numbers = torch.rand(TABLE_SIDE**2, generator=torch.Generator().manual_seed(TABLE_SEED))
    return numbers.to(device)


def cell_value(i: Tensor, j: Tensor) -> Tensor:
    """A random number in [0, 1) for a cell's whole numbers (float or int)."""
    index = ((j.int() & (TABLE_SIDE - 1)) << 8) | (i.int() & (TABLE_SIDE - 1))
    return noise_table(i.device).index_select(0, index)


def noise(x: Tensor, y: Tensor) -> Tensor:
    """Smooth noise in [0, 1] with one random value for each whole x and y."""
    i, j = x.floor(), y.floor()
    s, t = ((3 - 2 * f) * f * f for f in (x - i, y - j))
    top = torch.lerp(cell_value(i, j), cell_value(i + 1, j), s)
    return torch.lerp(top, torch.lerp(cell_value(i, j + 1), cell_value(i + 1, j + 1), s), t)


def noise_in_space(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The same in three dimensions: between layers of the plane's noise, each moved by whole steps."""
    k = z.floor()
    f = z - k
    first = noise(x + 37 * k, y + 113 * k)
    return torch.lerp(first, noise(x + 37 * (k + 1), y + 113 * (k + 1)), f * f * (3 - 2 * f))


def keep(footprint: Tensor) -> Tensor:
    """How much of a detail of unit size a pixel of this footprint may show: 1 for small ones, 0 from FADE_TO on."""
    return 1 - smoothstep(FADE_FROM, FADE_TO, footprint)


def fractal(x: Tensor, y: Tensor, footprint: Tensor, octaves: int = 4) -> Tensor:
    """Octaves of noise around 0, standard deviation about 0.45, without what a pixel cannot show."""
    total = torch.zeros_like(x)
    c, s = (2 * part for part in OCTAVE_TURN)
    for octave in range(octaves):
        share = keep(footprint * 2**octave) * 0.5**octave
        total = total + share * (2 * noise(x, y) - 1)
        x, y = c * x + s * y + 17.3, c * y - s * x + 5.7
    return total


def fractal_in_space(point: Vector, footprint: Tensor, octaves: int = 3) -> Tensor:
    """The same of points in space."""
    x, y, z = point
    total = torch.zeros_like(footprint)
    c, s = OCTAVE_TURN
    for octave in range(octaves):
        share = keep(footprint * 2**octave) * 0.5**octave
        total = total + share * (2 * noise_in_space(x, y, z) - 1)
        x, y, z = 2 * (c * x + s * y) + 3.1, 2 * z + 7.9, 2 * (c * y - s * x) + 1.7
    return total


def covered(x: Tensor, footprint: Tensor, width: float) -> Tensor:
    """The share of [x - footprint / 2, x + footprint / 2] in the strips [k, k + width], k all whole numbers: exact."""
    reach = footprint.clamp(min=1e-3)
    low = x - x.floor() - reach / 2
    high = low + reach
    below = [end.floor() * width + (end - end.floor()).clamp(max=width) for end in (low, high)]
    return (below[1] - below[0]) / reach


def rows_shifted(pattern: str, u: Tensor, v: Tensor) -> Tensor:
    """u in cells, moved from row to row: half a brick, or any part of a plank."""
    row = v.floor()
    if pattern == "bricks":
        return u + torch.remainder(row, 2) / 2
    return u + cell_value(row, row * 0 + 7) if pattern == "planks" else u


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Colours (3, 1) or (3, N), mixed by (N,)."""
    return first + (second - first) * share


def cells(material: Material, patch: Patch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u and v in cells, and their footprints."""
    wide, high = material.size
    u, v = patch.u / wide, patch.v / high
    return rows_shifted(material.pattern, u, v), v, patch.footprint_u / wide, patch.footprint_v / high


def masonry(material: Material, patch: Patch) -> Tensor:
    """Bricks, tiles or planks between lines of the second colour."""
    u, v, wu, wv = cells(material, patch)
    bare = (1 - covered(u, wu, material.line / material.size[0])) * (
        1 - covered(v, wv, material.line / material.size[1])
    )
    shade = 1 + material.variation * (2 * cell_value(u.floor(), v.floor()) - 1) * keep(torch.maximum(wu, wv))
    return mix(rgb(material.second, u), rgb(material.colour, u) * shade, bare)


def stripes(material: Material, patch: Patch) -> Tensor:
    """Upright stripes of two colours."""
    u, _, wu, _ = cells(material, patch)
    return mix(rgb(material.colour, u), rgb(material.second, u), covered(u, wu, 0.5))


def checker(material: Material, patch: Patch) -> Tensor:
    """Squares of two colours."""
    u, v, wu, wv = cells(material, patch)
    sign = (2 * covered(u / 2, wu / 2, 0.5) - 1) * (2 * covered(v / 2, wv / 2, 0.5) - 1)
    return mix(rgb(material.colour, u), rgb(material.second, u), (1 + sign) / 2)


def panes(material: Material, patch: Patch) -> tuple[Tensor, Tensor]:
    """The part of each pixel that windows fill, and the part that lit windows fill."""
    u, v, wu, wv = cells(material, patch)
    pane = covered(u - 0.22, wu, 0.56) * covered(v - 0.28, wv, 0.5)
    lit = (cell_value(u.floor(), v.floor()) < material.lit).float()
    seen = keep(torch.maximum(wu, wv) / 1.5)
    return pane, pane * (seen * lit + (1 - seen) * material.lit)


def patches(material: Material, patch: Patch) -> Tensor:
    """Two colours in smooth patches, by the point's place on the plan, so that hills carry on the ground's."""
    x, _, z = patch.point
    footprint = torch.sqrt(patch.footprint_u * patch.footprint_v)
    wide = fractal(x / material.size[0], z / material.size[1], footprint / material.size[0], 4)
    fine = fractal(x / material.grain_size, z / material.grain_size, footprint / material.grain_size, 5)
    share = (0.5 + 0.6 * wide).clamp(0, 1)
    return mix(rgb(material.colour, x), rgb(material.second, x), share) * (1 + material.grain * fine).clamp(min=0)


def grained(material: Material, patch: Patch, colour: Tensor) -> Tensor:
    """A colour with noise in space on it."""
    scale = 1 / material.grain_size
    footprint = torch.sqrt(patch.footprint_u * patch.footprint_v) * scale
    x, y, z = (axis * scale for axis in patch.point)
    return colour * (1 + material.grain * fractal_in_space((x, y, z), footprint, 4)).clamp(min=0)


def surface_colours(material: Material, patch: Patch) -> tuple[Tensor, Tensor]:
    """The share of light that a material throws back, and its own light: two (3, N)."""
    base, dark = rgb(material.colour, patch.u), torch.zeros_like(patch.u)[None]
    own = base * material.glow + dark
    if material.pattern == "patches":
        return patches(material, patch), own
    if material.pattern == "windows":
        pane, lit = panes(material, patch)
        wall = grained(material, patch, base)
        return mix(wall, rgb(material.second, pane), pane), own + rgb((1.6, 1.1, 0.5), pane) * lit
    if material.pattern in ("bricks", "tiles", "planks"):
        base = masonry(material, patch)
    elif material.pattern in ("stripes", "checker"):
        base = (stripes if material.pattern == "stripes" else checker)(material, patch)
    return grained(material, patch, base) + dark, own


def stretched(direction_along: Tensor, direction_across: Tensor) -> Tensor:
    """How much longer than across the ray a pixel's footprint is along one axis of a plane: exact for a thin cone."""
    slope = direction_along / direction_across.abs().clamp(min=1e-4)
    return torch.sqrt(1 + slope * slope)


def wrapped_length(angle: Tensor, radius: float, cell: float) -> Tensor:
    """Length around a round surface, scaled a little so that whole cells fit around."""
    return angle * (max(1, round(2 * math.pi * radius / cell)) * cell / (2 * math.pi))
