"""Trained models as files that ComfyUI loads, and back: python -m viewpoint_core.export checkpoint|lora|diffusers."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import (
    METADATA_BLOCKS,
    METADATA_IN_DIM,
    check_target,
    checkpoint_files,
    original_key,
    read_checkpoint,
    schedule_from_metadata,
    viewpoint_metadata,
)
from .replacing import replace_text
from .safetensors_file import read_header
from .training.lora import COMFY_PREFIX, LORA_ALPHA, LORA_BASE, PATCH, comfy_lora
from .training.state import AVERAGE, BASE_CHANNELS, FACTS, gather_weights, newest_checkpoint, read_facts, stored_tensors
from .training.wan import empty_transformer, transformer_config, transformer_source
from .training.weights import LazyTensor, lazy, lazy_stored, listed, read_tensors, write_safetensors
from .wan_attention import format_schedule, perspective_blocks

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "keep": None}
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"


def checkpoint_tensors(
    state: Mapping[str, Tensor], dtype: torch.dtype | None = torch.bfloat16
) -> dict[str, LazyTensor]:
    """A full model's state dict (diffusers names) as ComfyUI's original single file has it."""
    return {original_key(name): lazy(tensor, dtype) for name, tensor in state.items()}


def lora_tensors(
    state: Mapping[str, Tensor], alpha: float, dtype: torch.dtype | None = torch.bfloat16
) -> dict[str, LazyTensor]:
    """A LoRA's state (as `training.lora.lora_state` names it) in ComfyUI's keys; weights in `dtype`."""
    tensors = comfy_lora(state, alpha)
    weights = {name for name, tensor in tensors.items() if tensor.ndim > 1}
    return {name: lazy(tensor, dtype if name in weights else None) for name, tensor in tensors.items()}


def lora_channels(tensors: Mapping[str, LazyTensor]) -> int:
    """Input channels that a LoRA in ComfyUI's keys widens the patch embedding to."""
    return tensors[f"{COMFY_PREFIX}{PATCH}.lora_down.weight"].shape[1]


def trainer_checkpoint(source: Path) -> Path | None:
    """The checkpoint of the trainer that a folder is, or the newest one in a run's output folder; None for others."""
    return source if (source / FACTS).is_file() else newest_checkpoint(source)


def trainer_weights(checkpoint: Path, mode: str, average: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a run of this mode ("full" or "lora") has trained, under diffusers names, and its metadata."""
    facts = read_facts(checkpoint, "mode", METADATA_BLOCKS)
    if facts["mode"] != mode:
        raise ValueError(f"{checkpoint} is of a run in mode {facts['mode']}; this exports what mode {mode} trains")
    metadata = {METADATA_BLOCKS: facts[METADATA_BLOCKS]}
    if mode == "lora":
        metadata[LORA_ALPHA] = str(facts["lora_alpha"])
        if BASE_CHANNELS in facts:  # checkpoints of earlier versions do not say
            metadata[LORA_BASE] = str(facts[BASE_CHANNELS])
    return gather_weights(checkpoint, average=average), metadata


def keeps_average(source: Path) -> bool:
    """Whether a source is the trainer's and holds an average, which its samples and held-out losses were made with."""
    checkpoint = trainer_checkpoint(source)
    return checkpoint is not None and bool(stored_tensors(checkpoint, AVERAGE))


def no_average(source: Path, average: bool) -> None:
    """Raise ValueError where an average is asked of a source that is no checkpoint of the trainer."""
    if average:
        raise ValueError(f"{source} is no checkpoint of the trainer, so it has no average (--ema)")


def read_model(
    source: Path, dtype: torch.dtype | None, average: bool
) -> tuple[dict[str, LazyTensor], dict[str, str], dict[str, Any]]:
    """A full model's tensors under original names, its metadata, and its configuration.

    `source` is a trainer's checkpoint or run, a diffusers folder or a single file. Raises ValueError unless it holds
    exactly a Wan2.1 text-to-video model.
    """
    checkpoint = trainer_checkpoint(source)
    if checkpoint is not None:
        weights, metadata = trainer_weights(checkpoint, "full", average)
        tensors = checkpoint_tensors(weights, dtype)
    else:
        no_average(source, average)
        stored, metadata = read_checkpoint(transformer_source(source))
        tensors = {name: lazy_stored(tensor, dtype) for name, tensor in stored.items()}
    config = transformer_config(tensors, source)
    other = sorted(original_names(config).keys() ^ tensors.keys())
    if other:
        raise ValueError(f"{source} is not a Wan2.1 text-to-video model: {listed(other)} missing or unknown")
    return tensors, metadata, config


def original_names(config: dict[str, Any]) -> dict[str, str]:
    """A model's tensors: original name -> diffusers name."""
    return {original_key(name): name for name in empty_transformer(config).state_dict()}


def chosen_schedule(metadata: dict[str, str], schedule: str | None, layers: int, source: Path) -> tuple[int, ...]:
    """The Perspective blocks: as stored, or as asked for. Raises ValueError where they differ or nobody says."""
    stored = schedule_from_metadata(metadata)
    if stored is None and schedule is None:
        raise ValueError(f"{source} does not say which blocks are Perspective; pass --schedule")
    blocks = perspective_blocks(schedule if stored is None else stored, layers)
    if schedule is not None and perspective_blocks(schedule, layers) != blocks:
        raise ValueError(
            f"{source} was trained with the Perspective blocks {format_schedule(blocks)}, not {schedule!r}"
        )
    return blocks


def export_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    schedule: str | None = None,
    average: bool = False,
) -> Iterator[int]:
    """A trained full model, from where `read_model` takes it -> ComfyUI's single file; yields the bytes written.

    Raises ValueError for a model that is not widened to 2 C + 1 channels, and as `chosen_schedule` does.
    """
    tensors, metadata, config = read_model(source, dtype, average)
    channels, wanted = config["in_channels"], 2 * config["out_channels"] + 1
    if channels != wanted:
        raise ValueError(f"{source} takes {channels} channels; a ViewPoint model takes {wanted}")
    blocks = chosen_schedule(metadata, schedule, config["num_layers"], source)
    yield from write_safetensors(tensors, metadata | viewpoint_metadata(blocks, channels), target)


def read_lora(source: Path, average: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A trained LoRA under diffusers names and its metadata, from a trainer's checkpoint or run, or a safetensors file
    that has the names of `training.lora.lora_state`."""
    checkpoint = trainer_checkpoint(source)
    if checkpoint is not None:
        return trainer_weights(checkpoint, "lora", average)
    no_average(source, average)
    return read_tensors(checkpoint_files(source))


def export_lora(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    schedule: str | None = None,
    average: bool = False,
    alpha: float | None = None,
) -> Iterator[int]:
    """A trained LoRA, from where `read_lora` takes it -> ComfyUI's keys; yields the bytes written.

    alpha and schedule are for sources that do not say them. Raises ValueError for anything else.
    """
    state, metadata = read_lora(source, average)
    stored = float(metadata[LORA_ALPHA]) if LORA_ALPHA in metadata else alpha
    if stored is None:
        raise ValueError(f"{source} does not say its alpha; pass --alpha")
    if alpha not in (None, stored):
        raise ValueError(f"{source} was trained with alpha {stored:g}, not {alpha:g}")
    alpha = stored
    tensors = lora_tensors(state, alpha, dtype)
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    blocks = chosen_schedule(metadata, schedule, layers, source)
    base = {LORA_BASE: metadata[LORA_BASE]} if LORA_BASE in metadata else {}
    yield from write_safetensors(tensors, lora_metadata(blocks, lora_channels(tensors), alpha) | base, target)


def lora_metadata(blocks: tuple[int, ...], channels: int, alpha: float) -> dict[str, str]:
    """Metadata of a LoRA's file, in the trainer's naming or ComfyUI's."""
    return viewpoint_metadata(blocks, channels) | {LORA_ALPHA: str(alpha)}


def export_diffusers(
    source: Path,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    schedule: str | None = None,
    average: bool = False,
) -> Iterator[int]:
    """A ComfyUI (or original) single file -> a diffusers folder that training continues from; yields bytes written.

    The schedule, stored or passed, is kept in the weights' metadata; a stock model needs none.
    """
    tensors, metadata, config = read_model(source, dtype, average)
    if schedule is not None or schedule_from_metadata(metadata) is not None:
        blocks = chosen_schedule(metadata, schedule, config["num_layers"], source)
        metadata = metadata | viewpoint_metadata(blocks, config["in_channels"])
    names = original_names(config)
    renamed = {names[key]: tensor for key, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    yield from write_safetensors(renamed, {"format": "pt", **metadata}, folder / WEIGHTS)
    replace_text(folder / CONFIG, empty_transformer(config).to_json_string())


def add_command(commands: argparse._SubParsersAction, name: str, summary: str, target: str, dtype: str) -> None:
    """One subcommand with the options that all have."""
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("source", type=Path, help="the trainer's output folder or a checkpoint in it, or weights")
    parser.add_argument("target", type=Path, help=target)
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"of the weights; default {dtype}")
    parser.add_argument("--schedule", help="Perspective blocks, where the source does not say: alternating, 1,3,8-11")
    parser.add_argument("--ema", action="store_true", help="the average of the weights, where the trainer kept one")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")
    if name == "lora":
        parser.add_argument("--alpha", type=float, help="the LoRA's alpha, where the source does not say")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m viewpoint_core.export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_command(
        commands, "checkpoint", "full model -> ComfyUI's single file", "file to write, .safetensors", "bfloat16"
    )
    add_command(commands, "lora", "LoRA -> ComfyUI's keys", "file to write, .safetensors", "bfloat16")
    add_command(commands, "diffusers", "ComfyUI's single file -> diffusers folder", "folder to write into", "keep")
    return parser.parse_args(arguments)


def target_file(options: argparse.Namespace) -> Path:
    """The file that will be written."""
    return options.target / WEIGHTS if options.command == "diffusers" else options.target


def start(options: argparse.Namespace) -> Iterator[int]:
    """The chosen export, not yet begun."""
    common = {"dtype": DTYPES[options.dtype], "schedule": options.schedule, "average": options.ema}
    if options.command == "lora":
        return export_lora(options.source, options.target, alpha=options.alpha, **common)
    exports: dict[str, Callable[..., Iterator[int]]] = {"checkpoint": export_checkpoint, "diffusers": export_diffusers}
    return exports[options.command](options.source, options.target, **common)


def warn_of_base(file: Path) -> None:
    """Say so where a LoRA was trained on a ViewPoint model, and not on a stock one."""
    metadata = read_header(file)[1]
    if metadata.get(LORA_BASE) == metadata[METADATA_IN_DIM]:
        print(
            "export: this LoRA was trained on a ViewPoint model and belongs on that checkpoint, not on a stock one",
            file=sys.stderr,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 with a message on bad input, 130 where it is stopped."""
    options = parse_arguments(arguments)
    try:
        check_target(target_file(options), replace=options.force)
        if options.command != "diffusers" and not options.target.parent.is_dir():
            raise ValueError(f"{options.target}: there is no folder {options.target.parent}")
        with tqdm(unit="B", unit_scale=True, desc=options.command) as bar:
            for done in start(options):
                bar.update(done - bar.n)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("export: stopped; nothing is written", file=sys.stderr)
        return 130
    if options.command == "lora":
        warn_of_base(options.target)
    if not options.ema and keeps_average(options.source):
        print(
            "export: these are the last weights; the run's samples and held-out losses are of the average (--ema)",
            file=sys.stderr,
        )
    print(options.target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
