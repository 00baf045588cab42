"""Video files: pictures by time, upright and in the right colours."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from torch import Tensor

from .conditioning import check_length
from .hdr import BT2020, UNSPECIFIED, Colours, sdr_codes
from .pixels import fit_size
from .sound import read_sound

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
HEADER_RATE_DEFAULT = 25.0
SEEK_SECONDS = 1.0
SHORTEST_TICK = 2e-3  # seconds; what is closer is a rounded time stamp, not a frame rate
TIED = 1e-6  # seconds that a frame comes after the one whose time stamp it has


def open_video(file: Path) -> tuple[InputContainer, VideoStream]:
    """A video's container and its first video stream, set to stop at damage. Raises ValueError."""
    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file}: the video cannot be opened ({reason})") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise ValueError(f"{file}: the file holds no video stream of a known kind")
    stream = container.streams.video[0]
    stream.codec_context.options = {"err_detect": "explode"}
    stream.thread_type = "SLICE"  # decoding frames in parallel finds damage at another frame from run to run
    return container, stream


def edited_end(container: InputContainer, stream: VideoStream) -> float | None:
    """When a stream ends, in seconds, where an edit list may hide frames that the header counts; else None."""
    if "mov" not in container.format.name or not stream.duration:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


def clean_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames in the order they are shown, up to the end or the first damage behind a clean frame.

    What is damaged before it is left out: where a file was cut or a seek lands, frames may lean on some that are gone.
    """
    begun = False
    for packet in readable_packets(container, stream):
        damaged = packet.is_corrupt
        if damaged and not begun:
            continue
        try:
            frames = stream.codec_context.decode(None if damaged else packet)
        except (av.FFmpegError, OSError):
            frames, damaged = [], True
        for frame in frames:
            if frame.is_corrupt:
                damaged = True
                break
            begun = True
            yield frame
        if damaged and begun:
            return


def readable_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """A stream's packets, the last one empty, up to where the file cannot be read any further."""
    try:
        yield from container.demux(stream)
    except (av.FFmpegError, OSError):
        return


def time_of(frame: VideoFrame, container: InputContainer, stream: VideoStream) -> float | None:
    """When a frame is to be shown, in seconds. AVI numbers its frames as they are stored, not as they are shown."""
    stamp = frame.dts if container.format.name == "avi" else frame.pts
    return None if stamp is None else float(stamp * stream.time_base)


def timed_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Clean frames with their times in seconds, which grow.

    A time that is missing, or that goes back by more than a tick, is one tick after the last; one that two frames share
    is hardly after it, so that those behind keep theirs.
    """
    tick = 1 / float(stream.average_rate or HEADER_RATE_DEFAULT)
    last: float | None = None
    for frame in clean_frames(container, stream):
        time = time_of(frame, container, stream)
        if last is not None and (time is None or time < last - tick):
            time = last + tick
        elif last is not None and time <= last:
            time = last + TIED
        last = 0.0 if time is None else time
        yield last, frame


def display_turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be shown, as cameras write it: rows and columns exchanged, then mirrored in x, in y.

    Raises ValueError for a matrix that is neither a quarter turn nor a mirror.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = (value / (1 << 16) for value in struct.unpack("=9i", bytes(matrix))[:5])
    exchanged = abs(a) < abs(b)
    off, on = ((a, d), (b, c)) if exchanged else ((b, c), (a, d))
    if max(map(abs, off)) > 0.01 or min(map(abs, on)) < 0.5:
        raise ValueError(f"the video is to be shown turned by the matrix {[a, b, c, d]}; expected quarter turns")
    return exchanged, (c if exchanged else a) < 0, (b if exchanged else d) < 0


def shown_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height of a stream's frame as it is to be shown, in square pixels."""
    width, height = round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height
    return (height, width) if display_turn(frame)[0] else (width, height)


def colours_of(stream: VideoStream) -> Colours:
    """A stream's primaries and transfer, which its decoder knows once it has given a frame; the frame has them not."""
    return Colours(stream.codec_context.color_primaries, stream.codec_context.color_trc)


def sdr_picture(frame: VideoFrame, colours: Colours, scaling: dict[str, Any]) -> Tensor:
    """A frame as uint8 (3, H, W) of SDR, not turned yet."""
    # PyAV converts by the source's colour space only where the destination's, which RGB does not have, is another
    heeded = {"src_color_range": frame.color_range, "dst_colorspace": Colorspace.ITU601} | scaling
    if colours.plain:
        return torch.from_numpy(frame.to_ndarray(format="rgb24", **heeded)).movedim(-1, 0)
    if colours.gamut == BT2020 and frame.colorspace == UNSPECIFIED:
        frame.colorspace = BT2020
    deep = frame.reformat(format="gbrp16le", **heeded)
    green, blue, red = (
        np.frombuffer(plane, "<u2").reshape(plane.height, -1)[:, : plane.width] for plane in deep.planes
    )
    return torch.from_numpy(sdr_codes((red, green, blue), colours))


def to_rgb(frame: VideoFrame, size: tuple[int, int] | None = None, colours: Colours | None = None) -> Tensor:
    """A decoded frame as uint8 (3, H, W) of SDR, by the colour space, range and turn that it states and its stream's
    `colours` (BT.709's without), scaled to `size` (width, height, as shown) by the area that pixels cover."""
    exchanged, mirror_x, mirror_y = display_turn(frame)
    scaling = {}
    if size is not None:
        width, height = size[::-1] if exchanged else size
        scaling = {"width": width, "height": height, "interpolation": "AREA"}
    picture = sdr_picture(frame, colours or Colours(), scaling)
    picture = picture.transpose(-2, -1) if exchanged else picture
    flips = [axis for axis, mirrored in ((-1, mirror_x), (-2, mirror_y)) if mirrored]
    return picture.flip(flips).contiguous()


def pick_frames(
    timed: Iterable[tuple[float, VideoFrame]], times: Sequence[float], tick: float, *, in_sync: bool = False
) -> Iterator[VideoFrame]:
    """The frames on screen at growing times; fewer where the frames end before, none where they start after.

    A frame may be half a tick early; where it is to be `in_sync` with sound, half the shortest time between two frames
    that came, if that is less: a mean rate says little of a recording that mostly stands still.
    """
    picked, shown, early = 0, None, tick / 2
    for moment, frame in timed:
        if shown is None and moment >= times[0] + early:
            return
        if in_sync and shown is not None and moment - shown[0] >= SHORTEST_TICK:
            early = min(early, (moment - shown[0]) / 2)
        while shown is not None and picked < len(times) and moment >= times[picked] + early:
            picked += 1
            yield shown[1]
        if picked == len(times):
            return
        shown = moment, frame
    for time in times[picked:] if shown else []:
        if time - shown[0] <= tick / 2 + 1e-6:
            yield shown[1]


def telling(
    timed: Iterator[tuple[float, VideoFrame]], on_step: Callable[[], None]
) -> Iterator[tuple[float, VideoFrame]]:
    """Frames as they come, each told before it is given."""
    for item in timed:
        on_step()
        yield item


def decode_at(
    file: Path,
    times: Sequence[float],
    tick: float,
    size: tuple[int, int] | None,
    on_step: Callable[[], None],
    *,
    in_sync: bool,
    seek: bool,
) -> Iterator[Tensor]:
    """The pictures on screen at growing times in seconds after the first frame; fewer where some cannot be had.
    `on_step` is called for each frame that is decoded."""
    container, stream = open_video(file)
    with container:
        timed = telling(timed_frames(container, stream), on_step)
        first = next(timed, None)
        if first is None:
            return
        if seek:
            try:
                container.seek(int((first[0] + times[0]) / stream.time_base), stream=stream, backward=True)
            except (av.FFmpegError, OSError):
                return
        frames = telling(timed_frames(container, stream), on_step) if seek else chain([first], timed)
        if size is None and stream.sample_aspect_ratio not in (None, 0, 1):
            size = shown_size(first[1], stream)
        for frame in pick_frames(frames, [first[0] + time for time in times], tick, in_sync=in_sync):
            yield to_rgb(frame, size, colours_of(stream))


def each_picture(
    file: Path,
    times: Sequence[float],
    tick: float,
    size: tuple[int, int] | None = None,
    on_step: Callable[[], None] = lambda: None,
    *,
    in_sync: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """The pictures on screen at growing times in seconds after the first, uint8 (3, H, W), each with its number from 0,
    one after the other; fewer where the video ends or breaks. How early a picture may be: see `pick_frames`.

    Without a `size` they have the video's own, in square pixels.
    Seeks where that saves decoding. Where seeking fails, all is decoded, and the pictures begin at 0 once more.
    `on_step` is called for each frame that is decoded, which may be many more than there are pictures.
    """
    if times[0] > SEEK_SECONDS:
        came = 0
        for number, picture in enumerate(decode_at(file, times, tick, size, on_step, in_sync=in_sync, seek=True)):
            came = number + 1
            yield number, picture
        if came == len(times):
            return
    yield from enumerate(decode_at(file, times, tick, size, on_step, in_sync=in_sync, seek=False))


def no_frame(file: Path) -> ValueError:
    """The error for a video of which nothing comes."""
    return ValueError(f"{file}: not one frame of the video can be decoded")


class Opening(NamedTuple):
    """How a video begins: its first frame's time and the time between frames in seconds; its size in square pixels."""

    time: float
    tick: float
    width: int
    height: int


def read_opening(file: Path) -> Opening:
    """Decode a video's first frame. Raises ValueError where that fails."""
    container, stream = open_video(file)
    with container:
        time, frame = next(timed_frames(container, stream), (0.0, None))
        if frame is None:
            raise no_frame(file)
        tick = 1 / float(stream.average_rate or HEADER_RATE_DEFAULT)
        try:
            return Opening(time, tick, *shown_size(frame, stream))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def clip_size(file: Path, longest_side: int) -> tuple[int, int]:
    """Width and height of the pictures that `read_clip` gives. Raises ValueError where nothing can be decoded."""
    opening = read_opening(file)
    return fit_size(opening.width, opening.height, longest_side)


def read_clip(
    file: Path,
    *,
    start_s: float,
    length: int,
    fps: float,
    longest_side: int = 0,
    on_frame: Callable[[], None] = lambda: None,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[Tensor, tuple[Tensor, int] | None]:
    """`length` (4k + 1) pictures of a video at a constant rate, uint8 (T, 3, H, W), and the sound that belongs to them.

    Upright as the file's turn says, in square pixels. The sound is float32 (channels, samples) and its rate, or None.
    `on_frame` is called for each picture, and again where seeking failed, `on_step` for each frame that is decoded.
    Raises ValueError for a file that is damaged or too short.
    """
    check_length(length)
    opening = read_opening(file)
    size = fit_size(opening.width, opening.height, longest_side)
    times = [start_s + number / fps for number in range(length)]
    clip, came = torch.empty(length, 3, *size[::-1], dtype=torch.uint8), 0
    for number, picture in each_picture(file, times, opening.tick, size, on_step, in_sync=True):
        clip[number], came = picture, number + 1
        on_frame()
    if came < length:
        raise ValueError(
            f"{file}: asked for {length} pictures at {fps:g} fps from {start_s:g} s on, and the video has "
            f"{came} until it ends or breaks"
        )
    return clip, read_sound(file, opening.time + start_s, length / fps)
