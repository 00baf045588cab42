"""Weights between safetensors files and modules: read under other names, written a tensor at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..safetensors_file import Entry, StoredTensor, read_header, write_entries

STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
}
DTYPE_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to write: its shape and dtype, known before `read` makes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def stored_dtype(stored: StoredTensor) -> torch.dtype:
    """The dtype of a stored tensor. Raises ValueError for one that no model here has."""
    if stored.dtype not in STORED_DTYPES:
        raise ValueError(f"{stored.file} holds a tensor of type {stored.dtype}; expected {', '.join(STORED_DTYPES)}")
    return STORED_DTYPES[stored.dtype]


def read_tensor(stored: StoredTensor) -> Tensor:
    """A stored tensor's values. Raises ValueError where the file is cut short."""
    dtype, buffer = stored_dtype(stored), bytearray(stored.size)
    with stored.file.open("rb") as stream:
        stream.seek(stored.start)
        if stream.readinto(buffer) != stored.size:
            raise ValueError(f"{stored.file} is cut short")
    return torch.frombuffer(buffer, dtype=dtype).reshape(stored.shape)


def read_tensors(files: Iterable[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of safetensors files. Raises ValueError for a damaged one."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        stored, described = read_header(file)
        tensors |= {name: read_tensor(tensor) for name, tensor in stored.items()}
        metadata |= described
    return tensors, metadata


def lazy(tensor: Tensor, dtype: torch.dtype | None = None) -> LazyTensor:
    """A tensor at hand, to be written in `dtype` (its own where None)."""
    dtype = dtype or tensor.dtype
    return LazyTensor(tuple(tensor.shape), dtype, lambda: tensor.detach().to("cpu", dtype))


def lazy_stored(stored: StoredTensor, dtype: torch.dtype | None = None) -> LazyTensor:
    """A stored tensor, to be written in `dtype` (its own where None)."""
    dtype = dtype or stored_dtype(stored)
    return LazyTensor(stored.shape, dtype, lambda: read_tensor(stored).to(dtype))


def write_safetensors(tensors: Mapping[str, LazyTensor], metadata: dict[str, str], target: Path) -> Iterator[int]:
    """Write a safetensors file, one tensor in memory at a time; yields the bytes written so far."""
    # wide types first, which is what keeps every tensor aligned
    order = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    entries = [
        Entry(name, DTYPE_NAMES[tensor.dtype], tensor.shape, tensor.size, partial(tensor_chunks, tensor, name))
        for name, tensor in order
    ]
    yield from write_entries(entries, metadata, target)


def tensor_chunks(tensor: LazyTensor, name: str) -> Iterator[memoryview]:
    """The bytes of a tensor in one, after checking that it is what the header announced."""
    values = tensor.read()
    assert (tuple(values.shape), values.dtype) == (tensor.shape, tensor.dtype), name
    yield memoryview(values.contiguous().reshape(-1).view(torch.uint8).numpy())


def check_stored(
    model: nn.Module, stored: Mapping[str, StoredTensor], rename: Callable[[str], str], source: Path
) -> dict[str, str]:
    """The model's own names of stored tensors. `rename` takes them to those in `stored`, so the way back is its exact
    inverse. Raises ValueError for tensors that are missing, unknown, or of another shape."""
    parameters = model.state_dict()
    names = {rename(name): name for name in parameters}
    assert len(names) == len(parameters), "two parameters share a name"
    missing, unknown = sorted(names.keys() - stored.keys()), sorted(stored.keys() - names.keys())
    if missing or unknown:
        raise ValueError(f"{source} does not fit: missing {listed(missing)}; unknown {listed(unknown)}")
    for key, name in names.items():
        if stored[key].shape != tuple(parameters[name].shape):
            shape = tuple(parameters[name].shape)
            raise ValueError(f"{source}: {key} is {stored[key].shape}; expected {shape}")
    return names


def load_stored(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    rename: Callable[[str], str],
    source: Path,
    dtype: torch.dtype,
) -> None:
    """Load stored tensors into a model whose parameters may be on the meta device, once `check_stored` has passed
    them."""
    names = check_stored(model, stored, rename, source)
    state = {name: read_tensor(stored[key]).to(dtype) for key, name in names.items()}
    model.load_state_dict(state, strict=True, assign=True)


def listed(names: list[str]) -> str:
    """Names for an error message: the first three and how many there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more
