"""The preview of a VIDEO that lies in a file: never all of its pictures at once.

What browsers play is copied packet by packet, anything else is encoded anew picture by picture.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import av
from comfy_api.latest import InputImpl
from torch import Tensor

from ..viewpoint_core.replacing import replacing
from ..viewpoint_core.sound import read_sound
from ..viewpoint_core.video import (
    HEADER_RATE_DEFAULT,
    colours_of,
    display_turn,
    each_picture,
    edited_end,
    open_video,
    shown_size,
    timed_frames,
)
from .convert import FrameStream, sound_to_audio
from .host import progress_bar
from .inputs import MAX_FPS
from .memory import check_room
from .video_encoder import AudioTrack, check_audio, encode_video

CRF = 18
PIXEL_BYTES = 2 * 3 * 4  # the host's list of float32 pictures, and the tensor it makes of them
PLAYED = {"yuv420p", "yuvj420p"}  # what browsers play of H.264, and this pack's nodes write


class VideoFile(NamedTuple):
    """A file behind a VIDEO: how many pictures and their size as shown, the first one's time, and their rate.

    plays: browsers play it, whatever container it lies in. counted: its header counts the pictures; elsewhere their
    number is that of the longest track's seconds.
    """

    path: Path
    frames: int
    width: int
    height: int
    begin: float
    rate: Fraction
    plays: bool
    counted: bool


def video_file(video: Any) -> VideoFile | None:
    """What file a VIDEO is, all of it and more than one picture; None for any other VIDEO. Raises ValueError for a file
    that cannot be decoded."""
    if not isinstance(video, InputImpl.VideoFromFile) or not hasattr(video, "get_stream_source"):
        return None
    source = video.get_stream_source()
    if not isinstance(source, str):
        return None
    container, stream = open_video(Path(source))
    with container:
        begin, first = next(timed_frames(container, stream), (0.0, None))
        if first is None:
            raise ValueError(f"{source}: not one frame of the video can be decoded")
        plain = colours_of(stream).plain and not any(display_turn(first))
        plays = stream.codec_context.name == "h264" and first.format.name in PLAYED and plain
        rate = Fraction(stream.average_rate or Fraction(HEADER_RATE_DEFAULT))
        counted, size = stream.frames > 0, shown_size(first, stream)
        end = edited_end(container, stream)
    frames = frame_count(video)
    if end is not None:
        frames = min(frames, max(1, round((end - begin) * rate)))
    whole = is_whole(video, InputImpl.VideoFromFile(source))
    if not whole or frames < 2:
        return None
    return VideoFile(Path(source), frames, *size, begin, rate, plays, counted)


def is_whole(video: Any, file: Any) -> bool:
    """Whether a VIDEO is all of its file, itself a VIDEO: newer hosts cut out parts and crop pictures."""
    return file.get_duration() == video.get_duration() and file.get_dimensions() == video.get_dimensions()


def frame_count(video: Any) -> int:
    """Frames of a VIDEO in a file. Some hosts count 1 where no header tells the number; then by its seconds."""
    count = video.get_frame_count()
    return count if count > 1 else max(count, round(video.get_duration() * video.get_frame_rate()))


def loaded_size(video: Any) -> tuple[int, int, int] | None:
    """Frames, width and height of what the host would load of a file; None for what is in memory, or not known."""
    if not isinstance(video, InputImpl.VideoFromFile) or not hasattr(video, "get_frame_count"):
        return None
    return frame_count(video), *video.get_dimensions()


def check_loading_room(frames: int, width: int, height: int) -> None:
    """Raise ValueError where so many frames, as the host loads them, do not fit into free memory."""
    what = f"{frames} frames of {width} x {height}"
    check_room(PIXEL_BYTES * frames * width * height, what, "connect a shorter part of the video")


def audible(give_audio: Callable[[], Any]) -> tuple[Any, str]:
    """The AUDIO that a function gives, or None where it raises ValueError or no file holds it, and why that is."""
    try:
        audio = give_audio()
        if audio is not None:
            check_audio(audio)
    except ValueError as error:
        return None, f"Shown without sound: {error}."
    return audio, ""


def thinned(rate: Fraction | float) -> tuple[int, str]:
    """One in how many frames is shown of a video, so that the file can hold their rate, and the note that says so."""
    every = ceil(rate / MAX_FPS)
    note = f"One in {every} frames is shown: the video has {float(rate):g} frames per second." if every > 1 else ""
    return every, note


def joined(*notes: str) -> str:
    """Notes in one line, those that say nothing left out."""
    return " ".join(filter(None, notes))


def sound_of(file: VideoFile) -> tuple[Any, str]:
    """AUDIO of a file, or None, and why it is left out."""
    seconds = float((file.frames + 1) / file.rate)
    return audible(lambda: sound_to_audio(read_sound(file.path, file.begin, seconds)))


def decoding_times(file: VideoFile) -> list[int]:
    """When each packet of a video is to be decoded, in its time base, which not every container tells: the times at
    which pictures are shown in order, moved back so far that none is shown before. Raises ValueError without times."""
    container, stream = open_video(file.path)
    with container:
        shown = [packet.pts for packet in container.demux(stream) if packet.size]
    if None in shown or len(set(shown)) < len(shown):
        raise ValueError(f"{file.path}: the video's packets have no times of their own")
    ordered = sorted(shown)
    lead = max(time - packet for time, packet in zip(ordered, shown, strict=True))
    return [time - lead for time in ordered]


def copy_video(file: VideoFile, target: Path, audio: Any) -> None:
    """The file's video as it is in an MP4 that begins at 0, and its sound as AAC. Raises ValueError or FFmpegError
    where MP4 does not hold it."""
    progress, times = progress_bar(file.frames), iter(decoding_times(file))
    container, stream = open_video(file.path)
    with container, av.open(str(target), mode="w", format="mp4") as written:
        copied = written.add_stream_from_template(stream)
        track = None if audio is None else AudioTrack(written, *check_audio(audio))
        begin = round(file.begin / stream.time_base)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            packet.dts, packet.pts, packet.stream = next(times) - begin, packet.pts - begin, copied
            time = packet.pts * stream.time_base
            written.mux(packet)
            if track is not None:
                written.mux(list(track.encode_until(time)))
            progress.update(1)
        if track is not None:
            written.mux([*track.encode_until(file.frames / file.rate), *track.finish()])


def pictures(file: VideoFile, fps: Fraction, came: list[int]) -> Iterator[Tensor]:
    """The file's pictures (3, H, W) in [0, 1] at a constant rate, one by one; their numbers are put into `came`."""
    times = [float(number / fps) for number in range(ceil(file.frames * fps / file.rate) + 1)]
    for number, picture in each_picture(file.path, times, float(1 / file.rate), in_sync=True):
        came.append(number)
        yield picture.float() / 255


def encode_anew(file: VideoFile, target: Path, audio: Any) -> tuple[float, str]:
    """The file's pictures as H.264, and its sound. Their rate, and what is left out."""
    (every, note), came = thinned(file.rate), []
    fps = file.rate / every
    expected = ceil(file.frames / every)
    frames = FrameStream(pictures(file, fps, came), (expected, 3, file.height, file.width))
    encode_video(target, frames, fps, "h264", CRF, audio, {})
    fewer = file.counted and len(came) < expected - 1
    broken = f"The file tells of {expected} frames, and {len(came)} can be decoded." if fewer else ""
    return float(fps), joined(note, broken)


def write_file_preview(file: VideoFile, target: Path) -> tuple[float, bool, str]:
    """Write an MP4 for the viewer. Its frames per second, whether it has sound, and what is left out."""
    audio, silent = sound_of(file)
    if file.plays:
        try:
            with replacing(target) as partial:
                copy_video(file, partial, audio)
            return float(file.rate), audio is not None, silent
        except (av.FFmpegError, ValueError):
            pass  # MP4 does not hold it as it is
    with replacing(target) as partial:
        fps, note = encode_anew(file, partial, audio)
    return fps, audio is not None, joined(note, silent)
