"""Processes and devices: accelerate starts them; DDP and DeepSpeed are accelerate's, FSDP2 is torch's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def shard_model(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Shard a Wan transformer over all processes, block by block (FSDP2), in place.

    No mixed precision policy: it would round the timesteps; autocast computes in bf16, what is kept stays fp32.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def distribute(model: nn.Module, accelerator: Accelerator, sharding: str) -> nn.Module:
    """The model on its device, sharded or replicated where there are several processes."""
    model.to(accelerator.device)
    if sharding == "fsdp2":
        if accelerator.num_processes == 1:
            raise ValueError("sharding is fsdp2 but there is one process; start several with accelerate launch")
        return shard_model(model, accelerator.device, accelerator.num_processes)
    if accelerator.num_processes > 1:
        devices = [accelerator.device.index] if accelerator.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """The transformer inside DDP; FSDP2 wraps nothing."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def gradients_shared(model: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients between processes only in the last batch of a step."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
    yield


def full_value(tensor: Tensor) -> Tensor:
    """A tensor, gathered if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
