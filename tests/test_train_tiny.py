"""scripts/train_tiny.py: its budgets, and as a whole on pictures of a few pixels."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from scripts import tiny_budgets, train_tiny
from viewpoint_core import train_vae
from viewpoint_core.checkpoint import read_checkpoint, schedule_from_metadata
from viewpoint_core.training.data.cache import CachedClips
from viewpoint_core.training.new_model import new_transformer, write_transformer
from viewpoint_core.training.new_vae import new_vae
from viewpoint_core.training.vae_training import write_vae
from viewpoint_core.training.wan import prepare_transformer
from viewpoint_core.training.wan_vae import load_vae

BUDGET = tiny_budgets.Budget(
    videos=range(2),
    long=range(5_000, 5_001),
    stills=range(10_000, 10_001),
    turns=1,
    vae_width=8,
    vae_batch=1,
    vae_steps=5,
    vae_still_steps=1,
    vae_code_steps=1,
    vae_decoder_steps=1,
    heads=1,
    layers=2,
    ffn=32,
    batch=2,
    processes=1,
    variants=1,
    steps=4,
    ablation_heads=1,
    ablation_layers=2,
    ablation_steps=2,
    compared=range(2),
    workers=1,
)


def small_panoramas(folder: Path) -> Path:
    """One panorama to train on and one that is held out, as wide as turned clips of 64 pixels need."""
    folder.mkdir()
    for name in ("city", "courtyard"):
        picture = Image.open(train_tiny.PANORAMAS / f"{name}.jpg")
        picture.resize((64 * train_tiny.SHRINK, 32 * train_tiny.SHRINK), Image.Resampling.BOX).save(
            folder / f"{name}.jpg"
        )
    return folder


def test_every_number_of_a_budgets_vae_reaches_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [field.name for field in fields(tiny_budgets.Budget) if field.name.startswith("vae_")]
    budget = tiny_budgets.Budget(
        **{name: 1000 + number for number, name in enumerate(names)} | {"vae_steps": 5000, "vae_optimizer": "muon"}
    )
    given: list[object] = []
    monkeypatch.setattr(train_tiny, "call", lambda command, *flags: given.extend(flags))
    train_tiny.train_the_vae(tmp_path, budget)
    assert {getattr(budget, name) for name in names} <= set(given)
    train_vae.check_options(train_vae.parse([str(flag) for flag in given]))


@pytest.mark.parametrize("name", tiny_budgets.BUDGETS)
@pytest.mark.parametrize("share", [1.0, 0.4, 0.001])
def test_a_share_of_a_budget_is_less_of_the_same_training(name: str, share: float) -> None:
    whole = tiny_budgets.BUDGETS[name]
    part = tiny_budgets.share_of(whole, share)
    assert part.steps == math.ceil(share * whole.steps)
    assert part.vae_decoder_steps < part.vae_steps == math.ceil(share * whole.vae_steps)
    for clips, all_clips in (
        (part.videos, whole.videos),
        (part.more, whole.more),
        (part.long, whole.long),
        (part.stills, whole.stills),
        (part.compared, whole.compared),
    ):
        assert len(clips) == math.ceil(share * len(all_clips))
        assert list(clips) == list(all_clips)[: len(clips)]
    assert (part.batch, part.lr, part.heads, part.vae_width) == (whole.batch, whole.lr, whole.heads, whole.vae_width)
    assert share < 1 or part == whole


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan"])
def test_a_share_that_cannot_be_is_refused_before_anything_is_made(
    share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    assert train_tiny.main(["--folder", str(folder), "--share", share]) == 1
    assert "expected more than 0 and at most 1" in capsys.readouterr().err
    assert not folder.exists()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another_precision: None) -> tuple[Path, Path]:
    """Where the small VAE and model go, in place of those that ship."""
    vae, model = tmp_path / "models" / "vae" / "vae.safetensors", tmp_path / "models" / "dit" / "dit.safetensors"
    for name, value in {
        "VAE_FILE": vae,
        "DIT_FILE": model,
        "PANORAMAS": small_panoramas(tmp_path / "panoramas"),
        "ERP_WIDTH": 64,
        "MAP_SIZE": 64,
        "HELDOUT_SEEDS": range(1_000_000, 1_000_001),
        "COMPARED_SCENES": 1,
        "BUDGETS": {"cpu": BUDGET},
    }.items():
        monkeypatch.setattr(train_tiny, name, value)
    return vae, model


def test_both_models_come_out_of_seeds_and_panoramas(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu"]) == 0
    clips = CachedClips(folder / "cache")
    lengths = {row["source"].split("/")[0]: set() for row in clips.rows}
    for row in clips.rows:
        lengths[row["source"].split("/")[0]].add(row["shape"][0])
    assert lengths == {"videos": {3}, "turns": {3, 13}, "long": {3, 13}, "stills": {1}}
    heldout = CachedClips(folder / "cache", "heldout", known="F")
    assert {row["source"].split("/")[0] for row in heldout.rows} == {"scenes", "turns"}
    assert load_vae(files[0]).config.base_dim == 8
    assert prepare_transformer(files[1], "alternating").config.in_channels == 33
    before = [file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.suffix in (".mp4", ".safetensors")]
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu"]) == 0
    after = [file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.suffix in (".mp4", ".safetensors")]
    assert after == before, "what is finished is not repeated"


def test_further_training_begins_with_the_files_that_lie_there(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Of another size than the budget's; started again, it is the same run, though its own files lie there by then."""
    vae, model = files
    write_vae(new_vae(16, 0), vae)
    write_transformer(new_transformer(2, 3, 48, seed=0), model)
    first, further = [file.read_bytes() for file in files], ["--folder", str(tmp_path / "work"), "--further"]
    assert train_tiny.main([*further, "--budget", "cpu"]) == 0
    assert load_vae(vae).config.base_dim == 16
    config = prepare_transformer(model, "alternating").config
    assert (config.num_attention_heads, config.num_layers) == (2, 3)
    second = [file.read_bytes() for file in files]
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert train_tiny.main([*further, "--budget", "cpu"]) == 0
    assert [file.read_bytes() for file in files] == second


def test_the_comparison_needs_no_other_training_and_leaves_what_ships(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, model = files
    write_vae(new_vae(8, 0), vae)
    model.parent.mkdir(parents=True)
    model.write_bytes(b"as it ships")
    shipped, folder = vae.read_bytes(), tmp_path / "work"
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu", "--ablation"]) == 0
    assert (vae.read_bytes(), model.read_bytes()) == (shipped, b"as it ships")
    made = {run.name: train_tiny.run_folder(folder, run) / "model.safetensors" for run in train_tiny.ABLATION}
    assert len({file.read_bytes() for file in made.values()}) == len(train_tiny.ABLATION)
    schedules = {name: schedule_from_metadata(read_checkpoint(file)[1]) for name, file in made.items()}
    paper = {"alternating": "1", "Pano only": "pano", "Perspective only": "0,1"}
    assert schedules == paper | {"ERP": "pano", "cubemap": "pano"}
    for layout in ("viewpoint", "erp", "cubemap"):
        rows = CachedClips(folder / f"cache_{layout}").rows
        assert [row["source"].split("/")[0] for row in rows] == ["compared"] * len(BUDGET.compared)
        (scene,) = CachedClips(folder / f"cache_{layout}", "heldout", known="F").rows
        assert scene["source"].startswith("scenes/")
    write_vae(new_vae(8, 1), vae)
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu", "--ablation"]) == 1
    assert "was begun on another VAE" in capsys.readouterr().err


@pytest.mark.parametrize(("other", "words"), [(["--further"], "not allowed with"), (["--until", "data"], "as a whole")])
def test_the_comparison_takes_no_option_of_the_other_training(
    other: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_tiny.main(["--folder", str(tmp_path / "made"), "--ablation", *other])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
