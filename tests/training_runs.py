"""Tiny runs of the real trainer: sources, cache, models, and the command line in this process or in others."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scripts.tiny_models import write_models
from viewpoint_core.encode import main as encode
from viewpoint_core.training.data.cache import write_text
from viewpoint_core.training.data.manifest import Item, read_manifest, write_manifest

REPO = Path(__file__).parents[1]
ERP = REPO / "workflows" / "assets" / "sample_erp.png"
WIDTH, HEIGHT, LENGTH, MAP = 128, 64, 5, 64
TEXT_DIM = 4096
USE_CPU = {"ACCELERATE_USE_CPU": "true"}


def write_turning_panorama(folder: Path, start: int, frames: int = LENGTH) -> Path:
    """A real panorama as a folder of frames that turns by two pixels a frame."""
    folder.mkdir(parents=True)
    erp = np.asarray(Image.open(ERP).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX))
    for frame in range(frames):
        Image.fromarray(np.roll(erp, start + 2 * frame, axis=1)).save(folder / f"{frame:04}.png")
    return folder


def write_cache(folder: Path, *, clips: int = 3) -> dict[str, Path]:
    """Models and a finished cache of `clips` training clips, one image and one held-out clip; the paths."""
    write_models(folder / "models")
    items = [
        Item(
            write_turning_panorama(folder / f"clip{i}", 17 * i),
            0,
            LENGTH,
            16.0,
            WIDTH,
            HEIGHT,
            f"a yard {i}",
            "CC0",
            split,
        )
        for i, split in enumerate(["train"] * clips + ["heldout"])
    ]
    image = write_turning_panorama(folder / "image", 3, 1) / "0000.png"
    items += [Item(image, 0, 1, 0.0, WIDTH, HEIGHT, "a yard", "CC0", "train")] if clips > 1 else []
    write_manifest(items, folder / "manifest.jsonl")
    paths = {
        "model": next((folder / "models" / "diffusion_models").glob("*t2v*.safetensors")),
        "vae": next((folder / "models" / "vae").glob("*.safetensors")),
        "manifest": folder / "manifest.jsonl",
    }
    cache = encode_cache(paths, folder / "cache")
    return {"model": paths["model"], "vae": paths["vae"], "cache": cache}


def encode_cache(paths: dict[str, Path], folder: Path, **settings: Any) -> Path:
    """A finished cache of a manifest, with made-up texts."""
    flags = {"manifest": paths["manifest"], "cache": folder, "vae": paths["vae"], "map-size": MAP}
    flags |= {"length": LENGTH, "fps": 16, "variants": 1, **settings}
    assert encode([part for name, value in flags.items() for part in (f"--{name}", str(value))]) == 0
    for number, caption in enumerate(sorted({"", *(item.caption for item in read_manifest(paths["manifest"]))})):
        generator = torch.Generator().manual_seed(number)
        write_text(folder, caption, 0.1 * torch.randn(4 + number, TEXT_DIM, generator=generator), "")
    return folder


def flags_of(paths: dict[str, Path], output: Path, **settings: Any) -> list[str]:
    """The trainer's flags for a tiny run."""
    tiny = {"preset": "tiny", "steps": 6, "save_every": 2, "heldout_every": 0, "sample_every": 0, "warmup": 0}
    values = {**paths, "output": output, **tiny, **settings}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def environment() -> dict[str, str]:
    """Two threads, no GPU, this repository first."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        **USE_CPU,
        "CUDA_VISIBLE_DEVICES": "",
    }


@contextmanager
def started(
    flags: list[str], processes: int = 1, launched: bool = False, script: Path | None = None
) -> Iterator[subprocess.Popen]:
    """The trainer, or a script around it, in processes of its own, none of which is left afterwards."""
    launcher = [sys.executable]
    if processes > 1 or launched:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    command = [*launcher, *([str(script)] if script else ["-m", "viewpoint_core.train"]), *flags]
    with subprocess.Popen(
        command,
        cwd=REPO,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # a launcher ends its workers, which lead groups of their own
                with suppress(subprocess.TimeoutExpired):
                    process.wait(40)  # it kills them after 30 seconds
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(flags: list[str], processes: int = 1, code: int = 0, launched: bool = False, script: Path | None = None) -> str:
    """The trainer in processes of its own, to its end; what it said. launched: by the launcher, even if it is one."""
    with started(flags, processes, launched, script) as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return out + errors


def losses(output: Path) -> dict[int, float]:
    """The loss of every step in a run's log, the last word on each."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
