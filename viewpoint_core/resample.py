"""The one routine that samples images: positions in pixels, three kinds of border, filtering for finer sources."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import check_choice
from .sphere import direction_to_erp

GREY = 0.5  # of what is not known; 0 in [-1, 1]
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
MARGIN = 3  # a bicubic kernel reaches two pixels beyond a position that lies on the border
MAX_FACTOR = 8
BAND_PIXELS = 1 << 18  # whose positions are worked out, in float64, or sampled at once
BAND_WATCHERS: list[Callable[[], None]] = []  # called before each band of work; what they raise ends it


@dataclass(frozen=True)
class Grid:
    """Where to sample: x, y float32 (h, w), source pixels; an output pixel is split factor x factor. Before that the
    source shrinks by `reduction`, and any margin around it counts MARGIN * reduction pixels."""

    x: Tensor
    y: Tensor
    factor: int = 1
    reduction: int = 1


def averages(interpolation: str) -> bool:
    """Whether finer sources are averaged: "nearest" takes one pixel as it is, so that labels are never mixed."""
    return interpolation != "nearest"


def row_bands(height: int, width: int, pixels: int | None = None) -> Iterator[slice]:
    """All rows of an image, a band of about `pixels` (by default BAND_PIXELS) pixels at a time, the BAND_WATCHERS
    called before each."""
    step = max(1, (pixels or BAND_PIXELS) // max(1, width))
    for top in range(0, height, step):
        for watch in BAND_WATCHERS:
            watch()
        yield slice(top, min(top + step, height))


def rows_within(rows: slice, top: int, height: int) -> slice:
    """Which rows of a part of an image, its first row `top`, lie in a band of the image's rows."""
    start = min(max(rows.start - top, 0), height)
    return slice(start, min(max(rows.stop - top, start), height))


def banded_grid(
    height: int, width: int, locate: Callable[[slice], tuple[Tensor, Tensor]], factor: int = 1, reduction: int = 1
) -> Grid:
    """The Grid (height, width) of the x and y that `locate` gives for some rows, asked band by band."""
    grid = Grid(torch.empty(height, width), torch.empty(height, width), factor, reduction)
    for rows in row_bands(height, width):
        grid.x[rows], grid.y[rows] = locate(rows)
    return grid


def filtering(
    source_density: float,
    target_density: float,
    source_side: int,
    finest_density: float | None = None,
    *,
    filtered: bool = True,
) -> tuple[int, int]:
    """(factor, reduction) that keep a finer source from aliasing, from densities in pixels per radian.

    Up to half as fine again needs nothing. Supersampling alone would cost the ratio squared, so from 4 times as fine
    the source shrinks first and supersampling bridges what is left. `finest_density`: the source's highest density
    where it varies; only supersampling answers that, so the coarse part stays sharp. (1, 1) where not `filtered`.
    """
    if not filtered:
        return 1, 1
    ratio = source_density / target_density
    reduction = min(max(1, int(ratio / 2)) if ratio >= 4 else 1, max(1, source_side // MARGIN))
    finest = max(finest_density or 0, source_density) / target_density
    return min(MAX_FACTOR, max(1, math.ceil(finest / reduction - 0.5))), reduction


def erp_filtering(width: int, target_density: float, *, filtered: bool = True) -> tuple[int, int]:
    """(factor, reduction) that an ERP of this width needs for a target of this density, in pixels per radian."""
    return filtering(width / (2 * math.pi), target_density, width // 2, filtered=filtered)


def pad_erp(image: Tensor, margin: int = MARGIN) -> Tensor:
    """Pad an ERP image (N, C, H, W): wraps in longitude, and crosses a pole into the row half a turn away."""
    over_pole = image.roll(image.shape[-1] // 2, dims=-1)
    image = torch.cat([over_pole[..., :margin, :].flip(-2), image, over_pole[..., -margin:, :].flip(-2)], dim=-2)
    return torch.cat([image[..., -margin:], image, image[..., :margin]], dim=-1)


def pad_edge(image: Tensor, margin: int = MARGIN) -> Tensor:
    """Pad an image (N, C, H, W) by repeating its border."""
    return F.pad(image, (margin,) * 4, mode="replicate")


PADDINGS = {"erp": pad_erp, "edge": pad_edge}


def shrink(image: Tensor, reduction: int) -> Tensor:
    """Images (N, C, H, W) at 1 / reduction of their size, filtered; same extent, so normalised positions stay."""
    size = [math.ceil(side / reduction) for side in image.shape[-2:]]
    return F.interpolate(image, size=size, mode="bilinear", antialias=True) if reduction > 1 else image


def check_image(image: Tensor, name: str) -> None:
    """Raise ValueError unless the tensor is a floating-point (..., C, H, W) that holds at least one image."""
    if image.ndim < 3 or not image.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor (..., C, H, W), got {image.dtype} {tuple(image.shape)}")
    if image.numel() == 0:
        raise ValueError(f"{name}: expected at least one image, got an empty tensor {tuple(image.shape)}")


def check_erp(erp: Tensor) -> None:
    """Raise ValueError unless the tensor (..., C, H, W) is an ERP image: W = 2 H, both even."""
    check_image(erp, "ERP image")
    height, width = erp.shape[-2:]
    if width != 2 * height or height % 2:
        raise ValueError(f"an equirectangular (ERP) image is 2:1 with an even height; got {width} x {height}")


def check_erp_width(width: int) -> None:
    """Raise ValueError unless an ERP image can be that wide."""
    if width <= 0 or width % 4:
        raise ValueError(f"the ERP width is {width}; expected a positive multiple of 4, so that the height is even")


def check_interpolation(interpolation: str) -> None:
    """Raise ValueError for an interpolation that does not exist."""
    check_choice(interpolation, INTERPOLATIONS, "interpolation")


def sample_erp(erp: Tensor, direction: Tensor, *, interpolation: str = "bicubic") -> Tensor:
    """What ERP images (..., C, H, 2H) show in directions (h, w, 3) -> (..., C, h, w), not filtered."""
    x, y = direction_to_erp(direction, *erp.shape[-2:])
    return sample(erp, Grid(x.float(), y.float()), interpolation=interpolation, border="erp")


def sample(
    image: Tensor,
    grid: Grid,
    *,
    interpolation: str = "bicubic",
    border: str = "edge",
    weight: Tensor | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """Sample images (..., C, H, W) at a grid -> (..., C, h, w), same dtype and device.

    Computes in float32 at least. `border`: "erp" or "edge". A grid with factor > 1 is averaged over factor x factor,
    each sample times its weight (factor h, factor w) where one is given. `on_frame` is called after each image.
    """
    check_interpolation(interpolation)
    lead, (channels, height, width) = image.shape[:-3], image.shape[-3:]
    work = image.dtype if image.dtype == torch.float64 else torch.float32
    source = image.reshape(-1, 1, channels, height, width)
    margin, factor = MARGIN * grid.reduction, grid.factor
    positions = torch.empty(1, *grid.x.shape, 2, dtype=work, device=image.device)
    for axis, (at, side) in enumerate(((grid.x, width), (grid.y, height))):
        positions[0, ..., axis] = (at.to(image.device, work) + margin) * (2 / (side + 2 * margin)) - 1
    size = (grid.y.shape[0] // factor, grid.y.shape[1] // factor)
    out = image.new_empty(source.shape[0], channels, *size)
    for frame, result in zip(source, out, strict=True):
        padded = shrink(PADDINGS[border](frame.to(work), margin), grid.reduction)
        for rows in row_bands(size[0], size[1] * factor**2):
            fine = slice(rows.start * factor, rows.stop * factor)
            values = F.grid_sample(
                padded, positions[:, fine], mode=interpolation, padding_mode="border", align_corners=False
            )
            values = values if weight is None else values * weight[fine]
            result[:, rows] = (F.avg_pool2d(values, factor) if factor > 1 else values)[0]
        on_frame()
    return out.reshape(*lead, channels, *size)
