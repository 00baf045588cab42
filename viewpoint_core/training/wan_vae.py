"""The Wan2.1 VAE in diffusers: loaded from any of its file formats; video <-> latent in the model's scale."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..checkpoint import checkpoint_files
from ..conditioning import SPATIAL_COMPRESSION, check_length
from ..safetensors_file import StoredTensor, read_header
from .weights import load_stored

DIFFUSERS_FOLDER = "vae"
ENCODER_WIDTH, DECODER_WIDTH, LATENT_WIDTH = "encoder.conv1.weight", "decoder.head.0.gamma", "conv2.weight"
LATENT_CHANNELS = 16
RESIDUALS = 4  # modules of a decoder level in the original's flat list: three residuals and the resampling

DIFFUSERS_TO_ORIGINAL = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
)


def original_vae_key(key: str) -> str:
    """A VAE weight's name in the original (= ComfyUI) naming, from the diffusers naming."""
    for pattern, name in DIFFUSERS_TO_ORIGINAL:
        key = re.sub(pattern, name, key)
    up = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)", key)
    if up is None:
        return key
    level, kind, index, rest = up.groups()
    place = RESIDUALS * int(level) + (int(index) if kind == "resnets" else RESIDUALS - 1)
    return f"decoder.upsamples.{place}.{rest}"


def read_vae(source: Path) -> tuple[Path, dict[str, StoredTensor]]:
    """Where a VAE's weights are (a pipeline's folder stands for its `vae` folder), and they, under original names."""
    source = source / DIFFUSERS_FOLDER if (source / DIFFUSERS_FOLDER).is_dir() else source
    stored = {key: tensor for file in checkpoint_files(source) for key, tensor in read_header(file)[0].items()}
    if "quant_conv.weight" in stored:
        stored = {original_vae_key(key): tensor for key, tensor in stored.items()}
    return source, stored


def vae_config(stored: Mapping[str, StoredTensor], source: Path) -> dict[str, Any]:
    """diffusers' configuration of a Wan2.1 VAE, from the shapes of its tensors (original names)."""
    absent = [key for key in (ENCODER_WIDTH, DECODER_WIDTH, LATENT_WIDTH) if key not in stored]
    if absent or any(".upsamples.0.upsamples." in key for key in stored):
        raise ValueError(f"{source} is not a Wan2.1 VAE: {'no ' + absent[0] if absent else 'it is that of Wan2.2'}")
    config = {
        "base_dim": stored[ENCODER_WIDTH].shape[0],
        "decoder_base_dim": stored[DECODER_WIDTH].shape[0],
        "z_dim": stored[LATENT_WIDTH].shape[0],
    }
    if config["z_dim"] != LATENT_CHANNELS:
        raise ValueError(f"{source} makes latents of {config['z_dim']} channels; expected {LATENT_CHANNELS}")
    return config


def load_vae(source: Path, *, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """A Wan2.1 VAE, frozen, from a diffusers folder or a single file in the original naming.

    Raises ValueError for what is no such VAE.
    """
    source, stored = read_vae(source)
    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLWan(**vae_config(stored, source))
    load_stored(vae, stored, original_vae_key, source, dtype)
    return channels_last(vae.requires_grad_(False).eval())


def channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """The same VAE with its 3D convolutions' weights laid out channels last: on a CPU several times as fast."""
    for weight in vae.parameters():
        if weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def latent_scale(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, each (1, C, 1, 1, 1)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=like.device).reshape(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


@torch.no_grad()
def encode_video(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Video (B, 3, T, H, W) in [-1, 1] -> latent (B, C, t, H/8, W/8) in the model's scale, float32.

    The posterior's mean, (z - mean) / std. Raises ValueError unless T = 4k + 1 and the sides are multiples of 8.
    """
    if video.ndim != 5 or video.shape[1] != 3 or any(size % SPATIAL_COMPRESSION for size in video.shape[3:]):
        raise ValueError(f"got a video of shape {tuple(video.shape)}; expected (B, 3, T, H, W), H and W multiples of 8")
    check_length(video.shape[2])
    with torch.autocast(video.device.type, enabled=False):  # the VAE's own dtype, also inside a training step
        latent = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    mean, std = latent_scale(vae, latent)
    return (latent - mean) / std


@torch.no_grad()
def decode_latent(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """Latent (B, C, t, h, w) in the model's scale -> video (B, 3, 4t - 3, 8h, 8w), clamped to [-1, 1], float32."""
    mean, std = latent_scale(vae, latent)
    with torch.autocast(latent.device.type, enabled=False):
        return vae.decode((latent.float() * std + mean).to(vae.dtype), return_dict=False)[0].float()
