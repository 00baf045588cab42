"""Tensors that are kept up to a size."""

import torch
from torch import Tensor

from viewpoint_core.training.kept_tensors import MEGABYTE, KeptTensors


class Maker:
    """Makes tensors of half a megabyte and counts them."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> Tensor:
        self.made.append(number)
        return torch.full((MEGABYTE // 8,), float(number))


def test_what_is_kept_is_made_once_and_is_itself() -> None:
    kept, make = KeptTensors(1), Maker()
    found = [kept.get(number, lambda number=number: make(number)) for number in (1, 2, 1, 2)]
    assert make.made == [1, 2]
    assert found[0] is found[2]
    assert float(found[3][0]) == 2


def test_what_was_not_asked_for_longest_is_dropped_and_the_size_holds() -> None:
    kept, make = KeptTensors(1), Maker()
    for number in (1, 2, 1, 3, 1, 2):
        kept.get(number, lambda number=number: make(number))
        assert sum(tensor.nbytes for tensor in kept.tensors.values()) == kept.size <= MEGABYTE
    assert make.made == [1, 2, 3, 2]


def test_what_is_larger_than_the_limit_is_made_each_time() -> None:
    kept, make = KeptTensors(0.25), Maker()
    for _ in range(2):
        assert float(kept.get(1, lambda: make(1))[0]) == 1
    assert make.made == [1, 1]
    assert kept.size == 0
