"""Tiny panorama images, frame folders and videos whose pictures say which one they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT = 64, 32
STEP = 4


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture as grey as its number says, with a sine on it whose phase is the number too."""
    columns = np.sin(np.arange(width) / width * 2 * np.pi + number)
    grey = number * STEP % 256 + np.zeros((height, width))
    grey[: height // 4] = 128 + 100 * columns
    return np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def numbers_shown(frames: Tensor) -> list[int]:
    """Which pictures these frames (T, 3, H, W) are."""
    return [round(float(frame[:, HEIGHT // 2 :].float().mean()) / STEP) for frame in frames]


def write_image(file: Path, number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number, width, height)).save(file)
    return file


def write_frames(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> Path:
    for number in range(count):
        write_image(folder / f"{number:05d}.png", number, width, height)
    return folder


def write_video(
    file: Path,
    count: int = 60,
    *,
    fps: int = 16,
    times_ms: Sequence[int] | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    codec: str = "libx264",
    faststart: bool = False,
) -> Path:
    """A video of `count` pictures at a constant rate, or one picture at each of the given times."""
    file.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, 1000) if times_ms else Fraction(1, fps)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(file), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = base
        for number, time in enumerate(times_ms or range(count)):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


def cut_short(file: Path, part: float) -> Path:
    """Keep only the first part of a file's bytes."""
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    return file


def copied(source: Path, target: Path, *, from_key: int = 0, later: float = 0.0) -> Path:
    """A video's packets in another file as they are, from its nth key frame on, so many seconds later."""
    with av.open(str(source)) as container, av.open(str(target), "w") as written:
        stream = container.streams.video[0]
        out, keys = written.add_stream_from_template(stream), 0
        for packet in container.demux(stream):
            if not packet.size:
                continue
            keys += packet.is_keyframe
            if keys > from_key:
                shift = round(later / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, out
                written.mux(packet)
    return target


def trimmed(source: Path, target: Path, frames: int) -> Path:
    """An MP4 that begins so many frames later without encoding: its edit list hides those before."""
    with av.open(str(source)) as container:
        later = -frames / float(container.streams.video[0].average_rate)
    return copied(source, target, later=later)
