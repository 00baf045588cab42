"""Encoding frames and sound as MP4."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from torch import Tensor

from ..viewpoint_core.bt709 import bt709_frame, tag_bt709
from ..viewpoint_core.conditioning import check_finite
from .convert import FrameStream, frame_bytes
from .host import progress_bar
from .inputs import MAX_FPS

CODECS = {"h264": ("libx264", "avc1"), "h265": ("libx265", "hvc1")}  # Apple's players take H.265 as hvc1 only
FEWEST_REORDERED = 4  # frames that x265 may put in another order
NARROW = 64  # pixels; x265 plans a narrower picture's quality over time in memory that is too small
FPS_DENOMINATOR = 1001  # broadcast rates are 24000, 30000 and 60000 / 1001, and come from nodes as floats
LOUDEST = 100.0  # beyond 1 it is too loud and cut off, beyond this it is in another unit; AAC hangs on 1e6
AUDIO_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
AUDIO_BITS_PER_CHANNEL = 96_000  # a second
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_RATE_DEFAULT = 48000


def frame_rate(fps: float) -> Fraction:
    """The exact rate that a number stands for: 29.97003 is 30000/1001."""
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; expected above 0 and at most {MAX_FPS} frames per second")
    if fps < 1 / FPS_DENOMINATOR:
        raise ValueError(f"fps is {fps}; expected at least 1/{FPS_DENOMINATOR} frames per second")
    return Fraction(fps).limit_denominator(FPS_DENOMINATOR)


def check_audio(audio: Any) -> tuple[Tensor, int]:
    """AUDIO -> waveform (channels, samples) cut off to [-1, 1], and samples a second. Raises ValueError for what AAC
    cannot hold, and for values that are no sound in [-1, 1] at all."""
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    shape, is_float = tuple(waveform.shape), waveform.is_floating_point()
    if len(shape) != 3 or shape[0] != 1 or shape[2] == 0 or rate <= 0 or not is_float:
        raise ValueError(
            f"audio: got a waveform of {waveform.dtype} {shape} (batch, channels, samples) at {rate} Hz; "
            "expected floats, a batch of 1 and at least one sample"
        )
    if shape[1] not in AUDIO_LAYOUTS:
        raise ValueError(f"audio: got {shape[1]} channels; expected 1 (mono), 2 (stereo) or 6 (5.1)")
    check_finite(waveform, "audio")
    peak = float(waveform.abs().max())
    if peak > LOUDEST:
        raise ValueError(f"audio: got values up to {peak:g}; expected -1 to 1; divide whole numbers by the largest")
    return waveform[0].float().cpu().clamp(-1, 1), rate


def open_video_stream(
    container: Any, codec: str, crf: int, width: int, height: int, rate: Fraction, frames: int
) -> Any:
    """A video stream that is ready to encode. Raises ValueError where the encoder does not take the size."""
    encoder, tag = CODECS[codec]
    stream = container.add_stream(encoder, rate=rate)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    tag_bt709(context)
    context.codec_tag = tag
    context.gop_size = max(1, round(rate))  # a key frame every second, so that players seek fast
    context.options = {"crf": str(crf)}
    if codec == "h265":
        params = ["log-level=error"]
        if frames < FEWEST_REORDERED:  # x265 gives them wrong decoding times, at random
            params.append("bframes=0")
        if width < NARROW:  # x265 writes beyond its memory
            params.append("cutree=0")
        context.options |= {"x265-params": ":".join(params)}
    try:
        context.open()
    except av.FFmpegError as error:
        raise ValueError(f"{codec} cannot encode {width} x {height} at {float(rate):g} fps ({error})") from error
    return stream


def encode_frame(stream: Any, frame: Tensor) -> list[Any]:
    """Packets after a frame (3, H, W), converted from full-range RGB to limited-range BT.709."""
    return stream.encode(bt709_frame(frame_bytes(frame)))


class AudioTrack:
    """An AAC stream that is fed up to a point in time, so that it lies beside the video in the file."""

    def __init__(self, container: Any, waveform: Tensor, rate: int) -> None:
        """`waveform`: (channels, samples) at `rate` samples a second."""
        self.waveform, self.rate, self.done = waveform, rate, 0
        self.layout = AUDIO_LAYOUTS[len(waveform)]
        coded_rate = rate if rate in AAC_RATES else AAC_RATE_DEFAULT
        self.stream = container.add_stream("aac", rate=coded_rate, layout=self.layout)
        self.stream.bit_rate = AUDIO_BITS_PER_CHANNEL * len(waveform)
        self.resampler = AudioResampler(format="fltp", layout=self.layout, rate=coded_rate)

    def encode_until(self, seconds: Fraction) -> Iterator[Any]:
        """Packets of the sound up to then, or to its end if that comes first."""
        end = min(self.waveform.shape[1], round(seconds * self.rate))
        if end <= self.done:
            return
        samples = np.ascontiguousarray(self.waveform[:, self.done : end].numpy())
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.layout)
        frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self.done
        self.done = end
        for resampled in self.resampler.resample(frame):
            yield from self.stream.encode(resampled)

    def finish(self) -> Iterator[Any]:
        """The last packets."""
        for resampled in self.resampler.resample(None):
            if resampled is not None:  # what a resampler with nothing to do returns
                yield from self.stream.encode(resampled)
        yield from self.stream.encode(None)


def encode_video(
    path: Path,
    frames: Tensor | FrameStream,
    rate: Fraction,
    codec: str,
    crf: int,
    audio: Any,
    metadata: dict[str, str],
    progress: Any = None,
) -> None:
    """Write frames (T, 3, H, W) in [0, 1] and sound as MP4, frame by frame. Sound beyond the last frame is cut off.

    `progress`: a bar that goes on by one for each frame; without it, the node's own.
    """
    sound = None if audio is None else check_audio(audio)
    height, width = frames.shape[-2:]
    progress = progress or progress_bar(len(frames))
    options = {"movflags": "use_metadata_tags"}  # keeps tags of any name, the host's prompt and workflow
    with av.open(str(path), mode="w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        video = open_video_stream(container, codec, crf, width, height, rate, len(frames))
        track = None if sound is None else AudioTrack(container, *sound)
        for number, frame in enumerate(frames, start=1):
            container.mux(encode_frame(video, frame))
            if track is not None:
                container.mux(list(track.encode_until(number / rate)))
            progress.update(1)
        container.mux(video.encode(None))
        if track is not None:
            container.mux(list(track.finish()))
