"""Pictures of panoramas from disk: an image file, a folder of frames, or a video.

A video's pictures are counted on a constant timeline: picture i is the one on screen i / fps seconds after the first.
At a constant rate that is the i-th decoded frame; at a variable rate frames repeat or fall away, and time stays right.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ...pixels import fit_size
from ...video import (
    HEADER_RATE_DEFAULT,
    VIDEO_SUFFIXES,
    colours_of,
    each_picture,
    edited_end,
    no_frame,
    open_video,
    shown_size,
    timed_frames,
    to_rgb,
)
from .panorama_check import shrink

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
# A frame whose time is off a constant rate's grid by less than this part of a tick is on it.
JITTER = 0.45
MAX_GAP_SECONDS = 5.0

# What is shown each picture while a file is probed: its time in seconds (in pictures where there is no rate), and what
# draws a copy of it, uint8 (3, h, w), with a longest side.
Look = Callable[[float, Callable[[int], Tensor]], None]


class MediaInfo(NamedTuple):
    """What a file or folder holds: fps is 0 for an image and for a folder of frames, whose rate no file tells.

    `missing`: frames that a video's container declares and that do not decode; `frames` counts what does.
    """

    frames: int
    fps: float
    width: int
    height: int
    missing: int = 0


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts))


def frame_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, in the order of their numbers."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(file)]
    return sorted(files, key=lambda file: natural_key(file.name))


def is_hidden(file: Path) -> bool:
    """True for dot files, among them the "._" twins that macOS leaves in archives."""
    return file.name.startswith(".")


def read_image(file: Path) -> Tensor:
    """An 8-bit image as uint8 RGB (3, H, W), turned as its EXIF orientation says. Raises ValueError."""
    try:
        with Image.open(file) as image:
            if image.mode in DEEP_MODES:
                raise ValueError(f"{file}: the image's mode is {image.mode}; expected 8 bits a channel")
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data and upright.convert("RGBA").getextrema()[3][0] < 255:
                raise ValueError(f"{file}: the image is transparent in places; expected an opaque one")
            pixels = np.array(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: the image cannot be read ({error})") from error
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous()


def constant_rate(times: np.ndarray, header_rate: float) -> float | None:
    """The rate that puts every frame on its grid: the header's if it does, else the measured mean; None if neither."""
    ticks = np.arange(len(times))
    mean = (len(times) - 1) / times[-1]
    for rate in (header_rate, mean):
        if rate > 0 and np.abs(times * rate - ticks).max() < JITTER:
            return float(rate)
    return None


def timeline(times: np.ndarray, header_rate: float) -> tuple[int, float]:
    """Frames and fps of a video whose frames stand at these growing times in seconds, the first at 0.

    A variable rate gives 1 / the median interval, so that the usual frame is neither repeated nor lost.
    """
    if len(times) == 1:
        return 1, header_rate or HEADER_RATE_DEFAULT
    rate = constant_rate(times, header_rate)
    if rate is not None:
        return len(times), rate
    rate = 1 / float(np.median(np.diff(times)))
    return int(times[-1] * rate + 0.5) + 1, rate


def missing_frames(container: InputContainer, stream: VideoStream, times: Sequence[float], fps: float) -> int:
    """How many frames the container declares beyond those at `times`; 0 where it does not say.

    Frames that an edit list hides are counted, but do not lengthen the stream; Matroska's lengths count from 0.
    """
    end = edited_end(container, stream)
    if stream.frames:
        not_shown = math.inf if end is None else whole_ticks((end - times[-1]) * fps) - 1
        return max(0, min(stream.frames - len(times), not_shown))
    if container.duration is None or len(container.streams) > 1:  # another stream may be the one that lasts longer
        return 0
    begin = 0 if "matroska" in container.format.name else container.start_time or 0
    return max(0, whole_ticks(((begin + container.duration) / av.time_base - times[-1]) * fps) - 1)


def whole_ticks(ticks: float) -> int:
    """How many pictures fit into so many ticks, the last of which may be a little short."""
    return math.floor(ticks + 0.25)


def look_away(time: float, draw: Callable[[int], Tensor]) -> None:
    """The Look that sees nothing."""


def shrink_frame(frame: VideoFrame, stream: VideoStream, longest_side: int) -> Tensor:
    """A small copy of a stream's frame, uint8 (3, h, w)."""
    return to_rgb(frame, fit_size(*shown_size(frame, stream), longest_side), colours_of(stream))


def probe_video(file: Path, look: Look = look_away) -> MediaInfo:
    """Decode a whole video and count what comes out. Raises ValueError where nothing does."""
    container, stream = open_video(file)
    with container:
        sizes, times = set(), []
        for time, frame in timed_frames(container, stream):
            times.append(time)
            sizes.add(shown_size(frame, stream))
            look(time - times[0], partial(shrink_frame, frame, stream))
        header_rate = float(stream.average_rate or 0)
        if not times:
            raise no_frame(file)
        if len(sizes) > 1:
            raise ValueError(f"{file}: the video changes its size on the way: {sorted(sizes)}")
        gap = float(np.diff(times).max(initial=0))
        if gap > MAX_GAP_SECONDS:
            raise ValueError(f"{file}: no frame comes for {gap:.1f} s; expected at most {MAX_GAP_SECONDS:g} s")
        frames, fps = timeline(np.array(times) - times[0], header_rate)
        return MediaInfo(frames, fps, *sizes.pop(), missing_frames(container, stream, times, fps))


def probe_folder(folder: Path, look: Look = look_away) -> MediaInfo:
    """Read every frame of a folder. Raises ValueError naming the frame that is broken or of another size."""
    files = frame_files(folder)
    if not files:
        raise ValueError(f"{folder}: the folder holds no image")
    check_numbering(folder, files)
    sizes = {}
    for number, file in enumerate(files):
        picture = read_image(file)
        sizes.setdefault((picture.shape[2], picture.shape[1]), file.name)
        look(number, partial(shrink, picture))
    if len(sizes) > 1:
        found = ", ".join(f"{name} is {width} x {height}" for (width, height), name in sizes.items())
        raise ValueError(f"{folder}: the frames differ in size: {found}")
    width, height = next(iter(sizes))
    return MediaInfo(len(files), 0.0, width, height)


def check_numbering(folder: Path, files: Sequence[Path]) -> None:
    """Raise ValueError for a gap in numbered frames: where all steps but a few are equal, those few are gaps."""
    numbers = [re.findall(r"\d+", file.stem)[-1:] for file in files]
    if len(files) < 3 or not all(numbers):
        return
    steps = np.diff([int(number[0]) for number in numbers])
    values, counts = np.unique(steps, return_counts=True)
    if 1 < len(values) and counts.max() >= 0.8 * len(steps):
        at = int(np.flatnonzero(steps != values[counts.argmax()])[0])
        raise ValueError(f"{folder}: frames are missing between {files[at].name} and {files[at + 1].name}")


def probe(path: Path, look: Look = look_away) -> MediaInfo:
    """What an image, a folder of frames or a video holds, found by decoding all of it. Raises ValueError.

    `look` is shown every picture on the way.
    """
    if path.is_dir():
        return probe_folder(path, look)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        picture = read_image(path)
        look(0, partial(shrink, picture))
        return MediaInfo(1, 0.0, picture.shape[2], picture.shape[1])
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return probe_video(path, look)
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ValueError(f"{path}: expected a folder of frames or a file that ends in one of {known}")


@lru_cache(4096)
def probed_rate(path: Path, size: int, changed_ns: int) -> float:
    """A video's fps, decoded once a process for every state of the file."""
    return probe_video(path).fps


def each_frame(path: Path, indices: Sequence[int], fps: float = 0) -> Iterator[tuple[int, Tensor]]:
    """The distinct pictures of `read_frames`, each with its index: one after the other in the order of the file.

    Where a video cannot be sought in, pictures that came already may come again.
    """
    if not indices or min(indices) < 0:
        raise ValueError(f"{path}: expected one or more picture indices from 0 up, got {list(indices)}")
    order = sorted(set(indices))
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        state = path.stat()
        yield from each_video_frame(path, order, fps or probed_rate(path, state.st_size, state.st_mtime_ns))
        return
    files = frame_files(path) if path.is_dir() else [path]
    if order[-1] >= len(files):
        raise ValueError(f"{path}: picture {order[-1]} was asked for, and there are {len(files)}")
    for index in order:
        yield index, read_image(files[index])


def each_video_frame(file: Path, order: Sequence[int], fps: float) -> Iterator[tuple[int, Tensor]]:
    """Pictures of a video's timeline at `fps`, by growing indices."""
    came = 0
    for number, picture in each_picture(file, [index / fps for index in order], 1 / fps):
        came = number + 1
        yield order[number], picture
    if came < len(order):
        raise ValueError(f"{file}: picture {order[came]} at {fps:g} fps was asked for, and the video ends before it")


def read_frames(path: Path, indices: Sequence[int], fps: float = 0) -> Tensor:
    """Pictures of an image (index 0), a folder of frames or a video -> uint8 RGB (T, 3, H, W), in the asked order.

    A video's indices count on its timeline at `fps`, as a manifest has it; 0 takes what `probe` finds, which decodes
    the whole file once. Raises ValueError for a picture that is not there or cannot be read.
    """
    by_index = dict(each_frame(path, indices, fps))
    return torch.stack([by_index[index] for index in indices])
