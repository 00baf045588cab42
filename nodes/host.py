"""What the pack asks of the host's internals; for its folders see host_files. Imported only once the host runs."""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.utils
import latent_preview
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from ..viewpoint_core.checkpoint import schedule_from_metadata
from ..viewpoint_core.safetensors_file import read_header


def host_class(module: str, name: str) -> type | None:
    """A class of the host's, or None where this host keeps it elsewhere."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


PATCH_EMBEDDING = "diffusion_model.patch_embedding.weight"
BLOCK_ATTENTION = re.compile(r"\bblocks\.\d+\.\w*attn")
LATENT_FORMATS = {16: comfy.latent_formats.Wan21}
WAN_VAE = host_class("comfy.ldm.wan.vae", "WanVAE")
TINY_VIDEO_VAES = tuple(filter(None, [host_class("comfy.taesd.taehv", "TAEHV")]))
OUTER_SAMPLE = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
PREVIEW_FORMAT = "JPEG"
FLOW_TIMESTEPS = 1000  # Wan's timestep is 1000 sigma
TILE_OVERLAP = 32
SMALLEST_TILE = 128
UPSCALE_BYTES = 384.0  # of memory a byte of a tile needs, times the scale, as the host's own upscale node reckons


def node_schema(**values: Any) -> io.Schema:
    """A node's schema; values that this host's schema does not know are dropped, such as search_aliases on 0.3.75."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def wan_config(model: Any) -> dict[str, Any]:
    """A MODEL's configuration as the host detected it. Raises ValueError unless it is a Wan model."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    if config.get("image_model") != "wan2.1":
        raise ValueError(
            f"the model is a {type(model.model).__name__}; ViewPoint needs a Wan2.1 text-to-video "
            "model, inflated to 33 input channels"
        )
    return config


def input_channels(model: Any) -> int:
    """Input channels of a MODEL, counting a LoRA that widens the patch embedding.

    Not read off the live weight: under partial loading that keeps its old shape.
    """
    channels = wan_config(model)["in_dim"]
    for patch in getattr(model, "patches", {}).get(PATCH_EMBEDDING, []):
        shape = lora_shape(patch[1])
        if shape is not None and patch[0] != 0:
            channels = int(shape[1])
    return channels


def lora_shape(adapter: Any) -> Sequence[int] | None:
    """The shape that a LoRA gives to its weight; None where it leaves it, and for adapters of other kinds, which hold
    something else at its place."""
    weights = getattr(adapter, "weights", None)
    if getattr(adapter, "name", None) != "lora" or not isinstance(weights, (tuple, list)) or len(weights) < 6:
        return None
    return weights[5]


def attention_is_patched(network: Any) -> bool:
    """Whether nodes have put other code into the attention of a model's blocks, as normalized attention guidance does.

    `network` is what the MODEL that is sampled with holds; the host notes there which MODEL that is.
    """
    patches = getattr(getattr(network, "current_patcher", None), "object_patches", {})
    return any(BLOCK_ATTENTION.search(name) for name in patches)


def latent_channels(model: Any) -> int:
    """Channels of the latent that a MODEL denoises."""
    return model.model.latent_format.latent_channels


def checkpoint_schedule(model: Any) -> str | None:
    """The schedule in a checkpoint's metadata, where this host keeps the metadata or the file's name; else None."""
    for holder in (model, model.model, getattr(model.model, "model_config", None)):
        metadata = getattr(holder, "metadata", None)
        if isinstance(metadata, dict):
            schedule = schedule_from_metadata(metadata)
            if schedule is not None:
                return schedule
    file = checkpoint_file(model)
    return schedule_from_metadata(read_header(file)[1]) if file else None


def checkpoint_file(model: Any) -> Path | None:
    """The safetensors file that a MODEL was loaded from, where this host keeps how to load it again; else None."""
    loader = getattr(model, "cached_patcher_init", None)
    arguments = loader[1] if isinstance(loader, tuple) and len(loader) > 1 else ()
    named = [
        Path(value) for value in arguments if isinstance(value, (str, Path)) and str(value).endswith(".safetensors")
    ]
    return named[0] if named and named[0].is_file() else None


def check_video_vae(vae: Any) -> None:
    """Raise ValueError for a VAE that is known not to be a video VAE, before it encodes anything."""
    dimensions, channels = getattr(vae, "latent_dim", 3), getattr(vae, "latent_channels", 16)
    if dimensions != 3 or channels not in LATENT_FORMATS:
        raise ValueError(
            f"the VAE has {channels} latent channels in {dimensions} dimensions; ViewPoint needs the Wan2.1 video VAE "
            "(16 channels in 3 dimensions)"
        )
    network = getattr(vae, "first_stage_model", None)
    if WAN_VAE is not None and network is not None and not isinstance(network, (WAN_VAE, *TINY_VIDEO_VAES)):
        raise ValueError(
            f"the VAE is a {type(network).__name__}, whose latents are not Wan's though their shape is the same; "
            "ViewPoint needs the Wan2.1 video VAE"
        )
    scale = getattr(network, "latent_format", None)  # of a tiny VAE that brings others' latents to Wan's size
    if isinstance(network, TINY_VIDEO_VAES) and scale not in (None, LATENT_FORMATS[channels]):
        raise ValueError(
            f"the VAE is a tiny one whose latents this ComfyUI takes for {scale.__name__}'s, as it does with all of "
            "them in float16; ViewPoint needs the Wan2.1 video VAE, or a tiny one of it in another type"
        )


def latent_to_model(latent: torch.Tensor) -> torch.Tensor:
    """A VAE latent (B, C, t, h, w) in the model's scale, by the host's latent format for its channels."""
    return LATENT_FORMATS[latent.shape[1]]().process_in(latent)


def empty_latent(shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros on the host's intermediate device."""
    return torch.zeros(shape, device=comfy.model_management.intermediate_device())


def with_shift(model: Any, shift: float) -> Any:
    """A clone of a MODEL that samples with this flow shift."""
    flow = type("ViewPointFlow", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})(
        model.model.model_config
    )
    flow.set_parameters(shift=shift, multiplier=FLOW_TIMESTEPS)
    shifted = model.clone()
    shifted.add_object_patch("model_sampling", flow)
    return shifted


def host_ksampler(
    model: Any,
    positive: list,
    negative: list,
    latent: dict,
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
) -> dict:
    """The sampling that the host's own KSampler does: progress, preview, cancel, memory. Returns the LATENT."""
    from nodes import common_ksampler  # the host's module of that name

    return common_ksampler(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise=denoise
    )[0]


def latent_previewer(model: Any) -> Callable[[torch.Tensor], Any] | None:
    """What makes (format, picture, largest side) of a MODEL's latent (B, C, t, h, w) by the host's preview setting.

    None where previews are off, or where this host makes them another way.
    """
    make = getattr(latent_preview, "get_previewer", None)
    previewer = make(model.load_device, model.model.latent_format) if make else None
    decode = getattr(previewer, "decode_latent_to_preview_image", None)
    return None if decode is None else lambda latent: decode(PREVIEW_FORMAT, latent)


def workflow_metadata(hidden: Any) -> dict[str, str]:
    """What the host's own save nodes embed: prompt and workflow as JSON by name; nothing under --disable-metadata."""
    if args.disable_metadata:
        return {}
    values = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        values["prompt"] = hidden.prompt
    return {name: json.dumps(value) for name, value in values.items()}


def raise_if_cancelled() -> None:
    """Raise once the user cancels; for steps that are too many to show."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class CancellableBar(comfy.utils.ProgressBar):
    """The host's progress bar, which on newer hosts heeds a cancel only where it has moved by half a percent."""

    def update(self, value: int) -> None:
        """Go on by so many steps. Raises once the user cancels."""
        raise_if_cancelled()
        super().update(value)


def progress_bar(total: int) -> CancellableBar:
    """A progress bar of the node that runs. Its update(1) raises once the user cancels."""
    return CancellableBar(total)


def free_bytes(device: torch.device | None = None) -> int:
    """Bytes that are free on a device, by default in RAM."""
    return int(comfy.model_management.get_free_memory(device or torch.device("cpu")))


def give_up_memory(needed: int) -> None:
    """Have the host unload models that it computes with in RAM, and forget those that nobody holds, as it does itself
    before it takes so many bytes of RAM."""
    # not its unload_all_models: that one moves the weights on a GPU into RAM
    comfy.model_management.free_memory(needed, torch.device("cpu"))


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device has no memory left, as this host tells, and on Apple's devices, whose errors
    have no class of their own."""
    management = comfy.model_management
    told = getattr(management, "is_oom", lambda _: False)(error)
    return told or isinstance(error, management.OOM_EXCEPTION) or "out of memory" in str(error).lower()


def check_upscale_model(model: Any) -> None:
    """Raise ValueError for an UPSCALE_MODEL that does not map one RGB picture to another."""
    channels = getattr(model, "input_channels", 3), getattr(model, "output_channels", 3)
    if channels != (3, 3):
        raise ValueError(
            f"the upscale model takes {channels[0]} channel(s) and gives {channels[1]}; expected 3 and 3 (RGB)"
        )


@contextmanager
def loaded_upscaler(
    model: Any, tile: int, extra_bytes: int
) -> Iterator[tuple[Callable[[torch.Tensor], torch.Tensor], torch.device]]:
    """A function that upscales a picture (3, h, w) in [0, 1] by tiles, and the device for what follows.

    That is the model's device if it is a CUDA one with `extra_bytes` to spare, else the CPU. The model goes back to the
    CPU at the end. The function raises once the user cancels, and takes smaller tiles where memory runs out.
    """
    management = comfy.model_management
    device = management.get_torch_device()
    tile_bytes = int(tile * tile * 3 * 4 * max(model.scale, 1) * UPSCALE_BYTES)
    management.free_memory(management.module_size(model.model) + tile_bytes + extra_bytes, device)
    after = torch.device("cpu")

    def upscale(picture: torch.Tensor) -> torch.Tensor:
        nonlocal tile  # a size that was too large once is not tried again
        scaled, tile = upscale_by_tiles(model, picture, tile, device, after)
        return scaled

    try:
        model.to(device)
        if device.type == "cuda" and free_bytes(device) > tile_bytes + extra_bytes:
            after = device
        yield upscale, after
    finally:
        model.to("cpu")


def upscale_by_tiles(
    model: Any, picture: torch.Tensor, tile: int, device: torch.device, after: torch.device
) -> tuple[torch.Tensor, int]:
    """A picture (3, h, w) through an upscale model on `device`, as float32 on the device `after`, and the side of the
    tiles that memory was enough for."""

    def run(part: torch.Tensor) -> torch.Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return model(part.to(device, model.dtype)).float()

    while True:
        try:
            scaled = comfy.utils.tiled_scale(
                picture[None], run, tile, tile, TILE_OVERLAP, upscale_amount=model.scale, output_device=after
            )
            return scaled[0], tile
        except RuntimeError as error:
            if not ran_out_of_memory(error) or tile // 2 < SMALLEST_TILE:
                raise
            tile //= 2
