"""Tiny Wan2.1 checkpoints in every format that stock ones come in."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.tiny_models import dit_shapes, tiny_weights
from viewpoint_core.checkpoint import inflate_checkpoint

BLOCKS = 3
SHAPES = {name: tuple(min(side, 64) for side in shape) for name, shape in dit_shapes(blocks=BLOCKS).items()}
SHARDS = 3
INDEX = "model.safetensors.index.json"
DIFFUSERS_LAYERS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
ATTENTION_LAYERS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
for ours, theirs in {"self_attn": "attn1", "cross_attn": "attn2"}.items():
    DIFFUSERS_LAYERS |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in ATTENTION_LAYERS.items()}


def diffusers_key(key: str) -> str:
    """An original name in the diffusers naming."""
    block = ".".join(key.split(".")[:2]) + "." if key.startswith("blocks.") else ""
    rest = key.removeprefix(block)
    kind = next((kind for kind in (".weight", ".bias") if rest.endswith(kind)), "")
    layer = rest.removesuffix(kind)
    return block + DIFFUSERS_LAYERS.get(layer, layer) + kind


def stock(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Seeded weights of a Wan2.1 T2V model in the original naming, with values that arithmetic would not keep."""
    weights = tiny_weights(SHAPES, seed=0)
    weights["blocks.0.norm3.weight"][:2] = torch.tensor([torch.nan, -0.0])
    return {name: weight.to(dtype) for name, weight in weights.items()}


def write_single(folder: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, folder / "stock.safetensors", metadata={"format": "pt", "author": "nobody"})
    return folder / "stock.safetensors"


def write_shards(folder: Path, weights: dict[str, Tensor]) -> Path:
    for shard in range(SHARDS):
        part = dict(list(weights.items())[shard::SHARDS])
        save_file(part, folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors", metadata={"author": "nobody"})
    return folder


def write_index(folder: Path, weights: dict[str, Tensor]) -> Path:
    write_shards(folder, weights)
    shards = {key: f"model-{i % SHARDS + 1:05}-of-{SHARDS:05}.safetensors" for i, key in enumerate(weights)}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}))
    return folder / INDEX


def renamed(write: Callable[[Path, dict], Path], rename: Callable[[str], str]) -> Callable[[Path, dict], Path]:
    return lambda folder, weights: write(folder, {rename(key): weight for key, weight in weights.items()})


LAYOUTS = {
    "single file": write_single,
    "folder of shards": write_shards,
    "index": write_index,
    "folder with an index": lambda folder, weights: write_index(folder, weights).parent,
    "diffusers names": renamed(write_single, diffusers_key),
    "diffusers folder": renamed(lambda folder, weights: write_index(folder, weights).parent, diffusers_key),
    "ComfyUI prefix": renamed(write_single, "model.diffusion_model.{}".format),
    "short prefix": renamed(write_shards, "diffusion_model.{}".format),
}


def write_header(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header, whatever it says, and this data."""
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def inflate(source: Path, target: Path, **options: Any) -> dict[str, Tensor]:
    """Inflate to the end and read what was written."""
    for _ in inflate_checkpoint(source, target, **options):
        pass
    return load_file(target)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Same dtype, shape and bytes; NaN equals NaN and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(a, b)
