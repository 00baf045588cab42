"""Runs of train_vae on two turning panoramas of a few pixels."""

import signal
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.training_runs import HEIGHT, LENGTH, MAP, WIDTH, write_turning_panorama
from viewpoint_core import train_vae
from viewpoint_core.training.data.manifest import Item, write_manifest


def manifest(folder: Path) -> Path:
    items = [
        Item(
            write_turning_panorama(folder / f"clip{i}", 20 * i), 0, LENGTH, 16.0, WIDTH, HEIGHT, "a yard", "CC0", split
        )
        for i, split in enumerate(("train", "train", "heldout"))
    ]
    write_manifest(items, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def flags(folder: Path, output: str, **options: object) -> list[str]:
    values = {"manifest": folder / "manifest.jsonl", "output": folder / output, "map-size": MAP, "length": LENGTH}
    values |= {
        "width": 8,
        "crop": 32,
        "batch-size": 2,
        "steps": 5,
        "still-steps": 3,
        "code-steps": 2,
        "device": "cpu",
        **options,
    }
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def stop_at_two(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """A signal in the second step, to every run from here on."""
    real_step = train_vae.train_step

    def step(run: train_vae.VaeRun) -> float:
        if run.step == 1:
            signal.raise_signal(number)
        return real_step(run)

    monkeypatch.setattr(train_vae, "train_step", step)


def moved_parts(one: AutoencoderKLWan, other: AutoencoderKLWan) -> set[str]:
    """The parts of a VAE in which another's weights are not the same."""
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return {name.split(".")[0] for (name, weight), changed in pairs if not torch.equal(weight, changed)}
