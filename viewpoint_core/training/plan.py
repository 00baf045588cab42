"""What a step trains on, as a function of the seed and the step: batches, random numbers, the learning rate.

Nothing here remembers anything, so a run that was stopped and goes on is the run that was never stopped.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor

import torch

Buckets = Mapping[tuple[int, ...], Sequence[int]]  # clips by their latents' shape (t, h, w), as a cache lists them
ALL_IMAGES = -1.0  # as a share: as many as the cache has


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by every part."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def shuffled(items: Sequence[int], generator: torch.Generator) -> list[int]:
    """The items in random order."""
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


def one_pass(buckets: Buckets, size: int, generator: torch.Generator) -> list[list[int]]:
    """All items once, in batches of `size`, each from one bucket (equal shapes), in random order.

    A bucket's last batch is filled from its start, so that every item comes at least once.
    """
    batches = []
    for shape in sorted(buckets):
        order = shuffled(buckets[shape], generator)
        for start in range(0, len(order), size):
            batches.append([order[(start + offset) % len(order)] for offset in range(size)])
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def count_batches(buckets: Buckets, size: int) -> int:
    """Batches of one pass."""
    return sum(-(-len(items) // size) for items in buckets.values())


def divided(buckets: Buckets, image_share: float) -> tuple[Buckets, Buckets]:
    """Buckets (t, h, w) of what an epoch passes over, and of the images that are mixed in by a share, if any are."""
    images = {shape: items for shape, items in buckets.items() if shape[0] == 1}
    if image_share == ALL_IMAGES or not 0 < len(images) < len(buckets):
        return buckets, {}
    return {shape: items for shape, items in buckets.items() if shape not in images}, images


def epoch_length(buckets: Buckets, size: int, image_share: float) -> Fraction:
    """Batches of an epoch in the mean: a whole number, but for one with a share of images. Raises ValueError where
    there are none."""
    items, images = divided(buckets, image_share)
    share = Fraction(image_share).limit_denominator(10**6) if images else Fraction(0)  # 0.2 is a fifth
    length = count_batches(items, size) / (1 - share)
    if length == 0:
        raise ValueError("the cache holds no training clips; run python -m viewpoint_core.encode first")
    return length


def mixed_in(images: Buckets, size: int, seed: int, first: int, count: int) -> list[list[int]]:
    """`count` batches from number `first` on of an endless sequence of passes over the images."""
    length = count_batches(images, size)
    rounds = range(first // length, -(-(first + count) // length))
    batches = [batch for number in rounds for batch in one_pass(images, size, generator_for(seed, "images", number))]
    skip = first % length
    return batches[skip : skip + count]


def epoch_batches(
    buckets: Buckets, size: int, seed: int, epoch: int, image_share: float = ALL_IMAGES
) -> list[list[int]]:
    """One pass over all items, as `one_pass` makes it; with an image_share in [0, 1) over all videos, and so many
    images among them that they are this part of the batches, the next ones in every epoch; what is less than a batch
    is carried over to the next epoch."""
    generator = generator_for(seed, "epoch", epoch)
    items, images = divided(buckets, image_share)
    batches = one_pass(items, size, generator)
    if not images:
        return batches
    length, videos = epoch_length(buckets, size, image_share), len(batches)
    first, after = (floor(number * length) - number * videos for number in (epoch, epoch + 1))
    batches += mixed_in(images, size, seed, first, after - first)
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def batches_an_epoch(buckets: Buckets, size: int, image_share: float = ALL_IMAGES) -> float:
    """How many batches of `size` `epoch_batches` gives, in the mean of all epochs. Raises ValueError where there are
    none."""
    return float(epoch_length(buckets, size, image_share))


def batches_from(
    buckets: Buckets, size: int, seed: int, first: int, image_share: float = ALL_IMAGES
) -> Iterator[list[int]]:
    """The endless sequence of batches over all epochs, from the batch number `first` on."""
    length = epoch_length(buckets, size, image_share)
    epoch = ceil((first + 1) / length) - 1  # the last one that begins, at floor(epoch * length), by then
    skip = first - floor(epoch * length)
    while True:
        yield from epoch_batches(buckets, size, seed, epoch, image_share)[skip:]
        epoch, skip = epoch + 1, 0


def lr_at(step: int, *, lr: float, warmup: int, steps: int, decay: str) -> float:
    """Learning rate of a step, counted from 0: rises over `warmup` steps, then stays, or falls to 0 as a cosine."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if decay == "constant":
        return lr
    done = (step - warmup) / max(1, steps - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
