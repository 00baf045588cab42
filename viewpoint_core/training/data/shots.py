"""Hard cuts in panorama video: where one shot ends and the next one begins.

A panorama that turns shows the same colours in other places, so its colours over the sphere stay; a cut changes them
for good, and what stands where. A flash changes them for a moment, a lamp leaves what stands where.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ...sphere import erp_area
from .panorama_check import correlation, shrink

# Part of what is kept of a check: to be changed with whatever changes its result.
SHOTS = "shots-2"
LONGEST_SIDE = 64
BINS = 16
WINDOW = 6  # pictures on either side; what lasts less is a flash
CHANGE = 0.2  # of the colours, in [0, 1]: from one photographed place to another above 0.27, within a shot below 0.03
OUTSTANDING = 4  # times the usual change from one picture to the next
SAME_PLACE = 0.4  # correlation of neighbours in a shot: of drawn walks above 0.7, of different places below 0.3
REACH = 8  # columns of a small copy to either side, of whose mean its structure stands out


class Sight(NamedTuple):
    """What is kept of a picture: its time, its colours, and its structure, grey (h, w) less that of what is around."""

    time: float
    colours: Tensor
    structure: Tensor


def colour_shares(picture: Tensor) -> Tensor:
    """The parts of the sphere that a picture uint8 (3, h, w) shows in each channel's bins, (3, BINS); each sums to 1.

    A value between two bins counts for both, so that a slow change stays slow.
    """
    area = erp_area(*picture.shape[-2:]).float().flatten()
    value = picture.flatten(1).float() / 255 * (BINS - 1)
    low = value.floor().long().clamp_max(BINS - 2)
    high_part = value - low
    colours = torch.zeros(3, BINS)
    colours.scatter_add_(1, low, area * (1 - high_part))
    colours.scatter_add_(1, low + 1, area * high_part)
    return colours


def sight_of(time: float, picture: Tensor) -> Sight:
    """What is kept of a picture uint8 (3, H, W)."""
    small = shrink(picture, LONGEST_SIDE)
    grey = small.float().mean(0)
    reach = min(REACH, grey.shape[-1])
    around = avg_pool2d(pad(grey[None], (reach, reach), mode="circular"), (1, 2 * reach + 1), 1)[0]
    return Sight(time, colour_shares(small), grey - around)


def change(one: Sight, other: Sight) -> float:
    """How much of the colours differs, 0 to 1."""
    return float((one.colours - other.colours).abs().sum(-1).mean() / 2)


def is_cut(before: Sequence[Sight], after: Sequence[Sight]) -> bool:
    """True if a shot ends with `before` and another begins with `after`, some pictures each."""
    step = change(before[-1], after[0])
    if step < CHANGE or min(change(one, other) for one in before for other in after) < CHANGE:
        return False
    steps = [change(*pair) for side in (before, after) for pair in zip(side, side[1:], strict=False)]
    if steps and step < OUTSTANDING * float(torch.tensor(steps).median()):
        return False
    return correlation(before[-1].structure, after[0].structure) < SAME_PLACE


class Shots:
    """Finds the cuts of a video whose pictures it is shown one by one; holds few of them."""

    def __init__(self) -> None:
        self.cuts: list[float] = []
        self.recent: deque[Sight] = deque(maxlen=2 * WINDOW)
        self.judged = 1  # of the recent ones, those before which a cut is known to be or not

    def see(self, time: float, picture: Tensor) -> None:
        """Take the next picture, uint8 (3, H, W)."""
        if len(self.recent) == 2 * WINDOW:
            self.judged -= 1
        self.recent.append(sight_of(time, picture))
        if len(self.recent) - self.judged >= WINDOW:
            self.judge()

    def judge(self) -> None:
        """Say whether there is a cut before the first picture that is not judged."""
        sights, at = list(self.recent), self.judged
        if is_cut(sights[max(0, at - WINDOW) : at], sights[at : at + WINDOW]):
            self.cuts.append(sights[at].time)
        self.judged += 1

    def finish(self) -> list[float]:
        """The times at which new shots begin."""
        while self.judged < len(self.recent):
            self.judge()
        return self.cuts
