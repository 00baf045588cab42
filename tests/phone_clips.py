"""Clips as cameras and phones write them: turned by a flag, at a variable rate, with pixels that are not square."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, BLUE, GREY = (200, 30, 30), (30, 30, 200), (128, 128, 128)
SOUND_RATE = 16000
# a, b, c, d of a track's matrix: where a pixel (x, y) is shown, x' = a x + c y and y' = b x + d y
TURNS = {
    "as it is": (1, 0, 0, 1),
    "a quarter to the right": (0, 1, -1, 0),
    "a half": (-1, 0, 0, -1),
    "a quarter to the left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored, a quarter": (0, 1, 1, 0),
}


def corners(width: int, height: int) -> np.ndarray:
    """A grey picture with a red top left quarter and a blue top right one."""
    picture = np.full((height, width, 3), GREY, np.uint8)
    picture[: height // 2, : width // 2] = RED
    picture[: height // 2, width // 2 :] = BLUE
    return picture


def write_pictures(
    file: Path,
    pictures: Sequence[np.ndarray],
    *,
    times_ms: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
    beep_s: float | None = None,
    sound_s: tuple[float, float] = (0.0, 3.0),
) -> Path:
    """Pictures at 16 per second or at the given times; a beep at a time in sound that lasts from and to other times."""
    base = Fraction(1, 1000)
    times = times_ms or [round(1000 * number / 16) for number in range(len(pictures))]
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=16, options={"crf": "1", "bf": "0"})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = pix_fmt, base
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        sound = None if beep_s is None else container.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            first, last = (round(time * SOUND_RATE) for time in sound_s)
            samples = np.zeros((1, last - first), np.int16)
            samples[:, round(beep_s * SOUND_RATE) - first :][:, :800] = 20000
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, first, Fraction(1, SOUND_RATE)
            container.mux([*sound.encode(frame), *sound.encode(None)])
    return file


def set_turn(file: Path, turn: Sequence[float]) -> Path:
    """Write a matrix into an MP4 file's video track, as a phone that was held sideways does."""
    data = bytearray(file.read_bytes())
    matrix = data.index(b"tkhd") + 44  # version, times, track, duration, layer and volume come before it
    a, b, c, d = (round(value * 65536) for value in turn)
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
    return file
