"""The training's settings: one flat YAML file, every key also a flag, unknown keys refused with the nearest one."""

import argparse
import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..choices import check_choice
from ..cubemap import FACES
from ..wan_attention import PANO
from .flow_matching import fixed_sigmas
from .layouts import LAYOUTS, VIEWPOINT
from .plan import ALL_IMAGES

PRESETS = Path(__file__).parent / "presets"
REQUIRED = ("model", "vae", "cache", "output")


def setting(default: Any, text: str, *choices: str) -> Any:
    """A field with its help and, for some, the values it may take."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class TrainingConfig:
    """All settings. Paths are strings as written; relative ones start at the working directory."""

    model: str = setting("", "Wan2.1 text-to-video weights: a diffusers folder, or an original or ComfyUI file")
    vae: str = setting("", "Wan2.1 VAE: a diffusers folder, or an original or ComfyUI file")
    cache: str = setting("", "folder that python -m viewpoint_core.encode wrote")
    output: str = setting("", "folder for checkpoints, samples and logs; a run that lies there goes on")
    mode: str = setting(
        "full", "full: fine-tune everything; lora: attention, feed-forward and patch embedding", "full", "lora"
    )
    schedule: str = setting("alternating", "Perspective blocks: alternating, pano, perspective, or 1,3,8-11")
    layout: str = setting(
        VIEWPOINT, "picture of the panorama, as the cache has it; erp and cubemap are there to compare", *LAYOUTS
    )
    lora_rank: int = setting(64, "rank of the LoRA")
    lora: str = setting("", "ComfyUI LoRA, as export wrote it, to start from in lora mode")
    lora_alpha: float = setting(64.0, "the LoRA's change is scaled by alpha / rank")
    base_dtype: str = setting(
        "fp32", "dtype of frozen weights in lora mode; a full fine-tune keeps fp32", "fp32", "bf16"
    )
    steps: int = setting(20_000, "optimiser steps")
    batch_size: int = setting(1, "clips a step on each process, before accumulation")
    image_share: float = setting(
        ALL_IMAGES, "part of the batches that are of images, where there are videos too; -1: as many as the cache has"
    )
    accumulation: int = setting(1, "batches whose gradients are summed to one step")
    optimizer: str = setting(
        "adamw",
        "adamw; adamw8bit by bitsandbytes; muon for the blocks' matrices and adamw for the rest",
        "adamw",
        "adamw8bit",
        "muon",
    )
    lr: float = setting(1e-4, "learning rate; the paper's")
    warmup: int = setting(0, "steps over which the learning rate rises from 0")
    decay: str = setting("constant", "the learning rate after the warm-up; cosine falls to 0", "constant", "cosine")
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    beta1: float = setting(0.9, "AdamW's first beta")
    beta2: float = setting(0.999, "AdamW's second beta")
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip")
    ema: float = setting(0.0, "decay of the exponential moving average of what trains, such as 0.999; 0 keeps none")
    precision: str = setting("bf16", "bf16: autocast; fp32: none", "bf16", "fp32")
    vae_dtype: str = setting("fp32", "dtype of the VAE, which encodes the known view in every step", "fp32", "bf16")
    gradient_checkpointing: bool = setting(True, "recompute blocks in the backward pass instead of keeping them")
    compile: bool = setting(
        False, "compile each block before its first use: minutes once, then shorter steps; needs a compiler"
    )
    replay: bool = setting(
        False,
        "record a step's passes on the GPU and replay them: for models so small that starting kernels takes longer",
    )
    sharding: str = setting(
        "none", "none: DDP where there are several processes; fsdp2: shard weights over them", "none", "fsdp2"
    )
    sigmas: str = setting("logit_normal", "distribution of noise levels", "logit_normal", "uniform")
    shift: float = setting(5.0, "flow shift of the noise levels; above 1: more noise")
    views: str = setting(
        "paper",
        "known view: paper (90-degree face views) or wide (as phones see, level and upright, in any direction)",
        "paper",
        "wide",
    )
    faces: str = setting("FRBL", "faces that the paper's views are drawn from, of FRBLUD")
    caption_dropout: float = setting(0.1, "part of the samples whose caption is empty")
    condition_dropout: float = setting(0.1, "part of the samples with no known view (text to panorama)")
    seed: int = setting(0, "every random number follows from it and from the step")
    workers: int = setting(2, "processes that read the cache ahead; 0 reads in the training process")
    log_every: int = setting(10, "steps between lines of the log")
    heldout_every: int = setting(500, "steps between held-out losses; 0: never")
    heldout_clips: int = setting(8, "held-out clips that the loss is measured on, of images and videos alike")
    heldout_levels: int = setting(4, "fixed noise levels that it is measured at")
    sample_every: int = setting(1000, "steps between sample videos; 0: never")
    sample_steps: int = setting(30, "denoising steps of a sample")
    sample_cfg: float = setting(5.0, "guidance of a sample")
    sample_clips: int = setting(1, "held-out clips that samples are made of, the longest first")
    save_every: int = setting(500, "steps between checkpoints")
    keep: int = setting(3, "checkpoints to keep, the newest")
    keep_every: int = setting(0, "steps between trained weights that are kept for good, without optimiser; 0: never")


FIELDS = {item.name: item for item in fields(TrainingConfig)}


def parse_value(name: str, value: Any) -> Any:
    """A value from YAML or the command line as its field's type. Raises ValueError for what does not fit."""
    default, choices = FIELDS[name].default, FIELDS[name].metadata["choices"]
    kind = type(default)
    text = str(value).strip()
    try:
        if kind is bool:
            parsed = {"true": True, "false": False}[text.lower()]
        elif kind is int and not isinstance(value, bool):
            parsed = int(text.replace("_", ""))
        elif kind is float and not isinstance(value, bool):
            parsed = float(text)
        elif kind is str and isinstance(value, (str, int)) and not isinstance(value, bool):
            parsed = text
        else:
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {value!r}; expected {kind.__name__}: {FIELDS[name].metadata['help']}") from None
    if choices:
        check_choice(parsed, choices, name)
    return parsed


def check_keys(keys: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for a key that does not exist, with the nearest that does."""
    for key in keys:
        if key not in FIELDS:
            near = difflib.get_close_matches(str(key), FIELDS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{source}: there is no key {key!r}{hint}")


class OneOfEach(yaml.SafeLoader):
    """Reads YAML as safe_load does, and refuses a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises YAMLError for a key that was there before."""
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_file(file: Path) -> dict[str, Any]:
    """The keys of a flat YAML file. Raises ValueError for nested or unknown ones."""
    try:
        content = OneOfEach(file.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML in UTF-8: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected 'key: value' lines, got a {type(content).__name__}")
    check_keys(content, str(file))
    return {key: parse_value(key, value) for key, value in content.items()}


def preset_file(name: str) -> Path:
    """A preset's file. Raises ValueError for one that does not exist."""
    names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"there is no preset {name!r}; expected one of {', '.join(names)}")
    return PRESETS / f"{name}.yaml"


def check_values(config: TrainingConfig) -> None:
    """Raise ValueError for values that make no training."""
    for name in REQUIRED:
        if not getattr(config, name):
            raise ValueError(f"{name} is missing: {FIELDS[name].metadata['help']}")
    positive = ("lora_rank", "lora_alpha", "steps", "batch_size", "accumulation", "lr", "shift", "log_every", "keep")
    positive += ("save_every", "heldout_clips", "heldout_levels", "sample_steps", "sample_clips")
    for name in positive:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a positive number")
    for name in ("warmup", "workers", "clip", "weight_decay", "heldout_every", "sample_every", "keep_every"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected 0 or more")
    levels = fixed_sigmas(config.heldout_levels, config.sigmas, config.shift).tolist()
    if config.heldout_every and len({f"{sigma:.2f}" for sigma in levels}) < len(levels):  # as the log names them
        raise ValueError(f"heldout_levels is {len(levels)}; expected fewer, since some are the same to two digits")
    if not config.faces or set(config.faces) - set(FACES):
        raise ValueError(f"faces is {config.faces!r}; expected some of {''.join(FACES)}")
    for name in ("caption_dropout", "condition_dropout"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a part between 0 and 1")
    if config.image_share != ALL_IMAGES and not 0 <= config.image_share < 1:
        raise ValueError(f"image_share is {config.image_share}; expected a part in [0, 1), or -1 for all images")
    if config.layout != VIEWPOINT and config.schedule != PANO:
        raise ValueError(f"layout {config.layout} has no subregions; with it the schedule is {PANO}")
    for name in ("ema", "beta1", "beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a decay in [0, 1)")
    if config.optimizer in ("adamw8bit", "muon") and config.sharding == "fsdp2":
        raise ValueError(f"optimizer {config.optimizer} does not shard; with sharding fsdp2 take adamw")
    if config.compile and config.sharding == "fsdp2":
        raise ValueError("compile was not tried on sharded weights; with sharding fsdp2 leave it false")
    if config.compile and config.gradient_checkpointing:
        raise ValueError("compiled blocks do not go with gradient_checkpointing; leave one of them false")
    if config.replay and (config.gradient_checkpointing or config.accumulation > 1 or config.sharding != "none"):
        raise ValueError(
            f"replay is true; that needs gradient_checkpointing false, accumulation 1 and sharding none, got "
            f"{config.gradient_checkpointing}, {config.accumulation} and {config.sharding}"
        )
    if config.base_dtype == "bf16" and config.precision != "bf16":
        raise ValueError("base_dtype bf16 needs precision bf16, which casts what meets the frozen weights")
    if config.lora and config.mode != "lora":
        raise ValueError("lora is a file to start from in lora mode; the mode is full")
    if config.mode == "full" and config.base_dtype != "fp32":
        raise ValueError("base_dtype is bf16 in full mode; only the frozen weights of lora mode may be bf16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every key: --gradient-checkpointing false."""
    for name, item in FIELDS.items():
        choices = f" ({', '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        default = "" if item.default in ("", MISSING) else f" [{item.default}]"
        text = (item.metadata["help"] + choices + default).replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text)


def read_config(options: argparse.Namespace) -> TrainingConfig:
    """Preset, then file, then flags. Raises ValueError for unknown keys and for values that do not fit."""
    values = read_file(preset_file(options.preset)) if options.preset else {}
    values |= read_file(Path(options.config)) if options.config else {}
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    values |= {name: parse_value(name, value) for name, value in given.items()}
    config = TrainingConfig(**values)
    check_values(config)
    return config
