"""What a small VAE learns first: the principal components of 8 x 8 patches, of single frames and of groups of four.

A VAE finds by itself a code that is far behind this linear one, if it has a thousand steps to do so. Told the code, its
encoder and its decoder each have a plain regression to learn, and what they learn together afterwards is a gain on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from safetensors.torch import load_file, save
from torch import Tensor

from ..conditioning import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from ..replacing import replace_bytes
from .data.clips import map_to_video
from .spread import spread
from .wan_vae import LATENT_CHANNELS

CLIPS = 64  # at most, that the components are taken of
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


def moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n), float64, of rows (N, n) that come in parts."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for rows in parts:
        rows = rows.double()
        count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def principal(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, bias) that take rows of these moments to their first components (C,), of mean 0 and variance 1."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:LATENT_CHANNELS], vectors.flip(1)[:, :LATENT_CHANNELS]
    weight = (vectors / values.clamp(min=FLOOR).sqrt()).T
    return weight, -weight @ mean


def fit_codes(clips: Sequence[Tensor]) -> PatchCodes:
    """The codes of clips, maps uint8 (3, T, S, S) with T = 4k + 1; a single frame counts as a still video.

    A group's code is turned so that it is nearest to the code of the mean of its frames: of what stands still, both say
    the same.
    """
    chosen = spread(clips, CLIPS)
    frames = TEMPORAL_COMPRESSION

    def first(clip: Tensor) -> Tensor:
        return patches(map_to_video(clip[None, :, :1]), 1)[0].flatten(1).T

    def group(clip: Tensor) -> Tensor:
        later = clip[:, 1:] if clip.shape[1] > 1 else clip.expand(-1, frames, -1, -1)
        return patches(map_to_video(later[None]), frames)[0].flatten(1).T

    first_weight, first_bias = principal(*moments(first(clip) for clip in chosen))
    mean, covariance = moments(group(clip) for clip in chosen)
    group_weight, group_bias = principal(mean, covariance)
    of_mean = repeat(first_weight / frames, "c (k n) -> c (k f n)", k=3, f=frames)
    left, _, right = torch.linalg.svd(of_mean @ covariance @ group_weight.T)  # Procrustes
    codes = (first_weight, first_bias, left @ right @ group_weight, left @ right @ group_bias)
    return PatchCodes(*(values.float() for values in codes))


def write_codes(codes: PatchCodes, file: Path) -> None:
    """Keep codes as a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(file, save({name: value.contiguous() for name, value in vars(codes).items()}))


def read_codes(file: Path) -> PatchCodes:
    """Codes from their file."""
    return PatchCodes(**load_file(file))
