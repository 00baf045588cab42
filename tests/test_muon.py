"""Muon moves the blocks' matrices along orthogonal directions, AdamW all else, and both live in one checkpoint."""

import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.muon import (
    ADAMW_LENGTH,
    MOMENTUM,
    Muon,
    is_block_matrix,
    is_inner_kernel,
    orthogonalised,
)
from viewpoint_core.training.new_vae import new_vae
from viewpoint_core.training.run import distribute_all


class Net(nn.Module):
    """Two blocks of a matrix and its bias, and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([nn.Linear(48, 96), nn.Linear(96, 48)])
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).tanh()
        return self.head(x)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> dict[str, torch.Tensor]:
    """One step on a random batch; the gradients that it saw."""
    optimizer.zero_grad()
    batch = torch.randn(16, 48, generator=torch.Generator().manual_seed(seed))
    model(batch).square().mean().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    optimizer.step()
    return gradients


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (96, 48)])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix)
    values = torch.einsum("ar,ab,rb->r", u, made, v)
    large = s > 0.05 * s.max()
    assert values[large].min() > 0.6
    assert values.max() < 1.3
    off = made - (u * values) @ v
    assert off.norm() < 0.05 * made.norm()


def test_several_matrices_come_out_as_each_alone() -> None:
    matrices = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    for whole, alone in zip(orthogonalised(matrices), map(orthogonalised, matrices), strict=True):
        assert float((whole - alone).norm() / alone.norm()) < 0.03  # bfloat16's rounding, where it is used


def test_a_kernel_moves_as_the_matrix_of_its_output_channels() -> None:
    """And a VAE's first and last kernels, norms and biases are left to AdamW."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(8, 6, 1, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn_like(kernel)
    matrix.grad = kernel.grad.flatten(1).clone()
    for name, weight, takes in (("a", kernel, is_inner_kernel), ("blocks.a", matrix, is_block_matrix)):
        Muon([(name, weight)], takes=takes, lr=0.1).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
    names = {name for name, weight in new_vae(8, 0).named_parameters() if is_inner_kernel(name, weight)}
    assert "decoder.up_blocks.0.resnets.0.conv1.weight" in names
    left = ("conv_in", "conv_out", "quant_conv", "norm", "bias")
    assert not [name for name in names if any(part in name for part in left)]


def test_a_matrix_moves_by_adamws_length_whatever_its_gradients_size() -> None:
    lengths = []
    for scale in (1e-4, 1.0):
        model = Net()
        optimizer = Muon(model.named_parameters(), lr=0.01, weight_decay=0.0)
        before = model.blocks[0].weight.detach().clone()
        (scale * model(torch.ones(16, 48).cumsum(0) / 16).square().mean()).backward()
        optimizer.step()
        moved = model.blocks[0].weight.detach() - before
        lengths.append(float(torch.linalg.matrix_norm(moved, ord=2)) / (0.01 * ADAMW_LENGTH * math.sqrt(96)))
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    assert 0.6 < lengths[0] < 1.3


def test_momentum_and_decay_follow_their_recurrence() -> None:
    model = Net()
    optimizer = Muon(model.named_parameters(), lr=0.01, weight_decay=5)  # far above what is tolerated below
    weight, momentum = model.blocks[1].weight, torch.zeros(48, 96)
    for number in range(3):
        before = weight.detach().clone()
        gradient = step(model, optimizer, number)["blocks.1.weight"]
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        kept = optimizer.state[weight]["momentum"]
        torch.testing.assert_close(kept, momentum, rtol=1e-5, atol=1e-7)
        # Newton-Schulz in bfloat16 makes much of the last bit: what it is given must agree exactly
        ahead = gradient.lerp(kept, MOMENTUM)
        torch.testing.assert_close(ahead, MOMENTUM * momentum + (1 - MOMENTUM) * gradient, rtol=1e-5, atol=1e-7)
        expected = before * (1 - 0.01 * 5) - 0.01 * ADAMW_LENGTH * math.sqrt(96) * orthogonalised(ahead)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-3, atol=2e-5)


def test_a_matrix_without_a_gradient_stays() -> None:
    model = Net()
    before = model.blocks[1].weight.detach().clone()
    optimizer = Muon(model.named_parameters(), lr=0.01)
    model.blocks[0](torch.ones(1, 48)).sum().backward()
    optimizer.step()
    assert torch.equal(model.blocks[1].weight, before)


def test_all_else_moves_exactly_as_adamw_moves_it() -> None:
    one, other = Net(), Net()
    options = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    muon = Muon(one.named_parameters(), **options)
    adamw = torch.optim.AdamW(other.parameters(), **options)
    for number in range(3):
        optimizer_gradients = step(one, muon, number)
        for name, weight in other.named_parameters():
            weight.grad = optimizer_gradients[name]
        adamw.step()
    for name, weight in one.named_parameters():
        same = torch.equal(weight, dict(other.named_parameters())[name])
        assert same != is_block_matrix(name, weight), name


def test_a_loaded_state_goes_on_as_the_one_that_was_kept() -> None:
    one, other = Net(), Net()
    muon = Muon(one.named_parameters(), lr=0.01)
    step(one, muon, 0)
    other.load_state_dict(one.state_dict())
    again = Muon(other.named_parameters(), lr=0.01)
    again.load_state_dict(deepcopy(muon.state_dict()))  # or both would move one momentum
    for model, optimizer in ((one, muon), (other, again)):
        step(model, optimizer, 1)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_it_takes_the_matrices_of_blocks_wherever_they_hang() -> None:
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert is_block_matrix("blocks.0.attn1.to_q.weight", matrix)
    assert is_block_matrix("module.blocks.0.ffn.net.2.weight", matrix)
    assert not is_block_matrix("blocks.0.attn1.to_q.bias", vector)
    assert not is_block_matrix("condition_embedder.time_proj.weight", matrix)
    assert not is_block_matrix("proj_out.weight", matrix)


def test_under_deepspeed_it_is_refused() -> None:
    """Its parts of flattened weights are no matrices."""
    accelerator = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="muon needs whole matrices"):
        distribute_all(Net(), accelerator, TrainingConfig(optimizer="muon"))
