"""The node that turns a map and its mask into the conditioning of a 33-channel Wan2.1."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.conditioning import (
    check_length,
    fill_unknown,
    latent_shape,
    pack_known,
)
from ..viewpoint_core.map_layout import check_map, check_map_size
from ..viewpoint_core.resample import GREY
from .convert import check_prompt, image_to_frames, mask_to_frames
from .host import check_video_vae, empty_latent, latent_to_model, node_schema
from .inputs import MAX_LENGTH, map_size_input

CATEGORY = "ViewPoint"


def with_values(conditioning: list, values: dict[str, Any]) -> list:
    """A copy of a CONDITIONING with values set on each of its entries."""
    return [[embedding, {**options, **values}] for embedding, options in conditioning]


def known_map(viewpoint: Tensor | None, mask: Tensor | None, map_size: int, length: int) -> tuple[Tensor, Tensor]:
    """The known video (T, 3, S, S), grey where unknown, and its mask (T, S, S); all grey without a map."""
    if viewpoint is None:
        if mask is not None:
            raise ValueError("a mask came without a viewpoint map; connect the map that it belongs to")
        grey = empty_latent((length, 3, map_size, map_size)) + GREY
        return grey, empty_latent((length, map_size, map_size))
    frames = image_to_frames(viewpoint, "viewpoint")
    check_map(frames)
    if frames.shape[-1] != map_size or len(frames) != length:
        raise ValueError(
            f"the viewpoint map has {len(frames)} frames of side {frames.shape[-1]}; the node's length is {length} and "
            f"its map_size {map_size}: make them equal (ViewPointLoadClip loads as many frames of a video as you want)"
        )
    if mask is None:
        raise ValueError(
            "a viewpoint map came without its mask, so nothing says what of it is known; connect the mask output of "
            "the node that made the map"
        )
    masks = mask_to_frames(mask.to(frames.device), "mask", length, map_size, map_size)
    return fill_unknown(frames, masks), masks


class ViewPointConditioning(io.ComfyNode):
    """Text and known map -> conditioning in 33 channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointConditioning",
            search_aliases=["360", "panorama conditioning", "outpaint 360", "wan panorama", "known view"],
            display_name="ViewPoint: conditioning",
            category=CATEGORY,
            description="Add what is known of the panorama (a placed clip, a partial panorama) to the prompts.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, encoded by the Wan text encoder."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, encoded likewise."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                map_size_input(),
                io.Int.Input(
                    "length",
                    default=49,
                    min=1,
                    max=MAX_LENGTH,
                    step=4,
                    tooltip="Frames, 4k + 1. 49 at 16 frames per second is the paper's clip; 1 makes an image.",
                ),
                io.Image.Input("viewpoint", optional=True, tooltip="The known map. Without it: text to panorama."),
                io.Mask.Input("mask", optional=True, tooltip="1 where the map is known; comes with the map."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the known map."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with the known map."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the right size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        map_size: int,
        length: int,
        viewpoint: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Check, encode the known video once, pack, set it on both prompts."""
        check_map_size(map_size)
        check_length(length)
        check_video_vae(vae)
        for name, prompt in (("positive", positive), ("negative", negative)):
            if not prompt:
                raise ValueError(f"{name}: the conditioning holds no prompt; expected one that is encoded, or empty")
            for embedding, _ in prompt:
                check_prompt(embedding, name)
        known, masks = known_map(viewpoint, mask, map_size, length)
        latent = latent_to_model(vae.encode(known.movedim(1, -1)))
        values = {"noise_concat": pack_known(latent, masks[None])}
        empty = empty_latent(latent_shape(map_size, length, latent.shape[1]))
        return io.NodeOutput(with_values(positive, values), with_values(negative, values), {"samples": empty})
