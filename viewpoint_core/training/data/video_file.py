"""Video and image files of pictures that are computed."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from PIL import Image
from torch import Tensor

from ...replacing import replacing

ENCODER = {"preset": "medium", "threads": "1"}
MUXER = {"movflags": "+faststart"}
RATE_LIMIT = 1000


def to_pixels(picture: Tensor) -> av.VideoFrame:
    """A picture (3, H, W) in [0, 1] as an 8-bit RGB frame."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().cpu().numpy()
    return av.VideoFrame.from_ndarray(pixels, format="rgb24")


def write_image(picture: Tensor, file: Path) -> None:
    """Write a picture (3, H, W) in [0, 1] as PNG."""
    with replacing(file) as partial:
        Image.fromarray(to_pixels(picture).to_ndarray()).save(partial, "PNG")


def write_video(pictures: Iterable[Tensor], file: Path, fps: float, *, crf: int = 8, pix_fmt: str = "yuv444p") -> None:
    """Encode pictures (3, H, W) in [0, 1] as H.264 in MP4.

    As it stands it is nearly lossless; players want pix_fmt="yuv420p". Raises ValueError where there is no picture.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{file}: expected one or more pictures")
    with replacing(file) as partial, av.open(str(partial), "w", format="mp4", options=MUXER) as container:
        rate, options = Fraction(fps).limit_denominator(RATE_LIMIT), ENCODER | {"crf": str(crf)}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = first.shape[-2:]
        stream.pix_fmt = pix_fmt
        for picture in chain([first], pictures):
            container.mux(stream.encode(to_pixels(picture)))
        container.mux(stream.encode(None))
