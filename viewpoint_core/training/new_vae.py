"""A small Wan2.1 VAE to train from nothing: weights that pass colours on and learn videos from pictures."""

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
)
from torch import Tensor, nn
from torch.nn import init

from .wan_vae import channels_last

COLOURS = 3
SAME = ((0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0))
OPPOSITE = ((3, 0, -1.0), (4, 1, -1.0), (5, 2, -1.0))
LEVEL_CHANNEL, LEVEL = 6, 2.0  # a constant beside the colours: normalising over channels then leaves their size
MIN_WIDTH = LEVEL_CHANNEL + 2  # and one for what is no colour
LOG_VARIANCE = -5.0


def zero(*modules: nn.Module) -> None:
    """Set weights and biases to zero."""
    for module in modules:
        init.zeros_(module.weight)
        init.zeros_(module.bias)


def carry(conv: nn.Module, rows: tuple[tuple[int, int, float], ...], kernel: Tensor) -> None:
    """Make output channels of a convolution carry one input channel each, times a factor: rows (out, in, factor).

    kernel: the weights over the present frame's pixels, (h, w), or all there are.
    """
    for row, column, factor in rows:
        conv.weight[row] = 0
        conv.bias[row] = 0
        place = conv.weight[row, column]
        (place[-1] if place.ndim == 3 else place).copy_(factor * kernel)


def level(conv: nn.Module) -> None:
    """Make one output channel constant."""
    conv.weight[LEVEL_CHANNEL] = 0
    conv.bias[LEVEL_CHANNEL] = LEVEL


def centre(conv: nn.Module) -> Tensor:
    """A kernel that takes the pixel itself."""
    kernel = torch.zeros(conv.kernel_size[-2:])
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
    return kernel


def start_time(module: WanResample) -> None:
    """Halving time starts as the mean of two frames, doubling it as showing each frame twice."""
    conv = module.time_conv
    zero(conv)
    same = torch.eye(module.dim)[:, :, None, None]
    if conv.out_channels == module.dim:
        conv.weight[:, :, -2:] = same.unsqueeze(2) / 2
    else:
        conv.weight[:, :, -1] = torch.cat([same, same])


def start_colours(vae: AutoencoderKLWan) -> None:
    """Three channels carry the means of the colours through to three latents and back.

    Found by training alone, a hue takes long: encoder and decoder each have nothing to gain from it before the other
    has it. Where SiLU stands in between, the colours come with their opposites: silu(a) - silu(-a) = a.
    """
    encoder, decoder = vae.encoder, vae.decoder
    mean, smooth = torch.zeros(3, 3), torch.full((3, 3), 1 / 9)
    mean[:2, :2] = 0.25  # of the two by two pixels that become one
    carry(encoder.conv_in, SAME, centre(encoder.conv_in))
    for block in (*encoder.down_blocks, *decoder.up_blocks):
        for module in block.modules():
            if isinstance(module, WanResidualBlock) and isinstance(module.conv_shortcut, WanCausalConv3d):
                carry(module.conv_shortcut, SAME, centre(module.conv_shortcut))
            if isinstance(module, WanResample):
                carry(module.resample[1], SAME, mean if module.mode.startswith("down") else smooth)
    widened = [m for m in encoder.modules() if isinstance(m, WanResidualBlock) and hasattr(m.conv_shortcut, "weight")]
    last_up = [m for m in decoder.modules() if isinstance(m, WanResample)][-1]
    for conv in (widened[-1].conv_shortcut, last_up.resample[1]):
        carry(conv, OPPOSITE, centre(conv))
        level(conv)
    for conv in (encoder.conv_out, decoder.conv_out):
        carry(conv, SAME, centre(conv))
        for row in range(COLOURS):
            conv.weight[row, row + COLOURS, -1] = -centre(conv)
    for conv in (vae.quant_conv, vae.post_quant_conv, decoder.conv_in):
        carry(conv, SAME, centre(conv))
    vae.quant_conv.bias[vae.config.z_dim :] = LOG_VARIANCE


@torch.no_grad()
def new_vae(width: int, seed: int) -> AutoencoderKLWan:
    """A VAE of base width `width` (stock: 96), 8 or more, that starts simple.

    Residual branches end in zeros, so it is nearly linear. Convolutions look at the present frame alone, so what it
    learns on single pictures holds for videos from their first step on. Colours go through.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(base_dim=width)
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size == (3, 3, 3):
            module.weight[:, :, :-1] = 0
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            start_time(module)
        if isinstance(module, WanResidualBlock):
            zero(module.conv2)
        if isinstance(module, WanAttentionBlock):
            zero(module.proj)
    start_colours(vae)
    return channels_last(vae)
