"""An estimate of what a training step and its checkpoints need, before any weight is read."""

from dataclasses import dataclass

GB, GIB = 10**9, 1 << 30
# Bytes a token and width that one block saves for its backward pass, by (all of it trains, autocast), and beside them
# FEED_FORWARD values a token and feed-forward width; measured on a CPU, where they are exactly linear in both.
BLOCK_BYTES = {(True, True): 72, (True, False): 92, (False, True): 55, (False, False): 66}
FEED_FORWARD = 2
OUTSIDE_BYTES = 14  # the same of embedding and head, once


@dataclass(frozen=True)
class ModelSize:
    """What the estimate rests on: parameters in all and trained, width, feed-forward width, blocks, and tokens."""

    parameters: int
    trained: int
    dim: int
    ffn_dim: int
    blocks: int
    tokens: int


def step_memory(
    size: ModelSize,
    *,
    batch: int,
    base_bytes: int,
    optimizer_bytes: int,
    ema: bool,
    autocast: bool,
    checkpointing: bool,
    shards: int = 1,
) -> dict[str, float]:
    """GiB a process: weights, gradients, optimiser, average, activations, and the most that there is at a time.

    Weights that train are fp32 with fp32 gradients. With gradient checkpointing every block keeps its input and one
    block its inside; without, all blocks keep theirs. AdamW's step, when activations are gone, needs a value for each
    weight that trains besides.
    """
    full, width = size.trained == size.parameters, 2 if autocast else 4
    frozen = 0 if full else size.parameters
    inside = size.tokens * (BLOCK_BYTES[full, autocast] * size.dim + FEED_FORWARD * width * size.ffn_dim)
    kept = size.tokens * size.dim * width * size.blocks
    outside = size.tokens * OUTSIDE_BYTES * size.dim
    activations = batch * (outside + (kept + inside if checkpointing else inside * size.blocks))
    copies = size.trained * 2 * autocast
    if shards > 1:  # not kept: one gathered block and the next, in fp32, and the copy in use
        copies = (2 * 4 + 2) * size.parameters / size.blocks
    parts = {
        "weights": (frozen * base_bytes + size.trained * 4) / shards,
        "gradients": size.trained * 4 / shards,
        "optimiser": size.trained * optimizer_bytes / shards,
        "average": size.trained * 4 * ema / shards,
        "autocast copies": copies,
        "activations": activations,
    }
    lasting = sum(value for name, value in parts.items() if name not in ("autocast copies", "activations"))
    passing = max(copies + activations, size.trained * 4 / shards)
    return {name: value / GIB for name, value in (parts | {"in all": lasting + passing}).items()}


def disk_space(trained: int, *, optimizer_bytes: int, ema: bool, keep: int, kept: int) -> dict[str, float]:
    """GB on disk: one checkpoint, of as many fp32 weights as train; the newest `keep` and the one that is being
    written; one of the weights that are kept for good, all `kept` of them; and the most there is at a time."""
    weights = trained * 4 * (1 + ema)
    checkpoint = weights + trained * optimizer_bytes
    parts = {
        "a checkpoint": checkpoint,
        f"the newest {keep} and one being written": (keep + 1) * checkpoint,
        "trained weights alone": weights,
        f"those that are kept, {kept}": kept * weights,
    }
    parts = {name: value / GB for name, value in parts.items()}
    return parts | {"in all": ((keep + 1) * checkpoint + kept * weights) / GB}
