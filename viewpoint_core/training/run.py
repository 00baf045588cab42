"""A run of the trainer: what it holds on to, how it starts or goes on, and what it saves."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..checkpoint import METADATA_BLOCKS, PATCH_EMBEDDING, read_checkpoint
from ..safetensors_file import StoredTensor
from ..wan_attention import format_schedule
from .claim import claimed
from .config import TrainingConfig
from .data.cache import CLIPS, CachedClips, has_known
from .data.clips import projection_of
from .data.fingerprint import Fingerprint, check_fingerprint, hash_beginnings, vae_fingerprint
from .ema import start_ema, trained_parameters
from .known_view import PAPER
from .loop import Grey, check_optimizer, make_optimizer
from .lora import add_lora, check_comfy_lora, check_origin, load_comfy_lora
from .parallel import (
    distribute,
    load_deepspeed,
    prepare_deepspeed,
    uses_deepspeed,
    write_deepspeed,
    write_weights,
)
from .plan import batches_an_epoch
from .precision import has_fast_bf16
from .replay import Replay
from .state import (
    BASE_CHANNELS,
    FACTS,
    KEPT,
    MODEL,
    as_main,
    by_main,
    check_facts,
    collect_tensors,
    collect_weights,
    load_state,
    newest_checkpoint,
    save_state,
    write_tensors,
    write_whole,
)
from .stopping import Stop
from .wan import compile_blocks, plan_transformer, prepare_transformer, set_blocks, transformer_source
from .wan_vae import load_vae
from .watch import SAMPLE_FACE
from .weights import read_tensors

PATIENCE = timedelta(hours=2)  # of processes for one another: a large model may come slowly from a shared disk
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    epoch_length: float
    step: int = 0
    samples: int = 0
    saved: int = 0
    stop: Stop = field(default_factory=Stop)
    log: Any = None
    grey: Grey = field(default_factory=dict)
    replays: dict[Any, Replay] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)

    @property
    def epoch(self) -> float:
        """How often the run has seen the training clips."""
        return self.samples / self.position["joint_batch"] / self.epoch_length


def base_tensors(config: TrainingConfig) -> dict[str, StoredTensor]:
    """The headers of the model's tensors as it lies in its file, before it is widened."""
    return read_checkpoint(transformer_source(Path(config.model)))[0]


def model_facts(model: nn.Module, config: TrainingConfig, cached: Fingerprint) -> dict[str, Any]:
    """What a checkpoint must agree with before this run goes on from it."""
    shape = {name: model.config[name] for name in ("in_channels", "num_layers", "num_attention_heads", "ffn_dim")}
    lora = {}
    if config.mode == "lora":
        base = base_tensors(config)
        lora = {
            "lora_rank": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "base": hash_beginnings(base)[:16],
            BASE_CHANNELS: base[PATCH_EMBEDDING].shape[1],
        }
    blocks = {METADATA_BLOCKS: format_schedule(set_blocks(model))}
    kept = {"optimizer": config.optimizer, "ema": config.ema > 0, "seed": config.seed}
    spaces = {"layout": config.layout, "vae": cached.vae[:16], "text_encoder": cached.text_encoder[:16]}
    return {"mode": config.mode, **shape, **lora, **blocks, **kept, **spaces}


def data_facts(config: TrainingConfig, accelerator: Accelerator, train: CachedClips) -> dict[str, Any]:
    """What may change from one start to the next; where it did, the data goes on after as many samples, not exactly."""
    names = "\n".join(row["key"] for row in train.rows)  # those of broken clips are not among them
    return {
        "joint_batch": config.batch_size * accelerator.num_processes,
        "accumulation": config.accumulation,
        "clips": hashlib.sha256(names.encode()).hexdigest()[:16],
        "image_share": config.image_share,
    }


def starting_lora(config: TrainingConfig) -> dict[str, Tensor]:
    """The LoRA that training starts from, none if empty. Raises ValueError where it is damaged or not of this model,
    schedule, rank and alpha, of which it needs the header alone."""
    if not config.lora:
        return {}
    tensors, metadata = read_tensors([Path(config.lora)])
    planned = plan_transformer(Path(config.model), config.schedule)
    add_lora(planned, config.lora_rank, config.lora_alpha)
    check_comfy_lora(planned, tensors)
    check_origin(planned, metadata, base_tensors(config)[PATCH_EMBEDDING].shape[1])
    return tensors


def prepare_model(config: TrainingConfig) -> nn.Module:
    """The transformer, widened, with its Perspective blocks, and with what trains requiring gradients."""
    lora = starting_lora(config)
    model = prepare_transformer(Path(config.model), config.schedule, dtype=DTYPES[config.base_dtype])
    if config.mode == "lora":
        add_lora(model, config.lora_rank, config.lora_alpha)
        if lora:
            load_comfy_lora(model, lora)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def needs_float32(config: TrainingConfig, device: torch.device) -> bool:
    """Whether bf16 is asked for where it is slow; frozen weights in bf16 leave no choice."""
    asked = "bf16" in (config.precision, config.vae_dtype)
    return asked and config.base_dtype != "bf16" and not has_fast_bf16(device)


def check_replay(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Raise ValueError where passes are to be recorded in several processes; say so where there is no GPU for it."""
    if not config.replay:
        return
    if accelerator.num_processes > 1 or uses_deepspeed(accelerator):
        raise ValueError("replay is true; passes are recorded in one process without DeepSpeed alone")
    if accelerator.device.type != "cuda":
        accelerator.print("replay is true; without a GPU nothing is recorded, and steps are computed as they come")


def open_cache(config: TrainingConfig) -> tuple[CachedClips, CachedClips]:
    """The training and the held-out clips. Raises ValueError for a cache of another VAE or layout, or none."""
    asked = {"vae": vae_fingerprint(Path(config.vae)), "projection": projection_of(config.layout)}
    cached = check_fingerprint(Path(config.cache), **asked)
    known = config.faces if config.views == PAPER and has_known(cached, config.faces) else ""
    watched = SAMPLE_FACE if has_known(cached, SAMPLE_FACE) else ""
    return CachedClips(Path(config.cache), known=known), CachedClips(Path(config.cache), "heldout", known=watched)


def start_processes(config: TrainingConfig) -> Accelerator:
    """The processes of a run, joined."""
    return Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


@contextmanager
def sole_run(output: Path) -> Iterator[None]:
    """Have an output folder for this run alone. Raises OSError, in all processes, where another run has it."""
    with ExitStack() as held:
        by_main(lambda: held.enter_context(claimed(output)))
        yield


def start_run(config: TrainingConfig, accelerator: Accelerator | None = None) -> Run:
    """Load everything, distribute it, and go on from the newest checkpoint if there is one."""
    accelerator = accelerator or start_processes(config)
    if needs_float32(config, accelerator.device):
        accelerator.print("This CPU has no fast bfloat16: steps and the VAE are computed in float32")
        config = replace(config, precision="fp32", vae_dtype="fp32")
    set_seed(config.seed)
    check_optimizer(config.optimizer)
    check_replay(config, accelerator)
    train, heldout = open_cache(config)
    position = data_facts(config, accelerator, train)
    length = batches_an_epoch(train.buckets(), position["joint_batch"], config.image_share)
    empty_text = train.empty_text()
    model = prepare_model(config)
    facts = model_facts(model, config, train.fingerprint)
    vae = load_vae(Path(config.vae), dtype=DTYPES[config.vae_dtype]).to(accelerator.device)
    model, optimizer = distribute_all(model, accelerator, config)
    average = start_ema(model) if config.ema else None
    run = Run(config, accelerator, model, vae, optimizer, average, train, heldout, empty_text, facts, position, length)
    resume(run)
    accelerator.print(data_line(run))
    if not len(heldout) and (config.heldout_every or config.sample_every):
        accelerator.print(f"{config.cache} holds no held-out clips: no held-out losses and no samples")
    return run


def data_line(run: Run) -> str:
    """What the run trains on, in a line."""
    config, broken = run.config, len(run.train.broken)
    counts = f"{len(run.train)} training clips, {len(run.heldout)} held out, {broken} broken"
    reasons = f" (left out; why: {run.train.folder}/{CLIPS}/*.problem)" if broken else ""
    epochs = config.steps * config.accumulation / run.epoch_length
    return f"{counts}{reasons}; {config.steps} steps are {epochs:.3g} epochs"


def check_deepspeed(config: TrainingConfig) -> None:
    """Raise ValueError for settings that are not for DeepSpeed."""
    if config.ema or config.sharding != "none":
        raise ValueError("under DeepSpeed, ema is 0 and sharding is none: it shards by its own stages")
    if config.compile:
        raise ValueError("compile was not tried under DeepSpeed; leave it false")
    if config.optimizer == "muon":
        raise ValueError("optimizer muon needs whole matrices, which DeepSpeed does not keep; take adamw")
    if config.base_dtype != "fp32":
        raise ValueError(f"base_dtype is {config.base_dtype}; under DeepSpeed it is fp32, which its autocast asks for")


def distribute_all(
    model: nn.Module, accelerator: Accelerator, config: TrainingConfig
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model over all processes and the optimiser of what trains."""
    if not uses_deepspeed(accelerator):
        if config.compile:
            compile_blocks(model.to(accelerator.device))
        model = distribute(model, accelerator, config.sharding)
        return model, make_optimizer(trained_parameters(model), config)
    check_deepspeed(config)
    optimizer = make_optimizer(trained_parameters(model), config)
    return prepare_deepspeed(
        model,
        optimizer,
        accelerator,
        batch=config.batch_size,
        accumulation=config.accumulation,
        clip=config.clip,
        bf16=config.precision == "bf16",
    )


def resume(run: Run) -> None:
    """Go on from the newest checkpoint of the output folder, if there is one."""
    found = as_main(lambda: newest_checkpoint(run.output))
    if found is None:
        return
    stored = check_facts(found, run.facts, "samples")
    run.step, run.samples = stored["step"], stored["samples"]
    run.saved = run.step
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
    checkpoint = save_state(run.output, write, saved_facts(run), step=run.step, keep=run.config.keep)
    run.saved = run.step
    return checkpoint


def is_to_keep(run: Run) -> bool:
    """Whether the weights of the step at hand are to be kept for good."""
    return bool(run.config.keep_every) and run.step % run.config.keep_every == 0


def has_kept(run: Run) -> bool:
    """Whether the weights of the step at hand are kept already."""
    return as_main(lambda: (run.output / KEPT / f"step_{run.step:08}" / FACTS).is_file())


def keep_weights(run: Run) -> Path:
    """Write what the run has learnt, without what only going on needs; exports take it as they take a checkpoint."""
    if uses_deepspeed(run.accelerator):
        write = partial(write_weights, run.model, run.accelerator, MODEL)
    else:
        write = partial(write_tensors, collect_weights(run.model, run.average))
    return write_whole(run.output / KEPT, write, saved_facts(run), step=run.step)


def saved_facts(run: Run) -> dict[str, Any]:
    """What is said beside the tensors."""
    return {**run.facts, **run.position, "samples": run.samples}
