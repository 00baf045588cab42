"""Pictures that are 2:1: panoramas, and what is often taken for one. All float32 (3, SIZE / 2, SIZE) in [0, 1]."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from viewpoint_core.sphere import direction_to_erp
from viewpoint_core.training.data.media import read_image
from viewpoint_core.views import render_view

PANORAMAS = sorted((Path(__file__).parents[1] / "workflows" / "assets" / "panoramas").glob("*.jpg"))
SIZE = 256


def resize(picture: Tensor, width: int, height: int) -> Tensor:
    return interpolate(picture[None], (height, width), mode="area")[0]


def panorama(name: str = "city", width: int = SIZE) -> Tensor:
    """One of the project's photographed panoramas."""
    file = next(file for file in PANORAMAS if file.stem == name)
    return resize(read_image(file) / 255, width, width // 2)


def turned(erp: Tensor, yaw_deg: float) -> Tensor:
    return erp.roll(round(yaw_deg / 360 * erp.shape[-1]), -1)


def flat(erp: Tensor, yaw_deg: float = 0) -> Tensor:
    """A film of today's width, as a camera sees it."""
    height, width = erp.shape[-2:]
    return render_view(erp, height, width, yaw_deg=yaw_deg, fov_deg=80).clamp(0, 1)


def vr180(erp: Tensor) -> Tensor:
    """The front half twice, from two eyes."""
    height, width = erp.shape[-2:]
    eyes = [eye[..., width // 4 : 3 * width // 4] for eye in (erp, erp.roll(1, -1))]
    return resize(torch.cat(eyes, -1), width, height)


def dual_fisheye(erp: Tensor) -> Tensor:
    """Two circles of 190 degrees in black, as a camera of two lenses stores them."""
    height, width = erp.shape[-2:]
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, height)] * 2, indexing="ij")
    radius, around = torch.hypot(x, y), torch.atan2(y, x)
    angle = radius * math.radians(95)
    ahead = torch.stack([angle.sin() * around.cos(), angle.sin() * around.sin(), angle.cos()], -1)
    lenses = []
    for side in (1, -1):
        column, row = direction_to_erp(ahead * torch.tensor([side, 1, side]), height, width)
        lens = erp[:, row.long().clamp_max(height - 1), column.long().clamp_max(width - 1)]
        lenses.append(lens * (radius <= 1))
    return torch.cat(lenses, -1)


def letterboxed(erp: Tensor, part: float = 0.1) -> Tensor:
    """Black bars above and below."""
    height, width = erp.shape[-2:]
    bar = round(part * height)
    return pad(resize(erp, width, height - 2 * bar), (0, 0, bar, bar))


def pillarboxed(erp: Tensor, part: float = 0.1) -> Tensor:
    """Black bars left and right."""
    return letterboxed(erp.transpose(-2, -1), part).transpose(-2, -1)


def write_at_times(file: Path, pictures: Sequence[Tensor], times_ms: Sequence[int]) -> Path:
    """A video of a variable rate: each picture at its time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[-2:]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for picture, time in zip(pictures, times_ms, strict=True):
            pixels = (picture * 255).byte().movedim(0, -1).contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file
