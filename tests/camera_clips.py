"""Clips that a moving camera takes of the sample panorama, with the noise and motion blur of a real one."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from viewpoint_core.camera_path import CameraPath, parse_keyframes, path_from_keyframes, path_from_rotations, slerp
from viewpoint_core.rotation import rotation_angle
from viewpoint_core.views import render_view

SAMPLE = Path(__file__).resolve().parents[1] / "workflows" / "assets" / "sample_erp.png"
EXPOSURES = 5  # pictures averaged into one frame


def panorama() -> Tensor:
    """The sample panorama (1, 3, 512, 1024) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(SAMPLE).convert("RGB"))).movedim(-1, 0)[None] / 255


def typed(keyframes: str, length: int) -> CameraPath:
    """A smooth path from keyframes."""
    return path_from_keyframes(parse_keyframes(keyframes), length)


def shaken(path: CameraPath, size_deg: float, seed: int = 0) -> CameraPath:
    """The path held in a hand: it swings by a degree or so over a few frames, in all three angles."""
    noise = torch.randn(1, 3, len(path) + 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    swing = torch.nn.functional.avg_pool1d(noise, 5, stride=1)[0] * size_deg * 5**0.5
    return CameraPath(path.yaw_deg + swing[0], path.pitch_deg + swing[1], path.roll_deg + swing[2], path.fov_deg)


def blurred(erp: Tensor, path: CameraPath, height: int, width: int, shutter: float) -> Tensor:
    """Frames (T, 3, height, width) exposed while the camera moves, for this part of the time between frames."""
    times = torch.arange(len(path)).double()
    moments = [times + shutter * (k / (EXPOSURES - 1) - 1 / 2) for k in range(EXPOSURES)]
    clips = [
        render_view(erp, height, width, path=path_from_rotations(slerp(times, path.rotations(), moment), path.fov_deg))
        for moment in moments
    ]
    return torch.stack(clips).mean(0)


def taken(
    erp: Tensor, path: CameraPath, *, height: int = 240, width: int = 320, noise: float = 0.02, shutter: float = 0.5
) -> Tensor:
    """A clip with motion blur and noise."""
    clip = blurred(erp, path, height, width, shutter) if shutter else render_view(erp, height, width, path=path)
    return (clip + noise * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def worst_angle(found: CameraPath, truth: CameraPath, reference: int = 0) -> float:
    """Largest angle in degrees between the cameras of two paths, the truth counted from its reference frame."""
    true = truth.rotations()
    return float(rotation_angle((true[reference].T @ true).mT @ found.rotations()).rad2deg().max())
