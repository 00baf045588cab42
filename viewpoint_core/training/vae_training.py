"""A small Wan2.1 VAE trained from scratch: the crops it sees, its loss, its latents' scale."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor
from tqdm import tqdm

from ..conditioning import TEMPORAL_COMPRESSION
from .data.clips import ClipSpec, Sampling, load_map, map_to_video, pictures_at, plan_clips
from .data.manifest import read_manifest
from .known_view import draw_view, known_video, view_mask
from .plan import generator_for
from .precision import fast_autocast
from .spread import spread
from .wan_vae import original_vae_key
from .weights import lazy, write_safetensors

READERS = 4  # clips that are read at the same time
KNOWN_SHARE = 0.25  # of the crops: as the condition has them, grey beyond a view
KNOWN_VIEWS = 32
KL_WEIGHT = 3e-4
CODE_WEIGHT, CODE_NOISE = 0.05, 0.08  # the noise is about the posterior's
COLOUR_WEIGHT, COLOUR_CELL = 4.0, 8
MOTION_WEIGHT = 1.0
STEP_WEIGHT, CONTRAST_WEIGHT = 0.5, 2.0
CONTRAST_CELL, CONTRAST_FLOOR = 4, 1e-2
SCALE_CLIPS = 64  # at most, whose latents give the scale


def read_clips(
    manifest: Path,
    split: str,
    map_size: int,
    length: int,
    fps: float,
    device: torch.device | str = "cpu",
    *,
    least: int,
    most: int = 0,
) -> list[Tensor]:
    """A manifest's clips of one split as maps uint8 (3, T, S, S), all in memory, drawn on a device; images are left
    out. They have `length` frames, 4k + 1, or as many as a shorter video gives, `least` or more. most: so many clips at
    most; 0: all."""
    items = [item for item in read_manifest(manifest) if item.split == split and item.fps]
    specs: list[ClipSpec] = []
    for item in items:
        whole = (pictures_at(item, fps) - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1
        own = min(length, max(least, whole))
        found, short = plan_clips([item], manifest.absolute().parent, Sampling(own, fps, variants=1))
        if short:
            raise ValueError(f"{manifest}: {short[0].name}: {short[0].reason}")
        specs += found
    chosen = specs[: most or len(specs)]
    with ThreadPoolExecutor(READERS) as pool:
        maps = pool.map(partial(load_map, map_size=map_size, device=device), chosen)
        return list(tqdm(maps, total=len(chosen), desc=f"{split} clips", unit="clip"))


def known_masks(map_size: int, seed: int) -> Tensor:
    """Masks of random views on the map: bool (n, S, S)."""
    generator = generator_for(seed, "known masks")
    views = (draw_view("wide", generator=generator) for _ in range(KNOWN_VIEWS))
    return torch.stack([view_mask(view, map_size) for view in views]).bool()


def random_below(limit: int, generator: torch.Generator) -> int:
    """An integer in [0, limit)."""
    return int(torch.randint(limit, (), generator=generator))


def draw_crop(clips: Sequence[Tensor], masks: Tensor, size: int, length: int, generator: torch.Generator) -> Tensor:
    """A random part of a random clip, turned and mirrored, (3, length, size, size) in [-1, 1]; some half known."""
    clip = clips[random_below(len(clips), generator)]
    top, left = (random_below(clip.shape[-1] - size + 1, generator) for _ in range(2))
    first = random_below(clip.shape[1] - length + 1, generator)
    window = (slice(top, top + size), slice(left, left + size))
    video = map_to_video(clip[(slice(None), slice(first, first + length), *window)])
    mask = masks[(random_below(len(masks), generator), *window)]
    if float(torch.rand((), generator=generator)) < KNOWN_SHARE:
        video = known_video(video[None], mask[None].float())[0]
    video = torch.rot90(video, random_below(4, generator), dims=(-2, -1))
    return video.flip(-1) if random_below(2, generator) else video


def draw_crops(
    clips: Sequence[Tensor], masks: Tensor, *, batch: int, size: int, length: int, seed: int, step: int
) -> Tensor:
    """The crops (batch, 3, length, size, size) of a step, of the clips that are long enough: a function of the seed and
    the step."""
    generator = generator_for(seed, "crops", step)
    long = [clip for clip in clips if clip.shape[1] >= length]
    crops = [draw_crop(long, masks, size, length, generator) for _ in range(batch)]
    return torch.stack(crops).contiguous(memory_format=torch.channels_last_3d)


def picture_loss(wrong: Tensor) -> Tensor:
    """Mean squared error of videos' differences (B, 3, T, H, W), and that of their 8 x 8 means besides: to the plain
    error a hue is worth little against detail, to the eye a lot."""
    colour = F.avg_pool3d(wrong, (1, COLOUR_CELL, COLOUR_CELL)).square().mean()
    return wrong.square().mean() + COLOUR_WEIGHT * colour


def motion_loss(wrong: Tensor) -> Tensor:
    """Mean squared error of the steps from frame to frame, of videos' differences (B, 3, T, H, W); 0 for T = 1. Of a
    small motion that is lost, the plain error sees little: what stands still in its place is nearly right."""
    return wrong.diff(dim=2).square().mean() if wrong.shape[2] > 1 else wrong.new_zeros(())


def vae_loss(vae: AutoencoderKLWan, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error) of a video (B, 3, T, H, W) in [-1, 1] through the posterior's sample, which is drawn
    with a normal noise of the latent's shape."""
    posterior = vae.encode(video).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise.to(posterior.mean), return_dict=False)[0]
    wrong = decoded.float() - video
    mean, log = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log.exp() - 1 - log).mean()
    loss = picture_loss(wrong) + MOTION_WEIGHT * motion_loss(wrong) + KL_WEIGHT * divergence
    return loss, wrong.detach().square().mean()


def code_loss(vae: AutoencoderKLWan, video: Tensor, noise: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error) of an encoder that is told the code (B, C, t, h, w) of a video and of a decoder that
    starts from it, each by itself."""
    wrong_code = vae.encode(video).latent_dist.mean.float() - code
    wrong = vae.decode(code + CODE_NOISE * noise, return_dict=False)[0].float() - video
    return picture_loss(wrong) + CODE_WEIGHT * wrong_code.square().mean(), wrong.detach().square().mean()


def sharp_loss(vae: AutoencoderKLWan, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error) of a decoder behind an encoder that stays.

    Besides the picture's error: absolute differences, also of the steps between neighbours, and how strong these steps
    are around a place, in space and in time. What the latents do not tell exactly is then drawn with about the contrast
    that it had, where an error alone would leave a blur.
    """
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        latent = posterior.mean + posterior.std * noise.to(posterior.mean)
    decoded = vae.decode(latent, return_dict=False)[0].float()
    wrong = decoded - video
    loss = picture_loss(wrong) + wrong.abs().mean()
    for axis in (-1, -2, -3)[: 2 if video.shape[2] == 1 else 3]:
        loss = loss + STEP_WEIGHT * wrong.diff(dim=axis).abs().mean()
        contrasts = [step_strength(value, axis) for value in (decoded, video)]
        loss = loss + CONTRAST_WEIGHT * (contrasts[0] - contrasts[1]).abs().mean()
    return loss, wrong.detach().square().mean()


def step_strength(video: Tensor, axis: int) -> Tensor:
    """Root mean square of the steps between neighbours along an axis, over cells of CONTRAST_CELL pixels."""
    squared = F.avg_pool3d(video.diff(dim=axis).square(), (1, CONTRAST_CELL, CONTRAST_CELL))
    return (squared.mean(1) + CONTRAST_FLOOR**2).sqrt()


@torch.no_grad()
def raw_latents(
    vae: AutoencoderKLWan, clips: Sequence[Tensor], device: torch.device, autocast: bool = False
) -> Iterator[Tensor]:
    """The posterior's mean (C, t, h, w) of whole maps, before the model's scale."""
    for clip in clips:
        with fast_autocast(device) if autocast else nullcontext():
            mean = vae.encode(map_to_video(clip[None].to(device)).to(vae.dtype)).latent_dist.mean[0]
        yield mean.float()


@torch.no_grad()
def set_latent_scale(
    vae: AutoencoderKLWan, clips: Sequence[Tensor], device: torch.device, autocast: bool = False
) -> None:
    """Scale the latents, in the weights around them, to the mean and deviation that Wan's latent format takes off.

    Loaders know only Wan's own numbers; after this, a latent in the model's scale has mean 0 and deviation 1. What the
    VAE decodes stays the same.
    """
    chosen = spread(clips, SCALE_CLIPS)
    # autocast ends before the weights change: it keeps copies of them
    latents = raw_latents(vae, chosen, device, autocast)
    values = torch.cat([latent.flatten(1) for latent in latents], dim=1)
    wanted_mean, wanted_std = (
        torch.tensor(numbers, device=device) for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    scale = wanted_std / values.std(1).clamp(min=1e-6)
    shift = wanted_mean - scale * values.mean(1)
    channels = len(scale)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] *= scale[:, None, None, None, None]
    quant.bias[:channels] = quant.bias[:channels] * scale + shift
    quant.bias[channels:] += 2 * scale.log()
    post.weight /= scale[None, :, None, None, None]
    post.bias -= post.weight.sum((2, 3, 4)) @ shift


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLWan, clips: Sequence[Tensor], device: torch.device) -> list[float]:
    """PSNR in dB of each clip's map, encoded and decoded, as 8-bit pixels are compared: peak 255."""
    scores = []
    for clip, latent in zip(clips, raw_latents(vae, clips, device), strict=True):
        decoded = vae.decode(latent[None].to(vae.dtype), return_dict=False)[0][0].float().clamp(-1, 1)
        error = (decoded - map_to_video(clip.to(device))).square().mean()
        scores.append(10 * math.log10(4 / float(error)))
    return scores


def write_vae(vae: AutoencoderKLWan, file: Path, dtype: torch.dtype = torch.float32) -> None:
    """The VAE as ComfyUI's VAELoader takes it, under the original names."""
    tensors = {original_vae_key(name): lazy(tensor, dtype) for name, tensor in vae.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in write_safetensors(tensors, {"format": "pt"}, file):
        pass
