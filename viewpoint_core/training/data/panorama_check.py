"""Is what is 2:1 a panorama? Its edges meet, its poles are smooth, nothing of it is black: told from small copies.

Measured by hand: of 8 photographed and 15 drawn panoramas, at 5888 yaws and sizes, none is refused. Where a door frame
lies on the seam, their edges differ up to 9 times as much as neighbouring columns, yet in 38% of the rows at most. Of
576 flat pictures 82% are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ...pixels import fit_size

# Part of what is kept of a check: to be changed with whatever changes its result.
CHECK = "panorama-2"
LONGEST_SIDE = 256
LEAST_WIDTH = 128  # below it a seam cannot be told
BLACK = 20.0  # of 255; a coded black is not 0 throughout
LIT = 24.0
LEAST_POWER = 10.0  # product of two pictures' variances, below which what they show is noise
ALIKE = 0.8  # correlation of a stereo pair's halves; 0.6 is the most that a panorama's had


class Seam(NamedTuple):
    """How the left and right edges meet.

    ratio: their difference over that of neighbouring columns. broken: part of the rows in which they differ more than
    columns 22 degrees apart; a door frame on the seam and compression's blocks do that in few rows. poles: difference
    of neighbours in the smoother of the top and bottom rows over that around the horizon, which a panorama's poles have
    near 0. alike: correlation of the left and the right half.
    """

    ratio: float
    broken: float
    poles: float
    alike: float


def shrink(picture: Tensor, longest_side: int = LONGEST_SIDE) -> Tensor:
    """A picture uint8 (3, H, W) averaged down to a longest side; as it is where it is no larger."""
    height, width = picture.shape[-2:]
    size = fit_size(width, height, longest_side)[::-1]
    return picture if size == (height, width) else adaptive_avg_pool2d(picture.float(), size).round().byte()


def seam_of(picture: Tensor) -> Seam:
    """Measure an ERP image's seam; picture float32 (3, H, W) in [0, 255], W from 16."""
    height, width = picture.shape[-2:]
    edge = (picture[..., 0] - picture[..., -1]).abs().mean(0)
    rows = picture.diff(dim=-1).abs().mean((0, -1))
    cap = max(1, height // 32)
    horizon = rows[height // 4 : 3 * height // 4].mean().clamp_min(0.5)
    poles = min(rows[:cap].mean(), rows[-cap:].mean()) / horizon
    apart = (picture[..., width // 16 :] - picture[..., : -(width // 16)]).abs().mean((0, -1))
    broken = (edge > apart + 6).float().mean()
    return Seam(
        float(edge.mean() / rows.mean().clamp_min(0.5)), float(broken), float(poles), halves_alike(picture.mean(0))
    )


def halves_alike(grey: Tensor) -> float:
    """Correlation of the left and the right half (H, W / 2) of a picture, each row less its mean."""
    left, right = ((half - half.mean(-1, keepdim=True)) for half in grey.tensor_split(2, dim=-1))
    return correlation(left, right[..., : left.shape[-1]])


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two pictures of mean 0, in [-1, 1]; 0 where one has next to no structure."""
    power = one.square().mean() * other.square().mean()
    return float((one * other).mean() / power.sqrt()) if power > LEAST_POWER else 0.0


def dark_of(picture: Tensor) -> Tensor:
    """Where a picture (3, H, W) is black, (H, W)."""
    return picture.amax(0) <= BLACK


def bars(dark: Tensor, grey: Tensor) -> tuple[int, int]:
    """Black rows at the top and at the bottom of a picture (H, W); 0 where the picture fades out rather than ends."""
    ends = []
    for rows, light in ((dark, grey), (dark.flip(0), grey.flip(0))):
        black = int((rows.float().mean(-1) > 0.97).long().cumprod(0).sum())
        inside = light[black + 1 : black + 4]  # one row may be half a bar
        ends.append(black if len(inside) and (inside > LIT).float().mean() > 0.6 else 0)
    return ends[0], ends[1]


def has_circles(dark: Tensor) -> bool:
    """True where both halves (H, H) of a picture are lit circles in black corners."""
    return all(is_circle(half) for half in dark.tensor_split(2, dim=-1))


def is_circle(dark: Tensor) -> bool:
    """True for a lit circle in black corners; the circle may be cut off a little by the sides.

    Circle and corners are looked at in the same rows: a panorama's are black throughout where the sky is.
    """
    y, x = (torch.linspace(-1, 1, side) for side in dark.shape)
    radius, outer = (y[:, None].square() + x.square()).sqrt(), y[:, None].abs() > 2 / 3
    return bool(dark[radius > 1.2].float().mean() > 0.97 and dark[outer & (radius < 0.95)].float().mean() < 0.35)


def black_sides(pictures: Sequence[Tensor]) -> str | None:
    """What is black in all these pictures, bars or round two circles; None where nothing is."""
    darks = [dark_of(picture) for picture in pictures]
    greys = [picture.mean(0) for picture in pictures]
    for sides, axis, length in (("above and below", 0, "height"), ("left and right", 1, "width")):
        found = [
            bars(dark.transpose(0, axis), grey.transpose(0, axis)) for dark, grey in zip(darks, greys, strict=True)
        ]
        widths = [min(ends) for ends in zip(*found, strict=True)]
        size = darks[0].shape[axis]
        if min(widths) >= max(2, 0.015 * size):
            percents = " and ".join(f"{100 * width / size:.0f}" for width in widths)
            return (
                f"it has black bars {sides} ({percents}% of the {length}); a panorama fills the picture, all around "
                "and from pole to pole: export it so"
            )
    if sum(has_circles(dark) for dark in darks) * 2 > len(darks):
        return "it shows two circles in black: dual fisheye; export it as equirectangular from the camera's program"
    return None


def seam_problem(seam: Seam) -> str | None:
    """Why edges that meet like this are no panorama's; None where they may be."""
    if seam.alike > ALIKE and seam.ratio > 2:
        return "its left and right halves show the same: stereo side by side (VR180); training needs all 360 degrees"
    if seam.ratio > 3 and (seam.broken > 0.47 or (seam.broken > 0.25 and seam.poles > 0.35)):
        return (
            f"its left and right edges do not meet (they differ {seam.ratio:.0f} times as much as neighbouring "
            "columns), so it is a flat film or photo, or part of a panorama; expected all 360 degrees, equirectangular"
        )
    return None


def panorama_problem(pictures: Sequence[Tensor]) -> str | None:
    """Why small copies uint8 (3, H, 2H) of an item's pictures are no panorama's; None where they are, or may be.

    A picture that is black is left out; the median of the others counts.
    """
    floats = [picture.float() for picture in pictures]
    lit = [picture for picture in floats if dark_of(picture).float().mean() < 0.995]
    if not lit:
        return "every picture is black"
    black = black_sides(lit)
    if black or pictures[0].shape[-1] < LEAST_WIDTH:
        return black
    seams = torch.tensor([seam_of(picture) for picture in lit])
    return seam_problem(Seam(*seams.median(dim=0).values.tolist()))
