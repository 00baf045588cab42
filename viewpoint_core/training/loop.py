"""What a training step is made of: its batches and what is drawn for them, the loss, the optimiser."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..conditioning import video_frames
from .config import TrainingConfig
from .data.clips import map_to_video
from .flow_matching import add_noise, flow_loss, sample_sigmas, velocity
from .known_view import FACE_OF, View, draw_view, known_channels, mask_cells, view_masks
from .layouts import picture_size
from .muon import Muon
from .plan import batches_from, generator_for
from .wan import predict_velocity, short_text
from .wan_vae import encode_video


@dataclass(frozen=True)
class Batch:
    """A process's part of a joint batch: latents (B, C, t, h, w), maps uint8 (B, 3, T, S, S) or instead the known
    channels (B, C + 1, t, h, w), zero where a sample knows nothing, text (B, 512, d), or (B, 1, d) where all of it is
    zero, the clips' names, the place of the first one in the joint batch, and the map size that the cache was made
    with."""

    latent: Tensor
    pixels: Tensor | None
    text: Tensor
    keys: list[str]
    number: int
    first: int
    map_size: int
    known: Tensor | None = None

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU fetches by itself."""
        return replace(self, **pinned(self))


@dataclass(frozen=True)
class Draws:
    """What is random about a batch: noise like the latents, sigma (B,), the known views (None: nothing is known),
    captions dropped (B,)."""

    noise: Tensor
    sigma: Tensor
    views: list[View | None]
    no_caption: Tensor

    def pin_memory(self) -> "Draws":
        """The same in memory from which a GPU fetches by itself."""
        return replace(self, **pinned(self))


def pinned(values: Batch | Draws) -> dict[str, Tensor]:
    """The tensors among a batch's or its draws' values, in pinned memory."""
    return {name: value.pin_memory() for name, value in vars(values).items() if isinstance(value, Tensor)}


class Numbered(Dataset):
    """Clips by the number of their batch and their index, so that a worker can draw what is random about the batch.

    In place of one that cannot be read comes its error: raised in a worker, it would end up in a traceback's text.
    """

    def __init__(self, clips: Dataset) -> None:
        self.clips = clips

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, Mapping[str, Any] | Exception]:
        number, index = place
        try:
            return number, self.clips[index]
        except (ValueError, OSError) as error:
            return number, error


def collate(
    samples: Sequence[tuple[int, Mapping[str, Any] | Exception]], config: TrainingConfig, rank: int, world: int
) -> tuple[Batch, Draws] | Exception:
    """Samples of a cache to one batch, and its draws; or the first error among them."""
    number, items = samples[0][0], [item for _, item in samples]
    for item in items:
        if isinstance(item, Exception):
            return item
    texts = [item["text"] for item in items]
    empty = not any(bool(text.any()) for text in {id(text): text for text in texts}.values())
    batch = Batch(
        latent=torch.stack([item["latent"] for item in items]),
        pixels=torch.stack([item["map"] for item in items]) if "map" in items[0] else None,
        text=torch.zeros(len(items), 1, texts[0].shape[-1]) if empty else torch.stack(texts),
        keys=[item["key"] for item in items],
        number=number,
        first=rank * len(items),
        map_size=items[0]["map_size"],
    )
    draws = draw(batch, config, world)
    if "known" in items[0]:
        batch = replace(batch, known=cached_known(items, draws.views, config.layout))
    return batch, draws


def cached_known(items: Sequence[Mapping[str, Any]], views: Sequence[View | None], layout: str) -> Tensor:
    """The known channels (B, C + 1, t, h, w) of clips that come with the latents of their views; zero for no view."""
    channels = []
    for item, view in zip(items, views, strict=True):
        latent = item["latent"].new_zeros(item["latent"].shape) if view is None else item["known"][FACE_OF[view]]
        cells = mask_cells(view, item["map_size"], video_frames(latent.shape[1]), layout)
        channels.append(torch.cat([latent, cells]))
    return torch.stack(channels)


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
    pin: bool = False,
) -> Iterator[tuple[Batch, Draws]]:
    """This process's part of the endless sequence of batches, read and drawn ahead, from batch number `first` on.

    pin: into pinned memory, for a GPU.

    Raises ValueError or OSError for a clip that cannot be read, and OSError where a worker was killed.
    """
    size = config.batch_size
    joint = enumerate(batches_from(buckets, size * world, config.seed, first, config.image_share), start=first)
    mine = ([(number, index) for index in indices[rank * size : (rank + 1) * size]] for number, indices in joint)
    loader = DataLoader(
        Numbered(clips),
        batch_sampler=mine,
        collate_fn=partial(collate, config=config, rank=rank, world=world),
        num_workers=config.workers,
        worker_init_fn=leave_signals,
        pin_memory=pin,
    )
    try:
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(f"a worker that reads clips was killed; with less memory take fewer workers ({error})") from error


def draw(batch: Batch, config: TrainingConfig, world: int) -> Draws:
    """The batch's random numbers, each a function of the seed, the batch's number and the sample's place in it, so that
    one process with the joint batch draws what several draw together. Noise levels are stratified over all batches of
    an optimiser step."""
    size, seed = len(batch.keys), config.seed
    generators = [generator_for(seed, "sample", batch.number, batch.first + i) for i in range(size)]
    noise = torch.stack([torch.randn(batch.latent.shape[1:], generator=g) for g in generators])
    views = [
        draw_view(config.views, dropout=config.condition_dropout, faces=config.faces, generator=g) for g in generators
    ]
    no_caption = torch.stack([torch.rand((), generator=g) < config.caption_dropout for g in generators])
    step, part = divmod(batch.number, config.accumulation)
    place = {"rank": part * world + batch.first // size, "world": world * config.accumulation}
    sigma = sample_sigmas(size, config.sigmas, config.shift, **place, generator=generator_for(seed, "sigma", step))
    return Draws(noise, sigma, views, no_caption)


Grey = dict[tuple[int, ...], Tensor]


def known_of_batch(
    vae: AutoencoderKLWan, batch: Batch, draws: Draws, layout: str, device: torch.device, grey: Grey
) -> Tensor:
    """The known channels (B, C + 1, t, h, w) of a batch: encoded here, or as the cache has them. grey: what the VAE
    makes of a map of which nothing is known, by the latent's shape; filled here."""
    if batch.known is None:
        assert batch.pixels is not None
        masks = view_masks(draws.views, batch.map_size, layout)
        return known_channels(vae, map_to_video(batch.pixels.to(device)), masks.to(device))
    known = batch.known.to(device, non_blocking=True)
    unknown = [place for place, view in enumerate(draws.views) if view is None]
    if unknown:
        shape = tuple(batch.latent.shape[1:])
        if shape not in grey:
            size = picture_size(layout, batch.map_size)
            grey[shape] = encode_video(vae, torch.zeros(1, 3, video_frames(shape[1]), *size, device=device))[0]
        for place in unknown:
            known[place, :-1] = grey[shape]
    return known


def captions(batch: Batch, dropped: Tensor, empty_text: Tensor) -> Tensor:
    """The batch's text (B, n, d), that of dropped captions (B,) replaced by the empty caption's (512, d)."""
    if batch.text.shape[1] == 1 and not bool(empty_text.any()):
        return batch.text
    text = batch.text.expand(-1, len(empty_text), -1)
    return torch.where(dropped[:, None, None], empty_text.to(text), text)


def model_inputs(
    vae: AutoencoderKLWan,
    batch: Batch,
    draws: Draws,
    empty_text: Tensor,
    layout: str,
    device: torch.device,
    grey: Grey,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Latent, noise, sigma, known channels and text of a batch on the device; `grey` as in `known_of_batch`."""
    parts = (batch.latent, draws.noise, draws.sigma, short_text(captions(batch, draws.no_caption, empty_text)))
    latent, noise, sigma, text = (value.to(device, non_blocking=True) for value in parts)
    return latent, noise, sigma, known_of_batch(vae, batch, draws, layout, device, grey), text


def losses_of(model: nn.Module, latent: Tensor, noise: Tensor, sigma: Tensor, known: Tensor, text: Tensor) -> Tensor:
    """Equation 2 for each sample: (B,)."""
    predicted = predict_velocity(model, add_noise(latent, noise, sigma), known, sigma, text)
    return flow_loss(predicted, velocity(latent, noise))


WAYS_ON = (
    "The last checkpoint is as it was; try a lower learning rate, or leave these clips out: a file clips/NAME.problem "
    "in the cache does that"
)


class BadLossError(RuntimeError):
    """The loss is not a number."""


def check_loss(joint: float, own: Tensor, batch: Batch, step: int) -> None:
    """Raise BadLossError, naming this process's batch and its own loss, unless the joint loss is finite."""
    if not math.isfinite(joint):
        raise BadLossError(
            f"the loss is {joint} at step {step}; this process's own is {float(own):.4g}, of the clips "
            f"{', '.join(batch.keys)}. {WAYS_ON}"
        )


def check_gradient(norm: Tensor, parts: Sequence[Batch], step: int) -> None:
    """Raise BadLossError, naming the batches, unless the joint gradient is finite: it would ruin the weights."""
    if not bool(torch.isfinite(norm)):
        keys = ", ".join(key for batch in parts for key in batch.keys)
        raise BadLossError(
            f"the gradient's norm is {float(norm)} at step {step}; this process's clips were {keys}. {WAYS_ON}"
        )


NO_BITSANDBYTES = "optimizer adamw8bit needs bitsandbytes; install it, or take adamw"


def check_optimizer(name: str) -> None:
    """Raise ValueError where bitsandbytes is asked for and absent."""
    if name == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise ValueError(NO_BITSANDBYTES)


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or Muon over what trains, by name. Raises ValueError where bitsandbytes is asked for and does not load."""
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        return Muon(parameters.items(), **options)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ValueError(f"{NO_BITSANDBYTES} ({error})") from error
        return AdamW8bit(parameters.values(), **options)
    return torch.optim.AdamW(parameters.values(), **options)


def joint_mean(value: Tensor, accelerator: Accelerator) -> Tensor:
    """Mean over all processes."""
    return accelerator.reduce(value.detach().float(), reduction="mean")
