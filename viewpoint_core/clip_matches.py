"""The features of a clip's frames, the matches of those pairs of frames that were asked for, and their rotations."""

from collections.abc import Callable

import torch
from torch import Tensor

from .feature_matches import Features, Matches, find_features, match_features, working_size
from .rotation_fit import MIN_DEPTH, Cameras, PairFit, fit_pair, rays

STEPS = (1, 2, 4, 8)  # frames between those that are matched at first


class Clip:
    """The features of a clip's frames, and the matches of those pairs that were asked for."""

    def __init__(self, features: list[Features], height: int, width: int) -> None:
        self.features = features
        self.size = height, width
        self.pairs: dict[tuple[int, int], Matches] = {}
        self.fits: dict[tuple[int, int, float, float, bool], PairFit] = {}

    @classmethod
    def of(cls, frames: Tensor, on_frame: Callable[[], None]) -> "Clip":
        """Find features, and match each frame with frames shortly before it."""
        clip = cls([], *working_size(*frames.shape[-2:]))
        for number, frame in enumerate(frames):
            clip.features.append(find_features(frame))
            for step in STEPS:
                if number >= step:
                    clip.match(number - step, number)
            on_frame()
        return clip

    def __len__(self) -> int:
        return len(self.features)

    def match(self, i: int, j: int) -> Matches:
        """The matches of frames i < j, found once."""
        if (i, j) not in self.pairs:
            self.pairs[i, j] = match_features(i, j, self.features)
        return self.pairs[i, j]

    def fit(self, matches: Matches, log_focal_i: float, log_focal_j: float, *, zoom: bool = False) -> PairFit:
        """`fit_pair` of matches of `pairs`, which the steps of an estimate ask for again and again."""
        asked = matches.i, matches.j, log_focal_i, log_focal_j, zoom
        if asked not in self.fits:
            self.fits[asked] = fit_pair(matches, log_focal_i, log_focal_j, zoom=zoom)
        return self.fits[asked]

    def match_again(self, cameras: Cameras, reached: Tensor, on_step: Callable[[], None]) -> list[Matches]:
        """The matches of all pairs of reached frames, sought where the cameras say that they must be. More of them than
        `pairs`, but they do not speak about the cameras' errors."""
        again = []
        for i, j in self.pairs:
            on_step()
            if reached[i] and reached[j]:
                focal = cameras.focal
                turned = rays(self.features[i].position, focal[i]) @ cameras.rotation[i].T @ cameras.rotation[j]
                depth = turned[:, 2:]
                predicted = torch.where(depth > MIN_DEPTH, turned[:, :2] / depth.clamp(min=MIN_DEPTH) * focal[j], 1e6)
                again.append(match_features(i, j, self.features, predicted))
        return again

    def partners(self, frame: int) -> list[Matches]:
        """All matches that a frame has, the frame first."""
        return [first(pair, frame) for (i, j), pair in self.pairs.items() if frame in (i, j)]


def first(pair: Matches, frame: int) -> Matches:
    """The matches with `frame` as their i."""
    return pair if pair.i == frame else Matches(pair.j, pair.i, pair.at_j, pair.at_i)
