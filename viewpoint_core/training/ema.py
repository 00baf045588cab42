"""Exponential moving average of what trains, sharded as the weights are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by the names of the model itself, whatever wraps it."""
    named = ((name.removeprefix("module."), weight) for name, weight in model.named_parameters())
    return {name: weight for name, weight in named if weight.requires_grad}


def start_ema(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what trains."""
    return {name: weight.detach().clone() for name, weight in trained_parameters(model).items()}


@torch.no_grad()
def update_ema(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """One step of the average, in place; the first steps decay faster, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, weight in trained_parameters(model).items():
        average[name].lerp_(weight.detach(), 1 - decay)


@contextmanager
def averaged_weights(model: nn.Module, average: dict[str, Tensor] | None) -> Iterator[None]:
    """Put the average into the model for the time being; without an average, do nothing."""
    average = average or {}
    swap(model, average)
    try:
        yield
    finally:
        swap(model, average)


@torch.no_grad()
def swap(model: nn.Module, average: dict[str, Tensor]) -> None:
    """Exchange weights and their averages in place, one by one: no second copy of all is in memory."""
    parameters = trained_parameters(model)
    for name, other in average.items():
        before = parameters[name].detach().clone()
        parameters[name].copy_(other)
        other.copy_(before)
