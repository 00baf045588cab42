"""Tiny untrained models in Wan2.1's stock file formats, under the names that the shipped workflows load.

    python -m scripts.tiny_models MODELS_DIR

Seeded: the same files every time. ComfyUI's own loaders read them; what they make is noise.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from scripts import stock_files
from scripts.stock_files import VIEWPOINT_UNET
from scripts.tiny_upscaler import write_upscaler
from viewpoint_core.checkpoint import TEXT_DIM, inflate_checkpoint

LATENT_CHANNELS = 16
HEAD_DIM = 128
FREQ_DIM = 256
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    """A linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def conv(name: str, outputs: int, inputs: int, *kernel: int) -> Shapes:
    """A convolution."""
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


def attention_shapes(name: str, dim: int) -> Shapes:
    """An attention of a DiT block, with its q and k norms."""
    shapes = {key: shape for part in "qkvo" for key, shape in linear(f"{name}.{part}", dim, dim).items()}
    return shapes | {f"{name}.norm_q.weight": (dim,), f"{name}.norm_k.weight": (dim,)}


def block_shapes(name: str, dim: int, ffn: int) -> Shapes:
    """A DiT block."""
    return {
        f"{name}.modulation": (1, 6, dim),
        **attention_shapes(f"{name}.self_attn", dim),
        **attention_shapes(f"{name}.cross_attn", dim),
        f"{name}.norm3.weight": (dim,),
        f"{name}.norm3.bias": (dim,),
        **linear(f"{name}.ffn.0", ffn, dim),
        **linear(f"{name}.ffn.2", dim, ffn),
    }


def dit_shapes(*, dim: int = HEAD_DIM, blocks: int = 4, ffn: int = 256, in_dim: int = LATENT_CHANNELS) -> Shapes:
    """A Wan2.1 T2V model in the original naming. `dim` is a multiple of 128: the host takes heads of that width."""
    shapes = {
        **conv("patch_embedding", dim, in_dim, 1, 2, 2),
        **linear("text_embedding.0", dim, TEXT_DIM),
        **linear("text_embedding.2", dim, dim),
        **linear("time_embedding.0", dim, FREQ_DIM),
        **linear("time_embedding.2", dim, dim),
        **linear("time_projection.1", 6 * dim, dim),
        "head.modulation": (1, 2, dim),
        **linear("head.head", 4 * LATENT_CHANNELS, dim),
    }
    for index in range(blocks):
        shapes |= block_shapes(f"blocks.{index}", dim, ffn)
    return shapes


def residual_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    """A residual block of the VAE."""
    shapes = {
        f"{name}.residual.0.gamma": (inputs, 1, 1, 1),
        **conv(f"{name}.residual.2", outputs, inputs, 3, 3, 3),
        f"{name}.residual.3.gamma": (outputs, 1, 1, 1),
        **conv(f"{name}.residual.6", outputs, outputs, 3, 3, 3),
    }
    return shapes if inputs == outputs else shapes | conv(f"{name}.shortcut", outputs, inputs, 1, 1, 1)


def middle_shapes(name: str, width: int) -> Shapes:
    """The VAE's middle: residual, attention, residual."""
    return {
        **residual_shapes(f"{name}.0", width, width),
        f"{name}.1.norm.gamma": (width, 1, 1),
        **conv(f"{name}.1.to_qkv", 3 * width, width, 1, 1),
        **conv(f"{name}.1.proj", width, width, 1, 1),
        **residual_shapes(f"{name}.2", width, width),
    }


def encoder_shapes(width: int) -> Shapes:
    """Encoder of the Wan2.1 VAE: two residuals a level; levels 0 to 2 halve space after that, 1 and 2 also time."""
    widths = [width, width, 2 * width, 4 * width, 4 * width]
    shapes = conv("encoder.conv1", width, 3, 3, 3, 3)
    for level in range(4):
        inputs, outputs, index = widths[level], widths[level + 1], 3 * level
        shapes |= residual_shapes(f"encoder.downsamples.{index}", inputs, outputs)
        shapes |= residual_shapes(f"encoder.downsamples.{index + 1}", outputs, outputs)
        name = f"encoder.downsamples.{index + 2}"
        shapes |= conv(f"{name}.resample.1", outputs, outputs, 3, 3) if level < 3 else {}
        shapes |= conv(f"{name}.time_conv", outputs, outputs, 3, 1, 1) if level in (1, 2) else {}
    shapes |= middle_shapes("encoder.middle", widths[-1])
    shapes["encoder.head.0.gamma"] = (widths[-1], 1, 1, 1)
    return shapes | conv("encoder.head.2", 2 * LATENT_CHANNELS, widths[-1], 3, 3, 3)


def decoder_shapes(width: int) -> Shapes:
    """Decoder of the Wan2.1 VAE: three residuals a level; upsampling (levels 0 to 2) halves the width."""
    inputs, outputs = [4 * width, 2 * width, 2 * width, width], [4 * width, 4 * width, 2 * width, width]
    shapes = conv("decoder.conv1", inputs[0], LATENT_CHANNELS, 3, 3, 3) | middle_shapes("decoder.middle", inputs[0])
    for level in range(4):
        index, out = 4 * level, outputs[level]
        shapes |= residual_shapes(f"decoder.upsamples.{index}", inputs[level], out)
        shapes |= residual_shapes(f"decoder.upsamples.{index + 1}", out, out)
        shapes |= residual_shapes(f"decoder.upsamples.{index + 2}", out, out)
        name = f"decoder.upsamples.{index + 3}"
        shapes |= conv(f"{name}.resample.1", out // 2, out, 3, 3) if level < 3 else {}
        shapes |= conv(f"{name}.time_conv", 2 * out, out, 3, 1, 1) if level < 2 else {}
    shapes["decoder.head.0.gamma"] = (width, 1, 1, 1)
    return shapes | conv("decoder.head.2", 3, width, 3, 3, 3)


def vae_shapes(width: int = 8) -> Shapes:
    """A Wan2.1 VAE in the original naming, of base width `width` (stock: 96)."""
    return {
        **encoder_shapes(width),
        **conv("conv1", 2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, 1, 1),
        **conv("conv2", LATENT_CHANNELS, LATENT_CHANNELS, 1, 1, 1),
        **decoder_shapes(width),
    }


def tiny_weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight that keeps activations near unit scale: norms 1, biases small, the rest by fan-in."""
    if name.endswith("gamma") or name.endswith(("norm_q.weight", "norm_k.weight", "norm3.weight")):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.randn(shape, generator=generator) * 0.02
    fan_in = shape[-1] if len(shape) <= 3 else math.prod(shape[1:])
    return torch.randn(shape, generator=generator) / math.sqrt(fan_in)


def tiny_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Seeded weights of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: tiny_weight(name, shape, generator) for name, shape in shapes.items()}


def widened(weights: dict[str, Tensor], name: str, scale: float) -> dict[str, Tensor]:
    """The weights with one of them scaled."""
    return weights | {name: weights[name] * scale}


def write_stock_unet(path: Path, *, seed: int = 1, dtype: torch.dtype = torch.bfloat16, **size: int) -> None:
    """A 16-channel Wan2.1 T2V checkpoint; `size` as in `dit_shapes`."""
    weights = tiny_weights(dit_shapes(**size), seed)
    save_file({name: weight.to(dtype) for name, weight in weights.items()}, path, metadata={"format": "pt"})


def write_viewpoint_unet(stock: Path, path: Path) -> None:
    """The 33-channel checkpoint that inflation makes of a stock one: its new columns are zero."""
    for _ in inflate_checkpoint(stock, path, force=True):
        pass


def write_vae(path: Path, *, width: int = 8, seed: int = 2) -> None:
    """A Wan2.1 VAE checkpoint."""
    weights = tiny_weights(vae_shapes(width), seed)
    save_file(widened(weights, "decoder.head.2.weight", 0.3), path, metadata={"format": "pt"})


def writers(models: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Every file with what writes it, in order: the 33-channel model is made of the stock one."""
    stock = models / "diffusion_models" / stock_files.UNET.name
    yield stock, write_stock_unet
    yield stock.with_name(VIEWPOINT_UNET), lambda path: write_viewpoint_unet(stock, path)
    yield models / "vae" / stock_files.VAE.name, write_vae
    yield models / "upscale_models" / stock_files.UPSCALER.name, lambda path: write_upscaler(path, 4)


def write_models(models: Path) -> list[Path]:
    """Write all models below a models folder as ComfyUI has it. Returns their paths."""
    paths = []
    for path, write in writers(models):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        paths.append(path)
    return paths


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the models folder of a ComfyUI")
    parser.add_argument("--force", action="store_true", help="replace files of these names, which may be real models")
    options = parser.parse_args()
    there = [str(path) for path, _ in writers(options.models) if path.exists()]
    if there and not options.force:
        parser.error(f"not replaced without --force: {', '.join(there)}")
    for path in write_models(options.models):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
