"""Train a ViewPoint model on a cache: python -m viewpoint_core.train --config FILE, or under accelerate launch."""

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import METADATA_BLOCKS, PATCH_EMBEDDING, read_checkpoint
from .training.cache import CachedClips
from .training.config import PRESETS, TrainingConfig, add_flags, read_config
from .training.ema import averaged_weights, start_ema, trained_parameters, update_ema
from .training.fingerprint import check_fingerprint, vae_fingerprint
from .training.loop import BadLossError, Batch, batch_losses, batches, check_loss, draw, joint_mean, make_optimizer
from .training.lora import add_lora, patch_rank
from .training.memory import ModelSize, step_memory
from .training.parallel import distribute, gradients_shared
from .training.plan import derive_seed, lr_at
from .training.state import check_facts, collect_tensors, load_state, newest_checkpoint, save_state
from .training.wan import empty_transformer, prepare_transformer, set_blocks, transformer_config, transformer_source
from .training.wan_vae import load_vae
from .training.watch import heldout_losses, sample_clips, sample_map, write_sample
from .wan_attention import format_schedule, perspective_blocks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}
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
    step: int = 0
    stop: bool = False
    log: Any = None
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
    return {"mode": config.mode, **shape, **lora, **blocks, "seed": config.seed}


def prepare_model(config: TrainingConfig) -> nn.Module:
    """The transformer, widened, with its Perspective blocks, and with what trains requiring gradients."""
    model = prepare_transformer(Path(config.model), config.schedule, dtype=DTYPES[config.base_dtype])
    if config.mode == "lora":
        add_lora(model, config.lora_rank, config.lora_alpha)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def start_run(config: TrainingConfig) -> Run:
    """Load everything, distribute it, and go on from the newest checkpoint if there is one."""
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    set_seed(config.seed)
    check_fingerprint(Path(config.cache), vae=vae_fingerprint(Path(config.vae)))
    train, heldout = (CachedClips(Path(config.cache), split=split) for split in ("train", "heldout"))
    empty_text = train.empty_text()
    model = prepare_model(config)
    facts = model_facts(model, config)
    vae = load_vae(Path(config.vae), dtype=DTYPES[config.vae_dtype]).to(accelerator.device)
    model = distribute(model, accelerator, config.sharding)
    optimizer = make_optimizer(list(trained_parameters(model).values()), config)
    average = start_ema(model) if config.ema else None
    run = Run(config, accelerator, model, vae, optimizer, average, train, heldout, empty_text, facts)
    resume(run)
    return run


def resume(run: Run) -> None:
    """Go on from the newest checkpoint of the output folder, if there is one."""
    found = newest_checkpoint(run.output)
    if found is None:
        return
    run.step = check_facts(found, run.facts)
    load_state(found, run.model, run.optimizer, run.average)
    run.accelerator.print(f"Going on from {found}, step {run.step}")


def save(run: Run) -> Path:
    """Write a checkpoint of the run as it stands."""
    tensors, _ = collect_tensors(run.model, run.optimizer, run.average)
    return save_state(run.output, tensors, run.facts, step=run.step, keep=run.config.keep)


def train_step(run: Run, parts: list[Batch]) -> float:
    """One optimiser step over the accumulated batches; the joint loss."""
    config, accelerator = run.config, run.accelerator
    torch.manual_seed(derive_seed(config.seed, "step", run.step, accelerator.process_index))
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(parts):
        last = number == len(parts) - 1
        with gradients_shared(run.model, last), accelerator.autocast():
            draws = draw(batch, config, accelerator.num_processes)
            loss = batch_losses(run.model, run.vae, batch, draws, run.empty_text, accelerator.device).mean()
            joint = joint_mean(loss, accelerator)
            check_loss(joint, batch, run.step)
            (loss / len(parts)).backward()
        total += joint / len(parts)
    if config.clip:
        torch.nn.utils.clip_grad_norm_(list(trained_parameters(run.model).values()), config.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(run.step, lr=config.lr, warmup=config.warmup, steps=config.steps, decay=config.decay)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    if run.average is not None:
        update_ema(run.average, run.model, config.ema, run.step)
    return float(total)


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
    with averaged_weights(run.model, run.average), run.accelerator.autocast():
        if due[0]:
            losses = heldout_losses(run.model, run.vae, run.heldout, config, device)
            log_numbers(run, {f"heldout/sigma_{sigma:.2f}": loss for sigma, loss in losses.items()})
        if due[1]:
            for index, item in sample_clips(run.heldout, config.sample_clips):
                video = sample_map(run.model, run.vae, item, run.empty_text, config, device, index)
                if run.accelerator.is_main_process:
                    write_sample(video, run.output / "samples", f"step_{seed:08}_{index}")
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
    first = run.step * config.accumulation
    stream = batches(
        run.train, run.train.buckets(), config, first, accelerator.process_index, accelerator.num_processes
    )
    bar = tqdm(total=config.steps, initial=run.step, disable=not accelerator.is_main_process, desc="train", unit="step")
    saved = run.step
    while run.step < config.steps and not wants_to_stop(run):
        start = time.monotonic()
        loss = train_step(run, [next(stream) for _ in range(config.accumulation)])
        run.losses.append(loss)
        lr = run.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.1e}")
        bar.update()
        if run.step % config.log_every == 0:
            log_numbers(run, {"loss": loss, "lr": lr, "steps_per_second": 1 / (time.monotonic() - start)})
        watch(run)
        if run.step % config.save_every == 0:
            saved = run.step
            save(run)
    if saved != run.step:
        save(run)
    bar.close()


def estimate(config: TrainingConfig) -> dict[str, Any]:
    """What would be trained, and what it needs, from the headers of the files alone."""
    source = transformer_source(Path(config.model))
    stored, _ = read_checkpoint(source)
    shape = transformer_config(stored, source)
    shape["in_channels"] = 2 * shape["out_channels"] + 1
    blocks = perspective_blocks(config.schedule, shape["num_layers"])
    model = empty_transformer(shape)
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = parameters if config.mode == "full" else lora_parameters(model, config.lora_rank)
    clips = CachedClips(Path(config.cache), split="train")
    buckets = clips.buckets()
    if not buckets:
        raise ValueError(f"{config.cache} holds no training clips; run python -m viewpoint_core.encode first")
    t, h, w = max(buckets, key=lambda size: size[0] * size[1] * size[2])
    dim = shape["num_attention_heads"] * shape["attention_head_dim"]
    size = ModelSize(parameters, trained, dim, shape["ffn_dim"], shape["num_layers"], t * h * w // 4)
    memory = step_memory(
        size,
        batch=config.batch_size,
        base_bytes=4 if config.base_dtype == "fp32" else 2,
        optimizer_bytes=OPTIMIZER_BYTES[config.optimizer],
        ema=config.ema > 0,
        autocast=config.precision == "bf16",
        checkpointing=config.gradient_checkpointing,
        shards=int(Accelerator().num_processes) if config.sharding == "fsdp2" else 1,
    )
    return {
        "model": shape,
        "widened": f"{stored[PATCH_EMBEDDING].shape[1]} -> {shape['in_channels']} channels",
        "perspective blocks": format_schedule(blocks),
        "parameters": parameters,
        "trained": trained,
        "clips": {" x ".join(map(str, key)): len(items) for key, items in buckets.items()},
        "tokens": size.tokens,
        "GiB a process, without the VAE": {name: round(value, 2) for name, value in memory.items()},
    }


def lora_parameters(model: nn.Module, rank: int) -> int:
    """Parameters of a LoRA of this rank on attention and feed-forward linears, and of the patch embedding's change."""
    linears = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and (".attn" in name or ".ffn" in name)
    ]
    return sum(rank * (m.in_features + m.out_features) for m in linears) + (
        patch_rank(model) * model.patch_embedding.out_channels
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m viewpoint_core.train", description=__doc__)
    presets = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    parser.add_argument("--config", help="flat YAML file of the keys below")
    parser.add_argument("--preset", help=f"settings to start from: {presets}")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the model, what trains, and the memory; no training"
    )
    add_flags(parser)
    return parser.parse_args(arguments)


def ask_to_stop_on_signals(run: Run) -> None:
    """SIGINT and SIGTERM end the run after the step at hand, with a checkpoint."""

    def stop(number: int, frame: Any) -> None:
        run.stop = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)


def write_config(run: Run) -> None:
    """Keep the settings beside the results."""
    if run.accelerator.is_main_process:
        run.output.mkdir(parents=True, exist_ok=True)
        (run.output / CONFIG_FILE).write_text(json.dumps(asdict(run.config), indent=1), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 on bad input, 3 on a loss that is no number."""
    try:
        options = parse(arguments)
        config = read_config(options)
        if options.dry_run:
            print(json.dumps(estimate(config), indent=1))
            return 0
        run = start_run(config)
        write_config(run)
        ask_to_stop_on_signals(run)
        train(run)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except BadLossError as error:
        print(f"train: {error}", file=sys.stderr)
        return 3
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    run.accelerator.print(f"Step {run.step}; checkpoints in {run.output / 'checkpoints'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
