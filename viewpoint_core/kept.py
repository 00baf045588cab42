"""Lookups that are kept for the next call: several small ones, of large ones the latest alone."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

Made = TypeVar("Made")
KEPT_BYTES = 64 << 20
KEPT_RESULTS = 8


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dataclasses, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, tuple) else 0


EVERY: "weakref.WeakSet[Kept[Any]]" = weakref.WeakSet()


class Kept(Generic[Made]):
    """A function of hashable arguments that keeps its latest results: up to KEPT_RESULTS that take up to KEPT_BYTES
    together, or else the latest one alone, which is given up before another is made. Results are not to be changed."""

    def __init__(self, build: Callable[..., Made]) -> None:
        self.build = build
        self.results: OrderedDict[tuple[Any, ...], Made] = OrderedDict()
        self.lock = threading.Lock()
        EVERY.add(self)

    def __call__(self, *key: Any) -> Made:
        with self.lock:
            if key in self.results:
                self.results.move_to_end(key)
                return self.results[key]
            if self.nbytes() > KEPT_BYTES:
                self.results.clear()
        made = self.build(*key)
        with self.lock:
            self.results[key] = made
            while len(self.results) > KEPT_RESULTS or (len(self.results) > 1 and self.nbytes() > KEPT_BYTES):
                self.results.popitem(last=False)
        return made

    def nbytes(self) -> int:
        """What the results that are kept take."""
        return sum(map(tensor_bytes, self.results.values()))

    def clear(self, over: int = -1) -> None:
        """Keep nothing, if it takes more than so many bytes."""
        with self.lock:
            if self.nbytes() > over:
                self.results.clear()


def forget_large() -> None:
    """Give up what is kept beyond KEPT_BYTES, for others that need the memory."""
    for kept in list(EVERY):
        kept.clear(over=KEPT_BYTES)
