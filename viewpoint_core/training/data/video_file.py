"""Video and image files of pictures that are computed."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor

from ...bt709 import bt709_frame, tag_bt709
from ...pixels import to_uint8
from ...replacing import replacing

ENCODER = {"preset": "medium", "threads": "1"}
MUXER = {"movflags": "+faststart"}
RATE_LIMIT = 1000


def to_pixels(picture: Tensor) -> np.ndarray:
    """A picture (3, H, W) in [0, 1] as RGB pixels, uint8 (H, W, 3)."""
    return to_uint8(picture).movedim(0, -1).contiguous().cpu().numpy()


def write_image(picture: Tensor, file: Path) -> None:
    """Write a picture (3, H, W) in [0, 1] as PNG."""
    with replacing(file) as partial:
        Image.fromarray(to_pixels(picture)).save(partial, "PNG")


def write_video(pictures: Iterable[Tensor], file: Path, fps: float, *, crf: int = 8, pix_fmt: str = "yuv444p") -> None:
    """Encode pictures (3, H, W) in [0, 1] as H.264 in MP4.

    Its colours are BT.709 and tagged so. As it stands it is nearly lossless; players want pix_fmt="yuv420p". Raises
    ValueError where there is no picture.
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
        tag_bt709(stream.codec_context)
        for picture in chain([first], pictures):
            container.mux(stream.encode(bt709_frame(to_pixels(picture), pix_fmt)))
        container.mux(stream.encode(None))
