"""Several known pictures on one map, blended by how far inside their borders a direction lies."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .map_layout import check_map, map_directions, unit_pixels
from .resample import GREY
from .smoothstep import smoothstep

FAINT = 1e-3  # a known pixel on its picture's border weighs this much at least, so that it wins over nothing
BORDER_PIXELS = 1.5  # of a face's middle, where they are widest


def check_feather(feather_deg: float) -> None:
    """Raise ValueError unless a feather's width in degrees can be one."""
    if not 0 <= feather_deg <= 90:
        raise ValueError(f"feather_deg is {feather_deg}; expected 0 to 90 degrees")


def border_angle(known: Tensor, reach: float) -> Tensor:
    """Angle from each known pixel of a map (S, S), bool, to the nearest unknown direction, float32 (S, S) in radians.

    0 where unknown, `reach` where none is nearer than that. A matter of direction alone: what the map shows twice gets
    one value, whatever lies beside it on the map.
    """
    from scipy.spatial import KDTree

    angle = torch.where(known, reach, 0.0).float()
    edge = ~known & (F.max_pool2d(known[None].float(), 3, stride=1, padding=1)[0] > 0)
    if not bool(edge.any()):
        return angle
    direction = F.normalize(map_directions(known.shape[-1]), dim=-1)
    tree = KDTree(direction[edge].numpy())
    chord, _ = tree.query(direction[known].numpy(), distance_upper_bound=2 * math.sin(reach / 2))
    found = 2 * (torch.from_numpy(chord) / 2).clamp(max=1).asin()
    angle[known] = found.clamp(max=reach).float()
    return angle


def border_weights(mask: Tensor, feather_deg: float) -> Tensor:
    """A mask (S, S) times a ramp from 0 at the border of what is known to 1 `feather_deg` inside.

    The ramp begins behind the border itself, where a picture covers a part of a pixel and grey the rest: there a map
    that knows more of the pixel stands alone, also without a feather.
    """
    reach, border = math.radians(feather_deg), BORDER_PIXELS / unit_pixels(len(mask))
    partly = (mask > 0) & (mask < 1)
    if reach == 0 and not bool(partly.any()):
        return mask
    angle = border_angle((mask > 0).cpu(), max(reach, 2 * border)).to(mask)
    if reach == 0:
        return mask * torch.where(partly & (angle < border), FAINT, 1.0)
    return mask * smoothstep((angle - border) / max(reach - border, border)).clamp(min=FAINT)


def feathered(masks: Tensor, feather_deg: float) -> Iterator[Tensor]:
    """The `border_weights` of masks (T, S, S), one by one. Equal masks that follow one another are worked out once."""
    weights: Tensor | None = None
    for frame, mask in enumerate(masks):
        if weights is None or not torch.equal(mask, masks[frame - 1]):
            weights = border_weights(mask, feather_deg)
        yield weights


def channels_last(like: Tensor) -> Tensor:
    """Empty frames (T, C, H, W) as large as others, their channels last in memory, as an IMAGE wants them."""
    frames, channels, height, width = like.shape
    return like.new_empty(frames, height, width, channels).movedim(-1, 1)


def compose_maps(
    lower: Tensor,
    lower_mask: Tensor,
    upper: Tensor,
    upper_mask: Tensor,
    *,
    feather_deg: float = 4,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Lay maps (T, C, S, S) over others, masks (T, S, S) in [0, 1], 1 where known -> maps and masks.

    Where only one is known, it stands alone. Where both are, the upper one covers the lower one and fades toward its
    own border over `feather_deg` degrees, and the lower one toward its own, so that neither border is seen. Known is
    what either knows; elsewhere the map is grey. `on_frame` is called once a frame.
    Raises ValueError for maps that differ in frames or size.
    """
    check_feather(feather_deg)
    for maps, masks, name in ((lower, lower_mask, "lower"), (upper, upper_mask, "upper")):
        check_map(maps)
        if maps.ndim != 4 or masks.shape != (len(maps), *maps.shape[-2:]):
            raise ValueError(f"the {name} map {tuple(maps.shape)} and its mask {tuple(masks.shape)} do not fit")
    if lower.shape != upper.shape:
        raise ValueError(
            f"the lower map has {len(lower)} frames of side {lower.shape[-1]} and the upper one {len(upper)} of side "
            f"{upper.shape[-1]}; expected maps of one size and length: give both the same map_size and length"
        )
    mask = torch.maximum(lower_mask, upper_mask)
    out = channels_last(lower)
    # one at a time: the parts of all would need several times the memory of the result
    weights = zip(feathered(upper_mask, feather_deg), feathered(lower_mask, feather_deg), strict=True)
    for frame, (over, inside) in enumerate(weights):
        total = inside * (1 - over) + over
        # a soft mask weighs nothing by nothing where both are almost unknown: the share, not the sum, is what counts
        share = torch.where(total > 0, over / total.clamp(min=1e-12), 0.0)
        blend = lower[frame] + (upper[frame] - lower[frame]) * share
        out[frame] = torch.where(mask[frame] > 0, blend, GREY)
        on_frame()
    return out, mask
