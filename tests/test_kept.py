"""Lookups that are kept: several small ones, of large ones the latest alone."""

import pytest
import torch
from torch import Tensor

from viewpoint_core import kept
from viewpoint_core.kept import KEPT_RESULTS, Kept, tensor_bytes
from viewpoint_core.resample import Grid


def test_results_are_made_once() -> None:
    made: list[int] = []
    lookups = Kept(lambda number: made.append(number) or torch.zeros(number))
    assert lookups(3) is lookups(3)
    assert len(lookups(4)) == 4
    assert made == [3, 4]


def test_the_latest_are_kept() -> None:
    lookups = Kept(torch.zeros)
    first, second = lookups(1), lookups(2)
    for number in range(3, KEPT_RESULTS + 1):
        lookups(number)
    assert lookups(1) is first
    lookups(99)
    assert lookups(1) is first
    assert lookups(2) is not second


def test_of_large_ones_the_latest_alone_is_kept_and_given_up_before_another_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held_meanwhile: list[int] = []

    def build(pixels: int) -> Grid:
        held_meanwhile.append(lookups.nbytes())
        return Grid(torch.zeros(pixels), torch.zeros(pixels))

    lookups = Kept(build)
    monkeypatch.setattr(kept, "KEPT_BYTES", 1000)
    for pixels in (10, 20, 500, 501):
        large = lookups(pixels)
    assert lookups(501) is large
    assert lookups.nbytes() == 2 * 4 * 501
    lookups(10)
    assert held_meanwhile == [0, 80, 240, 0, 0]


def test_bytes_of_nested_tensors_are_counted() -> None:
    grid = Grid(torch.zeros(2, 3), torch.zeros(2, 3))
    image: Tensor = torch.zeros(5, dtype=torch.float64)
    assert tensor_bytes({"a": (grid, image), "b": (None, 3)}) == 48 + 40


def test_large_ones_are_given_up_for_those_who_need_the_memory_and_small_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = Kept(torch.zeros), Kept(torch.zeros)
    monkeypatch.setattr(kept, "KEPT_BYTES", 1000)
    held = small(10), large(500)
    kept.forget_large()
    assert (small.nbytes(), large.nbytes()) == (40, 0)
    assert small(10) is held[0]
