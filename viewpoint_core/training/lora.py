"""LoRA for the ViewPoint model: attention and feed-forward linears, and the widened patch embedding trained in full.

The patch embedding's change is a LoRA too, of the rank (2 C + 1) * 4 that makes it exact: its lora_A is the identity,
frozen, and its lora_B the change itself. So nothing but lora_A and lora_B trains, and ComfyUI's stock loader takes it.
Modulation, norms and biases stay: the host drops a change of the modulation.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from ..checkpoint import original_key, schedule_from_metadata
from ..wan_attention import format_schedule, perspective_blocks
from .wan import set_blocks, viewpoint_channels

ADAPTER = "default"
LORA_ALPHA = "viewpoint.lora_alpha"  # in the metadata of a LoRA's file
LORA_BASE = "viewpoint.base_channels"  # of the model that it was trained on
PATCH, PATCH_SIZE = "patch_embedding", (1, 2, 2)
LINEARS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
COMFY_PREFIX = "diffusion_model."
PATCH_SIDES = tuple(f"{COMFY_PREFIX}{PATCH}.lora_{side}.weight" for side in ("up", "down"))


def patch_rank(model: WanTransformer3DModel) -> int:
    """The rank at which a LoRA of the widened patch embedding is exact: inputs of one token."""
    return viewpoint_channels(model) * math.prod(model.config.patch_size)


def lora_parameters(model: WanTransformer3DModel, rank: int) -> int:
    """How many parameters `add_lora` would have train, those of the patch embedding's change among them."""
    linears = [module for name, module in model.named_modules() if re.fullmatch(LINEARS, name)]
    assert all(isinstance(module, nn.Linear) for module in linears)
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears) + (
        patch_rank(model) * model.patch_embedding.out_channels
    )


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

    Raises ValueError, before anything is changed, as `check_comfy_lora` does.
    """
    check_comfy_lora(model, lora)
    own = lora_state(model)
    for key, name in comfy_keys(own).items():
        own[name].copy_(lora[key])
    up, down = (lora[side].float() for side in PATCH_SIDES)
    change = own[f"{PATCH}.lora_B.weight"]
    change.copy_((up @ down.flatten(1)).reshape(change.shape))


def comfy_keys(own: Iterable[str]) -> dict[str, str]:
    """ComfyUI's keys of a LoRA's linears -> their names in `lora_state`."""
    return {COMFY_PREFIX + original_key(name): name for name in own if not name.startswith(PATCH)}


def check_comfy_lora(model: WanTransformer3DModel, lora: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a LoRA's keys, shapes or scales are not those that `add_lora` gave the model, which may be
    without weights."""
    own = lora_state(model)
    keys = comfy_keys(own)
    weights = {key for key in lora if key.endswith("weight") and "reshape" not in key}
    different = sorted(weights ^ {*keys, *PATCH_SIDES})
    if different:
        raise ValueError(f"the LoRA does not fit the model: {different[0]} is in one of them only")
    for key, name in keys.items():
        check_lora_part(model, key, name, own[name], lora)
    check_patch(model, lora)


def check_origin(model: WanTransformer3DModel, metadata: Mapping[str, str], channels: int) -> None:
    """Raise ValueError where a LoRA's file says that it was trained with other Perspective blocks than the model's, or
    on a model that took another number of channels than `channels`, this one's before it was widened. Files of earlier
    versions do not say the latter."""
    trained, blocks = schedule_from_metadata(metadata), set_blocks(model)
    if trained is not None and perspective_blocks(trained, model.config.num_layers) != blocks:
        raise ValueError(
            f"the LoRA was trained with the Perspective blocks {trained}, this run has {format_schedule(blocks)}"
        )
    base = metadata.get(LORA_BASE, str(channels))
    if base != str(channels):
        raise ValueError(f"the LoRA was trained on a model of {base} channels; this one takes {channels}")


def check_patch(model: WanTransformer3DModel, lora: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a LoRA's patch embedding is of the model's shape, with the scale 1."""
    up, down = (lora[side] for side in PATCH_SIDES)
    rank = len(down)
    wanted = (
        (len(model.patch_embedding.lora_B[ADAPTER].weight), rank),
        (rank, viewpoint_channels(model), *model.config.patch_size),
    )
    for side, tensor, shape in zip(PATCH_SIDES, (up, down), wanted, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{side} is {tuple(tensor.shape)}; expected {shape}")
    check_alpha(PATCH_SIDES[0], lora, rank, 1)


def check_lora_part(model: WanTransformer3DModel, key: str, name: str, own: Tensor, lora: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a LoRA's tensor has the shape and the scale of the model's own."""
    if lora[key].shape != own.shape:
        raise ValueError(f"{key} is {tuple(lora[key].shape)}; the model's LoRA has {tuple(own.shape)}: another rank")
    module, _, part = name.partition(".lora_")
    rank = len(own) if part.startswith("A") else own.shape[1]
    check_alpha(key, lora, rank, model.get_submodule(module).scaling[ADAPTER])


def check_alpha(key: str, lora: Mapping[str, Tensor], rank: int, scale: float) -> None:
    """Raise ValueError unless a LoRA's tensor has this scale, which is alpha / rank, and 1 in a file without alpha."""
    alpha = float(lora.get(key.partition("lora_")[0] + "alpha", rank))
    if not math.isclose(alpha / rank, scale, rel_tol=1e-6):  # the file has it in float32
        raise ValueError(f"{key} has alpha {alpha:g}; the model's LoRA has {scale * rank:g}")
