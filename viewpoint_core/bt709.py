"""Frames of video in the colours that players take large video for: BT.709, limited range, and tagged so."""

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.reformatter import ColorRange, Colorspace

from .hdr import BT709  # in primaries, transfer and matrix alike, ITU-T H.273

LIMITED_RANGE = 1


def tag_bt709(context: CodecContext) -> None:
    """Make an encoder that is not open yet say what `bt709_frame` gives."""
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED_RANGE


def bt709_frame(pixels: np.ndarray, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Full-range RGB uint8 (H, W, 3) as a frame of limited-range BT.709, of any YUV format."""
    # without both pairs PyAV converts by BT.601, whatever the stream is tagged with
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format=pix_fmt,
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )
