"""Time and peak memory of a real-size training step, beside the estimate that `train --dry-run` prints.

.venv/bin/python -m benchmarks.train_step [--size 1.3B] [--map-size 736] [--length 49] >> benchmarks/train_step.jsonl

Weights, clip and text are random: neither time nor memory depends on their values.
"""

import argparse
import json
import sys
import time

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from viewpoint_core.checkpoint import TEXT_DIM
from viewpoint_core.conditioning import latent_shape
from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.loop import Batch, Grey, draw, losses_of, make_optimizer, model_inputs
from viewpoint_core.training.memory import GIB, ModelSize, step_memory
from viewpoint_core.training.precision import fast_autocast
from viewpoint_core.training.wan import HEAD_DIM, TEXT_TOKENS, set_perspective

SIZES = {
    "tiny": {"num_attention_heads": 1, "num_layers": 4, "ffn_dim": 256},
    "1.3B": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "14B": {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824},
}


def random_batch(map_size: int, length: int) -> Batch:
    """One clip of random latents, pixels and text."""
    return Batch(
        torch.randn(latent_shape(map_size, length)),
        torch.randint(0, 256, (1, 3, length, map_size, map_size), dtype=torch.uint8),
        torch.randn(1, TEXT_TOKENS, TEXT_DIM),
        ["random"],
        0,
        0,
        map_size,
    )


def step_times(
    model: torch.nn.Module, vae: AutoencoderKLWan, batch: Batch, device: torch.device, steps: int
) -> list[float]:
    """Seconds of each full step: forward, backward, clip, update."""
    config = TrainingConfig()
    optimizer = make_optimizer(dict(model.named_parameters()), config)
    empty_text, seconds = torch.zeros(TEXT_TOKENS, TEXT_DIM), []
    grey: Grey = {}
    for _ in range(steps):
        start = time.perf_counter()
        with fast_autocast(device):
            draws = draw(batch, config, 1)
            inputs = model_inputs(vae, batch, draws, empty_text, config.layout, device, grey)
            loss = losses_of(model, *inputs).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> int:
    """Command line; prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.3B")
    parser.add_argument("--map-size", type=int, default=736, help="side of the ViewPoint map in pixels")
    parser.add_argument("--length", type=int, default=49, help="frames, 4k + 1")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps; the first, which allocates, is left out of the time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, shape = torch.device(options.device), SIZES[options.size]
    torch.manual_seed(0)
    with device:
        model = WanTransformer3DModel(attention_head_dim=HEAD_DIM, in_channels=33, text_dim=TEXT_DIM, **shape)
        vae = AutoencoderKLWan(base_dim=8 if options.size == "tiny" else 96).requires_grad_(False).eval()
    set_perspective(model, "alternating")
    model.enable_gradient_checkpointing()
    batch = random_batch(options.map_size, options.length)
    seconds = step_times(model.train(), vae, batch, device, options.steps)
    count, dim = sum(weight.numel() for weight in model.parameters()), HEAD_DIM * shape["num_attention_heads"]
    size = ModelSize(count, count, dim, shape["ffn_dim"], shape["num_layers"], batch.latent[0, 0].numel() // 4)
    estimate = step_memory(size, batch=1, base_bytes=4, optimizer_bytes=8, ema=False, autocast=True, checkpointing=True)
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    facts = {**vars(options), "device": name, "torch": torch.__version__, "parameters": count, "tokens": size.tokens}
    measured = {"seconds_a_step": min(seconds[1:] or seconds), "peak_gib": peak, "estimate_gib": estimate}
    print(json.dumps(facts | measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
