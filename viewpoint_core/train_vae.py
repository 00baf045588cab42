"""Train a small Wan2.1 VAE from scratch, or one that is there further: python -m viewpoint_core.train_vae.

A real-size model uses Wan's own VAE."""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from .conditioning import check_length, latent_shape
from .map_layout import check_map_size
from .training.data.fingerprint import vae_fingerprint
from .training.muon import Muon, is_inner_kernel
from .training.new_vae import MIN_WIDTH, new_vae
from .training.patch_codes import PatchCodes, fit_codes, read_codes, write_codes
from .training.plan import generator_for, lr_at
from .training.precision import fast_autocast
from .training.replay import Replay
from .training.state import check_facts, collect_tensors, load_state, newest_checkpoint, save_state, write_tensors
from .training.stopping import stopped_by_signals
from .training.vae_training import (
    code_loss,
    draw_crops,
    known_masks,
    read_clips,
    reconstruction_psnr,
    set_latent_scale,
    sharp_loss,
    vae_loss,
    write_vae,
)
from .training.wan_vae import load_vae

EPILOG = """\
All clips are held in memory as maps. The run's checkpoints lie in OUTPUT/checkpoints; the same command goes on from the
newest. At the end OUTPUT/vae.safetensors is written, in the format that ComfyUI's VAELoader takes.

With --vae, a VAE that is there is trained further, its encoder too: a model that was trained on its latents must then
go on, on a new cache. With --decoder-of, it gets a better decoder alone. Its latents stay as they are, so such a model
goes with the new file too. Either wants a third of --lr's default or less. --width, --still-steps and --code-steps
then count for nothing, nor does --decoder-steps with --decoder-of.
"""
FILE, CODES = "vae.safetensors", "codes.safetensors"
OUT_OF_MEMORY = (
    "the device's memory is full; the newest checkpoint is as it was. A smaller --batch-size goes on from it; a "
    "smaller --crop, --crop-length or --width needs a new --output"
)
DTYPES = {"float32": torch.float32, "float16": torch.float16}
SAVE_EVERY = 200
WARMUP = 20
CLIP_NORM = 1.0
HELDOUT_SHOWN = 8


@dataclass
class VaeRun:
    """What a run holds on to."""

    options: argparse.Namespace
    vae: AutoencoderKLWan
    optimizer: torch.optim.Optimizer
    clips: list[Tensor]
    masks: Tensor
    codes: PatchCodes | None
    step: int = 0
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    ahead: tuple[int, Future[Tensor]] | None = None
    replays: dict[Any, Replay] = field(default_factory=dict)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m viewpoint_core.train_vae",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, nargs="+", metavar="FILE", help="videos of panoramas")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for checkpoints and the VAE")
    add("--width", type=int, default=8, help="base width; Wan's own is 96 [8]")
    add("--map-size", type=int, default=256, help="side of the ViewPoint map in pixels [256]")
    add(
        "--length",
        type=int,
        default=9,
        help="frames of a clip, 4k + 1, as many as there are where a video is shorter [9]",
    )
    add("--fps", type=float, default=16.0, help="frames a second [16]")
    add("--crop", type=int, default=64, help="side of the crops that it trains on, a multiple of 8 [64]")
    add(
        "--crop-length",
        type=int,
        nargs="+",
        default=[5],
        metavar="FRAMES",
        help="frames of a crop, 4k + 1; several take turns, step by step [5]",
    )
    add("--batch-size", type=int, default=16, help="crops a step [16]")
    add("--steps", type=int, default=2000, help="optimiser steps [2000]")
    add("--still-steps", type=int, default=1300, help="so many of them first, on single frames [1300]")
    add("--code-steps", type=int, default=1000, help="so many of them first, told the principal components [1000]")
    add("--decoder-steps", type=int, default=0, help="so many of them last, the decoder alone, sharper [0]")
    further = parser.add_mutually_exclusive_group()
    further.add_argument("--vae", type=Path, metavar="FILE", help="train this VAE further, in place of a new one")
    further.add_argument("--decoder-of", type=Path, metavar="FILE", help="train the decoder of this VAE alone")
    add("--optimizer", choices=("adamw", "muon"), default="adamw", help="muon: for kernels, adamw for the rest [adamw]")
    add("--lr", type=float, default=3e-3, help="learning rate, which falls to 0 as a cosine [0.003]")
    add("--seed", type=int, default=0, help="every random number follows from it and from the step [0]")
    add("--dtype", choices=DTYPES, default="float32", help="in which the weights are written [float32]")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where it runs [%(default)s]")
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be, before anything is read."""
    check_map_size(options.map_size)
    check_length(options.length)
    for length in options.crop_length:
        check_length(length)
    longest = max(options.crop_length)
    if options.crop % 8 or not 0 < options.crop <= options.map_size or longest > options.length:
        raise ValueError(
            f"crops of {longest} frames of side {options.crop} do not fit clips of {options.length} frames of side "
            f"{options.map_size}; expected a side that is a multiple of 8"
        )
    if options.width < MIN_WIDTH:
        raise ValueError(f"--width is {options.width}; expected {MIN_WIDTH} or more: colours take {MIN_WIDTH - 1}")
    if min(options.batch_size, options.steps) < 1 or not options.lr > 0:
        raise ValueError("expected --batch-size, --steps and --lr above 0")
    if not 0 < options.fps < 1000:
        raise ValueError(f"--fps is {options.fps:g}; expected above 0 and below 1000")
    if min(options.still_steps, options.code_steps) < 0:
        raise ValueError("expected --still-steps and --code-steps from 0")
    if not 0 <= options.decoder_steps < options.steps:
        raise ValueError(f"--decoder-steps is {options.decoder_steps}; expected 0 or more, fewer than --steps")


def facts_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a checkpoint must agree with before a run goes on from it."""
    names = ("map_size", "length", "seed", "crop", "optimizer")
    lengths = options.crop_length if len(options.crop_length) > 1 else options.crop_length[0]
    starts = {"vae": options.vae, "decoder_of": options.decoder_of}
    own = {name: vae_fingerprint(file)[:16] if file else None for name, file in starts.items()}
    own["width"] = None if is_further(options) else options.width
    return {**own, **{name: getattr(options, name) for name in names}, "crop_length": lengths}


def read_all(options: argparse.Namespace, split: str, most: int = 0) -> list[Tensor]:
    """The clips of all manifests; of each so many at most, or all."""
    shape = options.map_size, options.length, options.fps
    least = min(options.crop_length)
    found = [read_clips(file, split, *shape, options.device, least=least, most=most) for file in options.manifest]
    return [clip for clips in found for clip in clips]


def make_optimizer(vae: AutoencoderKLWan, options: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW, or Muon for the inner kernels and AdamW for the rest, of what trains."""
    settings = {"lr": options.lr, "betas": (0.9, 0.98), "weight_decay": 0.0}
    trained = {name: weight for name, weight in vae.named_parameters() if weight.requires_grad}
    if options.optimizer == "muon":
        return Muon(trained.items(), takes=is_inner_kernel, **settings)
    return torch.optim.AdamW(trained.values(), **settings)


def is_further(options: argparse.Namespace) -> bool:
    """Whether a VAE that is there is trained, not a new one."""
    return bool(options.vae or options.decoder_of)


def first_vae(options: argparse.Namespace) -> AutoencoderKLWan:
    """A new VAE, or the one to train further: the whole, or its decoder and nothing else. Raises ValueError for what is
    no Wan2.1 VAE."""
    if options.vae:
        return load_vae(options.vae).requires_grad_(True)
    if not options.decoder_of:
        return new_vae(options.width, options.seed)
    vae = load_vae(options.decoder_of).requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    return vae


def codes_of(options: argparse.Namespace, clips: list[Tensor]) -> PatchCodes | None:
    """What a new VAE is told: from the run's start on the same, whatever clips come later."""
    if is_further(options):
        return None
    if not (options.output / CODES).is_file():
        write_codes(fit_codes(clips), options.output / CODES)
    return read_codes(options.output / CODES)


def start(options: argparse.Namespace) -> VaeRun:
    """Read the clips, make the VAE, and go on from the newest checkpoint if there is one."""
    vae = first_vae(options).to(options.device)
    optimizer = make_optimizer(vae, options)
    clips = read_all(options, "train")
    longest = max(options.crop_length)
    if not any(clip.shape[1] >= longest for clip in clips):
        files = ", ".join(map(str, options.manifest))
        raise ValueError(f"{files}: expected videos to train on, one or more of them of {longest} frames")
    masks, codes = known_masks(options.map_size, options.seed), codes_of(options, clips)
    run = VaeRun(options, vae, optimizer, clips, masks, codes)
    found = newest_checkpoint(options.output)
    if found is not None:
        run.step = check_facts(found, facts_of(options))["step"]
        load_state(found, vae, optimizer, None)
        print(f"Going on from {found}, step {run.step}", file=sys.stderr)
    return run


def crops_at(run: VaeRun, step: int) -> Tensor:
    """The crops of a step."""
    options = run.options
    still = step < options.still_steps and not is_further(options)
    return draw_crops(
        run.clips,
        run.masks,
        batch=options.batch_size,
        size=options.crop,
        length=1 if still else options.crop_length[step % len(options.crop_length)],
        seed=options.seed,
        step=step,
    )


def next_crops(run: VaeRun) -> Tensor:
    """The crops of the step at hand, which were drawn during the one before; those of the next are begun."""
    drawn = run.ahead[1].result() if run.ahead and run.ahead[0] == run.step else crops_at(run, run.step)
    run.ahead = run.step + 1, run.pool.submit(crops_at, run, run.step + 1)
    return drawn


def train_step(run: VaeRun) -> float:
    """One optimiser step; the mean squared error."""
    options, device = run.options, torch.device(run.options.device)
    decoder_alone = bool(options.decoder_of) or run.step >= options.steps - options.decoder_steps
    crops = next_crops(run).to(device)
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(run.step, lr=options.lr, warmup=WARMUP, steps=options.steps, decay="cosine")
    shape = latent_shape(options.crop, crops.shape[2], batch=options.batch_size)
    noise = torch.randn(shape, generator=generator_for(options.seed, "posterior", run.step)).to(device)
    if decoder_alone:
        error = backward(run, sharp_loss, crops, noise)
    elif run.codes is not None and run.step < options.code_steps:
        error = backward(run, code_loss, crops, noise, run.codes(crops))
    else:
        error = backward(run, vae_loss, crops, noise)
    for weight in run.vae.parameters():
        if weight.grad is None and not decoder_alone:
            # of what single frames do not reach; checkpoints hold moments of every weight
            weight.grad = torch.zeros_like(weight)
    norm = clip_grad_norm_(run.vae.parameters(), CLIP_NORM)
    if not bool(torch.isfinite(norm)):
        raise ValueError(f"the gradient is no number at step {run.step}; try a lower --lr")
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return float(error)


def backward(run: VaeRun, loss: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> Tensor:
    """The gradients of one of the losses; its mean squared error. On a GPU the passes are recorded and replayed."""

    def whole(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with fast_autocast(inputs[0].device):
            return loss(run.vae, *inputs)

    if inputs[0].device.type != "cuda":
        value, error = whole(*inputs)
        value.backward()
        return error
    key = loss, inputs[0].shape
    if key not in run.replays:
        if any(other is not loss for other, _ in run.replays):
            run.replays.clear()  # a phase does not come again; its memory does
        run.replays[key] = Replay(run.vae.parameters(), whole)
    return run.replays[key](*inputs)


def save(run: VaeRun) -> None:
    """Write a checkpoint."""
    tensors = collect_tensors(run.vae, run.optimizer, None)[0]
    write = partial(write_tensors, {name: tensor.contiguous() for name, tensor in tensors.items()})
    save_state(run.options.output, write, facts_of(run.options), step=run.step, keep=1)


def train(run: VaeRun) -> None:
    """Train to the last step. Raises KeyboardInterrupt, with a checkpoint of the step at hand, when asked to stop."""
    mean = None
    bar = tqdm(total=run.options.steps, initial=run.step, desc="vae", unit="step")
    with stopped_by_signals() as stop, bar:
        while run.step < run.options.steps:
            error = train_step(run)
            mean = error if mean is None else 0.98 * mean + 0.02 * error
            bar.set_postfix(psnr=f"{10 * torch.tensor(4 / mean).log10():.2f}", refresh=False)
            bar.update()
            if run.step % SAVE_EVERY == 0 or run.step == run.options.steps or stop.asked:
                save(run)
            stop.check()


def finish(run: VaeRun) -> Path:
    """Bring latents to Wan's scale where they changed, write the file, and say how well held-out clips come back."""
    device = torch.device(run.options.device)
    run.vae.requires_grad_(False).eval()
    if not run.options.decoder_of:
        set_latent_scale(run.vae, run.clips, device, autocast=True)
    file = run.options.output / FILE
    write_vae(run.vae, file, DTYPES[run.options.dtype])
    heldout = read_all(run.options, "heldout", HELDOUT_SHOWN)
    with fast_autocast(device):
        scores = reconstruction_psnr(run.vae, heldout, device)
    if scores:
        print(f"Held-out clips come back at {sum(scores) / len(scores):.2f} dB")
    return file


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 on bad input, 130 when stopped."""
    try:
        options = parse(arguments)
        check_options(options)
        run = start(options)
        train(run)
        print(finish(run))
    except (ValueError, OSError) as error:
        print(f"train_vae: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train_vae: {OUT_OF_MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_vae: stopped; start it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
