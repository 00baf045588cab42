"""Conditioning in 2 C + 1 channels (paper 3.3, 4.1): [noisy latent | latent of the known map | mask]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .resample import GREY

SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4


def check_length(length: int) -> None:
    """Raise ValueError unless the number of frames is 4k + 1."""
    if length < 1 or (length - 1) % TEMPORAL_COMPRESSION:
        below = max(1, (length - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1)
        raise ValueError(f"got {length} frames; expected 4k + 1, such as {below} or {max(1, below + 4)}")


def latent_frames(length: int) -> int:
    """Latent frames of a clip of 4k + 1 frames: k + 1."""
    check_length(length)
    return (length - 1) // TEMPORAL_COMPRESSION + 1


def video_frames(latent_frames: int) -> int:
    """Frames of the video that so many latent frames stand for."""
    return TEMPORAL_COMPRESSION * (latent_frames - 1) + 1


def latent_shape(map_size: int, length: int, channels: int = 16, batch: int = 1) -> tuple[int, int, int, int, int]:
    """Shape (batch, channels, frames, height, width) of a map video's latent."""
    side = map_size // SPATIAL_COMPRESSION
    return batch, channels, latent_frames(length), side, side


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise ValueError if the tensor is empty, or holds NaN or infinite values."""
    if not tensor.numel():
        raise ValueError(f"{name}: {tuple(tensor.shape)} is empty; expected at least one value")
    if not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):  # no mask as large as the video
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{name}: {bad} of {tensor.numel()} values are NaN or infinite; expected finite values")


def fill_unknown(video: Tensor, mask: Tensor, fill: float = GREY) -> Tensor:
    """Grey where nothing is known: video (..., C, H, W), mask (..., H, W) in [0, 1], 1 where known."""
    return torch.where(mask.unsqueeze(-3) > 0, video, fill)


def mask_to_latent(mask: Tensor) -> Tensor:
    """Average a mask (B, T, H, W) over latent cells -> (B, 1, t, H/8, W/8).

    A cell is 8 x 8 pixels and the frames of its latent frame: frame 0 alone, then four at a time. Raises ValueError
    for a number of frames that is not 4k + 1 and for sides that are no multiple of 8.
    """
    check_length(mask.shape[1])
    if mask.shape[-2] % SPATIAL_COMPRESSION or mask.shape[-1] % SPATIAL_COMPRESSION:
        raise ValueError(
            f"the mask is {mask.shape[-2]} x {mask.shape[-1]}; expected multiples of {SPATIAL_COMPRESSION}"
        )
    cells = F.avg_pool2d(mask, SPATIAL_COMPRESSION)
    first, rest = cells[:, :1], cells[:, 1:]
    rest = rest.unflatten(1, (-1, TEMPORAL_COMPRESSION)).mean(2) if rest.shape[1] else rest
    return torch.cat([first, rest], dim=1)[:, None]


def pack_known(latent: Tensor, mask: Tensor) -> Tensor:
    """The channels that stand behind the noisy latent: latent (B, C, t, h, w) of the known video, in the model's scale,
    and its mask (B, T, 8h, 8w) -> (B, C + 1, t, h, w). The order is noisy | known | mask."""
    cells = mask_to_latent(mask).to(latent)
    expected = (latent.shape[0], 1, *latent.shape[2:])
    if cells.shape != expected:
        raise ValueError(f"mask cells {tuple(cells.shape)} do not fit the latent {tuple(latent.shape)}")
    return torch.cat([latent, cells], dim=1)
