"""Processes and devices: accelerate starts them and prepares DeepSpeed; DDP and FSDP2 are torch's own."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

ENGINE = "deepspeed"


def shard_model(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Shard a Wan transformer over all processes, block by block (FSDP2), in place.

    No mixed precision policy: it would round the timesteps; autocast computes in bf16, what is kept stays fp32.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)  # also after a forward pass without a backward


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether `accelerate launch --use_deepspeed` started this process."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def asks_for_deepspeed() -> bool:
    """The same, before there is an accelerator."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def configure_deepspeed(settings: dict[str, Any], *, batch: int, accumulation: int, clip: float, bf16: bool) -> None:
    """Write into DeepSpeed's settings, as accelerate has filled them, what the trainer decides.

    Weights stay float32. Its own bf16, which accelerate switches on, would cast them, and its engine switches off any
    autocast but that of its settings. No module is named whose gradients it may exchange in bf16.
    """
    settings |= {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }
    stages = settings.setdefault("zero_optimization", {})
    stages["stage3_gather_16bit_weights_on_model_save"] = True  # exports read whole weights


def prepare_deepspeed(
    model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, **settings: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimiser in DeepSpeed's engine, which then accumulates, clips and steps itself; settings as in
    `configure_deepspeed`."""
    configure_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config, **settings)
    return accelerator.prepare(model, optimizer)


def check_sharding(sharding: str, processes: int) -> None:
    """Raise ValueError where weights are to be sharded over one process."""
    if sharding == "fsdp2" and processes == 1:
        raise ValueError(
            "sharding is fsdp2 but there is one process; start several with accelerate launch (--dry-run 8 foretells 8)"
        )


def distribute(model: nn.Module, accelerator: Accelerator, sharding: str) -> nn.Module:
    """The model on its device, sharded or replicated where there are several processes."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"accelerate launch asks for {accelerator.distributed_type.value}; launch with --multi_gpu instead, and "
            "set sharding to fsdp2"
        )
    check_sharding(sharding, accelerator.num_processes)
    if sharding == "fsdp2":
        return shard_model(model, accelerator.device, accelerator.num_processes)
    model.to(accelerator.device)
    if accelerator.num_processes > 1:
        devices = [accelerator.device.index] if accelerator.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    return model


def end_processes() -> None:
    """Leave the processes' group, once the model is let go: the group's threads end with it.

    A thread may be waiting for Python's lock, to drop the tensors of the last exchange. The group gives the lock away
    while it waits for its threads; DDP's reducer, where it is the last to hold the group, does not, and waits for ever.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def write_deepspeed(engine: nn.Module, accelerator: Accelerator, prefix: str, folder: Path) -> None:
    """DeepSpeed's own checkpoint, and beside it the trained weights, which exports read."""
    engine.save_checkpoint(str(folder), tag=ENGINE)
    write_weights(engine, accelerator, prefix, folder)


def write_weights(engine: nn.Module, accelerator: Accelerator, prefix: str, folder: Path) -> None:
    """The trained weights of DeepSpeed's engine, whole, as safetensors."""
    trained = {name.removeprefix("module.") for name, weight in engine.named_parameters() if weight.requires_grad}
    weights = accelerator.get_state_dict(engine)
    if accelerator.is_main_process:
        named = {
            prefix + name: weight.detach().cpu().contiguous() for name, weight in weights.items() if name in trained
        }
        save_file(named, folder / "weights.safetensors")


def load_deepspeed(engine: nn.Module, folder: Path) -> None:
    """Go on from DeepSpeed's own checkpoint. Raises ValueError where the folder holds none."""
    if not (folder / ENGINE).is_dir():
        raise ValueError(f"{folder} was not written under DeepSpeed; go on with the launcher that it was trained with")
    engine.load_checkpoint(str(folder), tag=ENGINE)


@contextmanager
def gradients_shared(model: nn.Module, last: bool) -> Iterator[None]:
    """Under DDP, exchange gradients between processes only in the last batch of a step. Under FSDP2 every batch does:
    unshared gradients would be whole ones."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield
