"""Synthetic scenes as videos in memory."""

import torch
from torch import Tensor

from viewpoint_core.map_layout import map_directions, unit_pixels
from viewpoint_core.training.synthetic.clips import FACTOR, FPS, Scene, erp_frames, render_frames


def render_erp(scene: Scene, width: int, frames: int, fps: float = FPS, factor: int = FACTOR) -> Tensor:
    """A scene's panorama video, float32 (frames, 3, width / 2, width) in [0, 1]."""
    return torch.stack(list(erp_frames(scene, width, frames, fps, factor)))


def render_map(scene: Scene, map_size: int, frames: int) -> Tensor:
    """The same as ViewPoint maps, float32 (frames, 3, map_size, map_size) in [0, 1]: rays, no resampling."""
    directions, pixel_rad = map_directions(map_size, FACTOR), 1 / unit_pixels(map_size)
    return torch.stack(list(render_frames(scene, directions, frames, FPS, FACTOR, pixel_rad)))
