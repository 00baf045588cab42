"""Clips of panoramas: which pictures of an item, how turned and mirrored, drawn on the ViewPoint map."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...pixels import to_uint8
from ..layouts import VIEWPOINT, from_erp
from .manifest import Item, Problem, portable_path
from .media import each_frame

# Part of every cache's fingerprint: to be changed with whatever changes a map's pixels.
PROJECTION = "bicubic-1"
SLACK = 1e-4  # of a picture: rates such as 30000 / 1001 are not exact


def projection_of(layout: str) -> str:
    """What a cache's fingerprint says of how its pictures were drawn."""
    return PROJECTION if layout == VIEWPOINT else f"{layout}-{PROJECTION}"


class Sampling(NamedTuple):
    """What clips are made of an item.

    length: pictures of a clip at `fps`, 4k + 1; an image has 1. variants: of each clip, the first as it is, the others
    turned, mirrored (unless `mirror` is False) and shifted in time at random by `seed`; held-out items have the first
    alone. clips: at most so many of one item and length, spread over it; 0: as many as fit. other_lengths: a video is
    cut into clips of each of these besides.
    """

    length: int = 49
    fps: float = 16.0
    variants: int = 2
    clips: int = 0
    mirror: bool = True
    seed: int = 0
    other_lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClipSpec:
    """One clip. key: its name in a cache. source: the item's path as the manifest writes it.

    first: the clip's first picture, counted at `fps` from the item's first. mirror: longitude changes its sign; then
    the panorama turns to the right by `yaw` of its own pixels.
    """

    key: str
    item: Item
    source: str
    first: int
    length: int
    fps: float
    variant: int = 0
    yaw: int = 0
    mirror: bool = False

    @property
    def yaw_deg(self) -> float:
        """How far the panorama turns to the right, in degrees."""
        return 360 * self.yaw / self.item.width

    @property
    def indices(self) -> list[int]:
        """The source's pictures, at the source's own rate: those on screen every 1 / fps seconds."""
        step = self.item.fps / self.fps
        return [self.item.start + int((self.first + k) * step + SLACK) for k in range(self.length)]


def pictures_at(item: Item, fps: float) -> int:
    """How many pictures an item has at another rate."""
    return int((item.frames - 1) * fps / item.fps + SLACK) + 1 if item.fps else 1


def clip_name(item: Item, source: str) -> str:
    """A name for an item's clips that says what it is and differs from all other items' names."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", item.path.stem)[:40]
    digest = hashlib.sha256(f"{source}\0{item.start}\0{item.frames}".encode()).hexdigest()[:12]
    return f"{stem}-{digest}"


def parts(pictures: int, length: int, clips: int) -> list[tuple[int, int]]:
    """(begin, end) of equal parts, one for each clip of `length` pictures; none where not one fits."""
    count = min(pictures // length, clips or pictures)
    edges = [pictures * part // count for part in range(count + 1)] if count else []
    return list(zip(edges, edges[1:], strict=False))


def draw_variant(spec: ClipSpec, end: int, sampling: Sampling) -> ClipSpec:
    """A clip that starts at the beginning of its part, moved within it: variant 0 to its middle, the others at random.

    The random numbers depend on the seed and the clip's key alone.
    """
    room = end - spec.first - spec.length
    numbers = random.Random(f"{sampling.seed}/{spec.key}")
    shift, yaw = numbers.randrange(room + 1), numbers.randrange(spec.item.width)
    mirror = numbers.random() < 0.5 and sampling.mirror
    if spec.variant == 0:
        shift, yaw, mirror = room // 2, 0, False
    return replace(spec, first=spec.first + shift, yaw=yaw, mirror=mirror)


def clips_of(item: Item, folder: Path, sampling: Sampling) -> list[ClipSpec]:
    """All clips of an item of a manifest in `folder`, length by length. Raises ValueError for an item that is too short
    for one."""
    lengths = (sampling.length, *sampling.other_lengths) if item.fps else (1,)
    pictures, source = pictures_at(item, sampling.fps), portable_path(item.path, folder)
    specs = []
    for length in lengths:
        # the names of the first length's clips do not tell it: a cache takes other lengths later on
        name = clip_name(item, source) + (f"-f{length}" if length != lengths[0] else "")
        for number, (begin, end) in enumerate(parts(pictures, length, sampling.clips)):
            for variant in range(1 if item.split == "heldout" else sampling.variants):
                spec = ClipSpec(f"{name}-c{number}-v{variant}", item, source, begin, length, sampling.fps, variant)
                specs.append(draw_variant(spec, end, sampling))
    if not specs:
        raise ValueError(
            f"it is too short: {item.frames} frames at {item.fps:g} fps are {pictures} at {sampling.fps:g} fps; "
            f"expected {min(lengths)}"
        )
    return specs


def item_name(item: Item) -> str:
    """An item as reports name it."""
    return f"{item.path} from picture {item.start}" if item.start else str(item.path)


def plan_clips(items: Sequence[Item], folder: Path, sampling: Sampling) -> tuple[list[ClipSpec], list[Problem]]:
    """The clips of a manifest in `folder`, in its order, and the items that are too short."""
    specs: list[ClipSpec] = []
    problems: list[Problem] = []
    for item in items:
        try:
            specs += clips_of(item, folder, sampling)
        except ValueError as error:
            problems.append(Problem(item_name(item), str(error)))
    return specs, problems


def turn_erp(erp: Tensor, yaw: int, mirror: bool) -> Tensor:
    """An ERP image (..., W), mirrored in longitude or not, then turned to the right by whole pixels: exact."""
    return (erp.flip(-1) if mirror else erp).roll(yaw, dims=-1)


def draw_map(erp: Tensor, map_size: int, layout: str = VIEWPOINT) -> Tensor:
    """An ERP image uint8 (3, H, 2H) -> its ViewPoint map uint8 (3, S, S), or another layout, on the same device."""
    return to_uint8(from_erp(erp.float() / 255, layout, map_size))


def load_map(spec: ClipSpec, map_size: int, device: torch.device | str = "cpu", layout: str = VIEWPOINT) -> Tensor:
    """A clip's map video, uint8 (3, T, S, S) on the CPU, or another layout's, drawn on `device`.

    Decodes the source once and holds one panorama at a time. Raises ValueError where the source is broken, ends early
    or has not the manifest's size.
    """
    item, maps = spec.item, {}
    for index, frame in each_frame(item.path, spec.indices, item.fps):
        height, width = frame.shape[-2:]
        if (width, height) != (item.width, item.height):
            raise ValueError(f"{item.path} is {width} x {height}; the manifest says {item.width} x {item.height}")
        maps[index] = draw_map(turn_erp(frame, spec.yaw, spec.mirror).to(device), map_size, layout).cpu()
    return torch.stack([maps[index] for index in spec.indices], dim=1)


def map_to_video(pixels: Tensor) -> Tensor:
    """Pixels uint8 (...) -> float32 in [-1, 1], as the VAE takes them."""
    return pixels.float() / 127.5 - 1
