"""Procedural panorama videos: worlds drawn from a seed, every pixel computed along its own direction.

A scene's clips need no download and no licence; a camera walks through them, so near things pass far ones.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...resample import check_erp_width
from ...sphere import erp_directions
from ..data.manifest import Item, write_manifest
from ..data.video_file import write_image, write_video
from .render import render_directions
from .scene import Scene
from .themes import THEMES, draw_scene

__all__ = ["THEMES", "Scene", "draw_scene", "render_directions", "write_clips"]

FPS = 16.0
FACTOR = 2
MANIFEST = "manifest.jsonl"
LICENCE = "MIT"  # they are made by this project's own code


class Clip(NamedTuple):
    """A clip to be written: its scene's seed, split and size."""

    seed: int
    split: str
    width: int
    frames: int

    @property
    def name(self) -> str:
        """The file's name, another for every size and rate; a single picture is an image."""
        stem = f"synthetic_{self.seed:08d}_{self.width}x{self.frames}"
        return f"{stem}.png" if self.frames == 1 else f"{stem}at{FPS:g}.mp4"


def check_clip(frames: int, fps: float, factor: int) -> None:
    """Raise ValueError for a number of frames, a rate or a supersampling factor that cannot be."""
    if frames < 1 or factor < 1 or not (math.isfinite(fps) and fps > 0):
        raise ValueError(
            f"frames is {frames}, fps {fps} and factor {factor}; expected frames and factor from 1, and fps above 0"
        )


def render_frames(
    scene: Scene, directions: Tensor, frames: int, fps: float, factor: int, pixel_rad: float
) -> Iterator[Tensor]:
    """Frames float32 (3, h, w) in [0, 1] of fine directions (factor h, factor w, 3), averaged to pixels."""
    for frame in range(frames):
        fine = render_directions(scene, directions, frame / fps, pixel_rad=pixel_rad)
        yield F.avg_pool2d(fine, factor)


def erp_frames(scene: Scene, width: int, frames: int, fps: float = FPS, factor: int = FACTOR) -> Iterator[Tensor]:
    """A scene's panorama video, one ERP frame float32 (3, width / 2, width) in [0, 1] after another.

    Frame i shows the time i / fps seconds. factor x factor rays a pixel. Raises ValueError for a width that is no
    multiple of 4.
    """
    check_clip(frames, fps, factor)
    check_erp_width(width)
    directions = erp_directions(width // 2 * factor, width * factor)
    return render_frames(scene, directions, frames, fps, factor, 2 * math.pi / width)


def write_clip(clip: Clip, folder: Path) -> Item:
    """Render a clip into a file, unless that is there, and name it as a manifest does."""
    scene, file = draw_scene(clip.seed), folder / clip.name
    fps = 0.0 if clip.frames == 1 else FPS
    if not file.exists():
        pictures = erp_frames(scene, clip.width, clip.frames)
        write_video(pictures, file, fps) if fps else write_image(next(pictures), file)
    return Item(file, 0, clip.frames, fps, clip.width, clip.width // 2, scene.caption, LICENCE, clip.split)


def one_thread_processes(count: int) -> ProcessPoolExecutor:
    """A pool of processes in which torch keeps to one thread: a thread a core in each of them would take far longer."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def write_clips(
    folder: Path,
    seeds: Iterable[int],
    width: int,
    frames: int,
    *,
    heldout: Iterable[int] = (),
    workers: int = 1,
) -> Path:
    """Write a clip for each seed and their manifest; returns the manifest's path.

    A clip is near-lossless H.264 (4:4:4), one frame a PNG.

    `seeds` become the training split, `heldout` the held-out one. Clips whose file is there are not rendered again,
    so a stopped run goes on. workers: processes, each on one core (above 1 a script needs its `if __name__` guard).
    Raises ValueError for a seed in both splits, for no seed at all, and for sizes that cannot be.
    """
    splits = {"train": list(seeds), "heldout": list(heldout)}
    every = splits["train"] + splits["heldout"]
    if not every or len(set(every)) != len(every) or min(every) < 0:
        raise ValueError(f"expected one or more different seeds from 0 up, got {every[:9]}")
    check_clip(frames, FPS, FACTOR)
    check_erp_width(width)
    folder.mkdir(parents=True, exist_ok=True)
    clips = [Clip(seed, split, width, frames) for split in splits for seed in splits[split]]
    if workers > 1:
        with one_thread_processes(workers) as pool:
            items = list(pool.map(write_clip, clips, [folder] * len(clips)))
    else:
        items = [write_clip(clip, folder) for clip in clips]
    write_manifest(items, folder / MANIFEST)
    return folder / MANIFEST
