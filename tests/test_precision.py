"""bfloat16 only where a device is made for it; a GPU's steps as recorded passes."""

import time

import pytest
import torch

from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.precision import fast_autocast, fast_dtype, has_fast_bf16
from viewpoint_core.training.replay import Replay
from viewpoint_core.training.run import needs_float32


def seconds(dtype: torch.dtype) -> float:
    """This process's time for the shortest of many products of matrices, whatever else the machine does."""
    matrix, taken = torch.randn(256, 256).to(dtype), []
    for _ in range(20):
        start = time.process_time()
        matrix @ matrix
        taken.append(time.process_time() - start)
    return min(taken[1:])


def test_a_cpu_that_is_said_to_have_fast_bfloat16_has_it() -> None:
    if has_fast_bf16("cpu"):
        assert seconds(torch.bfloat16) < 5 * seconds(torch.float32)
    else:
        assert seconds(torch.bfloat16) > seconds(torch.float32)


@pytest.mark.parametrize("fast", [True, False])
def test_without_it_autocast_trainer_and_products_stay_in_float32(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewpoint_core.training.precision.has_fast_bf16", lambda device: fast)
    monkeypatch.setattr("viewpoint_core.training.run.has_fast_bf16", lambda device: fast)
    wanted = torch.bfloat16 if fast else torch.float32
    assert fast_dtype("cpu") == wanted
    with fast_autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == wanted
    cpu = torch.device("cpu")
    assert needs_float32(TrainingConfig(), cpu) != fast
    assert needs_float32(TrainingConfig(precision="fp32", vae_dtype="bf16"), cpu) != fast
    assert not needs_float32(TrainingConfig(precision="fp32"), cpu)
    assert not needs_float32(TrainingConfig(mode="lora", base_dtype="bf16"), cpu)


def test_a_gpu_needs_no_asking() -> None:
    assert has_fast_bf16("cuda")
    assert not needs_float32(TrainingConfig(precision="fp32", vae_dtype="bf16"), torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_recorded_passes_give_the_gradients_of_every_input() -> None:
    torch.manual_seed(0)
    model = torch.nn.Conv3d(3, 4, 3).cuda()

    def loss(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = model(video).square().mean()
        return made, made.detach()

    replay = Replay(model.parameters(), loss)
    for _ in range(3):
        video = torch.randn(2, 3, 5, 8, 8, device="cuda")
        shown = float(replay(video))
        found = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        expected, _ = loss(video)
        expected.backward()
        assert shown == pytest.approx(float(expected), rel=1e-5)
        for weight, gradient in zip(model.parameters(), found, strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)
