"""LoRA for the ViewPoint model: attention and feed-forward linears, and the widened patch embedding trained in full.

The patch embedding's change is a LoRA too, of the rank (2 C + 1) * 4 that makes it exact: its lora_A is the identity,
frozen, and its lora_B the change itself. So nothing but lora_A and lora_B trains, and ComfyUI's stock loader takes it.
Modulation, norms and biases stay: the host drops a change of the modulation.
"""

import math
from collections.abc import Mapping

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from ..checkpoint import original_key
from .wan import viewpoint_channels

ADAPTER = "default"
PATCH, PATCH_SIZE = "patch_embedding", (1, 2, 2)
LINEARS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
COMFY_PREFIX = "diffusion_model."


def patch_rank(model: WanTransformer3DModel) -> int:
    """The rank at which a LoRA of the widened patch embedding is exact: inputs of one token."""
    return viewpoint_channels(model) * math.prod(model.config.patch_size)


@torch.no_grad()
def add_lora(model: WanTransformer3DModel, rank: int, alpha: float | None = None) -> None:
    """Freeze a widened model and add a LoRA whose initial change is zero; alpha is the rank where None.

    Trains in float32 whatever the model's dtype. Raises ValueError for a model that is not widened to 2 C + 1 channels.
    """
    if rank < 1:
        raise ValueError(f"the LoRA's rank is {rank}; expected a positive integer")
    if model.config.in_channels != viewpoint_channels(model):
        raise ValueError(
            f"the model takes {model.config.in_channels} channels; widen it to {viewpoint_channels(model)}"
        )
    exact = patch_rank(model)
    model.requires_grad_(False)
    model.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            target_modules=rf"{LINEARS}|{PATCH}",
            rank_pattern={PATCH: exact},
            alpha_pattern={PATCH: exact},
        ),
        adapter_name=ADAPTER,
    )
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    down = model.patch_embedding.lora_A[ADAPTER].weight
    down.copy_(torch.eye(exact).reshape(down.shape))
    down.requires_grad_(False)


def lora_state(model: WanTransformer3DModel) -> dict[str, Tensor]:
    """The LoRA's tensors under diffusers names: `blocks.0.attn1.to_q.lora_A.weight`."""
    return get_peft_model_state_dict(model, adapter_name=ADAPTER)


def plain_name(name: str) -> str:
    """A LoRA tensor's name as `lora_state` has it, from a name that also says the adapter's."""
    return name.replace(f".{ADAPTER}.weight", ".weight")


def comfy_lora(state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """ComfyUI's keys for a LoRA's tensors, named as `lora_state` has them or with the adapter's name.

    The patch embedding, whose frozen lora_A may be left out, becomes lora_up (dim, r), lora_down (r, 2 C + 1, 1, 2, 2)
    and reshape_weight, which lets the stock loader widen a 16-channel model. Raises ValueError for a tensor that is no
    part of such a LoRA.
    """
    out: dict[str, Tensor] = {}
    change: Tensor | None = None
    for name, tensor in state.items():
        module, found, part = plain_name(name).partition(".lora_")
        if not found or part not in ("A.weight", "B.weight"):
            raise ValueError(f"{name} is no LoRA tensor; expected names like blocks.0.attn1.to_q.lora_A.weight")
        if module == PATCH and part == "B.weight":
            change = tensor
        elif module == PATCH:
            check_identity(tensor)
        else:
            key = COMFY_PREFIX + original_key(f"{module}.")
            out |= {f"{key}lora_{part}": tensor, f"{key}alpha": torch.tensor(float(alpha))}
    if change is None:
        raise ValueError("the LoRA has no patch embedding, so a stock model could not be widened by it")
    return out | comfy_patch(change)


def check_identity(down: Tensor) -> None:
    """Raise ValueError unless the patch embedding's lora_A is the identity that `add_lora` made it."""
    if not torch.equal(down.flatten(1).float().cpu(), torch.eye(len(down))):
        raise ValueError(f"the patch embedding's lora_A {tuple(down.shape)} is no identity; expected one of full rank")


def comfy_patch(change: Tensor) -> dict[str, Tensor]:
    """The patch embedding's change (dim, r, 1, 1, 1), r = (2 C + 1) * 4, in ComfyUI's keys; its scale is 1."""
    dim, rank = change.shape[:2]
    shape = (rank // math.prod(PATCH_SIZE), *PATCH_SIZE)
    tensors = {
        "lora_up.weight": change.flatten(1),
        "lora_down.weight": torch.eye(rank, dtype=change.dtype).reshape(rank, *shape),
        "alpha": torch.tensor(float(rank)),
        "reshape_weight": torch.tensor([dim, *shape], dtype=torch.int64),
    }
    return {f"{COMFY_PREFIX}{PATCH}.{name}": tensor for name, tensor in tensors.items()}


@torch.no_grad()
def load_comfy_lora(model: WanTransformer3DModel, lora: Mapping[str, Tensor]) -> None:
    """Put a LoRA in ComfyUI's keys, as `comfy_lora` makes it, into a model that `add_lora` prepared with its rank.

    Raises ValueError, before anything is changed, where keys, shapes or scales differ.
    """
    own = lora_state(model)
    keys = {COMFY_PREFIX + original_key(name): name for name in own if not name.startswith(PATCH)}
    sides = [f"{COMFY_PREFIX}{PATCH}.lora_{side}.weight" for side in ("up", "down")]
    different = sorted({key for key in lora if key.endswith("weight") and "reshape" not in key} ^ {*keys, *sides})
    if different:
        raise ValueError(f"the LoRA does not fit the model: {different[0]} is in one of them only")
    for key, name in keys.items():
        check_lora_part(model, key, name, own[name], lora)
    for key, name in keys.items():
        own[name].copy_(lora[key])
    up, down = (lora[side].float() for side in sides)
    change = own[f"{PATCH}.lora_B.weight"]
    change.copy_((up @ down.flatten(1)).reshape(change.shape))


def check_lora_part(model: WanTransformer3DModel, key: str, name: str, own: Tensor, lora: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a LoRA's tensor has the shape and the scale of the model's own."""
    if lora[key].shape != own.shape:
        raise ValueError(f"{key} is {tuple(lora[key].shape)}; the model's LoRA has {tuple(own.shape)}: another rank")
    module, _, part = name.partition(".lora_")
    rank = len(own) if part.startswith("A") else own.shape[1]
    alpha = float(lora[key.partition("lora_")[0] + "alpha"])
    scale = model.get_submodule(module).scaling[ADAPTER]
    if alpha / rank != scale:
        raise ValueError(f"{key} has alpha {alpha:g}; the model's LoRA has {scale * rank:g}")
