"""One training step: what is drawn for a batch, the loss, the update."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .config import TrainingConfig
from .flow_matching import add_noise, flow_loss, sample_sigmas, velocity
from .kept_tensors import KeptTensors
from .known_view import View, draw_view, known_channels, view_masks
from .muon import Muon
from .plan import batches_from, generator_for
from .wan import predict_velocity


@dataclass(frozen=True)
class Batch:
    """A process's part of a joint batch: latents (B, C, t, h, w), maps uint8 (B, 3, T, S, S), text (B, 512, d), the
    clips' names, the place of the first one in the joint batch, and the map size that the cache was made with."""

    latent: Tensor
    pixels: Tensor
    text: Tensor
    keys: list[str]
    number: int
    first: int
    map_size: int


@dataclass(frozen=True)
class Draws:
    """What is random about a batch: noise like the latents, sigma (B,), the known views (None: nothing is known) and
    their masks (B, S, S), captions dropped (B,)."""

    noise: Tensor
    sigma: Tensor
    views: list[View | None]
    masks: Tensor
    no_caption: Tensor


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples of a cache to one batch."""
    stacked = {name: torch.stack([item[name] for item in items]) for name in ("latent", "map", "text")}
    return stacked | {"keys": [item["key"] for item in items], "map_size": items[0]["map_size"]}


def leave_signals(worker: int) -> None:
    """A worker's start: Ctrl-C and SIGTERM reach the whole process group, but only the trainer may end it, when its
    checkpoint is written."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    clips: Dataset,
    buckets: Mapping[tuple[int, ...], list[int]],
    config: TrainingConfig,
    first: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """This process's part of the endless sequence of batches, read ahead, from the batch number `first` on."""
    size = config.batch_size
    joint = batches_from(buckets, size * world, config.seed, first)
    mine = (indices[rank * size : (rank + 1) * size] for indices in joint)
    loader = DataLoader(
        clips, batch_sampler=mine, collate_fn=collate, num_workers=config.workers, worker_init_fn=leave_signals
    )
    for number, batch in enumerate(loader, start=first):
        parts = (batch[name] for name in ("latent", "map", "text", "keys"))
        yield Batch(*parts, number, rank * size, batch["map_size"])


def draw(batch: Batch, config: TrainingConfig, world: int) -> Draws:
    """The batch's random numbers, each a function of the seed, the batch's number and the sample's place in it, so that
    one process with the joint batch draws what several draw together."""
    size, seed = len(batch.keys), config.seed
    generators = [generator_for(seed, "sample", batch.number, batch.first + i) for i in range(size)]
    noise = torch.stack([torch.randn(batch.latent.shape[1:], generator=g) for g in generators])
    views = [
        draw_view(config.views, dropout=config.condition_dropout, faces=config.faces, generator=g) for g in generators
    ]
    no_caption = torch.stack([torch.rand((), generator=g) < config.caption_dropout for g in generators])
    levels = generator_for(seed, "sigma", batch.number)
    sigma = sample_sigmas(size, config.sigmas, config.shift, rank=batch.first // size, world=world, generator=levels)
    return Draws(noise, sigma, views, view_masks(views, batch.map_size, config.layout), no_caption)


def to_video(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 maps to [-1, 1]."""
    return pixels.to(device).float() / 127.5 - 1


def known_of_batch(
    vae: AutoencoderKLWan, batch: Batch, draws: Draws, device: torch.device, kept: KeptTensors | None = None
) -> Tensor:
    """The known channels (B, C + 1, t, h, w) of a batch. With `kept` each sample is encoded by itself, so that what a
    step sees does not depend on what was kept."""
    if kept is None:
        return known_channels(vae, to_video(batch.pixels, device), draws.masks.to(device))

    def encode(sample: slice) -> Tensor:
        return known_channels(vae, to_video(batch.pixels[sample], device), draws.masks[sample].to(device))

    known = []
    for i, (clip, view) in enumerate(zip(batch.keys, draws.views, strict=True)):
        grey = batch.pixels.shape[1:]  # where nothing is known all clips of a shape are alike
        known.append(kept.get((clip if view else grey, view), partial(encode, slice(i, i + 1))))
    return torch.cat(known).to(device)


def batch_losses(
    model: nn.Module,
    vae: AutoencoderKLWan,
    batch: Batch,
    draws: Draws,
    empty_text: Tensor,
    device: torch.device,
    kept: KeptTensors | None = None,
) -> Tensor:
    """Equation 2 for each sample of a batch: (B,); `kept` as in `known_of_batch`."""
    latent, noise, sigma = (value.to(device) for value in (batch.latent, draws.noise, draws.sigma))
    known = known_of_batch(vae, batch, draws, device, kept)
    text = torch.where(draws.no_caption[:, None, None], empty_text.to(batch.text), batch.text).to(device)
    predicted = predict_velocity(model, add_noise(latent, noise, sigma), known, sigma, text)
    return flow_loss(predicted, velocity(latent, noise))


class BadLossError(RuntimeError):
    """The loss is not a number."""


def check_loss(loss: Tensor, batch: Batch, step: int) -> None:
    """Raise BadLossError, naming the batch, unless the joint loss is finite."""
    if not bool(torch.isfinite(loss)):
        raise BadLossError(
            f"the loss is {float(loss)} at step {step}; this process's clips were {', '.join(batch.keys)}. The last "
            "checkpoint is as it was; try a lower learning rate, or leave these clips out"
        )


def check_gradient(norm: Tensor, parts: Sequence[Batch], step: int) -> None:
    """Raise BadLossError, naming the batches, unless the joint gradient is finite: it would ruin the weights."""
    if not bool(torch.isfinite(norm)):
        keys = ", ".join(key for batch in parts for key in batch.keys)
        raise BadLossError(
            f"the gradient's norm is {float(norm)} at step {step}; this process's clips were {keys}. The last "
            "checkpoint is as it was; try a lower learning rate, or leave these clips out"
        )


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or Muon over what trains, by name. Raises ValueError where bitsandbytes is asked for and absent."""
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        return Muon(parameters.items(), **options)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ValueError("optimizer adamw8bit needs bitsandbytes; install it, or take adamw") from error
        return AdamW8bit(parameters.values(), **options)
    return torch.optim.AdamW(parameters.values(), **options)


def joint_mean(value: Tensor, accelerator: Accelerator) -> Tensor:
    """Mean over all processes."""
    return accelerator.reduce(value.detach().float(), reduction="mean")
