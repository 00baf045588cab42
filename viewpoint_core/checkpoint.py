"""Wan checkpoint files: key names, metadata, and inflation of the patch embedding, streamed from file to file."""

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path, PureWindowsPath
from typing import Any

from .replacing import replacing
from .wan_attention import format_schedule, perspective_blocks

PATCH_EMBEDDING = "patch_embedding.weight"
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
METADATA_BLOCKS = "viewpoint.perspective_blocks"
METADATA_IN_DIM = "viewpoint.in_dim"
METADATA_VERSION = "viewpoint.version"
CHUNK = 1 << 24
MAX_HEADER = 100 * 1024 * 1024

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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it lies in a safetensors file: where its bytes are and what they mean."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def stored_tensor(file: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """The tensor that a header's entry describes. Raises ValueError unless its bytes are as many as its shape needs."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(map(index, entry["shape"]))
        start, end = map(index, entry["data_offsets"])
        bits = int(next(iter(re.findall(r"\d+", dtype)), 8))  # F32, BF16, F8_E4M3, ...; BOOL takes 8
        fits = 0 <= start and min(shape, default=0) >= 0 and (end - start) * 8 == math.prod(shape) * bits
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: its header does not describe {name}") from error
    if not fits:
        raise ValueError(f"{file} is damaged: {name}, {dtype} {shape}, does not fit its bytes {start} to {end}")
    return StoredTensor(file, dtype, shape, data_start + start, end - start)


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, without reading its weights. Raises ValueError for a damaged file."""
    length = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        header_size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER
        if header_size > min(MAX_HEADER, length - 8):
            raise ValueError(f"{file} is not a safetensors file, or it is cut short")
        try:
            header = json.loads(stream.read(header_size))
        except ValueError as error:
            raise ValueError(f"{file} is not a safetensors file: its header is not JSON") from error
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{file} is not a safetensors file: its header is not a table of tensors")
    tensors = {name: stored_tensor(file, name, entry, 8 + header_size) for name, entry in header.items()}
    for name, tensor in tensors.items():
        end = tensor.start + tensor.size
        if end > length:
            raise ValueError(f"{file} is cut short: {name} ends at byte {end}, the file at byte {length}")
    return tensors, metadata


def index_files(file: Path) -> list[Path]:
    """The shards that an index names. Raises ValueError unless they are safetensors files beside it."""
    try:
        names = sorted(set(json.loads(file.read_text())["weight_map"].values()))
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


def stored_chunks(tensor: StoredTensor, chunk: int = CHUNK) -> Iterator[bytes]:
    """A stored tensor's bytes, in order, at most `chunk` at a time."""
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        left = tensor.size
        while left:
            data = stream.read(min(chunk, left))
            if not data:
                raise ValueError(f"{tensor.file} is cut short")
            left -= len(data)
            yield data


def write_checkpoint(
    tensors: dict[str, StoredTensor], channels: int, metadata: dict[str, str], target: Path
) -> Iterator[int]:
    """Stream tensors into one safetensors file, the patch embedding widened; yields the bytes written so far.

    Written under a temporary name and renamed when whole, so that a full disk or a cancelled run leaves no half file.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        shape, size = list(tensor.shape), tensor.size
        if name == PATCH_EMBEDDING:
            size, shape[1] = size // shape[1] * channels, channels
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(target) as partial, partial.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in tensors.items():
            chunks = inflated_chunks(tensor, channels) if name == PATCH_EMBEDDING else stored_chunks(tensor)
            for chunk in chunks:
                stream.write(chunk)
            yield stream.tell()


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


def inflate_checkpoint(
    source: Path, target: Path, *, schedule: str = "alternating", force: bool = False
) -> Iterator[int]:
    """Inflate a stock Wan2.1 T2V checkpoint C -> 2 C + 1 channels (paper 4.1), streamed; yields bytes written.

    The new columns are zero, so the model's output stays what it was. Keeps the dtype, writes original names. Raises
    ValueError for what is no stock T2V checkpoint and for a target that exists (unless `force`).
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: expected a name that ends in .safetensors")
    if target.exists() and not force:
        raise ValueError(f"{target} exists; choose another name or pass --force")
    tensors, metadata = read_checkpoint(source)
    blocks = perspective_blocks(schedule, check_stock_t2v(tensors, source))
    channels = 2 * tensors[PATCH_EMBEDDING].shape[1] + 1
    yield from write_checkpoint(tensors, channels, metadata | viewpoint_metadata(blocks, channels), target)
