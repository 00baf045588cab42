"""Pictures of panoramas from disk: an image file, a folder of frames, or a video.

A video's pictures are counted on a constant timeline: picture i is the one on screen i / fps seconds after the first.
At a constant rate that is the i-th decoded frame; at a variable rate frames repeat or fall away, and time stays right.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
# A frame whose time is off a constant rate's grid by less than this part of a tick is on it.
JITTER = 0.45
HEADER_RATE_DEFAULT = 25.0
SEEK_SECONDS = 1.0
MAX_GAP_SECONDS = 5.0


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


def open_video(file: Path) -> tuple[InputContainer, VideoStream]:
    """A video's container and its first video stream, set to stop at damage. Raises ValueError."""
    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: the video cannot be opened ({error})") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise ValueError(f"{file}: the file holds no video stream of a known kind")
    stream = container.streams.video[0]
    stream.codec_context.options = {"err_detect": "explode"}
    stream.thread_type = "SLICE"  # decoding frames in parallel finds damage at another frame from run to run
    return container, stream


def clean_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames in the order they are shown, up to the end or the first damage."""
    try:
        for packet in container.demux(stream):
            for frame in stream.codec_context.decode(None if packet.is_corrupt else packet):
                if frame.is_corrupt:
                    return
                yield frame
            if packet.is_corrupt:
                return
    except (av.FFmpegError, OSError):
        return


def timed_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Clean frames with their times in seconds; a time that is missing or does not grow is one tick after the last."""
    tick = 1 / float(stream.average_rate or HEADER_RATE_DEFAULT)
    last: float | None = None
    for frame in clean_frames(container, stream):
        time = None if frame.pts is None else float(frame.pts * stream.time_base)
        if last is not None and (time is None or time <= last):
            time = last + tick
        last = 0.0 if time is None else time
        yield last, frame


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
    """How many frames the container declares beyond those at `times`; 0 where it does not say."""
    if stream.frames:
        return max(0, stream.frames - len(times))
    if container.duration is None or len(container.streams) > 1:  # another stream may be the one that lasts longer
        return 0
    end = ((container.start_time or 0) + container.duration) / av.time_base
    return max(0, round((end - times[-1]) * fps) - 1)


def probe_video(file: Path) -> MediaInfo:
    """Decode a whole video and count what comes out. Raises ValueError where nothing does."""
    container, stream = open_video(file)
    with container:
        sizes, times = set(), []
        for time, frame in timed_frames(container, stream):
            times.append(time)
            sizes.add((frame.width, frame.height))
        header_rate = float(stream.average_rate or 0)
        if not times:
            raise ValueError(f"{file}: not one frame of the video can be decoded")
        if len(sizes) > 1:
            raise ValueError(f"{file}: the video changes its size on the way: {sorted(sizes)}")
        gap = float(np.diff(times).max(initial=0))
        if gap > MAX_GAP_SECONDS:
            raise ValueError(f"{file}: no frame comes for {gap:.1f} s; expected at most {MAX_GAP_SECONDS:g} s")
        frames, fps = timeline(np.array(times) - times[0], header_rate)
        return MediaInfo(frames, fps, *sizes.pop(), missing_frames(container, stream, times, fps))


def probe_folder(folder: Path) -> MediaInfo:
    """Read every frame of a folder. Raises ValueError naming the frame that is broken or of another size."""
    files = frame_files(folder)
    if not files:
        raise ValueError(f"{folder}: the folder holds no image")
    check_numbering(folder, files)
    sizes = {}
    for file in files:
        height, width = read_image(file).shape[1:]
        sizes.setdefault((width, height), file.name)
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


def probe(path: Path) -> MediaInfo:
    """What an image, a folder of frames or a video holds, found by decoding all of it. Raises ValueError."""
    if path.is_dir():
        return probe_folder(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        height, width = read_image(path).shape[1:]
        return MediaInfo(1, 0.0, width, height)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return probe_video(path)
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ValueError(f"{path}: expected a folder of frames or a file that ends in one of {known}")


@lru_cache(4096)
def probed_rate(path: Path, size: int, changed_ns: int) -> float:
    """A video's fps, decoded once a process for every state of the file."""
    return probe_video(path).fps


def to_rgb(frame: VideoFrame) -> Tensor:
    """A decoded frame as uint8 (3, H, W), by the colour space and range that the frame states."""
    # PyAV converts by the source's colour space only where the destination's, which RGB does not have, is another
    pixels = frame.to_ndarray(format="rgb24", src_color_range=frame.color_range, dst_colorspace=Colorspace.ITU601)
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous()


def pick_frames(timed: Iterable[tuple[float, VideoFrame]], times: Sequence[float], tick: float) -> list[Tensor]:
    """The frames on screen at growing times, as RGB; fewer where the frames end before, none where they start after."""
    picked: list[Tensor] = []
    shown: tuple[float, VideoFrame] | None = None
    limits = [time + tick / 2 for time in times]
    for moment, frame in timed:
        if shown is None and moment >= limits[0]:
            return []
        while shown is not None and len(picked) < len(limits) and moment >= limits[len(picked)]:
            picked.append(to_rgb(shown[1]))
        if len(picked) == len(limits):
            return picked
        shown = moment, frame
    rest = [limit for limit in limits[len(picked) :] if shown and limit - shown[0] <= tick + 1e-6]
    return picked + [to_rgb(shown[1]) for _ in rest] if shown else picked


def decode_at(file: Path, times: Sequence[float], tick: float, seek: bool) -> list[Tensor]:
    """The frames on screen at growing times in seconds after the first frame; fewer where some cannot be had."""
    container, stream = open_video(file)
    with container:
        timed = timed_frames(container, stream)
        first = next(timed, None)
        if first is None:
            return []
        times = [first[0] + time for time in times]
        if not seek:
            return pick_frames(chain([first], timed), times, tick)
        try:
            container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
        except (av.FFmpegError, OSError):
            return []
        return pick_frames(timed_frames(container, stream), times, tick)


def read_video(file: Path, indices: Sequence[int], fps: float) -> Tensor:
    """Pictures of a video's timeline at `fps`. Seeks where that saves decoding, and decodes all if seeking fails."""
    order = sorted(set(indices))
    times = [index / fps for index in order]
    picked = decode_at(file, times, 1 / fps, seek=True) if times[0] > SEEK_SECONDS else []
    if len(picked) < len(order):
        picked = decode_at(file, times, 1 / fps, seek=False)
    if len(picked) < len(order):
        late = order[len(picked)]
        raise ValueError(f"{file}: picture {late} at {fps:g} fps was asked for, and the video ends before it")
    by_index = dict(zip(order, picked, strict=True))
    return torch.stack([by_index[index] for index in indices])


def read_frames(path: Path, indices: Sequence[int], fps: float = 0) -> Tensor:
    """Pictures of an image (index 0), a folder of frames or a video -> uint8 RGB (T, 3, H, W), in the asked order.

    A video's indices count on its timeline at `fps`, as a manifest has it; 0 takes what `probe` finds, which decodes
    the whole file once. Raises ValueError for a picture that is not there or cannot be read.
    """
    if not indices or min(indices) < 0:
        raise ValueError(f"{path}: expected one or more picture indices from 0 up, got {list(indices)}")
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        state = path.stat()
        return read_video(path, indices, fps or probed_rate(path, state.st_size, state.st_mtime_ns))
    files = frame_files(path) if path.is_dir() else [path]
    if max(indices) >= len(files):
        raise ValueError(f"{path}: picture {max(indices)} was asked for, and there are {len(files)}")
    return torch.stack([read_image(files[index]) for index in indices])
