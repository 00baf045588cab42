"""Muon for the matrices inside a model's blocks or a VAE's kernels, AdamW for all else, as one optimiser.

Muon (K. Jordan, 2024) moves a matrix along its momentum with all singular values brought near 1, so that no few
directions take the whole step. Steps are scaled to the length of AdamW's (Moonshot, arXiv 2502.16982), so that one
learning rate serves both.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .precision import fast_dtype

MOMENTUM = 0.95
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: steep at 0, and within about 0.7 to 1.2 after five rounds
ADAMW_LENGTH = 0.2  # root mean square of AdamW's steps at a learning rate of 1, about


def orthogonalised(matrices: Tensor) -> Tensor:
    """A matrix (a, b), or several (n, a, b), with singular values brought near 1, by Newton-Schulz rounds, in
    bfloat16 where that is fast.

    Several at once take as long on a GPU as one.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(fast_dtype(matrices.device))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon takes a transformer's weight: a matrix inside a block, by its name in the model."""
    return weight.ndim == 2 and ".blocks." in f".{name}"


def is_inner_kernel(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon takes a VAE's weight: a convolution's kernel, but for the first and last ones."""
    ends = ("conv_in", "conv_out", "quant_conv")
    return weight.ndim >= 4 and min(weight.shape[:2]) > 1 and not any(end in name for end in ends)


class Muon(torch.optim.AdamW):
    """AdamW over `named` weights, but for those that it `takes`, which Muon moves: matrices, and kernels as matrices
    with a row for each output channel. Other options are AdamW's."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        takes: Callable[[str, nn.Parameter], bool] = is_block_matrix,
        **options: Any,
    ) -> None:
        parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, weight in named:
            parts[takes(name, weight)].append(weight)
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
        """One step of a group of matrices, those of one shape at once."""
        for weights in alike(weight for weight in group["params"] if weight.grad is not None):
            ahead = torch.stack([part.flatten(1) for part in self.ahead(weights)])
            length = ADAMW_LENGTH * math.sqrt(max(ahead.shape[1:]))
            directions = [part.reshape(weights[0].shape) for part in orthogonalised(ahead)]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, directions, alpha=-group["lr"] * length)

    def ahead(self, weights: list[nn.Parameter]) -> Sequence[Tensor]:
        """Take weights' gradients into their momenta; the gradients of a step with Nesterov's look ahead."""
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = [weight.grad for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        return torch._foreach_lerp(gradients, momenta, MOMENTUM)


def alike(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Weights of one shape and device together, in their order."""
    found: dict[Any, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault((weight.shape, weight.device), []).append(weight)
    return list(found.values())
