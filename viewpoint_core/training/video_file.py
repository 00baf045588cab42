"""Video and image files of pictures that are computed."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from PIL import Image
from torch import Tensor

ENCODER = {"preset": "medium", "threads": "1"}
RATE_LIMIT = 1000


def to_pixels(picture: Tensor) -> av.VideoFrame:
    """A picture (3, H, W) in [0, 1] as an 8-bit RGB frame."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().cpu().numpy()
    return av.VideoFrame.from_ndarray(pixels, format="rgb24")


def write_image(picture: Tensor, file: Path) -> None:
    """Write a picture (3, H, W) in [0, 1] as PNG, under a temporary name that is renamed last."""
    partial = file.with_name(f".{file.stem}.{os.getpid()}.partial{file.suffix}")
    try:
        Image.fromarray(to_pixels(picture).to_ndarray()).save(partial, "PNG")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_video(pictures: Iterable[Tensor], file: Path, fps: float, *, crf: int = 8, pix_fmt: str = "yuv444p") -> None:
    """Encode pictures (3, H, W) in [0, 1] as H.264, under a temporary name that is renamed last.

    As it stands it is nearly lossless; players want pix_fmt="yuv420p". Raises ValueError where there is no picture.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{file}: expected one or more pictures")
    partial = file.with_name(f".{file.stem}.{os.getpid()}.partial{file.suffix}")
    try:
        with av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
            rate, options = Fraction(fps).limit_denominator(RATE_LIMIT), ENCODER | {"crf": str(crf)}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = first.shape[-2:]
            stream.pix_fmt = pix_fmt
            for picture in chain([first], pictures):
                container.mux(stream.encode(to_pixels(picture)))
            container.mux(stream.encode(None))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
