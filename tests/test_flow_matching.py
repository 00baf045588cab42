"""Noise levels, the path from noise to data, the loss and the sampler."""

import pytest
import torch

from viewpoint_core.training import flow_matching


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    x_0, noise = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    low, high = (flow_matching.add_noise(x_0, noise, torch.full((2,), s).double()) for s in (0.25, 0.75))
    assert torch.allclose((high - low) / 0.5, flow_matching.velocity(x_0, noise))
    assert torch.equal(flow_matching.add_noise(x_0, noise, torch.zeros(2)), x_0)
    assert torch.equal(flow_matching.add_noise(x_0, noise, torch.ones(2)), noise)


@pytest.mark.parametrize("how", flow_matching.DISTRIBUTIONS)
def test_processes_draw_the_joined_batch_one_sample_from_each_stratum(how: str) -> None:
    world, batch = 4, 3
    draws = [
        flow_matching.sample_sigmas(batch, how, 3.0, rank=rank, world=world, generator=torch.Generator().manual_seed(5))
        for rank in range(world)
    ]
    joined = flow_matching.sample_sigmas(world * batch, how, 3.0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.cat(draws), joined)
    edges = flow_matching.sigma_quantile(torch.arange(13) / 12, how, 3.0)
    ordered = joined.sort().values
    assert bool((ordered >= edges[:-1]).all())
    assert bool((ordered <= edges[1:]).all())
    assert not torch.equal(joined, ordered)


def test_noise_levels_follow_their_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = flow_matching.sample_sigmas(4000, "logit_normal", generator=generator)
    assert abs(float(normal.logit().mean())) < 0.02
    assert abs(float(normal.logit().std()) - 1) < 0.02
    uniform = flow_matching.sample_sigmas(4000, "uniform", generator=generator)
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    assert float(flow_matching.shift_sigma(torch.tensor(0.5), 3.0)) == 0.75
    with pytest.raises(ValueError, match="logit_normal or uniform"):
        flow_matching.sample_sigmas(1, "cosmap")


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_shift_that_is_not_positive_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match="shift is .*; expected a positive number"):
        flow_matching.shift_sigma(torch.tensor(0.5), shift)


def test_all_noise_levels_are_shifted_those_of_training_of_losses_and_of_samples() -> None:
    for levels in (
        lambda shift: flow_matching.fixed_sigmas(4, "uniform", shift),
        lambda shift: flow_matching.sampling_sigmas(4, shift),
        lambda shift: flow_matching.sample_sigmas(4, shift=shift, generator=torch.Generator().manual_seed(0)),
    ):
        assert torch.allclose(levels(5.0), flow_matching.shift_sigma(levels(1.0), 5.0))
        assert not torch.equal(levels(5.0), levels(1.0))


def test_the_fixed_levels_are_always_the_same_and_rise() -> None:
    levels = flow_matching.fixed_sigmas(5)
    assert torch.equal(levels, flow_matching.fixed_sigmas(5))
    assert bool((levels.diff() > 0).all())
    assert float(levels[2]) == 0.5


def test_the_loss_is_each_samples_own_mean_square() -> None:
    predicted, target = torch.randn(3, 4, 5).bfloat16(), torch.randn(3, 4, 5)
    loss = flow_matching.flow_loss(predicted, target)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss[1], torch.nn.functional.mse_loss(predicted[1].float(), target[1]))
    both = flow_matching.flow_loss(predicted, target.bfloat16())
    assert torch.equal(both, flow_matching.flow_loss(predicted.float(), target.bfloat16().float()))


def test_euler_follows_a_straight_path_to_its_end_in_any_number_of_steps() -> None:
    x_0, noise = torch.randn(2, 3), torch.randn(2, 3)
    for steps, shift in ((1, 1.0), (7, 5.0)):
        sigmas = flow_matching.sampling_sigmas(steps, shift)
        assert (float(sigmas[0]), float(sigmas[-1]), len(sigmas)) == (1.0, 0.0, steps + 1)
        reached = flow_matching.euler_sample(lambda x, sigma: noise - x_0, noise, sigmas)
        assert torch.allclose(reached, x_0, atol=1e-6)


def test_euler_asks_at_the_noise_level_that_it_stands_at() -> None:
    asked: list[float] = []

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append(float(sigma[1]))
        return torch.zeros_like(x)

    sigmas = flow_matching.sampling_sigmas(3, 2.0)
    flow_matching.euler_sample(predict, torch.zeros(2, 3), sigmas)
    assert asked == sigmas[:-1].tolist()
