"""Safetensors files without their weights in memory: what lies where in one, and a tensor after the other into one."""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from .replacing import replacing

CHUNK = 1 << 24
MAX_HEADER = 100 * 1024 * 1024


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


class Entry(NamedTuple):
    """A tensor to write: what the header says of it, and its `size` bytes, made when their turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: Callable[[], Iterable[bytes | memoryview]]


def write_entries(entries: Sequence[Entry], metadata: dict[str, str], target: Path) -> Iterator[int]:
    """Write tensors into a safetensors file in this order; yields the bytes written so far.

    Written under a temporary name and renamed when whole, so that a full disk or a stopped run leaves no half file.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, dtype, shape, size, _ in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(target, same_name=True) as partial, partial.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for entry in entries:
            for chunk in entry.chunks():
                stream.write(chunk)
            yield stream.tell()
