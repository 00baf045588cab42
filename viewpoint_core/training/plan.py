"""What a step trains on, as a function of the seed and the step: batches, random numbers, the learning rate.

Nothing here remembers anything, so a run that was stopped and goes on is the run that was never stopped.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by every part."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def shuffled(items: Sequence[int], generator: torch.Generator) -> list[int]:
    """The items in random order."""
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


def epoch_batches(
    buckets: Mapping[tuple[int, ...], Sequence[int]], size: int, seed: int, epoch: int
) -> list[list[int]]:
    """One pass over all items in batches of `size`, each from one bucket (equal shapes), in random order.

    A bucket's last batch is filled from its start, so that every item comes at least once.
    """
    generator = generator_for(seed, "epoch", epoch)
    batches = []
    for shape in sorted(buckets):
        order = shuffled(buckets[shape], generator)
        for start in range(0, len(order), size):
            batches.append([order[(start + offset) % len(order)] for offset in range(size)])
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def batches_an_epoch(buckets: Mapping[tuple[int, ...], Sequence[int]], size: int) -> int:
    """Batches of `size` in one pass over all items. Raises ValueError where there are none."""
    count = sum(-(-len(items) // size) for items in buckets.values())
    if count == 0:
        raise ValueError("the cache holds no training clips; run python -m viewpoint_core.encode first")
    return count


def batches_from(
    buckets: Mapping[tuple[int, ...], Sequence[int]], size: int, seed: int, first: int
) -> Iterator[list[int]]:
    """The endless sequence of batches over all epochs, from the batch number `first` on."""
    epoch, skip = divmod(first, batches_an_epoch(buckets, size))
    while True:
        yield from epoch_batches(buckets, size, seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def lr_at(step: int, *, lr: float, warmup: int, steps: int, decay: str) -> float:
    """Learning rate of a step, counted from 0: rises over `warmup` steps, then stays, or falls to 0 as a cosine."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if decay == "constant":
        return lr
    done = (step - warmup) / max(1, steps - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
