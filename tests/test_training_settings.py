"""Settings of the trainer that no other test turns: each shows in a tiny run's steps, log or files."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training_runs import encode_cache, flags_of, losses, write_cache
from viewpoint_core import train
from viewpoint_core.train import main, train_step
from viewpoint_core.training.data.manifest import read_manifest, write_manifest
from viewpoint_core.training.flow_matching import sample_sigmas
from viewpoint_core.training.known_view import FACE_OF
from viewpoint_core.training.loop import Batch, Draws
from viewpoint_core.training.plan import generator_for
from viewpoint_core.training.run import Run

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and a cache of two clips and an image, and of two held-out clips; and the manifest."""
    folder = tmp_path_factory.mktemp("settings")
    made = write_cache(folder) | {"manifest": folder / "manifest.jsonl"}
    first, *others = read_manifest(made["manifest"])
    write_manifest([replace(first, split="heldout"), *others], made["manifest"])
    return made | {"cache": encode_cache(made, folder / "two_held_out")}


@dataclass
class Watched:
    """What was drawn for each step, the gradient's norm that the optimiser met, and its settings."""

    batches: list[Batch] = field(default_factory=list)
    draws: list[Draws] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    run: Run | None = None


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    """Train in this process, with a look at every step."""

    def watched_run(paths: dict[str, Path], output: Path, **settings: Any) -> Watched:
        seen = Watched()

        def note_gradient(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
            gradients = [w.grad for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
            seen.norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

        def watched_step(run: Run, parts: list[tuple[Batch, Draws]]) -> float:
            if seen.run is None:
                run.optimizer.register_step_pre_hook(note_gradient)
            seen.run = run
            seen.batches += [batch for batch, _ in parts]
            seen.draws += [draws for _, draws in parts]
            loss = train_step(run, parts)
            seen.groups = run.optimizer.param_groups
            return loss

        monkeypatch.setattr(train, "train_step", watched_step)
        own = {name: paths[name] for name in ("model", "vae", "cache")}
        assert main(flags_of(own, output, **{"save_every": 100, **settings})) == 0
        assert all(map(math.isfinite, losses(output).values()))
        return seen

    return watched_run


def test_wide_views_are_no_faces_and_are_encoded_whatever_the_cache_knows(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    ready = encode_cache(paths, tmp_path / "cache", known="FRBL")
    settings = {"steps": 2, "views": "wide", "condition_dropout": 0}
    seen = watch(paths | {"cache": ready}, tmp_path / "cached", **settings)
    views = [view for draws in seen.draws for view in draws.views]
    assert len(views) == 2
    assert not set(views) & FACE_OF.keys()
    watch(paths, tmp_path / "plain", **settings)
    assert losses(tmp_path / "cached") == losses(tmp_path / "plain")


def test_clip_bounds_the_gradient_and_0_does_not(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    free = watch(paths, tmp_path / "free", steps=1, clip=0)
    bounded = watch(paths, tmp_path / "bounded", steps=1, clip=free.norms[0] / 4)
    assert losses(tmp_path / "free") == losses(tmp_path / "bounded")
    assert bounded.norms[0] == pytest.approx(free.norms[0] / 4, rel=1e-4)
    loose = watch(paths, tmp_path / "loose", steps=1, clip=4 * free.norms[0])
    assert loose.norms == free.norms


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_betas_and_weight_decay_reach_the_optimiser(
    optimizer: str, paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    settings = {"optimizer": optimizer, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.25}
    seen = watch(paths, tmp_path / "run", steps=1, **settings)
    assert len(seen.groups) == (2 if optimizer == "muon" else 1)
    assert {group["weight_decay"] for group in seen.groups} == {0.25}
    assert {tuple(group["betas"]) for group in seen.groups if "betas" in group} == {(0.8, 0.9)}


def heldout(output: Path) -> dict[str, float]:
    """The held-out losses that a run logged last."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if any(name.startswith("heldout/") for name in line))


def test_settings_of_the_data_and_of_what_is_watched_show_in_a_run(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    """An epoch of eight batches, six of them of the image; its captions dropped."""
    data = {"sigmas": "uniform", "shift": 1, "image_share": 0.75, "caption_dropout": 1}
    shown = {"heldout_every": 8, "heldout_clips": 1, "heldout_levels": 2, "sample_every": 8, "sample_clips": 2}
    output = tmp_path / "run"
    seen = watch(paths, output, steps=8, sample_steps=1, **data, **shown)
    assert [batch.latent.shape[2] for batch in seen.batches].count(1) == 6
    assert all(bool(draws.no_caption.all()) for draws in seen.draws)
    for number, draws in enumerate(seen.draws):
        assert torch.equal(draws.sigma, sample_sigmas(1, "uniform", 1.0, generator=generator_for(0, "sigma", number)))
    assert [line["epoch"] for line in map(json.loads, (output / "log.jsonl").open()) if "epoch" in line][-1] == 1
    assert list(heldout(output)) == ["step", "heldout/sigma_0.25", "heldout/sigma_0.75"]
    kinds = ("erp", "faces", "map")
    assert sorted(file.name for file in (output / "samples").iterdir()) == [
        f"step_00000008_{clip}_{kind}.mp4" for clip in (0, 1) for kind in kinds
    ]
    plain = {**data, "image_share": -1, "caption_dropout": 0}
    both = watch(paths, tmp_path / "both", steps=1, **plain, **{**shown, "heldout_every": 1, "heldout_clips": 2})
    one = watch(paths, tmp_path / "one", steps=1, **plain, **{**shown, "heldout_every": 1})
    assert not any(bool(draws.no_caption.any()) for draws in both.draws + one.draws)
    assert heldout(tmp_path / "both") != heldout(tmp_path / "one")


@pytest.mark.usefixtures("another_precision")
def test_a_lora_over_a_bf16_base_trains_with_checkpointed_blocks_as_without(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    settings = {"mode": "lora", "lora_rank": 4, "base_dtype": "bf16", "precision": "bf16", "steps": 2}
    for checkpointed in (True, False):
        seen = watch(paths, tmp_path / str(checkpointed), gradient_checkpointing=checkpointed, **settings)
        assert seen.run is not None
        assert seen.run.model.is_gradient_checkpointing == checkpointed
        dtypes = {trains: set() for trains in (True, False)}
        for weight in seen.run.model.parameters():
            dtypes[weight.requires_grad].add(weight.dtype)
        assert dtypes[True] == {torch.float32}
        assert torch.bfloat16 in dtypes[False]
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-3)
    assert losses(tmp_path / "True")[1] != losses(tmp_path / "True")[2]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"gradient_checkpointing": True}, "gradient_checkpointing false"),
        ({"accumulation": 2}, "accumulation 1"),
        ({"sharding": "fsdp2"}, "sharding none"),
    ],
)
def test_recording_passes_is_refused_with_what_does_not_fit_in_a_recording(
    other: dict[str, Any], said: str, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {name: paths[name] for name in ("model", "vae", "cache")}
    settings = {"replay": True, "gradient_checkpointing": False, **other}
    assert main(flags_of(own, tmp_path / "run", **settings)) == 2
    error = capsys.readouterr().err
    assert "replay is true" in error
    assert said in error
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_recorded_and_it_is_said(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"steps": 2, "gradient_checkpointing": False, "log_every": 1}
    watch(paths, tmp_path / "plain", **settings)
    seen = watch(paths, tmp_path / "replay", replay=True, **settings)
    assert "without a GPU nothing is recorded" in capsys.readouterr().out
    assert seen.run is not None
    assert not seen.run.replays
    assert losses(tmp_path / "replay") == losses(tmp_path / "plain")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="passes are recorded on a GPU")
def test_recorded_steps_of_clips_and_images_learn_as_others_do(
    paths: dict[str, Path], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    settings = {"steps": 8, "gradient_checkpointing": False, "log_every": 1, "lr": 1e-3, "image_share": 0.5}
    watch(paths, tmp_path / "plain", **settings)
    seen = watch(paths, tmp_path / "replay", replay=True, workers=2, **settings)
    assert seen.run is not None
    assert len(seen.run.replays) == 2
    for step, loss in losses(tmp_path / "plain").items():
        assert losses(tmp_path / "replay")[step] == pytest.approx(loss, rel=0.02)
