"""A small Wan2.1 T2V model to train from nothing: weights under which it starts as a nearly linear map."""

import math
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch.nn import init

from ..checkpoint import original_key
from .wan import HEAD_DIM
from .wan_vae import LATENT_CHANNELS
from .weights import lazy, write_safetensors

TEXT_DIM = 4096
FREQ_DIM = 256


@torch.no_grad()
def new_transformer(heads: int, layers: int, ffn: int, seed: int) -> WanTransformer3DModel:
    """A model of 16 channels, `heads` heads of 128.

    Attention and feed-forward end in zeros, the patch embedding keeps lengths, and the head undoes it: the first
    prediction is the noisy latent itself, brought to the noise's length. That is the velocity but for the picture, so
    the training begins with what is left.
    """
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS,
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
    embedding, head = model.patch_embedding, model.proj_out
    init.orthogonal_(embedding.weight.view(heads * HEAD_DIM, -1))
    init.zeros_(embedding.bias)
    init.zeros_(head.bias)
    # the embedding counts a patch as (channel, row, column), the head as (row, column, channel)
    back = embedding.weight[:, :, 0].permute(2, 3, 1, 0).reshape(head.weight.shape)
    head.weight.copy_(back * math.sqrt(back.shape[0] / back.shape[1]))
    return model


def write_transformer(model: WanTransformer3DModel, file: Path) -> None:
    """A model as a single file in the original naming, as the trainer and ComfyUI read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {original_key(name): lazy(tensor) for name, tensor in model.state_dict().items()}
    for _ in write_safetensors(tensors, {"format": "pt"}, file):
        pass
