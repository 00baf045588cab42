"""What a run would train and need, and whether it would be refused, before any of the model's weights are read."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from diffusers import WanTransformer3DModel

from ..checkpoint import PATCH_EMBEDDING, read_checkpoint
from ..wan_attention import format_schedule
from .config import TrainingConfig
from .data.cache import CachedClips
from .loop import check_optimizer
from .lora import lora_parameters
from .memory import GB, GIB, ModelSize, disk_space, step_memory
from .parallel import asks_for_deepspeed, check_sharding
from .plan import batches_an_epoch
from .run import check_deepspeed, model_facts, open_cache, starting_lora
from .state import FILE_BYTES, check_facts, newest_checkpoint
from .wan import check_compiler, plan_transformer, set_blocks, transformer_config, transformer_source

WRITING = 3  # times a file of a checkpoint is in memory: as tensors from the GPU, each as bytes, and all as one
DEEPSPEED = (
    "memory is counted as if each process held all; ZeRO parts the optimiser over the processes from stage 1 on, "
    "gradients from 2, weights at 3"
)
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # a weight; nearly all are matrices


def check_run(config: TrainingConfig, processes: int) -> tuple[WanTransformer3DModel, CachedClips]:
    """The model, without weights, and the training clips. Raises ValueError where `train` would refuse to start."""
    check_optimizer(config.optimizer)
    clips, _ = open_cache(config)  # made with this very VAE
    clips.empty_text()
    model = plan_transformer(Path(config.model), config.schedule)
    starting_lora(config)
    if asks_for_deepspeed():
        check_deepspeed(config)
    else:
        check_sharding(config.sharding, processes)
    if config.compile:
        check_compiler(PartialState().device)
    going_on = newest_checkpoint(Path(config.output))
    if going_on:
        check_facts(going_on, model_facts(model, config, clips.fingerprint))
    return model, clips


def estimate(config: TrainingConfig, processes: int = 0) -> dict[str, Any]:
    """What would be trained, and what it needs, on so many processes; 0: this run's. Reads headers, and the VAE for its
    hash. Raises ValueError where `train` would refuse to start."""
    processes = processes or PartialState().num_processes
    if processes < 0:
        raise ValueError(f"--dry-run is {processes}; expected a number of processes")
    model, clips = check_run(config, processes)
    shape, stored = model.config, read_checkpoint(transformer_source(Path(config.model)))[0]
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = parameters if config.mode == "full" else lora_parameters(model, config.lora_rank)
    buckets = clips.buckets()
    epoch = batches_an_epoch(buckets, config.batch_size * processes, config.image_share)
    t, h, w = max(buckets, key=lambda size: size[0] * size[1] * size[2])
    dim = shape["num_attention_heads"] * shape["attention_head_dim"]
    size = ModelSize(parameters, trained, dim, shape["ffn_dim"], shape["num_layers"], t * h * w // 4)
    return {
        "model": {name: shape[name] for name in transformer_config(stored, Path(config.model))},
        "widened": f"{stored[PATCH_EMBEDDING].shape[1]} -> {shape['in_channels']} channels",
        "perspective blocks": format_schedule(set_blocks(model)),
        "parameters": parameters,
        "trained": trained,
        "clips": {" x ".join(map(str, key)): len(items) for key, items in buckets.items()},
        "broken clips, left out": len(clips.broken),
        "epochs": three_digits(config.steps * config.accumulation / epoch),
        "tokens": size.tokens,
        "processes": processes,
        **({"DeepSpeed": DEEPSPEED} if asks_for_deepspeed() else {}),
        **needs(config, size, processes),
    }


def needs(config: TrainingConfig, size: ModelSize, processes: int) -> dict[str, dict[str, float]]:
    """What a run takes of a GPU, of its machine's memory, and of the disk."""
    base_bytes = 4 if config.base_dtype == "fp32" else 2
    shards = processes if config.sharding == "fsdp2" else 1
    state = {"optimizer_bytes": OPTIMIZER_BYTES[config.optimizer], "ema": config.ema > 0}
    memory = step_memory(
        size,
        batch=config.batch_size,
        base_bytes=base_bytes,
        autocast=config.precision == "bf16",
        checkpointing=config.gradient_checkpointing,
        shards=shards,
        **state,
    )
    kept = config.steps // config.keep_every if config.keep_every else 0
    disk = disk_space(size.trained, keep=config.keep, kept=kept, **state)
    written = disk["a checkpoint"] * GB / shards
    return {
        "GiB a process, without the VAE": {name: round(value, 2) for name, value in memory.items()},
        "GiB of the machine's own memory a process": {
            "loading the model": three_digits(size.parameters * base_bytes / GIB),
            "writing a checkpoint": three_digits(WRITING * min(FILE_BYTES, written) / GIB),
        },
        "GB on disk": {name: three_digits(value) for name, value in disk.items()},
    }


def three_digits(value: float) -> float:
    """A number rounded to three digits that count."""
    return float(f"{value:.3g}")
