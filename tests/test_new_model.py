"""A small model to train from nothing, and training without captions."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.training_runs import LENGTH, MAP, WIDTH, flags_of, losses, write_turning_panorama
from viewpoint_core import encode, train
from viewpoint_core.training.data.cache import CachedClips
from viewpoint_core.training.data.manifest import Item, write_manifest
from viewpoint_core.training.flow_matching import add_noise, velocity
from viewpoint_core.training.new_model import new_transformer, write_transformer
from viewpoint_core.training.new_vae import new_vae
from viewpoint_core.training.vae_training import write_vae
from viewpoint_core.training.wan import pad_text, predict_velocity, prepare_transformer


def test_where_the_view_is_known_it_starts_with_nearly_the_velocity() -> None:
    """The noisy latent minus the known one is sigma (noise - x_0), whatever sigma is."""
    model = new_transformer(3, 2, 128, seed=0)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(1, 16, 2, 8, 8, generator=generator) for _ in range(2))
    known = torch.cat([x_0, torch.ones(1, 1, 2, 8, 8)], dim=1)
    for sigma in (torch.tensor([0.6]), torch.tensor([0.95])):
        with torch.no_grad():
            made = predict_velocity(model, add_noise(x_0, noise, sigma), known, sigma, torch.zeros(1, 1, 4096))
        wanted = velocity(x_0, noise)
        assert float((made - wanted).square().mean()) < 0.2 * float(wanted.square().mean())


def test_its_file_is_one_that_the_trainer_takes_as_it_is(tmp_path: Path) -> None:
    model = new_transformer(2, 2, 64, seed=0)
    write_transformer(model, tmp_path / "start" / "model.safetensors")
    loaded = prepare_transformer(tmp_path / "start" / "model.safetensors", "alternating")
    assert loaded.config.in_channels == 33
    assert torch.equal(loaded.patch_embedding.weight, model.patch_embedding.weight)
    assert torch.equal(new_transformer(2, 2, 64, seed=0).proj_out.weight, model.proj_out.weight)


def test_an_empty_text_counts_as_one_row_and_gives_what_512_give() -> None:
    model = new_transformer(2, 2, 64, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
        noisy, known = torch.randn(1, 16, 1, 4, 4), torch.zeros(1, 17, 1, 4, 4)
        text = pad_text([torch.zeros(1, 4096)])
        short = predict_velocity(model, noisy, known, torch.tensor([0.5]), text)
        long = model(torch.cat([noisy, known], dim=1), torch.tensor([500.0]), text, return_dict=False)[0]
        other = predict_velocity(model, noisy, known, torch.tensor([0.5]), text + torch.eye(512, 4096))
    assert (short - long).abs().max() < 1e-5
    assert (short - other).abs().max() > 1e-4


@pytest.fixture
def untold(tmp_path: Path) -> dict[str, Path]:
    """A cache without texts of clips that have captions, and the models."""
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("model", "vae")}
    write_transformer(new_transformer(2, 2, 64, seed=0), paths["model"])
    write_vae(new_vae(8, 0), paths["vae"])
    clips = [write_turning_panorama(tmp_path / f"clip{i}", 20 * i) for i in range(2)]
    items = [Item(clip, 0, LENGTH, 16.0, WIDTH, WIDTH // 2, f"yard {clip.name}", "CC0", "train") for clip in clips]
    write_manifest(items, tmp_path / "manifest.jsonl")
    return {**paths, "manifest": tmp_path / "manifest.jsonl"}


def encode_flags(paths: dict[str, Path], cache: Path, *more: str) -> list[str]:
    shared = ["--manifest", str(paths["manifest"]), "--cache", str(cache), "--vae", str(paths["vae"]), "--no-text"]
    return [*shared, "--map-size", str(MAP), "--length", str(LENGTH), "--variants", "1", *more]


@pytest.mark.parametrize(("layout", "schedule"), [("viewpoint", "alternating"), ("erp", "pano"), ("cubemap", "pano")])
def test_a_model_trains_without_captions_on_every_layout(
    layout: str, schedule: str, untold: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / layout
    assert encode.main(encode_flags(untold, cache, "--layout", layout)) == 0
    clips = CachedClips(cache)
    assert {row["caption"] for row in clips.rows} == {""}
    assert not bool(clips.empty_text().any())
    paths = {name: untold[name] for name in ("model", "vae")} | {"cache": cache}
    output = tmp_path / f"run_{layout}"
    assert train.main(flags_of(paths, output, steps=2, layout=layout, schedule=schedule, shift=3)) == 0
    found = losses(output)
    assert list(found) == [1, 2]
    assert all(map(math.isfinite, found.values()))


def test_a_cache_of_another_layout_is_refused(
    untold: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode.main(encode_flags(untold, tmp_path / "erp", "--layout", "erp")) == 0
    assert asdict(CachedClips(tmp_path / "erp").fingerprint)["projection"].startswith("erp-")
    paths = {name: untold[name] for name in ("model", "vae")} | {"cache": tmp_path / "erp"}
    assert train.main(flags_of(paths, tmp_path / "run", steps=1)) == 2
    assert "another projection" in capsys.readouterr().err


def test_no_text_and_a_text_encoder_exclude_each_other(
    untold: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode.main(encode_flags(untold, tmp_path / "c", "--text-encoder", str(tmp_path))) == 2
    assert "exclude each other" in capsys.readouterr().err
