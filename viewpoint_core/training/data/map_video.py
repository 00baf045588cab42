"""A ViewPoint map video's pixels, lossless, as FFV1 in Matroska: about a fifth of their size."""

import io

import av
import numpy as np
import torch
from torch import Tensor

ENCODER = {"level": "3", "slices": "16", "slicecrc": "0", "flags": "+bitexact"}
# Matroska draws a random identifier for every file unless it is told not to.
CONTAINER = {"fflags": "+bitexact"}
THREADS = 4
RATE = 16  # how players show it; no reader of this project looks at it


def map_to_bytes(pixels: Tensor) -> bytes:
    """Pixels uint8 (3, T, S, S) -> a file's bytes; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options=CONTAINER) as container:
        stream = container.add_stream("ffv1", rate=RATE, options=ENCODER)
        stream.height, stream.width = pixels.shape[-2:]
        stream.pix_fmt = "bgr0"
        stream.codec_context.thread_count = THREADS
        for frame in pixels.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def map_from_bytes(data: bytes) -> Tensor:
    """A file's bytes -> its pixels uint8 (3, T, S, S). Raises ValueError for what is no such file."""
    try:
        with av.open(io.BytesIO(data), format="matroska") as container:
            container.streams.video[0].thread_type = "SLICE"
            container.streams.video[0].codec_context.thread_count = THREADS
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"the map's pixels cannot be read ({error})") from error
    if not frames:
        raise ValueError("the map's pixels cannot be read (no frame)")
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()
