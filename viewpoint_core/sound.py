"""The sound of a video file, in time with its pictures."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from torch import Tensor

LEAD_SECONDS = 1.0  # that are decoded before the first sample: a decoder needs some to begin
LAYOUTS_OF_6 = {"5.1", "5.1(side)", "6 channels"}  # the last one says nothing else, and is taken for 5.1


def read_sound(file: Path, begin: float, seconds: float) -> tuple[Tensor, int] | None:
    """A video's sound from a time stamp on, float32 (channels, samples), and its rate; silent where it starts later,
    shorter where it ends before. Mono, stereo or 5.1. None where there is none.

    Damaged packets are silent, which is logged. Raises ValueError where nothing but damage is found.
    """
    with av.open(str(file)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise ValueError(f"{file}: the sound cannot be decoded (it is of no known kind)")
        problems: list[str] = []
        sound = decode_sound(container, stream, begin, seconds, problems)
        if problems and sound is None:
            raise ValueError(f"{file}: the sound cannot be decoded ({problems[0]})")
        if problems:
            logging.warning("%s: damaged packets of the sound are silent: %d (%s)", file, len(problems), problems[0])
        return sound


def sound_frames(container: InputContainer, stream: AudioStream, problems: list[str]) -> Iterator[AudioFrame]:
    """A sound stream's frames without those of damaged packets, whose errors are added to `problems`."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else stream.codec_context.decode(packet)
        except (av.FFmpegError, OSError) as error:
            problems.append(getattr(error, "strerror", None) or str(error))
            continue
        if packet is None:
            return
        yield from frames


class Mix(NamedTuple):
    """How sound is brought to a layout that can be saved: what to resample to, which channels of that to keep, and what
    one is there."""

    layout: AudioLayout | str
    format: str
    channels: int
    one: float


def mix_of(layout: AudioLayout) -> Mix:
    """Mono, stereo and 5.1 as they are, of ambisonics the first channel, which is the sound from all around, and any
    other layout mixed down to stereo."""
    # channels side by side in one plane: PyAV crashes on eight planes and more
    if layout.nb_channels <= 2 or layout.name in LAYOUTS_OF_6:
        return Mix(layout, "flt", layout.nb_channels, 1.0)
    if layout.name.startswith("ambisonic"):
        return Mix(layout, "flt", 1, 1.0)
    return Mix("stereo", "s32", 2, 2.0**31)  # integers, since FFmpeg lets a mix of floats go beyond 1


def decode_sound(
    container: InputContainer, stream: AudioStream, begin: float, seconds: float, problems: list[str]
) -> tuple[Tensor, int] | None:
    """What `read_sound` gives, of an open file; what is wrong with damaged packets is added to `problems`.

    A frame follows the last one without a joint where its time stamp allows it: Matroska counts in whole milliseconds.
    Recordings of broadcasts may change their layout on the way.
    """
    rate, mix = stream.rate, mix_of(stream.layout)
    tolerance = math.ceil(stream.time_base * rate) + 1
    resampler, kind = None, None
    sound, end = np.zeros((mix.channels, round(seconds * rate)), np.float32), 0
    container.seek(max(0, int((begin - LEAD_SECONDS) / stream.time_base)), stream=stream, backward=True)
    due: int | None = None
    for frame in sound_frames(container, stream, problems):
        if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
            resampler = AudioResampler(format=mix.format, layout=mix.layout, rate=rate)
        first = round((float(frame.time or 0) - begin) * rate)
        if due is not None and abs(first - due) <= tolerance:
            first = due
        due = first + round(frame.samples * rate / frame.sample_rate)
        if first >= sound.shape[1]:
            break
        parts = [part.to_ndarray().reshape(-1, part.layout.nb_channels).T for part in resampler.resample(frame)]
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((mix.channels, 0), np.float32)
        samples = samples[: mix.channels, max(0, -first) :][:, : sound.shape[1] - max(0, first)]
        start = max(0, first)
        sound[:, start : start + samples.shape[1]] = samples / mix.one
        end = max(end, start + samples.shape[1]) if samples.shape[1] else end
    return (torch.from_numpy(sound[:, :end]), rate) if end else None
