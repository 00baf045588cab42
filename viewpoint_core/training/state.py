"""Checkpoints to go on from: weights, optimiser and average in sharded safetensors, written whole or not at all; and
weights and average alone, kept for good."""

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

Found = TypeVar("Found")
BASE_CHANNELS = "base_channels"  # of the model, before it was widened, that a LoRA was trained on
CHECKPOINTS, KEPT = "checkpoints", "weights"
FACTS, PARTIAL = "state.json", ".partial"
STEP = re.compile(r"step_\d{8,}")
WAY_ON = "remove that folder, and the same command goes on from the one before"
MODEL, OPTIMIZER, AVERAGE = "model.", "optimizer.", "ema."
FILE_BYTES = 1 << 30  # a process holds a file two or three times while it writes it
OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True, strict=False)


def is_main() -> bool:
    """Whether this process writes what all share."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait_for_all() -> None:
    """A barrier, where there are several processes."""
    if dist.is_initialized():
        dist.barrier()


def collect_weights(model: nn.Module, average: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """What a run has learnt, by name: the weights that train, and their average."""
    weights = {MODEL + name: value for name, value in get_model_state_dict(model, options=OPTIONS).items()}
    return weights | {AVERAGE + name: value for name, value in (average or {}).items()}


def collect_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a run remembers, by name, and the optimiser's settings, which are no tensors."""
    optimizer_state = get_optimizer_state_dict(model, optimizer, options=OPTIONS)
    state = {name: value for name, value in optimizer_state.items() if name.startswith("state.")}
    tensors = collect_weights(model, average)
    tensors |= {OPTIMIZER + name: torch.as_tensor(value) for name, value in state.items()}
    settings = {name: value for name, value in optimizer_state.items() if not name.startswith("state.")}
    return tensors, settings


def quietly(call: Any, *arguments: Any, **options: Any) -> None:
    """Run one of torch's checkpoint calls without its warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        try:
            call(*arguments, no_dist=not dist.is_initialized(), **options)
        except CheckpointException as error:  # a BaseException
            first = next(iter(error.failures.values()))[0]
            raise OSError(f"a checkpoint could not be written or read: {first}") from error


def by_main(call: Callable[[], None]) -> None:
    """Let the main process do something; if it fails there, every process raises the same OSError."""
    problem: list[str | None] = [None]
    if is_main():
        try:
            call()
        except OSError as error:
            problem = [str(error)]
    if dist.is_initialized():
        dist.broadcast_object_list(problem)
    if problem[0] is not None:
        raise OSError(problem[0])


def as_main(look: Callable[[], Found]) -> Found:
    """What the main process finds, in all processes: listings of a shared disk may differ from machine to machine."""
    found: list[Any] = [look() if is_main() else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints below a run's output, the oldest first. Folders of other names are somebody's copies."""
    found = [file.parent for file in (folder / CHECKPOINTS).glob(f"step_*/{FACTS}") if STEP.fullmatch(file.parent.name)]
    return sorted(found, key=lambda checkpoint: int(checkpoint.name.removeprefix("step_")))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none."""
    found = checkpoints(folder)
    return found[-1] if found else None


def file_numbers(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number, from 1, of the file that a tensor goes to: in their order, about FILE_BYTES of what this process
    holds of them to each."""
    numbers: dict[str, int] = {}
    number, filled = 1, 0
    for name, tensor in tensors.items():
        size = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name] = number
        filled += size
    return numbers


def write_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors to a folder, each process its part of those that are sharded, in files that fit into memory."""
    writer = HuggingFaceStorageWriter(
        path=str(folder), fqn_to_index_mapping=file_numbers(tensors), save_distributed=True
    )
    quietly(dcp.save, dict(tensors), storage_writer=writer)


def save_state(output: Path, write: Callable[[Path], None], facts: dict[str, Any], *, step: int, keep: int) -> Path:
    """Have `write` fill a checkpoint, then drop all but the newest `keep`; every process calls it, as `write_whole`."""
    target = write_whole(output / CHECKPOINTS, write, facts, step=step)
    # renamed first: what is left where removing is cut short counts as partial, and goes with the next one
    by_main(lambda: drop([old.replace(partial_folder(old)) for old in checkpoints(output)[:-keep]]))
    return target


def write_whole(parent: Path, write: Callable[[Path], None], facts: dict[str, Any], *, step: int) -> Path:
    """Have `write` fill a folder of this step under a temporary name, and rename it when whole.

    Every process calls it. If it fails (a full disk), the half folder is removed and the older ones stay.
    """
    target = parent / f"step_{step:08}"
    partial = partial_folder(target)
    by_main(lambda: start_partial(partial))
    try:
        write(partial)
        wait_for_all()
        by_main(lambda: publish(partial, target, {**facts, "step": step}))
    except BaseException:
        if is_main():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def partial_folder(target: Path) -> Path:
    """Where a checkpoint lies while it is not whole."""
    return target.with_name(f".{target.name}{PARTIAL}")


def drop(folders: Iterable[Path]) -> None:
    """Remove folders, or links to some; what cannot be removed is logged and stays."""
    for folder in folders:
        try:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        except OSError as error:
            logging.warning("%s could not be removed: %s", folder, error)


def start_partial(partial: Path) -> None:
    """A new empty folder, and none of what killed runs have left beside it."""
    drop(partial.parent.glob(f".step_*{PARTIAL}"))
    partial.mkdir(parents=True)


def publish(partial: Path, target: Path, facts: dict[str, Any]) -> None:
    """Flush a finished folder to the disk and give it its name."""
    (partial / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for file in filter(Path.is_file, partial.rglob("*")):
        with file.open("rb+") as stream:  # Windows flushes no file that is open for reading alone
            os.fsync(stream.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    if os.name != "nt":  # which opens no folders
        parent = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def read_facts(checkpoint: Path, *needed: str) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises ValueError where that is damaged, or one of `needed` is not said."""
    try:
        facts = json.loads((checkpoint / FACTS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not facts.keys() >= set(needed):
            raise ValueError(f"expected {' and '.join(needed)}")
    except ValueError as error:
        raise ValueError(f"{checkpoint} is damaged: {FACTS}: {error}; {WAY_ON}") from error
    return facts


def check_facts(checkpoint: Path, facts: Mapping[str, Any], *needed: str) -> dict[str, Any]:
    """What a checkpoint says. Raises ValueError where it belongs to another model, schedule, mode or optimiser; what it
    does not say, being of an earlier version, is not compared; `needed` is said by all."""
    stored = read_facts(checkpoint, "step", *needed)
    for name, value in facts.items():
        if stored.get(name, value) != value:
            raise ValueError(
                f"{checkpoint} was trained with {name} {stored.get(name)!r}, this run has {value!r}; "
                "choose another output folder, or the settings that it was trained with"
            )
    return stored


def load_state(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor] | None
) -> None:
    """Read a checkpoint into model, optimiser and average, each process its part, whatever their number was. Raises
    ValueError where it is damaged."""
    tensors, settings = collect_tensors(model, optimizer, average)
    missing = sorted(tensors.keys() - stored_tensors(checkpoint, "").keys())
    if missing:
        raise ValueError(f"{checkpoint} is damaged: {missing[0]} and {len(missing) - 1} more are missing; {WAY_ON}")
    quietly(dcp.load, tensors, storage_reader=HuggingFaceStorageReader(path=str(checkpoint)))
    part = {
        prefix: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (MODEL, OPTIMIZER, AVERAGE)
    }
    set_model_state_dict(model, part[MODEL], options=OPTIONS)
    state = part[OPTIMIZER]
    for name, value in get_optimizer_state_dict(model, optimizer, options=OPTIONS).items():
        if name in state and not isinstance(value, Tensor):
            state[name] = type(value)(state[name].item())  # bitsandbytes counts steps in an int
    set_optimizer_state_dict(model, optimizer, state | settings, options=OPTIONS)
    for name, value in part[AVERAGE].items():
        average[name].copy_(value)


def gather_weights(checkpoint: Path, *, average: bool = False) -> dict[str, Tensor]:
    """The full trained weights of a checkpoint, sharded or not, on the CPU: what exports read.

    Raises ValueError where the average is asked for and the run kept none.
    """
    return gather_tensors(checkpoint, AVERAGE if average else MODEL)


def stored_tensors(checkpoint: Path, prefix: str) -> dict[str, Any]:
    """What a checkpoint's headers say of its tensors below a prefix (MODEL, OPTIMIZER or AVERAGE). Raises ValueError
    where one of its files is damaged."""
    try:
        stored = HuggingFaceStorageReader(path=str(checkpoint)).read_metadata().state_dict_metadata
    except SafetensorError as error:
        raise ValueError(f"{checkpoint} is damaged: {error}; {WAY_ON}") from error
    return {name: entry for name, entry in stored.items() if name.startswith(prefix)}


def gather_tensors(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """A checkpoint's tensors below a prefix (MODEL, OPTIMIZER or AVERAGE), whole, on the CPU, without the prefix."""
    stored = stored_tensors(checkpoint, prefix)
    if not stored:
        raise ValueError(f"{checkpoint} holds no {'average (ema)' if prefix == AVERAGE else 'weights'}")
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    quietly(dcp.load, tensors, storage_reader=HuggingFaceStorageReader(path=str(checkpoint)))
    return {name.removeprefix(prefix): value for name, value in tensors.items()}
