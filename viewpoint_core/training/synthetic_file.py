"""Near-lossless video files of pictures that are computed."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from torch import Tensor

ENCODER = {"crf": "8", "preset": "medium", "threads": "1"}
RATE_LIMIT = 1000


def to_pixels(picture: Tensor) -> av.VideoFrame:
    """A picture (3, H, W) in [0, 1] as an 8-bit RGB frame."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().cpu().numpy()
    return av.VideoFrame.from_ndarray(pixels, format="rgb24")


def write_video(pictures: Iterable[Tensor], file: Path, fps: float) -> None:
    """Encode pictures (3, H, W) in [0, 1] as H.264, 4:4:4, under a temporary name that is renamed last."""
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{file}: expected one or more pictures")
    partial = file.with_name(f".{file.stem}.{os.getpid()}.partial{file.suffix}")
    try:
        with av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(RATE_LIMIT), options=ENCODER)
            stream.height, stream.width = first.shape[-2:]
            stream.pix_fmt = "yuv444p"
            for picture in chain([first], pictures):
                container.mux(stream.encode(to_pixels(picture)))
            container.mux(stream.encode(None))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
