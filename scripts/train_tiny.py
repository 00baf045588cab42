"""Trains a tiny ViewPoint model, in place of the one that ships, by the trainer's own commands.

    python -m scripts.train_tiny [--folder build/tiny] [--budget cpu|gpu] [--share 0.25] [--further] [--until STEP]
    python -m scripts.train_tiny --ablation      # the models that docs/tiny-model.md compares, on the VAE that ships

Steps: data, vae, train, export. Each goes on where it was stopped; what is finished is not repeated.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scripts.make_sample_clip import read_image
from scripts.tiny_budgets import BUDGETS, Budget, share_of
from viewpoint_core import encode, export, train, train_vae
from viewpoint_core.replacing import replace_bytes
from viewpoint_core.training.data.manifest import Item, read_manifest, write_manifest
from viewpoint_core.training.data.video_file import write_video
from viewpoint_core.training.new_model import new_transformer, write_transformer
from viewpoint_core.training.precision import has_fast_bf16
from viewpoint_core.training.synthetic.clips import FPS, one_thread_processes, write_clips
from viewpoint_core.training.synthetic.turn import turn_panorama

ROOT = Path(__file__).resolve().parent.parent
PANORAMAS = ROOT / "workflows" / "assets" / "panoramas"
MODELS = ROOT / "workflows" / "assets" / "models"
VAE_FILE = MODELS / "vae" / "viewpoint_tiny_vae.safetensors"
DIT_FILE = MODELS / "diffusion_models" / "viewpoint_tiny_33ch.safetensors"
HELDOUT_PANORAMAS = ("courtyard", "forest")
HELDOUT_SEEDS = range(1_000_000, 1_000_064)
ERP_WIDTH, MAP_SIZE = 384, 256
LENGTH = 9  # of most clips, and of those that are scored
LONG = 49  # of some, as the workflows make: trained long on nine frames alone, a model falls apart on more
CUTS = 2  # short clips of a long video, at most
VAE_LENGTHS = (5, 5, 17)  # of the VAE's crops
COMPARED_SCENES = 32
PRESET = "tiny_viewpoint"
VAE_LR = 3e-3
FURTHER = 0.3  # of the learning rates, from weights that are trained
STOPPED = 130  # status of the trainer's commands where Ctrl-C ended them
SHRINK = 2  # a panorama is turned at twice the clip's width, then averaged


@dataclass(frozen=True)
class AblationRun:
    """One of the models that are compared: its Perspective blocks, and the picture that it is trained on."""

    name: str
    schedule: str
    layout: str


ABLATION = (
    AblationRun("alternating", "alternating", "viewpoint"),
    AblationRun("Pano only", "pano", "viewpoint"),
    AblationRun("Perspective only", "perspective", "viewpoint"),
    AblationRun("ERP", "pano", "erp"),
    AblationRun("cubemap", "pano", "cubemap"),
)


class StepError(RuntimeError):
    """A command of the trainer ended with an error, which it has printed."""


def call(command: Callable[[list[str]], int], *flags: object) -> None:
    """Run one of the trainer's commands. Raises KeyboardInterrupt where it was stopped: it heeds the signal itself."""
    code = command([str(flag) for flag in flags])
    if code == STOPPED:
        raise KeyboardInterrupt
    if code:
        raise StepError(f"{command.__module__} ended with status {code}")


def call_together(command: Callable[[list[str]], int], processes: int, *flags: object) -> None:
    """Run one of the trainer's commands in several processes, each with its part of the cores. On a CPU that is half
    again as fast for a small model as one process with as many threads; on a GPU it keeps more kernels coming."""
    if processes == 1:
        call(command, *flags)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = max(1, (os.cpu_count() or 1) // processes)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen([*launcher, "-m", command.__module__, *map(str, flags)], env=environment) as process:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # they have it too, and write their checkpoint
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if code:
        raise StepError(f"{command.__module__} ended with status {code}")


def shrunk(frames: torch.Tensor) -> torch.Tensor:
    """ERP frames at half their size, each pixel the mean of four."""
    return torch.nn.functional.avg_pool2d(frames, SHRINK)


def write_turn(source: Path, file: Path, frames: int, seed: int) -> None:
    """A clip turned out of a panorama."""
    write_video(shrunk(turn_panorama(read_image(source), frames, seed, FPS)), file, FPS)


def write_turns(folder: Path, frames: int, clips: int, workers: int = 1) -> Path:
    """Clips turned out of the CC0 panoramas, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    items, todo = [], []
    for number, source in enumerate(sorted(PANORAMAS.glob("*.jpg"))):
        split = "heldout" if source.stem in HELDOUT_PANORAMAS else "train"
        for clip in range(clips):
            file = folder / f"{source.stem}_{clip}_{ERP_WIDTH}x{frames}.mp4"
            todo += [] if file.exists() else [(source, file, frames, 100 * number + clip)]
            size = (ERP_WIDTH, ERP_WIDTH // 2)
            items.append(Item(file, 0, frames, FPS, *size, f"a panorama of the {source.stem}", "CC0", split))
    if todo:
        with one_thread_processes(workers) as pool:
            list(pool.map(write_turn, *zip(*todo, strict=True)))
    write_manifest(items, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def merge(manifests: Sequence[Path], target: Path) -> Path:
    """One manifest of several."""
    write_manifest([item for file in manifests for item in read_manifest(file)], target)
    return target


def write_scenes(data: Path, workers: int) -> Path:
    """Render the held-out worlds, and write their manifest."""
    return write_clips(data / "scenes", (), ERP_WIDTH, LENGTH, heldout=HELDOUT_SEEDS, workers=workers)


def make_data(folder: Path, budget: Budget) -> None:
    """Render the worlds that the VAE is trained on, turn the panoramas, and write their manifest."""
    data, workers = folder / "data", budget.workers
    with ThreadPoolExecutor(1) as pool:
        turns = pool.submit(write_turns, data / "turns", LONG, budget.turns, workers)
        videos = write_clips(data / "videos", budget.videos, ERP_WIDTH, LENGTH, workers=workers)
        merge([videos, turns.result()], data / "vae.jsonl")


def make_more_data(folder: Path, budget: Budget) -> None:
    """Render the other worlds, and write the manifests of all."""
    data, workers = folder / "data", budget.workers
    stills = write_clips(data / "stills", budget.stills, ERP_WIDTH, 1, workers=workers)
    more = [write_clips(data / "more", budget.more, ERP_WIDTH, LENGTH, workers=workers)] if budget.more else []
    long = write_clips(data / "long", budget.long, ERP_WIDTH, LONG, workers=workers)
    merge([data / "vae.jsonl", *more, write_scenes(data, workers), long, stills], data / "all.jsonl")


def train_the_vae(folder: Path, budget: Budget) -> None:
    """The VAE, on crops."""
    data = ("--manifest", folder / "data" / "vae.jsonl", "--length", max(VAE_LENGTHS), "--map-size", MAP_SIZE)
    data += ("--crop-length", *VAE_LENGTHS)
    size = ("--width", budget.vae_width, "--dtype", "float16", "--batch-size", budget.vae_batch)
    steps = ("--steps", budget.vae_steps, "--still-steps", budget.vae_still_steps)
    steps += ("--code-steps", budget.vae_code_steps, "--decoder-steps", budget.vae_decoder_steps)
    steps += ("--optimizer", budget.vae_optimizer, "--lr", VAE_LR * (FURTHER if budget.further else 1))
    if budget.further:
        steps += ("--vae", kept(VAE_FILE, folder / "start_vae.safetensors"))
    if not (folder / "vae" / "vae.safetensors").is_file():
        call(train_vae.main, *data, *size, *steps, "--device", budget.device, "--output", folder / "vae")


def kept(file: Path, copy: Path) -> Path:
    """A run's own copy of a file, so that it goes on as it began when another is put in its place."""
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(copy, file.read_bytes())
    return copy


def train_the_vae_and_render(folder: Path, budget: Budget) -> None:
    """The VAE, and the data that comes after it; where a GPU trains the VAE, the CPU renders at the same time."""
    with ThreadPoolExecutor(1) as pool:
        more = pool.submit(make_more_data, folder, budget)
        if budget.device == "cpu":
            more.result()
        train_the_vae(folder, budget)
        more.result()


def encode_flags(
    manifest: Path, cache: Path, vae: Path, device: str, *, both_lengths: bool = False, **options: object
) -> list[object]:
    """The encoder's flags for clips of the tiny model's size."""
    dtype = "bfloat16" if has_fast_bf16(device) else "float32"
    flags = {"manifest": manifest, "cache": cache, "vae": vae, "map-size": MAP_SIZE, "dtype": dtype, "device": device}
    flags |= options
    lengths = ("--length", LENGTH, *([LONG] if both_lengths else []))
    return ["--no-text", *lengths, *(part for name, value in flags.items() for part in (f"--{name}", value))]


def encode_all(folder: Path, manifest: str, cache: Path, vae: Path, budget: Budget, **options: Any) -> None:
    """Encode a manifest's clips, and the view straight ahead of each."""
    flags = encode_flags(folder / "data" / manifest, cache, vae, budget.device, known="F", **options)
    call_together(encode.main, budget.encoders, *flags)


def train_the_model(folder: Path, budget: Budget) -> None:
    """The model, on clips and stills."""
    start = folder / "start.safetensors"
    if budget.further:
        kept(DIT_FILE, start)
    elif not start.is_file():
        write_transformer(new_transformer(budget.heads, budget.layers, budget.ffn, seed=0), start)
    cache, vae = folder / "cache", folder / "vae" / "vae.safetensors"
    encode_all(folder, "all.jsonl", cache, vae, budget, both_lengths=True, variants=budget.variants, clips=CUTS)
    flags = ("--preset", PRESET, "--vae", vae, "--model", start, "--cache", cache, "--output", folder / "model")
    flags += ("--steps", budget.steps, "--batch-size", budget.batch)
    flags += ("--lr", budget.lr * (FURTHER if budget.further else 1))
    flags += ("--workers", budget.loaders)
    if budget.device != "cpu":  # twice the steps a second, for a minute and a half of compiling
        flags += ("--replay", "true", "--compile", "true")
    call_together(train.main, budget.processes, *flags)


def export_all(folder: Path, budget: Budget) -> None:
    """Put both models where the pack keeps them."""
    VAE_FILE.parent.mkdir(parents=True, exist_ok=True)
    DIT_FILE.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(VAE_FILE, (folder / "vae" / "vae.safetensors").read_bytes())
    call(export.main, "checkpoint", folder / "model", DIT_FILE, "--force")


def run_folder(folder: Path, run: AblationRun) -> Path:
    """Where a model of the comparison lies."""
    return folder / "ablation" / run.name.lower().replace(" ", "_")


def compared_vae(folder: Path) -> Path:
    """The VAE of the compared models: their own copy."""
    return folder / "ablation" / "vae.safetensors"


def make_compared_data(folder: Path, budget: Budget) -> None:
    """Render the worlds that the models of the comparison are trained and scored on, and write their manifest."""
    data, workers = folder / "data", budget.workers
    trained = write_clips(data / "compared", budget.compared, ERP_WIDTH, LENGTH, workers=workers)
    scenes = read_manifest(write_scenes(data, workers))[:COMPARED_SCENES]
    write_manifest([*read_manifest(trained), *scenes], data / "compared.jsonl")


def train_ablation(folder: Path, budget: Budget) -> None:
    """The models that are compared, on the VAE that ships: same clips, seeds, steps and start; three kinds of
    attention, three layouts."""
    vae = kept(VAE_FILE, compared_vae(folder))
    if vae.read_bytes() != VAE_FILE.read_bytes():
        raise ValueError(
            f"the comparison in {folder} was begun on another VAE than {VAE_FILE}; remove {vae.parent} and "
            f"{folder}/cache_viewpoint, cache_erp and cache_cubemap, or give another --folder"
        )
    start = folder / "ablation" / "start.safetensors"
    if not start.is_file():
        write_transformer(new_transformer(budget.ablation_heads, budget.ablation_layers, budget.ffn, seed=0), start)
    for run in ABLATION:
        cache, output = folder / f"cache_{run.layout}", run_folder(folder, run)
        encode_all(folder, "compared.jsonl", cache, vae, budget, variants=1, clips=1, layout=run.layout)
        flags = ("--preset", PRESET, "--vae", vae, "--model", start, "--cache", cache, "--output", output)
        flags += ("--schedule", run.schedule, "--layout", run.layout, "--steps", budget.ablation_steps)
        call(train.main, *flags, "--batch-size", budget.batch)
        call(export.main, "checkpoint", output, output / "model.safetensors", "--force")


STEPS = {
    "data": make_data,
    "vae": train_the_vae_and_render,
    "train": train_the_model,
    "export": export_all,
}
ABLATION_STEPS = {"data": make_compared_data, "train": train_ablation}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 1 where a step fails, 130 where it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--folder", type=Path, help="where to work (build/tiny, with _gpu and _further)")
    parser.add_argument("--budget", choices=BUDGETS, default="gpu" if has_gpu else "cpu", help="how much to do")
    parser.add_argument("--share", type=float, default=1.0, help="part of that budget, where there is less time (1)")
    parser.add_argument("--until", choices=STEPS, help="the last step (all)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--further", action="store_true", help="from the files that ship, not from nothing")
    start.add_argument("--ablation", action="store_true", help="only the compared models; what ships stays")
    options = parser.parse_args(arguments)
    if options.until and options.ablation:
        parser.error("--until is for the training of what ships; --ablation is done as a whole")
    parts = ["tiny", *([options.budget] if options.budget != "cpu" else []), *(["further"] if options.further else [])]
    folder = options.folder or ROOT / "build" / "_".join(parts)
    try:
        budget = replace(share_of(BUDGETS[options.budget], options.share), further=options.further)
        for name, step in (ABLATION_STEPS if options.ablation else STEPS).items():
            step(folder.resolve(), budget)
            if name == options.until:
                break
    except (StepError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
