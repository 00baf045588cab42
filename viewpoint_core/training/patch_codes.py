"""What a small VAE learns first: the principal components of 8 x 8 patches, of single frames and of groups of four.

A VAE finds by itself a code that is far behind this linear one, if it has a thousand steps to do so. Told the code, its
encoder and its decoder each have a plain regression to learn, and what they learn together afterwards is a gain on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..conditioning import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from ..replacing import replacing
from .clips import map_to_video
from .wan_vae import LATENT_CHANNELS

CLIPS = 64  # that the components are taken of
FLOOR = 1e-6  # of a component's variance


@dataclass(frozen=True)
class PatchCodes:
    """Affine maps from patches to codes (C,) of mean 0 and variance 1: weight (C, n), bias (C,).

    n is 3 * 8 * 8 for the first frame and 3 * 4 * 8 * 8 for a group of four later ones.
    """

    first_weight: Tensor
    first_bias: Tensor
    group_weight: Tensor
    group_bias: Tensor

    def __call__(self, video: Tensor) -> Tensor:
        """Codes (B, C, 1 + (T - 1) / 4, H / 8, W / 8) of videos (B, 3, T, H, W) in [-1, 1]."""
        first = torch.einsum("cn,bnthw->bcthw", self.first_weight.to(video), patches(video[:, :, :1], 1))
        first = first + self.first_bias.to(video)[:, None, None, None]
        if video.shape[2] == 1:
            return first
        later = patches(video[:, :, 1:], TEMPORAL_COMPRESSION)
        later = torch.einsum("cn,bnthw->bcthw", self.group_weight.to(video), later)
        return torch.cat([first, later + self.group_bias.to(video)[:, None, None, None]], dim=2)


def patches(video: Tensor, frames: int) -> Tensor:
    """Videos (B, 3, t frames, H, W) as patches (B, 3 frames 64, t, H / 8, W / 8)."""
    size = SPATIAL_COMPRESSION
    return rearrange(video, "b c (t f) (h p) (w q) -> b (c f p q) t h w", f=frames, p=size, q=size)


def principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, bias) that take rows (N, n) to their first components (N, C), each of mean 0 and variance 1."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    values, vectors = values.flip(0)[:LATENT_CHANNELS], vectors.flip(1)[:, :LATENT_CHANNELS]
    weight = (vectors / values.clamp(min=FLOOR).sqrt()).T
    return weight, -weight @ mean


def nearest_rotation(moving: Tensor, fixed: Tensor) -> Tensor:
    """The orthogonal (C, C) that brings rows of codes (N, C) nearest to others."""
    left, _, right = torch.linalg.svd(fixed.T @ moving)
    return left @ right


def fit_codes(clips: Sequence[Tensor]) -> PatchCodes:
    """The codes of clips, maps uint8 (3, T, S, S) with T = 4k + 1 > 1.

    A group's code is turned so that it is near to the code of the mean of its frames: of what stands still, both say
    the same.
    """
    chosen = clips[:: max(1, len(clips) // CLIPS)]
    videos = torch.stack([map_to_video(clip) for clip in chosen])
    first = rearrange(patches(videos[:, :, :1], 1), "b n t h w -> (b t h w) n")
    group = rearrange(patches(videos[:, :, 1:], TEMPORAL_COMPRESSION), "b n t h w -> (b t h w) n")
    first_weight, first_bias = principal(first)
    group_weight, group_bias = principal(group)
    still = rearrange(group, "n (c f p) -> n c f p", c=videos.shape[1], f=TEMPORAL_COMPRESSION).mean(2).flatten(1)
    turn = nearest_rotation(group @ group_weight.T + group_bias, still @ first_weight.T + first_bias)
    return PatchCodes(first_weight, first_bias, turn @ group_weight, turn @ group_bias)


def write_codes(codes: PatchCodes, file: Path) -> None:
    """Keep codes as a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file({name: value.contiguous() for name, value in vars(codes).items()}, partial)


def read_codes(file: Path) -> PatchCodes:
    """Codes from their file."""
    return PatchCodes(**load_file(file))
