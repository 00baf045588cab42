"""scripts/train_tiny.py as a whole, on pictures of a few pixels."""

from pathlib import Path

import pytest
from PIL import Image

from scripts import train_tiny
from viewpoint_core.training.data.cache import CachedClips
from viewpoint_core.training.wan import prepare_transformer
from viewpoint_core.training.wan_vae import load_vae

BUDGET = train_tiny.Budget(
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


@pytest.mark.usefixtures("another_precision")
def test_both_models_come_out_of_seeds_and_panoramas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, model = tmp_path / "models" / "vae" / "vae.safetensors", tmp_path / "models" / "dit" / "dit.safetensors"
    for name, value in {
        "VAE_FILE": vae,
        "DIT_FILE": model,
        "PANORAMAS": small_panoramas(tmp_path / "panoramas"),
        "ERP_WIDTH": 64,
        "MAP_SIZE": 64,
        "HELDOUT_SEEDS": range(1_000_000, 1_000_001),
        "BUDGETS": {"cpu": BUDGET},
    }.items():
        monkeypatch.setattr(train_tiny, name, value)
    folder = tmp_path / "work"
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu"]) == 0
    clips = CachedClips(folder / "cache")
    lengths = {row["source"].split("/")[0]: set() for row in clips.rows}
    for row in clips.rows:
        lengths[row["source"].split("/")[0]].add(row["shape"][0])
    assert lengths == {"videos": {3}, "turns": {3, 13}, "long": {3, 13}, "stills": {1}}
    heldout = CachedClips(folder / "cache", "heldout", known="F")
    assert {row["source"].split("/")[0] for row in heldout.rows} == {"more", "turns"}
    assert load_vae(vae).config.base_dim == 8
    assert prepare_transformer(model, "alternating").config.in_channels == 33
    before = [file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.suffix in (".mp4", ".safetensors")]
    assert train_tiny.main(["--folder", str(folder), "--budget", "cpu"]) == 0
    after = [file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.suffix in (".mp4", ".safetensors")]
    assert after == before, "what is finished is not repeated"
