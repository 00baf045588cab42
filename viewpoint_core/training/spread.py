"""A few of many, spread evenly over them."""

from collections.abc import Sequence
from typing import TypeVar

One = TypeVar("One")


def spread(items: Sequence[One], count: int) -> list[One]:
    """Evenly spaced ones, the middles of `count` equal parts; all, where there are no more."""
    count = min(count, len(items))
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]
