"""Clips turned out of a still panorama: the camera stays and looks around, smoothly, as a seed says."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ...camera import view_rotation
from ...reorient import rotate_erp

YAW_RATE = (4.0, 18.0)
PITCH, ROLL = 12.0, 6.0
PERIODS = (3.0, 7.0)


@dataclass(frozen=True)
class Turn:
    """How a camera looks around: degrees, seconds. pitch, roll: (amplitude, period, phase) of a swing."""

    yaw: float
    yaw_rate: float
    pitch: tuple[float, float, float]
    roll: tuple[float, float, float]

    def rotation(self, time_s: float) -> Tensor:
        """Camera-to-world rotation, float64 (3, 3)."""
        pitch, roll = (
            amplitude * math.sin(2 * math.pi * time_s / period + phase)
            for amplitude, period, phase in (self.pitch, self.roll)
        )
        return view_rotation(self.yaw + self.yaw_rate * time_s, pitch, roll)


def draw_turn(seed: int) -> Turn:
    """The turn of a seed: any yaw, turning either way, pitch and roll swinging around level."""
    numbers = random.Random(f"turn/{seed}")
    rate = numbers.uniform(*YAW_RATE) * numbers.choice((-1, 1))
    swings = [
        (numbers.uniform(0, most), numbers.uniform(*PERIODS), numbers.uniform(0, 2 * math.pi)) for most in (PITCH, ROLL)
    ]
    return Turn(numbers.uniform(-180, 180), rate, swings[0], swings[1])


def turn_panorama(erp: Tensor, frames: int, seed: int, fps: float = 16.0) -> Tensor:
    """A clip that turns smoothly out of a still panorama (3, H, 2H) in [0, 1]: (frames, 3, H, 2H) in [0, 1].

    Yaw goes steadily one way from anywhere, pitch and roll swing around level; all follow from the seed.
    Raises ValueError for an image that is not 2:1, for frames below 1 and for fps not above 0.
    """
    if frames < 1 or not fps > 0 or erp.ndim != 3:
        raise ValueError(
            f"expected one image (3, H, 2H), frames from 1 and fps above 0; got {tuple(erp.shape)}, {frames}, {fps}"
        )
    turn = draw_turn(seed)
    return torch.stack([rotate_erp(erp, turn.rotation(frame / fps)).clamp(0, 1) for frame in range(frames)])
