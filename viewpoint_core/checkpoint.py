"""Wan checkpoint files: key names, metadata, and inflation of the patch embedding, streamed from file to file."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from .safetensors_file import Entry, StoredTensor, read_header, stored_chunks, write_entries
from .wan_attention import format_schedule, perspective_blocks

PATCH_EMBEDDING = "patch_embedding.weight"
TEXT_DIM = 4096  # of what the text encoder gives
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
METADATA_BLOCKS = "viewpoint.perspective_blocks"
METADATA_IN_DIM = "viewpoint.in_dim"
METADATA_VERSION = "viewpoint.version"

DIFFUSERS_TO_ORIGINAL = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.norm2\.", ".norm3."),
    (r"\.scale_shift_table$", ".modulation"),
)


def original_key(key: str) -> str:
    """A weight's name in the original (= ComfyUI) naming, from the diffusers naming or from the original itself."""
    for pattern, name in DIFFUSERS_TO_ORIGINAL:
        key = re.sub(pattern, name, key)
    return key


def index_files(file: Path) -> list[Path]:
    """The shards that an index names. Raises ValueError unless they are safetensors files beside it."""
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the index of a checkpoint: expected JSON with a weight_map") from error
    for name in names:
        if not isinstance(name, str) or PureWindowsPath(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{file} names {name!r}; expected safetensors files in the index's own folder")
    return [file.parent / name for name in names]


def checkpoint_files(source: Path) -> list[Path]:
    """The safetensors files of a checkpoint: itself, the shards that an index names, or those in a folder."""
    if not source.exists():
        raise ValueError(
            f"{source} does not exist; expected a safetensors file, its index, or the folder of its shards"
        )
    if source.is_dir():
        indices = sorted(source.glob("*.safetensors.index.json"))
        if len(indices) > 1:
            raise ValueError(
                f"{source} holds {len(indices)} checkpoints; name one: {', '.join(i.name for i in indices)}"
            )
        files = index_files(indices[0]) if indices else sorted(source.glob("*.safetensors"))
    elif source.name.endswith(".index.json"):
        files = index_files(source)
    elif source.suffix == ".safetensors":
        files = [source]
    else:
        raise ValueError(f"{source} is not a safetensors file; files that need pickle are refused")
    missing = [file.name for file in files if not file.exists()]
    if not files or missing:
        raise ValueError(f"{source}: {'missing ' + ', '.join(missing) if missing else 'no safetensors file in it'}")
    counts = {int(number) for file in files for number in re.findall(r"-of-(\d+)$", file.stem)}
    if counts - {len(files)}:
        raise ValueError(f"{source}: got {len(files)} file(s), but {files[0].name} is one of {max(counts)} shards")
    return files


def read_checkpoint(source: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """All tensors of a checkpoint under their original names, and its metadata."""
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for file in checkpoint_files(source):
        stored, described = read_header(file)
        metadata.update(described)
        prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in stored)), "")
        for key, tensor in stored.items():
            name = original_key(key.removeprefix(prefix))
            if name in tensors:
                raise ValueError(f"{file}: {key} comes a second time; expected the files of one checkpoint")
            tensors[name] = tensor
    return tensors, metadata


def check_stock_t2v(tensors: dict[str, StoredTensor], source: Path) -> int:
    """Number of blocks of a stock Wan2.1 T2V checkpoint. Raises ValueError for anything else."""
    patch, head = tensors.get(PATCH_EMBEDDING), tensors.get("head.head.weight")
    blocks = {int(number) for key in tensors for number in re.findall(r"^blocks\.(\d+)\.", key)}
    parts = patch is not None and head is not None and "head.modulation" in tensors and blocks
    if not parts or patch.shape[2:] != (1, 2, 2) or len(head.shape) != 2:
        raise ValueError(
            f"{source} is not a Wan2.1 checkpoint: expected patch_embedding.weight (dim, C, 1, 2, 2), blocks and a head"
        )
    if blocks != set(range(len(blocks))):
        raise ValueError(f"{source} lacks some of the blocks 0 to {max(blocks)}: it is not whole")
    outputs = head.shape[0] // math.prod(patch.shape[2:])
    if patch.shape[1] != outputs:
        hint = "it is inflated already" if patch.shape[1] == 2 * outputs + 1 else "expected the text-to-video model"
        raise ValueError(f"{source} takes {patch.shape[1]} channels and gives {outputs}: {hint}")
    return len(blocks)


def inflated_chunks(tensor: StoredTensor, channels: int) -> Iterator[bytes]:
    """Bytes of a patch embedding (dim, C, ...) with zero columns added up to `channels`; zero is 0 in every dtype."""
    dim, stock = tensor.shape[:2]
    row = tensor.size // dim
    zeros = bytes(row // stock * (channels - stock))
    for chunk in stored_chunks(tensor, row):
        yield chunk + zeros


def write_checkpoint(
    tensors: dict[str, StoredTensor], channels: int, metadata: dict[str, str], target: Path
) -> Iterator[int]:
    """Stream tensors into one safetensors file, the patch embedding widened; yields the bytes written so far."""
    yield from write_entries([entry_of(name, tensor, channels) for name, tensor in tensors.items()], metadata, target)


def entry_of(name: str, tensor: StoredTensor, channels: int) -> Entry:
    """What is written of a tensor: its bytes, the patch embedding's with zero columns."""
    if name != PATCH_EMBEDDING:
        return Entry(name, tensor.dtype, tensor.shape, tensor.size, lambda: stored_chunks(tensor))
    dim, stock, *rest = tensor.shape
    size = tensor.size // stock * channels
    return Entry(name, tensor.dtype, (dim, channels, *rest), size, lambda: inflated_chunks(tensor, channels))


def viewpoint_metadata(blocks: tuple[int, ...], in_dim: int) -> dict[str, str]:
    """What a ViewPoint checkpoint's safetensors metadata says of it."""
    return {
        "format": "pt",
        METADATA_VERSION: "1",
        METADATA_IN_DIM: str(in_dim),
        METADATA_BLOCKS: format_schedule(blocks),
    }


def schedule_from_metadata(metadata: dict[str, str] | None) -> str | None:
    """The schedule that a checkpoint was trained with, as `perspective_blocks` reads it; None where it says nothing."""
    return (metadata or {}).get(METADATA_BLOCKS)


def check_target(target: Path, *, replace: bool) -> None:
    """Raise ValueError for a file to write whose name does not end in .safetensors, or that exists and is not to be
    replaced."""
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: expected a name that ends in .safetensors")
    if target.exists() and not replace:
        raise ValueError(f"{target} exists; choose another name, or replace it with --force")


def inflate_checkpoint(
    source: Path, target: Path, *, schedule: str = "alternating", force: bool = False
) -> Iterator[int]:
    """Inflate a stock Wan2.1 T2V checkpoint C -> 2 C + 1 channels (paper 4.1), streamed; yields bytes written.

    The new columns are zero, so the model's output stays what it was. Keeps the dtype, writes original names. Raises
    ValueError for what is no stock T2V checkpoint and for a target that exists (unless `force`).
    """
    check_target(target, replace=force)
    tensors, metadata = read_checkpoint(source)
    blocks = perspective_blocks(schedule, check_stock_t2v(tensors, source))
    channels = 2 * tensors[PATCH_EMBEDDING].shape[1] + 1
    yield from write_checkpoint(tensors, channels, metadata | viewpoint_metadata(blocks, channels), target)
