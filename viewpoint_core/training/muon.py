"""Muon for the matrices inside a model's blocks, AdamW for all else, as one optimiser.

Muon (K. Jordan, 2024) moves a matrix along its momentum with all singular values brought near 1, so that no few
directions take the whole step. Steps are scaled to the length of AdamW's (Moonshot, arXiv 2502.16982), so that one
learning rate serves both.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: steep at 0, and within about 0.7 to 1.2 after five rounds
ADAMW_LENGTH = 0.2  # root mean square of AdamW's steps at a learning rate of 1, about


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (a, b) with its singular values brought near 1, by Newton-Schulz rounds in bfloat16."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon takes a weight: a matrix inside a block, by its name in the model."""
    return weight.ndim == 2 and ".blocks." in f".{name}"


class Muon(torch.optim.AdamW):
    """AdamW over `named` weights, but for the block matrices, which Muon moves. Options are AdamW's."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], **options: Any) -> None:
        parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, weight in named:
            parts[is_block_matrix(name, weight)].append(weight)
        groups = [{"params": weights, "muon": muon} for muon, weights in parts.items() if weights]
        super().__init__(groups, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A loaded state as it is: AdamW's own expects a count of steps of every weight."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, of both parts."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self.step_matrices(group)
        return loss

    def step_matrices(self, group: dict[str, Any]) -> None:
        """One step of a group of matrices."""
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            ahead = weight.grad.lerp(state["momentum"], MOMENTUM)  # Nesterov
            length = ADAMW_LENGTH * math.sqrt(max(weight.shape))
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(orthogonalised(ahead), alpha=-group["lr"] * length)
