"""Upright charts for networks that know flat pictures only: six overlapping perspective views that cover the sphere.

The map turns each face by 45 degrees, and an ERP image smears the poles; in a chart the horizon is level, and the poles
lie in the middle of views that look straight up and straight down.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import direction_to_view
from .cubemap import FACE_YAW_PITCH, FACES, stacked_directions
from .kept import Kept
from .map_layout import check_map, unit_pixels
from .resample import Grid, banded_grid, check_erp_width, filtering, row_bands, sample
from .smoothstep import smoothstep
from .sphere import erp_directions
from .viewpoint_map import MapLookup, banded_lookup, map_filtering, sample_map

REACH = 1.25  # how far a chart counts, in half faces: 6.3 degrees beyond its face
GUARD = 8  # pixels beyond that, which are cut away: networks go wrong at a picture's border
OVERSAMPLING = 1.2  # the map's diagonals, upright here, hold more detail than its rows; a network sees sharp pixels yet
LOSSLESS_OVERSAMPLING = 2.0  # of charts that are only resampled
BAND_SAMPLES = 1 << 22  # sampled at a time
EDGE_DENSITY = 1.7  # a flat chart is up to twice as fine at a face's edges as in its middle


@dataclass(frozen=True)
class UprightLayout:
    """Six square charts, in the order F, R, B, L, U, D. density: pixels of half a face side; side: of a chart."""

    density: float
    side: int

    @property
    def fov_deg(self) -> float:
        """A chart's field of view, the guard included."""
        return math.degrees(2 * math.atan(self.side / 2 / self.density))


def upright_layout(map_size: int, oversampling: float = OVERSAMPLING) -> UprightLayout:
    """Charts of a map of this side, `oversampling` times as fine as the map in the middle of a face."""
    density = oversampling * unit_pixels(map_size)
    return UprightLayout(density, 2 * math.ceil(density * REACH + GUARD))


def chart_samples(map_size: int, layout: UprightLayout) -> int:
    """How many positions `viewpoint_to_upright` looks up."""
    return len(FACES) * (layout.side * map_filtering(map_size, layout.density)[0]) ** 2


@Kept
def chart_lookup(map_size: int, layout: UprightLayout) -> MapLookup:
    """Map positions of the six charts' pixels, one chart below the other."""
    factor, reduction = map_filtering(map_size, layout.density)
    side = layout.side * factor
    return banded_lookup(
        len(FACES) * side,
        side,
        lambda rows: stacked_directions(side, layout.fov_deg, rows),
        map_size,
        factor=factor,
        reduction=reduction,
    )


def viewpoint_to_upright(viewpoint: Tensor, layout: UprightLayout) -> Tensor:
    """Maps (..., C, S, S) -> charts (..., 6, C, side, side), overlaps blended, same dtype and device."""
    check_map(viewpoint)
    charts = sample_map(viewpoint, chart_lookup(viewpoint.shape[-1], layout))
    return charts.unflatten(-2, (len(FACES), layout.side)).movedim(-3, -4)


def chart_weights(direction: Tensor) -> Tensor:
    """Blending weights of the charts F, R, B, L, U, D at directions (..., 3) -> (6, ...); they sum to 1.

    1 in the middle of a face, a half on its edge, falling smoothly to 0 at REACH.
    """
    x, y, z = direction.unbind(-1)
    first, last = math.atan(1 / REACH), math.atan(REACH)
    weights = []
    for ahead, beside, above in ((z, x, y), (x, z, y), (-z, x, y), (-x, z, y), (-y, x, z), (y, x, z)):
        weight = torch.ones_like(x)
        for aside in (beside, above):
            weight = weight * smoothstep((last - torch.atan2(aside.abs(), ahead)) / (last - first))
        weights.append(weight)
    total = torch.stack(weights)
    return total / total.sum(0)


@dataclass(frozen=True)
class Band:
    """Some rows of the rectangle of the ERP image that one chart shows: its first row and column, where its pixels lie
    on the chart, and the chart's weight there, float32 (h, w)."""

    row: int
    column: int
    grid: Grid
    weight: Tensor


def build_bands(face: str, width: int, side: int, fov_deg: float, factor: int) -> tuple[Band, ...]:
    """The rectangle of chart F or U (uncached); the other charts' are its shifted or mirrored copies."""
    height = width // 2
    beside = math.ceil(math.atan(REACH) / (2 * math.pi) * width)
    below = math.ceil(math.atan(REACH * math.sqrt(2)) / math.pi * height)
    rows, columns = {
        "F": (range(height // 2 - beside, height // 2 + beside), range(width // 2 - beside, width // 2 + beside)),
        "U": (range(below), range(width)),
    }[face]
    yaw_deg, pitch_deg = FACE_YAW_PITCH[face]

    def locate(fine: slice) -> tuple[Tensor, Tensor]:
        direction = erp_directions(
            height * factor, width * factor, fine, slice(columns.start * factor, columns.stop * factor)
        )
        return direction_to_view(direction, side, side, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=fov_deg)[:2]

    def weigh(coarse: slice) -> Tensor:
        direction = erp_directions(height, width, coarse, slice(columns.start, columns.stop))
        return chart_weights(direction)[FACES.index(face)].float()

    bands = []
    for part in row_bands(len(rows), len(columns) * factor**2, BAND_SAMPLES):
        first, count = rows[part.start], part.stop - part.start
        grid = banded_grid(
            count * factor, len(columns) * factor, lambda band, top=first * factor: locate(moved(band, top)), factor
        )
        weight = torch.cat([weigh(moved(band, first)) for band in row_bands(count, len(columns))])
        bands.append(Band(first, columns.start, grid, weight))
    return tuple(bands)


def moved(rows: slice, top: int) -> slice:
    """A band of a part's rows as rows of the whole, for the part's first row."""
    return slice(rows.start + top, rows.stop + top)


@Kept
def chart_bands(width: int, side: int, fov_deg: float, factor: int) -> dict[str, tuple[Band, ...]]:
    """The bands of F and U of one size, 0.2 to 0.6 GB at 8K."""
    return {face: build_bands(face, width, side, fov_deg, factor) for face in "FU"}


def edge_factor(density: float, width: int, side: int) -> int:
    """The supersampling that a chart of this density and side needs at its edges, where it is finer."""
    target = width / (2 * math.pi)
    return filtering(min(density, target), target, side, EDGE_DENSITY * density)[0]


def band_bytes(layout: UprightLayout, scale: int, width: int) -> int:
    """What `upright_to_erp` keeps of charts `scale` times as fine as the layout, for an ERP image of this width."""
    factor = edge_factor(min(layout.density * scale, width / (2 * math.pi)), width, layout.side * scale)
    return (8 * factor**2 + 4) * width**2 // 4  # the rectangles of F and U take a quarter of the width's square


def match_density(chart: Tensor, layout: UprightLayout, width: int) -> tuple[Tensor, int]:
    """A chart that is finer than the ERP image shrunk to the image's density, filtered; and the supersampling that
    its edges, where a flat picture is finer, need."""
    side, target = chart.shape[-1], width / (2 * math.pi)
    finest = math.ceil(layout.side * target / layout.density)
    if side > finest:
        chart = F.interpolate(chart[None], size=(finest, finest), mode="bicubic", antialias=True)[0]
    density = layout.density * chart.shape[-1] / layout.side
    return chart, edge_factor(density, width, chart.shape[-1])


def add_wrapped(image: Tensor, part: Tensor, row: int, column: int) -> None:
    """Add a rectangle (C, h, w) to an ERP image (C, H, W) in place; beyond the right edge it goes on at the left."""
    width, column = image.shape[-1], column % image.shape[-1]
    rows, inside = slice(row, row + part.shape[-2]), min(part.shape[-1], width - column)
    image[:, rows, column : column + inside] += part[..., :inside]
    image[:, rows, : part.shape[-1] - inside] += part[..., inside:]


def upright_to_erp(charts: Iterable[Tensor], layout: UprightLayout, width: int) -> Tensor:
    """Charts F, R, B, L, U, D, each (C, s, s) with s any multiple of the layout's side -> an ERP image float32
    (C, width/2, width), blended smoothly. Takes one chart at a time, so that they may be computed on the way.

    Raises ValueError for a width that is no multiple of 4.
    """
    check_erp_width(width)
    erp: Tensor | None = None
    for face, chart in zip(FACES, charts, strict=True):
        chart, factor = match_density(chart.float(), layout, width)
        erp = chart.new_zeros(chart.shape[0], width // 2, width) if erp is None else erp
        upside_down = face == "D"  # what looks down is what looks up, upside down
        chart = chart.flip(-2) if upside_down else chart
        turn = round(FACE_YAW_PITCH[face][0] / 360 * width)
        bands = chart_bands(width, chart.shape[-1], layout.fov_deg, factor)
        for band in bands["U" if face in "UD" else "F"]:
            seen = sample(chart, band.grid) * band.weight.to(chart)
            row = width // 2 - band.row - seen.shape[-2] if upside_down else band.row
            add_wrapped(erp, seen.flip(-2) if upside_down else seen, row, band.column + turn)
    assert erp is not None
    return erp
