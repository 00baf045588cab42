"""Train a ViewPoint model on a cache: python -m viewpoint_core.train --config FILE, or under accelerate launch."""

import argparse
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from .checkpoint import METADATA_BLOCKS
from .replacing import replace_text
from .training.cache import PLAN, CachedClips, has_known
from .training.clips import projection_of
from .training.config import PRESETS, TrainingConfig, add_flags, check_keys, read_config
from .training.dry_run import estimate
from .training.ema import averaged_weights, start_ema, trained_parameters, update_ema
from .training.fingerprint import check_fingerprint, vae_fingerprint
from .training.known_view import PAPER
from .training.loop import (
    BadLossError,
    Batch,
    Draws,
    Grey,
    batch_losses,
    batches,
    check_gradient,
    check_loss,
    joint_mean,
    make_optimizer,
)
from .training.lora import add_lora, load_comfy_lora
from .training.parallel import (
    distribute,
    end_processes,
    gradients_shared,
    load_deepspeed,
    prepare_deepspeed,
    uses_deepspeed,
    write_deepspeed,
)
from .training.plan import derive_seed, lr_at
from .training.precision import has_fast_bf16
from .training.state import (
    MODEL,
    check_facts,
    collect_tensors,
    load_state,
    newest_checkpoint,
    save_state,
    write_tensors,
)
from .training.wan import compile_blocks, prepare_transformer, set_blocks
from .training.wan_vae import load_vae
from .training.watch import heldout_losses, sample_clips, sample_map, write_sample
from .wan_attention import format_schedule

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CONFIG_FILE, LOG_FOLDER = "config.json", "tensorboard"


@dataclass
class Run:
    """What a training run holds on to."""

    config: TrainingConfig
    accelerator: Accelerator
    model: nn.Module
    vae: AutoencoderKLWan
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    train: CachedClips
    heldout: CachedClips
    empty_text: Tensor
    facts: dict[str, Any]
    position: dict[str, Any]
    step: int = 0
    samples: int = 0
    stop: bool = False
    log: Any = None
    grey: Grey = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)


def model_facts(model: nn.Module, config: TrainingConfig) -> dict[str, Any]:
    """What a checkpoint must agree with before this run goes on from it."""
    shape = {name: model.config[name] for name in ("in_channels", "num_layers", "num_attention_heads", "ffn_dim")}
    lora = {"lora_rank": config.lora_rank, "lora_alpha": config.lora_alpha} if config.mode == "lora" else {}
    blocks = {METADATA_BLOCKS: format_schedule(set_blocks(model))}
    kept = {"optimizer": config.optimizer, "ema": config.ema > 0, "seed": config.seed}
    return {"mode": config.mode, **shape, **lora, **blocks, **kept}


def data_facts(config: TrainingConfig, accelerator: Accelerator) -> dict[str, Any]:
    """What may change from one start to the next; where it did, the data goes on after as many samples, not exactly."""
    clips = hashlib.sha256((Path(config.cache) / PLAN).read_bytes()).hexdigest()[:16]
    joint = config.batch_size * accelerator.num_processes
    return {"joint_batch": joint, "accumulation": config.accumulation, "clips": clips}


def prepare_model(config: TrainingConfig) -> nn.Module:
    """The transformer, widened, with its Perspective blocks, and with what trains requiring gradients."""
    model = prepare_transformer(Path(config.model), config.schedule, dtype=DTYPES[config.base_dtype])
    if config.mode == "lora":
        add_lora(model, config.lora_rank, config.lora_alpha)
        if config.lora:
            load_comfy_lora(model, load_file(config.lora))
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def needs_float32(config: TrainingConfig, device: torch.device) -> bool:
    """Whether bf16 is asked for where it is slow; frozen weights in bf16 leave no choice."""
    asked = "bf16" in (config.precision, config.vae_dtype)
    return asked and config.base_dtype != "bf16" and not has_fast_bf16(device)


def start_run(config: TrainingConfig) -> Run:
    """Load everything, distribute it, and go on from the newest checkpoint if there is one."""
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    if needs_float32(config, accelerator.device):
        accelerator.print("This CPU has no fast bfloat16: steps and the VAE are computed in float32")
        config = replace(config, precision="fp32", vae_dtype="fp32")
    set_seed(config.seed)
    asked = {"vae": vae_fingerprint(Path(config.vae)), "projection": projection_of(config.layout)}
    cached = check_fingerprint(Path(config.cache), **asked)
    known = config.faces if config.views == PAPER and has_known(cached, config.faces) else ""
    train, heldout = CachedClips(Path(config.cache), known=known), CachedClips(Path(config.cache), "heldout")
    empty_text = train.empty_text()
    model = prepare_model(config)
    facts = model_facts(model, config)
    vae = load_vae(Path(config.vae), dtype=DTYPES[config.vae_dtype]).to(accelerator.device)
    model, optimizer = distribute_all(model, accelerator, config)
    average = start_ema(model) if config.ema else None
    position = data_facts(config, accelerator)
    run = Run(config, accelerator, model, vae, optimizer, average, train, heldout, empty_text, facts, position)
    resume(run)
    if not len(heldout) and (config.heldout_every or config.sample_every):
        accelerator.print(f"{config.cache} holds no held-out clips: no held-out losses and no samples")
    return run


def distribute_all(
    model: nn.Module, accelerator: Accelerator, config: TrainingConfig
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model over all processes and the optimiser of what trains."""
    if not uses_deepspeed(accelerator):
        if config.compile:
            compile_blocks(model.to(accelerator.device))
        model = distribute(model, accelerator, config.sharding)
        return model, make_optimizer(trained_parameters(model), config)
    if config.ema or config.sharding != "none":
        raise ValueError("under DeepSpeed, ema is 0 and sharding is none: it shards by its own stages")
    if config.compile:
        raise ValueError("compile was not tried under DeepSpeed; leave it false")
    if config.optimizer == "muon":
        raise ValueError("optimizer muon needs whole matrices, which DeepSpeed does not keep; take adamw")
    optimizer = make_optimizer(trained_parameters(model), config)
    return prepare_deepspeed(
        model, optimizer, accelerator, batch=config.batch_size, accumulation=config.accumulation, clip=config.clip
    )


def resume(run: Run) -> None:
    """Go on from the newest checkpoint of the output folder, if there is one."""
    found = newest_checkpoint(run.output)
    if found is None:
        return
    stored = check_facts(found, run.facts)
    run.step, run.samples = stored["step"], stored["samples"]
    changed = [name for name, value in run.position.items() if stored.get(name) != value]
    if changed:
        run.accelerator.print(f"{', '.join(changed)} changed: the data goes on after {run.samples} samples")
    if uses_deepspeed(run.accelerator):
        load_deepspeed(run.model, found)
    else:
        load_state(found, run.model, run.optimizer, run.average)
    run.accelerator.print(f"Going on from {found}, step {run.step}")


def save(run: Run) -> Path:
    """Write a checkpoint of the run as it stands."""
    if uses_deepspeed(run.accelerator):
        write = partial(write_deepspeed, run.model, run.accelerator, MODEL)
    else:
        write = partial(write_tensors, collect_tensors(run.model, run.optimizer, run.average)[0])
    facts = {**run.facts, **run.position, "samples": run.samples}
    return save_state(run.output, write, facts, step=run.step, keep=run.config.keep)


def compute_dtype(run: Run) -> torch.autocast:
    """Autocast to bf16, where asked for; accelerate's own leaves DeepSpeed out. Sharded weights are not kept as copies:
    they would add up to a whole model."""
    kind, bf16 = run.accelerator.device.type, run.config.precision == "bf16"
    return torch.autocast(kind, torch.bfloat16, enabled=bf16, cache_enabled=run.config.sharding == "none")


def train_step(run: Run, parts: list[tuple[Batch, Draws]]) -> float:
    """One optimiser step over the accumulated batches; the joint loss."""
    config, accelerator = run.config, run.accelerator
    torch.manual_seed(derive_seed(config.seed, "step", run.step, accelerator.process_index))
    total = torch.zeros((), device=accelerator.device)
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(run.step, lr=config.lr, warmup=config.warmup, steps=config.steps, decay=config.decay)
    places = run.empty_text, config.layout, accelerator.device, run.grey
    for number, (batch, draws) in enumerate(parts):
        last = number == len(parts) - 1
        with gradients_shared(run.model, last), compute_dtype(run):
            loss = batch_losses(run.model, run.vae, batch, draws, *places).mean()
            joint = joint_mean(loss, accelerator)
            check_loss(joint, batch, run.step)
            backward(run, loss, len(parts))
        total += joint / len(parts)
    if not uses_deepspeed(accelerator):
        norm = clip_grad_norm_(list(trained_parameters(run.model).values()), config.clip or math.inf)
        check_gradient(norm, [batch for batch, _ in parts], run.step)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.samples += len(parts) * run.position["joint_batch"]
    if run.average is not None:
        update_ema(run.average, run.model, config.ema, run.step)
    return float(total)


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
    for name, value in numbers.items():
        run.log.add_scalar(name, value, run.step)
    with (run.output / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": run.step, **numbers}) + "\n")


def watch(run: Run) -> None:
    """Held-out losses and sample panoramas, when they are due; with the average where one is kept."""
    config = run.config
    due = [every and run.step % every == 0 for every in (config.heldout_every, config.sample_every)]
    if not any(due) or not len(run.heldout):
        return
    device, seed = run.accelerator.device, run.step
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
                    write_sample(video, run.output / "samples", f"step_{seed:08}_{index}", config.layout)
    run.model.train()


def wants_to_stop(run: Run) -> bool:
    """Whether any process was asked to stop."""
    if run.accelerator.num_processes == 1:
        return run.stop
    flag = torch.tensor(float(run.stop), device=run.accelerator.device)
    return bool(run.accelerator.reduce(flag, reduction="sum") > 0)


def train(run: Run) -> None:
    """Train to the last step, or until asked to stop; a checkpoint is written either way."""
    config, accelerator = run.config, run.accelerator
    first = run.samples // run.position["joint_batch"]
    stream = batches(
        run.train, run.train.buckets(), config, first, accelerator.process_index, accelerator.num_processes
    )
    shown = {"total": config.steps, "initial": run.step, "disable": not accelerator.is_main_process}
    # the stream's workers end with it, also after an error: they do not heed the signal to end
    with closing(stream), tqdm(**shown, desc="train", unit="step") as bar:
        train_from(run, stream, bar)


def train_from(run: Run, stream: Iterator[tuple[Batch, Draws]], bar: tqdm) -> None:
    """Train on batches that come."""
    config, saved = run.config, run.step
    while run.step < config.steps and not wants_to_stop(run):
        start = time.monotonic()
        loss = train_step(run, [next(stream) for _ in range(config.accumulation)])
        run.losses.append(loss)
        lr = run.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.1e}")
        bar.update()
        if run.step % config.log_every == 0:
            mean = sum(run.losses) / len(run.losses)
            log_numbers(run, {"loss": mean, "lr": lr, "steps_per_second": 1 / (time.monotonic() - start)})
            run.losses.clear()
        if run.step % config.save_every == 0 or run.step == config.steps:
            saved = run.step
            save(run)
        watch(run)  # after saving: it may fail, and would fail again when the run goes on
    if saved != run.step:
        save(run)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m viewpoint_core.train", description=__doc__, allow_abbrev=False)
    presets = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    parser.add_argument("--config", help="flat YAML file of the keys below")
    parser.add_argument("--preset", help=f"settings to start from: {presets}")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the model, what trains, and the memory; no training"
    )
    add_flags(parser)
    options, unknown = parser.parse_known_args(arguments)
    check_keys({flag.lstrip("-").partition("=")[0].replace("-", "_"): "" for flag in unknown}, "the command line")
    return options


@contextmanager
def stopped_by_signals(run: Run) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the step at hand, with a checkpoint; a second one ends it at once.

    A handler that stayed would hold the run, and with it its process group's threads; one that is busy when Python ends
    aborts the process.
    """

    def stop(number: int, frame: Any) -> None:
        run.stop = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_config(run: Run) -> None:
    """Keep the settings beside the results."""
    if run.accelerator.is_main_process:
        run.output.mkdir(parents=True, exist_ok=True)
        replace_text(run.output / CONFIG_FILE, json.dumps(asdict(run.config), indent=1))


def run_to_end(config: TrainingConfig) -> str:
    """Train to the last step or until stopped; what to say of it. Nothing of the run is left in memory."""
    run = start_run(config)
    write_config(run)
    with stopped_by_signals(run):
        train(run)
    return f"Step {run.step}; checkpoints in {run.output / 'checkpoints'}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 on bad input, 3 on a loss that is no number."""
    try:
        options = parse(arguments)
        config = read_config(options)
        if options.dry_run:
            PartialState().print(json.dumps(estimate(config), indent=1))
            return 0
        said = run_to_end(config)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except BadLossError as error:
        print(f"train: {error}", file=sys.stderr)
        return 3
    PartialState().print(said)
    end_processes()  # not after an error: the others may be waiting in a collective
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
