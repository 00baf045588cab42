"""Panoramas of which only a part is known: to the map, with no trace of the unknown part on the known one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .map_layout import check_map_size
from .resample import GREY, averages, check_erp, pad_erp, sample
from .viewpoint_map import map_from_erp_grid

WHOLE = 1 - 1e-4  # rounding of a weighted mean of ones


def surrounded(known: Tensor, radius: int) -> Tensor:
    """Of known pixels (N, 1, H, W), 1 or 0, those whose neighbours on the sphere are known too."""
    return 1 - F.max_pool2d(1 - pad_erp(known, radius), 2 * radius + 1, stride=1)


def partial_erp_to_viewpoint(
    erp: Tensor,
    mask: Tensor,
    map_size: int,
    *,
    interpolation: str = "bicubic",
    fill: float = GREY,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """ERP images (T, C, H, 2H) known where masks (T, H, 2H) in [0, 1] are above 0 -> maps and masks (T, S, S).

    Over each pixel of the map the mask is averaged, and the map is `fill` where that is 0. Near the border of what is
    known only known pixels are averaged; further in, it is `erp_to_viewpoint`. By "nearest" nothing is averaged, nor is
    the mask. `on_frame` is called once a frame. Raises ValueError where the mask does not fit.
    """
    check_erp(erp)
    check_map_size(map_size)
    if erp.ndim != 4 or mask.shape != (len(erp), *erp.shape[-2:]):
        raise ValueError(f"ERP frames {tuple(erp.shape)} and their mask {tuple(mask.shape)} do not fit")
    grid = map_from_erp_grid(map_size, *erp.shape[-2:], averages(interpolation))
    kernel = "nearest" if interpolation == "nearest" else "bilinear"
    maps = erp.new_empty(len(erp), erp.shape[1], map_size, map_size)
    masks = erp.new_empty(len(erp), 1, map_size, map_size)
    for frame, out, part, shown in zip(erp, maps, mask, masks, strict=True):
        shown.copy_(sample(part[None].to(erp), grid, interpolation="nearest", border="erp"))
        work = frame if frame.dtype == torch.float64 else frame.float()
        known = (part > 0).to(work)[None]
        weights = torch.cat([known, surrounded(known[None], grid.reduction)[0]])
        weights = sample(weights, grid, interpolation=kernel, border="erp")
        colours = torch.where(known > 0, work, fill)
        near = sample(colours * known, grid, interpolation=kernel, border="erp") / weights[:1].clamp(min=1e-6)
        inside = sample(colours, grid, interpolation=interpolation, border="erp")
        values = torch.where(weights[1:] > WHOLE, inside, near)
        out.copy_(torch.where(shown > 0, values, fill))
        on_frame()
    return maps, masks[:, 0]
