"""Wan2.1 in diffusers: loaded from any of its file formats, widened to 2 C + 1 channels, with Perspective blocks."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from ..checkpoint import PATCH_EMBEDDING, original_key, read_checkpoint, schedule_from_metadata
from ..safetensors_file import StoredTensor
from ..wan_attention import (
    check_token_grid,
    format_schedule,
    merge_subregions,
    perspective_blocks,
    split_subregions,
    subregion_positions,
)
from .weights import LazyTensor, check_stored, load_stored

HEAD_DIM = 128
TEXT_TOKENS = 512
TIMESTEPS = 1000
SHAPE_KEYS = (PATCH_EMBEDDING, "head.head.weight", "text_embedding.0.weight", "time_embedding.0.weight")
FIXED = {"eps": 1e-6, "qk_norm": "rms_norm_across_heads", "cross_attn_norm": True, "added_kv_proj_dim": None}
DIFFUSERS_FOLDER = "transformer"


def transformer_source(source: Path) -> Path:
    """The weights themselves: a pipeline's folder stands for its `transformer` folder."""
    inside = source / DIFFUSERS_FOLDER
    return inside if inside.is_dir() else source


def transformer_config(stored: Mapping[str, StoredTensor | LazyTensor], source: Path) -> dict[str, Any]:
    """diffusers' configuration of a Wan2.1 T2V model, from the shapes of its tensors (original names).

    As the host reads it: heads are 128 wide. Raises ValueError for any other model.
    """
    absent = [key for key in (*SHAPE_KEYS, "blocks.0.ffn.0.weight") if key not in stored]
    if absent or len(stored[PATCH_EMBEDDING].shape) != 5:
        raise ValueError(f"{source} is not a Wan2.1 text-to-video model: no {absent[0] if absent else '3D patches'}")
    dim, in_channels, *patch = stored[PATCH_EMBEDDING].shape
    if dim % HEAD_DIM:
        raise ValueError(f"{source} is {dim} wide; expected a multiple of {HEAD_DIM}, the width of a head")
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": stored["head.head.weight"].shape[0] // math.prod(patch),
        "text_dim": stored["text_embedding.0.weight"].shape[1],
        "freq_dim": stored["time_embedding.0.weight"].shape[1],
        "ffn_dim": stored["blocks.0.ffn.0.weight"].shape[0],
        "num_layers": 1 + max(int(key.split(".")[1]) for key in stored if key.startswith("blocks.")),
    }


def check_diffusers_config(folder: Path, config: dict[str, Any]) -> None:
    """Raise ValueError where a diffusers folder's config.json says other than the shapes and what Wan2.1 fixes."""
    file = folder / "config.json"
    given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if given.get("_class_name") != "WanTransformer3DModel":
        return
    wanted = {**config, **FIXED, "patch_size": list(config["patch_size"])}
    other = {key: given[key] for key, value in wanted.items() if key in given and given[key] != value}
    if other:
        expected = {key: wanted[key] for key in other}
        raise ValueError(f"{file} says {other}; the weights and Wan2.1 say {expected}")


def empty_transformer(config: dict[str, Any]) -> WanTransformer3DModel:
    """The model without weights: parameters on the meta device, rotary tables real."""
    with init_empty_weights(include_buffers=False):
        return WanTransformer3DModel(**config)


def open_transformer(source: Path) -> tuple[WanTransformer3DModel, dict[str, StoredTensor]]:
    """The model of a file's shapes, without weights, and the file's tensors, from its header alone.

    Raises ValueError for what is no Wan2.1 T2V model.
    """
    source = transformer_source(source)
    stored, _ = read_checkpoint(source)
    config = transformer_config(stored, source)
    check_diffusers_config(source, config)
    model = empty_transformer(config)
    check_stored(model, stored, original_key, source)
    return model, stored


def load_transformer(source: Path, *, dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    """A Wan2.1 T2V model (16 or 33 channels) from a diffusers folder or a single file in the original naming.

    Every weight has the one `dtype`, which FSDP2 asks for. Raises ValueError for what is no such model.
    """
    model, stored = open_transformer(source)
    load_stored(model, stored, original_key, source, dtype)
    return model


def check_compiler(device: torch.device) -> None:
    """Raise ValueError on a CPU without a C++ compiler, which `compile_blocks` needs there."""
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise ValueError(
            "compile is true; on a CPU that needs a C++ compiler, and neither CXX, g++, clang++ nor cl is one"
        )


def compile_blocks(model: WanTransformer3DModel) -> None:
    """Compile the blocks, each by itself: alike ones share what was compiled. Names and state stay as they are.

    On a CPU, raises ValueError where there is no C++ compiler.
    """
    check_compiler(model.device)
    for block in model.blocks:
        block.compile()


def viewpoint_channels(model: WanTransformer3DModel) -> int:
    """Input channels of the ViewPoint model: 2 C + 1 for a latent of C channels."""
    return 2 * model.config.out_channels + 1


@torch.no_grad()
def inflate_patch_embedding(model: WanTransformer3DModel) -> None:
    """Widen the patch embedding C -> 2 C + 1 in place; the new columns are zero, so outputs stay (paper 4.1).

    A model that has 2 C + 1 already stays as it is. Raises ValueError for any other width.
    """
    old, channels = model.patch_embedding, viewpoint_channels(model)
    if old.in_channels == channels:
        return
    if old.in_channels != model.config.out_channels:
        wanted = f"{model.config.out_channels} or {channels}"
        raise ValueError(f"the model takes {old.in_channels} channels; expected {wanted}")
    new = nn.Conv3d(channels, old.out_channels, old.kernel_size, old.stride, device="meta", dtype=old.weight.dtype)
    zeros = old.weight.new_zeros(old.out_channels, channels - old.in_channels, *old.kernel_size)
    new.weight = nn.Parameter(torch.cat([old.weight, zeros], dim=1))
    new.bias = old.bias
    model.patch_embedding = new
    model.register_to_config(in_channels=channels)


def carry_grid(rope: nn.Module, args: tuple[Tensor, ...], rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Forward hook on the model's rope: put the token grid (t, h, w) of the video that it saw behind the positions.

    It travels with the call, so gradient checkpointing recomputes a block on its own grid whatever ran in between; and
    as a tensor, since DeepSpeed makes tuples and tensors anew. Compiled blocks break their graph where they read it. As
    the shape of an empty tensor it would not break it, but then inductor's gradients were wrong on a CPU at batch 1.
    """
    grid = [size // patch for size, patch in zip(args[0].shape[2:], rope.patch_size, strict=True)]
    return (*rotary, torch.tensor(grid))


class PanoAttnProcessor(WanAttnProcessor):
    """Self-attention over the whole map and all frames (paper 3.3): diffusers' own."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """Attend without looking at the grid."""
        assert rotary_emb is not None
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb[:2])


class PerspectiveAttnProcessor(WanAttnProcessor):
    """Self-attention inside each of the four subregions, with a subregion's own rotary positions (paper 3.3)."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """Regroup (b, t h w, c) to (4 b, t (h/2) (w/2), c), attend, put back."""
        assert rotary_emb is not None
        t, h, w = rotary_emb[2].tolist()
        grid = (t, h, w)
        check_token_grid(hidden_states.shape[1], grid)
        own = tuple(subregion_positions(positions, grid) for positions in rotary_emb[:2])
        regrouped = split_subregions(hidden_states, grid)
        return merge_subregions(super().__call__(attn, regrouped, None, attention_mask, own), grid)


def set_perspective(model: WanTransformer3DModel, schedule: str) -> tuple[int, ...]:
    """Make the schedule's blocks Perspective and all others Pano; returns the blocks.

    Raises ValueError for a schedule that does not fit the model.
    """
    blocks = perspective_blocks(schedule, len(model.blocks))
    for index, block in enumerate(model.blocks):
        block.attn1.set_processor(PerspectiveAttnProcessor() if index in blocks else PanoAttnProcessor())
    if carry_grid not in model.rope._forward_hooks.values():
        model.rope.register_forward_hook(carry_grid)
    return blocks


def set_blocks(model: WanTransformer3DModel) -> tuple[int, ...]:
    """The blocks of a model that `set_perspective` made Perspective."""
    processors = [block.attn1.processor for block in model.blocks]
    return tuple(i for i, processor in enumerate(processors) if isinstance(processor, PerspectiveAttnProcessor))


def check_schedule(source: Path, schedule: str) -> None:
    """Raise ValueError for a schedule that a checkpoint was not trained with, or that its blocks do not allow."""
    stored, metadata = read_checkpoint(transformer_source(source))
    layers = transformer_config(stored, source)["num_layers"]
    wanted, trained = perspective_blocks(schedule, layers), schedule_from_metadata(metadata)
    if trained is not None and perspective_blocks(trained, layers) != wanted:
        raise ValueError(
            f"{source} was trained with the Perspective blocks {trained}; the schedule {schedule!r} asks for "
            f"{format_schedule(wanted)}"
        )


def prepare_transformer(source: Path, schedule: str, *, dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    """Load, widen to 2 C + 1 channels, and set the Perspective blocks.

    Raises ValueError, before any weight is read, for a checkpoint that was trained with another schedule.
    """
    check_schedule(source, schedule)
    model = load_transformer(source, dtype=dtype)
    inflate_patch_embedding(model)
    set_perspective(model, schedule)
    return model


def plan_transformer(source: Path, schedule: str) -> WanTransformer3DModel:
    """What `prepare_transformer` makes, without weights, from the file's header alone; raises as it does."""
    check_schedule(source, schedule)
    model, _ = open_transformer(source)
    inflate_patch_embedding(model)
    set_perspective(model, schedule)
    return model


def pad_text(embeddings: Sequence[Tensor]) -> Tensor:
    """Text embeddings (n, d), n <= 512 -> (B, 512, d): zero rows stand for padding, and are attended to."""
    longest = max(len(embedding) for embedding in embeddings)
    if longest > TEXT_TOKENS:
        raise ValueError(f"a text embedding has {longest} tokens; expected at most {TEXT_TOKENS}")
    text = embeddings[0].new_zeros(len(embeddings), TEXT_TOKENS, embeddings[0].shape[-1])
    for row, embedding in zip(text, embeddings, strict=True):
        row[: len(embedding)] = embedding
    return text


def short_text(text: Tensor) -> Tensor:
    """Text (B, n, d), of which one row is enough where all are zero: attention over equal rows is that over one."""
    return text if text.shape[1] == 1 or bool(text.any()) else text[:, :1]


def predict_velocity(model: nn.Module, noisy: Tensor, known: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """Velocity (B, C, t, h, w) of a noisy latent of that shape, given the known channels (B, C + 1, t, h, w).

    sigma (B,) in [0, 1] is the noise level, text (B, 512, d) or as `short_text` leaves it. The timestep is 1000 sigma,
    unrounded.
    """
    channels = torch.cat([noisy, known.to(noisy)], dim=1)
    return model(channels, TIMESTEPS * sigma.float(), text, return_dict=False)[0]
