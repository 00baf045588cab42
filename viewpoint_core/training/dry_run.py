"""What a run would train and need, from the headers of its files alone."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from ..checkpoint import PATCH_EMBEDDING, read_checkpoint
from ..wan_attention import format_schedule, perspective_blocks
from .cache import CachedClips
from .config import TrainingConfig
from .lora import patch_rank
from .memory import ModelSize, step_memory
from .wan import empty_transformer, transformer_config, transformer_source

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # a weight; nearly all are matrices


def estimate(config: TrainingConfig) -> dict[str, Any]:
    """What would be trained, and what it needs, from the headers of the files alone."""
    source = transformer_source(Path(config.model))
    stored, _ = read_checkpoint(source)
    shape = transformer_config(stored, source)
    shape["in_channels"] = 2 * shape["out_channels"] + 1
    blocks = perspective_blocks(config.schedule, shape["num_layers"])
    model = empty_transformer(shape)
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = parameters if config.mode == "full" else lora_parameters(model, config.lora_rank)
    clips = CachedClips(Path(config.cache), split="train")
    buckets = clips.buckets()
    if not buckets:
        raise ValueError(f"{config.cache} holds no training clips; run python -m viewpoint_core.encode first")
    t, h, w = max(buckets, key=lambda size: size[0] * size[1] * size[2])
    dim = shape["num_attention_heads"] * shape["attention_head_dim"]
    size = ModelSize(parameters, trained, dim, shape["ffn_dim"], shape["num_layers"], t * h * w // 4)
    memory = step_memory(
        size,
        batch=config.batch_size,
        base_bytes=4 if config.base_dtype == "fp32" else 2,
        optimizer_bytes=OPTIMIZER_BYTES[config.optimizer],
        ema=config.ema > 0,
        autocast=config.precision == "bf16",
        checkpointing=config.gradient_checkpointing,
        shards=PartialState().num_processes if config.sharding == "fsdp2" else 1,
    )
    return {
        "model": shape,
        "widened": f"{stored[PATCH_EMBEDDING].shape[1]} -> {shape['in_channels']} channels",
        "perspective blocks": format_schedule(blocks),
        "parameters": parameters,
        "trained": trained,
        "clips": {" x ".join(map(str, key)): len(items) for key, items in buckets.items()},
        "tokens": size.tokens,
        "processes": PartialState().num_processes,
        "GiB a process, without the VAE": {name: round(value, 2) for name, value in memory.items()},
    }


def lora_parameters(model: nn.Module, rank: int) -> int:
    """Parameters of a LoRA of this rank on attention and feed-forward linears, and of the patch embedding's change."""
    linears = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and (".attn" in name or ".ffn" in name)
    ]
    return sum(rank * (m.in_features + m.out_features) for m in linears) + (
        patch_rank(model) * model.patch_embedding.out_channels
    )
