"""ViewPoint maps <-> ERP images (paper 3.2, 3.4): lookups, sampling across borders of subregions, fused overlaps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .kept import Kept
from .map_layout import (
    SQRT2,
    SUBREGIONS,
    TWINS,
    check_map,
    check_map_size,
    direction_to_subregion,
    ease_share,
    map_directions,
    on_up,
    pixels_to_subregion,
    subregion_pixels,
    subregion_to_direction,
    unit_pixels,
    weight_on_grid,
)
from .resample import (
    MARGIN,
    Grid,
    averages,
    banded_grid,
    check_erp,
    check_erp_width,
    erp_filtering,
    filtering,
    pad_edge,
    row_bands,
    sample,
)
from .sphere import direction_to_erp, erp_directions, pixel_grid, rotate_yaw


def pad_subregions(viewpoint: Tensor, margin: int = MARGIN) -> Tensor:
    """The four subregions of maps (N, C, S, S), one below the other, each with a margin that continues its picture.

    (N, C, 4 (S/2 + 2 margin), S/2 + 2 margin). Across D the neighbouring quadrant continues it, beyond a shared block
    the neighbour's turned picture does, pixel for pixel. Beyond U's arc the other subregions are sampled.
    """
    side, half = viewpoint.shape[-1] // 2, viewpoint.shape[-1] // 4
    around = pad_edge(viewpoint, margin)
    parts = {r.face: viewpoint[..., r.row * side :, r.column * side :][..., :side, :side] for r in SUBREGIONS}
    padded = []
    for region in SUBREGIONS:
        extent = side + 2 * margin
        part = around[..., region.row * side :, region.column * side :][..., :extent, :extent].clone()
        for face, row, column, neighbour, turns in TWINS:
            if face == region.face:
                twin = torch.rot90(parts[neighbour], turns, dims=(-2, -1))
                into = [slice(i * (half + margin), (i + 1) * (half + margin)) for i in (row, column)]
                take = [slice(half - margin, None) if i == 0 else slice(None, half + margin) for i in (row, column)]
                part[..., into[0], into[1]] = twin[..., take[0], take[1]]
        part[..., margin:-margin, margin:-margin] = parts[region.face]
        padded.append(part)
    atlas = torch.cat(padded, dim=-2)
    index, lookup = up_margin_lookup(viewpoint.shape[-1], margin)
    values = _sample_atlas(atlas, lookup, "bilinear")
    atlas.flatten(-2)[..., index.to(atlas.device)] = values[..., 0, :]
    return atlas


@dataclass(frozen=True)
class MapLookup:
    """Where directions lie on the padded subregions: for the two that weigh most (no direction lies in more, but for
    the zenith, where weights are zero), a grid of positions and weights that sum to 1, float32 (k, h, w), k = 1 or 2.
    The second grid lists only the pixels that a second subregion shows, `overlap` being their flat index."""

    first: Grid
    second: Grid | None
    weight: Tensor
    overlap: Tensor
    factor: int = 1


def locate_on_map(direction: Tensor, map_size: int, *, fusion: bool = True, reduction: int = 1) -> MapLookup:
    """Find directions (h, w, 3) on the map. Without fusion only the subregion that weighs most is used."""
    check_map_size(map_size)
    side, margin = map_size // 2, MARGIN * reduction
    places = []
    for k, region in enumerate(SUBREGIONS):
        p, q, weight = direction_to_subregion(rotate_yaw(direction, -math.radians(region.yaw_deg)))
        weight = weight_on_grid(p, q, weight, map_size)
        x, y = subregion_pixels(p, q, region, side)
        places.append(torch.stack([x + margin, y + margin + k * (side + 2 * margin), weight]))
    x, y, weight = torch.stack(places, dim=1)
    top, index = weight.topk(2 if fusion else 1, dim=0)
    assert bool((top[0] > 0).all()), "a direction lies outside all four subregions"
    x, y = (torch.gather(values, 0, index).float() for values in (x, y))
    weight = (top / top.sum(0)).float()
    if fusion:
        lighter = torch.where(on_up(direction), ease_share(weight[1]), weight[1])
        weight = torch.stack([1 - lighter, lighter])
    overlap = (weight[1] > 0).flatten().nonzero()[:, 0] if fusion else torch.empty(0, dtype=torch.long)
    second = None
    if fusion:
        second = Grid(x[1].flatten()[overlap][None], y[1].flatten()[overlap][None], reduction=reduction)
    return MapLookup(Grid(x[0], y[0], reduction=reduction), second, weight, overlap)


def banded_lookup(
    height: int,
    width: int,
    directions: Callable[[slice], Tensor],
    map_size: int,
    *,
    fusion: bool = True,
    factor: int = 1,
    reduction: int = 1,
) -> MapLookup:
    """`locate_on_map` of the directions (height, width, 3) that `directions` gives for some rows, band by band."""
    first = Grid(torch.empty(height, width), torch.empty(height, width), reduction=reduction)
    weight, seconds, overlaps = torch.empty(2 if fusion else 1, height, width), [], []
    for rows in row_bands(height, width):
        band = locate_on_map(directions(rows), map_size, fusion=fusion, reduction=reduction)
        first.x[rows], first.y[rows], weight[:, rows] = band.first.x, band.first.y, band.weight
        overlaps.append(band.overlap + rows.start * width)
        if band.second is not None:
            seconds.append(band.second)
    second = None
    if seconds:
        x, y = (torch.cat([getattr(grid, axis) for grid in seconds], dim=1) for axis in "xy")
        second = Grid(x, y, reduction=reduction)
    return MapLookup(first, second, weight, torch.cat(overlaps), factor)


def sample_map(
    viewpoint: Tensor,
    lookup: MapLookup,
    *,
    interpolation: str = "bicubic",
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """Sample maps (..., C, S, S) at a lookup -> (..., C, h, w), same dtype and device, a frame at a time, after which
    `on_frame` is called."""
    check_map(viewpoint)
    lead, size = viewpoint.shape[:-3], viewpoint.shape[-3:]
    frames = viewpoint.reshape(-1, 1, *size)
    height, width = (side // lookup.factor for side in lookup.first.x.shape)
    out = viewpoint.new_empty(len(frames), size[0], height, width)
    for frame, result in zip(frames, out, strict=True):
        result.copy_(_sample_map_frame(frame, lookup, interpolation)[0])
        on_frame()
    return out.reshape(*lead, *out.shape[1:])


def _sample_map_frame(frame: Tensor, lookup: MapLookup, interpolation: str) -> Tensor:
    frame = frame if frame.dtype == torch.float64 else frame.float()
    return _sample_atlas(pad_subregions(frame, MARGIN * lookup.first.reduction), lookup, interpolation)


def _sample_atlas(atlas: Tensor, lookup: MapLookup, interpolation: str) -> Tensor:
    weight = lookup.weight.to(atlas)
    out = sample(atlas, lookup.first, interpolation=interpolation).mul_(weight[0])
    if lookup.second is not None:
        overlap = lookup.overlap.to(atlas.device)
        values = sample(atlas, lookup.second, interpolation=interpolation)[..., 0, :]
        out.flatten(-2).index_add_(-1, overlap, values * weight[1].flatten()[overlap])
    return torch.nn.functional.avg_pool2d(out, lookup.factor) if lookup.factor > 1 else out


def map_filtering(map_size: int, target_density: float, *, filtered: bool = True) -> tuple[int, int]:
    """(factor, reduction) that a map needs for a target of this density; a margin reaches half a subregion at most."""
    density = unit_pixels(map_size)
    finest = 1.5 * density  # 1 at a face's centre, 2 on its edges
    return filtering(density, target_density, map_size // 4, finest, filtered=filtered)


def from_erp_samples(map_size: int, width: int) -> int:
    """How many positions `erp_to_viewpoint` looks up on an ERP of this width."""
    return (map_size * erp_filtering(width, unit_pixels(map_size))[0]) ** 2


def to_erp_samples(map_size: int, width: int) -> int:
    """How many positions `viewpoint_to_erp` looks up."""
    return width * (width // 2) * map_filtering(map_size, width / (2 * math.pi))[0] ** 2


def build_map_from_erp_grid(map_size: int, height: int, width: int, filtered: bool = True) -> Grid:
    """ERP positions of the map's pixels (uncached)."""
    factor, reduction = erp_filtering(width, unit_pixels(map_size), filtered=filtered)
    side = map_size * factor

    def locate(rows: slice) -> tuple[Tensor, Tensor]:
        return direction_to_erp(map_directions(map_size, factor, rows), height, width)

    return banded_grid(side, side, locate, factor, reduction)


def build_erp_lookup(map_size: int, width: int, fusion: bool, filtered: bool = True) -> MapLookup:
    """Map positions of an ERP's pixels (uncached)."""
    factor, reduction = map_filtering(map_size, width / (2 * math.pi), filtered=filtered)
    size = (width // 2 * factor, width * factor)
    how = {"fusion": fusion, "factor": factor, "reduction": reduction}
    return banded_lookup(*size, lambda rows: erp_directions(*size, rows), map_size, **how)


def build_fusion_lookup(map_size: int) -> tuple[Tensor, MapLookup]:
    """The flat indices of the map's pixels on U's petals, and their map positions (uncached)."""
    direction = map_directions(map_size)
    x, y, z = direction.unbind(-1)
    index = ((y < 0) & (y.abs() > x.abs()) & (y.abs() > z.abs())).flatten().nonzero()[:, 0]
    return index, locate_on_map(direction.reshape(1, -1, 3)[:, index], map_size)


def build_up_margin_lookup(map_size: int, margin: int) -> tuple[Tensor, MapLookup]:
    """Flat indices of the padded subregions' margin pixels beyond U's arcs, and where the map shows them (uncached)."""
    side = map_size // 2
    extent = side + 2 * margin
    x, y = ((values - extent / 2) / unit_pixels(map_size) for values in pixel_grid(extent, extent))
    indices, directions = [], []
    for k, region in enumerate(SUBREGIONS):
        p, q = pixels_to_subregion(x, y, region)
        outside = (torch.maximum(x.abs(), y.abs()) > SQRT2).flatten()
        index = (outside & (-q > p.abs()).flatten()).nonzero()[:, 0]
        own = subregion_to_direction(p.flatten()[index], q.flatten()[index])
        indices.append(index + k * extent**2)
        directions.append(rotate_yaw(own, math.radians(region.yaw_deg)))
    lookup = locate_on_map(torch.cat(directions)[None], map_size, reduction=margin // MARGIN)
    return torch.cat(indices), lookup


up_margin_lookup = Kept(build_up_margin_lookup)
fusion_lookup = Kept(build_fusion_lookup)
map_from_erp_grid = Kept(build_map_from_erp_grid)
erp_lookup = Kept(build_erp_lookup)


def fuse_overlaps(viewpoint: Tensor, *, interpolation: str = "bicubic") -> Tensor:
    """Blend what maps (..., C, S, S) show twice, all overlaps at once from the unfused map (equations 9-12).

    The paper's own fusion, map to map; no node needs it, since `viewpoint_to_erp` blends as it samples. Exact on the
    sides, where twins lie on one pixel grid; U's petals (section 3.4) are interpolated.
    """
    check_map(viewpoint)
    side, n = viewpoint.shape[-1] // 2, viewpoint.shape[-1] // 4
    work = viewpoint if viewpoint.dtype == torch.float64 else viewpoint.float()
    parts = {r.face: work[..., r.row * side :, r.column * side :][..., :side, :side] for r in SUBREGIONS}
    corner = {r.face: (r.row * side, r.column * side) for r in SUBREGIONS}
    steps = torch.arange(n, device=work.device, dtype=work.dtype)
    weight = (steps[:, None] + steps) / (2 * (n - 1))  # W of equation 5, 0 in its top left corner
    fused = viewpoint.clone()
    for face, row, column, neighbour, turns in TWINS:
        own = weight.flip([axis for axis, far in ((0, row), (1, column)) if far])
        block, opposite = (
            [slice(i * n, (i + 1) * n) for i in where] for where in ((row, column), (1 - row, 1 - column))
        )
        twin = torch.rot90(parts[neighbour], turns, dims=(-2, -1))[..., opposite[0], opposite[1]]
        top, left = (start + i * n for start, i in zip(corner[face], (row, column), strict=True))
        blend = own * parts[face][..., block[0], block[1]] + (1 - own) * twin
        fused[..., top : top + n, left : left + n] = blend.to(viewpoint.dtype)
    index, lookup = fusion_lookup(viewpoint.shape[-1])
    petals = sample_map(viewpoint, lookup, interpolation=interpolation)
    fused.flatten(-2)[..., index.to(fused.device)] = petals[..., 0, :]
    return fused


def erp_to_viewpoint(
    erp: Tensor, map_size: int, *, interpolation: str = "bicubic", on_frame: Callable[[], None] = lambda: None
) -> Tensor:
    """ERP images (..., C, H, 2H) -> ViewPoint maps (..., C, map_size, map_size), same dtype and device.

    Any float dtype, any range. interpolation: "bicubic" or "bilinear", filtered when the ERP is finer than the map, or
    "nearest", which takes one pixel as it is (labels). `on_frame` is called once an image. Paper 3.2. Raises ValueError
    for an image that is not 2:1 or a side that is no multiple of 32.
    """
    check_erp(erp)
    check_map_size(map_size)
    grid = map_from_erp_grid(map_size, *erp.shape[-2:], averages(interpolation))
    return sample(erp, grid, interpolation=interpolation, border="erp", on_frame=on_frame)


def viewpoint_to_erp(
    viewpoint: Tensor,
    width: int,
    *,
    interpolation: str = "bicubic",
    fusion: bool = True,
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """ViewPoint maps (..., C, S, S) -> ERP images (..., C, width/2, width), same dtype and device.

    With fusion, what two subregions show is blended by the weights of equations 5-12, on U by shares that end on the
    arcs without a crease; without, and by "nearest", the subregion that weighs most is taken. `on_frame` is called once
    a map. Raises ValueError for a map that is not square or no multiple of 32.
    """
    check_map(viewpoint)
    check_erp_width(width)
    filtered = averages(interpolation)
    lookup = erp_lookup(viewpoint.shape[-1], width, fusion and filtered, filtered)
    return sample_map(viewpoint, lookup, interpolation=interpolation, on_frame=on_frame)
