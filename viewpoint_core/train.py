"""Train a ViewPoint model on a cache: python -m viewpoint_core.train --config FILE, or under accelerate launch."""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from accelerate import PartialState
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from .replacing import replace_text
from .training.config import PRESETS, TrainingConfig, add_flags, check_keys, read_config
from .training.data.manifest import drop_torn_line
from .training.dry_run import estimate
from .training.ema import averaged_weights, trained_parameters, update_ema
from .training.loop import (
    BadLossError,
    Batch,
    Draws,
    batches,
    check_gradient,
    check_loss,
    joint_mean,
    losses_of,
    model_inputs,
)
from .training.parallel import end_processes, gradients_shared, uses_deepspeed
from .training.plan import derive_seed, lr_at
from .training.replay import Replay
from .training.run import Run, has_kept, is_to_keep, keep_weights, save, sole_run, start_processes, start_run
from .training.state import wait_for_all
from .training.stopping import stopped_by_signals
from .training.watch import heldout_losses, sample_clips, sample_map, write_sample

OUT_OF_MEMORY = (
    "the device's memory is full. What takes less: gradient_checkpointing, batch_size 1 with more accumulation, a "
    "cache of shorter clips or smaller maps, mode lora with base_dtype bf16, optimizer adamw8bit, sharding fsdp2; "
    "--dry-run foretells what a run takes. Where samples were being made: sample_every 0. The newest checkpoint is as "
    "it was"
)
CONFIG_FILE, LOG_FILE, LOG_FOLDER, STOP_FILE = "config.json", "log.jsonl", "tensorboard", "stop"
STOPPED = 130  # as shells say of what Ctrl-C ended


def compute_dtype(run: Run, keep_casts: bool = True) -> torch.autocast:
    """Autocast to bf16, where asked for; accelerate's own leaves DeepSpeed out. Sharded weights are not kept as copies:
    they would add up to a whole model."""
    kind, bf16 = run.accelerator.device.type, run.config.precision == "bf16"
    keep_casts = keep_casts and run.config.sharding == "none"
    return torch.autocast(kind, torch.bfloat16, enabled=bf16, cache_enabled=keep_casts)


def train_step(run: Run, parts: list[tuple[Batch, Draws]]) -> float:
    """One optimiser step over the accumulated batches; the joint loss."""
    config, accelerator = run.config, run.accelerator
    torch.manual_seed(derive_seed(config.seed, "step", run.step, accelerator.process_index))
    total = 0.0
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(run.step, lr=config.lr, warmup=config.warmup, steps=config.steps, decay=config.decay)
    places = run.empty_text, config.layout, accelerator.device, run.grey
    for number, (batch, draws) in enumerate(parts):
        last = number == len(parts) - 1
        inputs = model_inputs(run.vae, batch, draws, *places)
        with gradients_shared(run.model, last):
            loss = recorded_loss(run, inputs) if records(run) else mean_loss(run, inputs)
            joint = float(joint_mean(loss, accelerator))
            check_loss(joint, loss.detach(), batch, run.step)
            if not records(run):
                backward(run, loss, len(parts))
        total += joint / len(parts)
    if not uses_deepspeed(accelerator):
        norm = clip_grad_norm_(list(trained_parameters(run.model).values()), config.clip or math.inf)
        check_gradient(norm, [batch for batch, _ in parts], run.step)
        run.norms.append(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.samples += len(parts) * run.position["joint_batch"]
    if run.average is not None:
        update_ema(run.average, run.model, config.ema, run.step)
    return total


def records(run: Run) -> bool:
    """Whether the passes are recorded and replayed, which only a GPU can."""
    return run.config.replay and run.accelerator.device.type == "cuda"


def mean_loss(run: Run, inputs: tuple[Tensor, ...], *, keep_casts: bool = True) -> Tensor:
    """The loss of a batch's inputs, in the dtype asked for."""
    with compute_dtype(run, keep_casts):
        return losses_of(run.model, *inputs).mean()


def recorded_loss(run: Run, inputs: tuple[Tensor, ...]) -> Tensor:
    """The loss of a batch's inputs, and its gradients, by passes recorded at the first batch of these shapes."""

    def loss(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        value = mean_loss(run, inputs, keep_casts=False)  # casts that the warm-up kept would be of the weights by then
        return value, value.detach()

    key = tuple(value.shape for value in inputs)
    if key not in run.replays:
        run.replays[key] = Replay(trained_parameters(run.model).values(), loss)
    return run.replays[key](*inputs)


def backward(run: Run, loss: Tensor, parts: int) -> None:
    """Add a batch's part of the step's gradient; DeepSpeed's engine divides by itself, and steps with the last part."""
    if uses_deepspeed(run.accelerator):
        run.model.backward(loss)
        run.model.step()
    else:
        (loss / parts).backward()


def log_numbers(run: Run, numbers: dict[str, float]) -> None:
    """Numbers to TensorBoard and to log.jsonl, by the main process."""
    if not run.accelerator.is_main_process:
        return
    if run.log is None:
        from torch.utils.tensorboard import SummaryWriter

        run.log = SummaryWriter(str(run.output / LOG_FOLDER), purge_step=run.step)
        if (run.output / LOG_FILE).exists():
            drop_torn_line(run.output / LOG_FILE)
    for name, value in numbers.items():
        run.log.add_scalar(name, value, run.step)
    with (run.output / LOG_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": run.step, **numbers}) + "\n")


def watch(run: Run) -> None:
    """Held-out losses and sample panoramas, when they are due; with the average where one is kept."""
    config = run.config
    due = [every and run.step % every == 0 for every in (config.heldout_every, config.sample_every)]
    if not any(due) or not len(run.heldout):
        return
    device = run.accelerator.device
    run.model.eval()
    # what is watched has shapes of its own, and is not worth compiling for
    eager = torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
    with averaged_weights(run.model, run.average), compute_dtype(run), eager:
        if due[0]:
            losses = heldout_losses(run.model, run.vae, run.heldout, config, device)
            log_numbers(run, {f"heldout/sigma_{sigma:.2f}": loss for sigma, loss in losses.items()})
        if due[1]:
            for index in sample_clips(run.heldout.buckets(), config.sample_clips):
                clip = run.heldout[index]
                video = sample_map(run.model, run.vae, clip, run.empty_text, config, device, index)
                if run.accelerator.is_main_process:
                    name, fps = f"step_{run.step:08}_{index}", run.heldout.fingerprint.fps
                    write_sample(video, run.output / "samples", name, config.layout, fps=fps)
    run.model.train()


def wants_to_stop(run: Run) -> bool:
    """Whether any process was asked to stop, or the run by a file: launchers leave no time to write a large checkpoint
    after a signal."""
    stop = run.stop.asked or (run.accelerator.is_main_process and (run.output / STOP_FILE).exists())
    if run.accelerator.num_processes == 1:
        return stop
    flag = torch.tensor(float(stop), device=run.accelerator.device)
    return bool(run.accelerator.reduce(flag, reduction="sum") > 0)


def since_last_line(run: Run) -> dict[str, float]:
    """The log's numbers of the steps since it was last asked; DeepSpeed's engine keeps gradients to itself."""
    numbers = {"loss": fmean(run.losses), "epoch": round(run.epoch, 3)}
    if run.norms:
        numbers |= {"gradient_norm": fmean(run.norms), "largest_gradient_norm": max(run.norms)}
    run.losses.clear()
    run.norms.clear()
    return numbers


def train(run: Run) -> None:
    """Train to the last step, or until asked to stop; a checkpoint is written either way."""
    config, accelerator = run.config, run.accelerator
    first = run.samples // run.position["joint_batch"]
    first += -first % config.accumulation  # noise levels are stratified over the batches of a step
    stream = batches(
        run.train,
        run.train.buckets(),
        config,
        first,
        accelerator.process_index,
        accelerator.num_processes,
        pin=accelerator.device.type == "cuda",
    )
    shown = {"total": config.steps, "initial": run.step, "disable": not accelerator.is_main_process}
    # the stream's workers end with it, also after an error: they do not heed the signal to end
    with closing(stream), tqdm(**shown, desc="train", unit="step") as bar:
        try:
            train_from(run, stream, bar)
        except (ValueError, OSError):
            if accelerator.num_processes == 1 and run.step != run.saved:  # a clip or a sample failed, not the weights
                save(run)
            raise


def train_from(run: Run, stream: Iterator[tuple[Batch, Draws]], bar: tqdm) -> None:
    """Train on batches that come."""
    config = run.config
    logged, logged_at = run.step, time.monotonic()
    if run.step and is_to_keep(run) and not has_kept(run):  # the run had ended before they were whole
        keep_weights(run)
    while run.step < config.steps and not wants_to_stop(run):
        loss = train_step(run, [next(stream) for _ in range(config.accumulation)])
        run.losses.append(loss)
        lr = run.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.1e}", refresh=False)
        bar.update()
        if run.step % config.log_every == 0:
            speed = (run.step - logged) / (time.monotonic() - logged_at)
            logged, logged_at = run.step, time.monotonic()
            log_numbers(run, {**since_last_line(run), "lr": lr, "steps_per_second": speed})
        if run.step % config.save_every == 0 or run.step == config.steps:
            save(run)
        if is_to_keep(run):
            keep_weights(run)
        watch(run)  # after saving: it may fail, and would fail again when the run goes on
    if run.saved != run.step:
        save(run)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m viewpoint_core.train", description=__doc__, allow_abbrev=False)
    presets = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    parser.add_argument("--config", help="flat YAML file of the keys below")
    parser.add_argument("--preset", help=f"settings to start from: {presets}")
    parser.add_argument(
        "--dry-run",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="print the model, what trains, and the memory for N processes (this run's), or why the run would be "
        "refused; no training",
    )
    add_flags(parser)
    options, unknown = parser.parse_known_args(arguments)
    check_keys({flag.lstrip("-").partition("=")[0].replace("-", "_"): "" for flag in unknown}, "the command line")
    return options


def write_config(run: Run) -> None:
    """Keep the settings beside the results."""
    if run.accelerator.is_main_process:
        run.output.mkdir(parents=True, exist_ok=True)
        replace_text(run.output / CONFIG_FILE, json.dumps(asdict(run.config), indent=1))


def run_to_end(config: TrainingConfig) -> int:
    """Train to the last step, or until SIGINT or SIGTERM stops it after a step, and say which; the exit status, the
    same in all processes. Nothing of the run is left in memory."""
    accelerator = start_processes(config)
    with sole_run(Path(config.output)):
        run = start_run(config, accelerator)
        write_config(run)
        with stopped_by_signals() as run.stop:
            train(run)
            stopped = run.step < config.steps
            if accelerator.is_main_process:
                (run.output / STOP_FILE).unlink(missing_ok=True)
            if stopped and accelerator.is_main_process:
                print(f"train: stopped at step {run.step} of {config.steps}; the same command goes on", file=sys.stderr)
            elif not stopped:
                accelerator.print(f"Step {run.step}; checkpoints in {run.output / 'checkpoints'}")
            wait_for_all()  # a launcher ends the other processes as soon as one has ended with 130
    return STOPPED if stopped else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 on bad input or full memory, 3 on a loss that is no number, 130 where it was
    stopped before the last step."""
    try:
        options = parse(arguments)
        config = read_config(options)
        if options.dry_run is not None:
            PartialState().print(json.dumps(estimate(config, options.dry_run), indent=1))
            return 0
        code = run_to_end(config)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the steps, which heed it by themselves
        print("train: stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    except torch.OutOfMemoryError as error:
        print(f"train: {OUT_OF_MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 2
    except BadLossError as error:
        print(f"train: {error}", file=sys.stderr)
        return 3
    end_processes()  # not after an error: the others may be waiting in a collective
    return code


if __name__ == "__main__":
    raise SystemExit(main())
