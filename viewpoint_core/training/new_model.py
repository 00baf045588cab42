"""A small ViewPoint model to train from nothing: weights with which it knows what to do with the known view."""

import math
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch.nn import init

from ..checkpoint import TEXT_DIM, original_key
from .wan import HEAD_DIM
from .wan_vae import LATENT_CHANNELS
from .weights import lazy, write_safetensors

FREQ_DIM = 256
KNOWN_SHARE, MASK_SHARE = 0.3, 0.5


@torch.no_grad()
def new_transformer(heads: int, layers: int, ffn: int, seed: int) -> WanTransformer3DModel:
    """A ViewPoint model of 33 channels and `heads` heads of 128.

    Attention and feed-forward end in zeros, so a token goes straight from the patch embedding to the head. The
    embedding takes the noisy latent minus the known one, and, in directions of their own, the known one and the mask;
    the head gives the first part back, brought to the velocity's length. Where the view is known that is the velocity,
    sigma (noise - x_0) / sigma, so the training begins with what is not known.
    """
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD_DIM,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=FREQ_DIM,
        ffn_dim=ffn,
        num_layers=layers,
    )
    for block in model.blocks:
        for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
            init.zeros_(last.weight)
            init.zeros_(last.bias)
    start_patches(model)
    return model


def start_patches(model: WanTransformer3DModel) -> None:
    """The patch embedding and the head of `new_transformer`."""
    embedding, head = model.patch_embedding, model.proj_out
    width, channels, patch = embedding.out_channels, LATENT_CHANNELS, embedding.kernel_size
    directions = init.orthogonal_(torch.empty(width, (2 * channels + 1) * math.prod(patch)))
    noisy, known, mask = directions.unflatten(1, (2 * channels + 1, *patch)).split([channels, channels, 1], dim=1)
    embedding.weight.copy_(torch.cat([noisy, KNOWN_SHARE * known - noisy, MASK_SHARE * mask], dim=1))
    init.zeros_(embedding.bias)
    init.zeros_(head.bias)
    # the embedding counts a patch as (channel, row, column), the head as (row, column, channel)
    back = noisy[:, :, 0].permute(2, 3, 1, 0).reshape(head.weight.shape)
    # before the head a token has the length sqrt(width); noise - x_0 deviates by sqrt(2) in each of its numbers
    head.weight.copy_(back * math.sqrt(2 * back.shape[0] / width))


def write_transformer(model: WanTransformer3DModel, file: Path) -> None:
    """A model as a single file in the original naming, as the trainer and ComfyUI read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {original_key(name): lazy(tensor) for name, tensor in model.state_dict().items()}
    for _ in write_safetensors(tensors, {"format": "pt"}, file):
        pass
