"""Nodes that lay pictures over one another: placed clips on one map, the sharp clip over the generated panorama."""

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.camera_path import CameraPath
from ..viewpoint_core.compose import compose_maps
from ..viewpoint_core.composite import COLOUR_MATCHES, composite_view
from .camera import camera_path_input
from .convert import image_to_frames, mask_to_frames, own_frames_to_image
from .host import node_schema, progress_bar
from .inputs import angle_inputs, interpolation_input
from .memory import check_room


def feather_input(default: float, tooltip: str, **how: bool) -> io.Float.Input:
    """The width of a soft edge."""
    return io.Float.Input(
        "feather_deg", default=default, min=0.0, max=90.0, step=0.25, round=0.001, tooltip=tooltip, **how
    )


def overlay_inputs(**how: bool) -> list[io.Input]:
    """How a clip lies over a panorama."""
    return [
        feather_input(3.0, "Degrees inside the clip's border over which it fades. 0: a hard edge.", **how),
        io.Combo.Input(
            "colour_match",
            options=list(COLOUR_MATCHES),
            default=COLOUR_MATCHES[0],
            tooltip="Whose colours change, by mean and spread where both are known, alike in all frames: the "
            "panorama's (the clip stays as it is), the clip's, or nobody's.",
            **how,
        ),
    ]


def hold_clip_input() -> io.Boolean.Input:
    """What follows a clip that is shorter than the panorama."""
    return io.Boolean.Input(
        "hold_last",
        default=True,
        optional=True,
        tooltip="Where the panorama has more frames than the clip: the clip's last frame stays, as a photo "
        "does. Off: later frames stay as they were generated. As in 'place a clip'.",
    )


class ViewPointCompose(io.ComfyNode):
    """Two known maps -> one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointCompose",
            search_aliases=["360", "blend maps", "merge clips", "overlay", "partial panorama"],
            display_name="ViewPoint: lay maps over one another",
            category="ViewPoint/projection",
            description="Put two placed clips, photos or partial panoramas on one map, the upper one over the lower "
            "one, with soft edges. More than two: one after another.",
            inputs=[
                io.Image.Input("lower", tooltip="The map below: a placed clip or photo, or a partial panorama."),
                io.Mask.Input("lower_mask", tooltip="The mask that came with it: 1 where it is known."),
                io.Image.Input("upper", tooltip="The map above, of the same size and length."),
                io.Mask.Input("upper_mask", tooltip="The mask that came with it: 1 where it is known."),
                feather_input(
                    4.0,
                    "Degrees inside a map's border over which it fades where both are known. 0: the masks' own edges.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="viewpoint", tooltip="The map, grey where neither is known."),
                io.Mask.Output(display_name="mask", tooltip="1 where either is known."),
            ],
        )

    @classmethod
    def execute(
        cls, lower: Tensor, lower_mask: Tensor, upper: Tensor, upper_mask: Tensor, feather_deg: float
    ) -> io.NodeOutput:
        """Convert, one core call, convert."""
        below, above = image_to_frames(lower, "lower"), image_to_frames(upper, "upper")
        masks = [
            mask_to_frames(mask.to(frames.device), name, len(frames), *frames.shape[-2:])
            for frames, mask, name in ((below, lower_mask, "lower_mask"), (above, upper_mask, "upper_mask"))
        ]
        check_room(
            6 * 4 * masks[0].numel(),
            f"{len(below)} maps of side {below.shape[-1]} and their masks",
            "give fewer frames or a smaller map",
        )
        progress = progress_bar(len(below))
        maps, known = compose_maps(
            below, masks[0], above, masks[1], feather_deg=feather_deg, on_frame=lambda: progress.update(1)
        )
        return io.NodeOutput(own_frames_to_image(maps), known)


class ViewPointComposite(io.ComfyNode):
    """Generated panorama and the sharp clip -> panorama."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointComposite",
            search_aliases=["360", "keep original", "overlay", "paste back", "colour match"],
            display_name="ViewPoint: lay the clip over the panorama",
            category="ViewPoint/projection",
            description="Keep the original: lay the sharp input clip over the generated panorama where its camera "
            "looked, with a soft edge and matched colours.",
            inputs=[
                io.Image.Input(
                    "erp",
                    tooltip="The generated panorama, width = 2 x height. Upscale it first: the clip "
                    "is drawn at its resolution.",
                ),
                io.Image.Input(
                    "view", tooltip="The original clip or photo, at most as many frames as the panorama has."
                ),
                *angle_inputs(),
                *overlay_inputs(),
                interpolation_input(),
                hold_clip_input(),
                camera_path_input(
                    "Where the clip's camera looked in each of its frames. From 'place a clip', its angles are in the "
                    "path already; leave them 0 here."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="erp", tooltip="The panorama with the clip in it."),
                io.Mask.Output(display_name="mask", tooltip="How much of each pixel is the clip's."),
            ],
        )

    @classmethod
    def execute(
        cls,
        erp: Tensor,
        view: Tensor,
        feather_deg: float,
        colour_match: str,
        interpolation: str,
        camera_path: CameraPath | None = None,
        hold_last: bool = True,
        **angles: float,
    ) -> io.NodeOutput:
        """Convert, one core call, convert."""
        panorama, clip = image_to_frames(erp, "erp"), image_to_frames(view, "view")
        check_room(
            4 * 4 * panorama[:, 0].numel(),
            f"{len(panorama)} panoramas of {panorama.shape[-1]} x {panorama.shape[-2]} and their masks",
            "give fewer frames or a smaller panorama",
        )
        progress = progress_bar(len(panorama))
        out, weight = composite_view(
            panorama,
            clip.to(panorama.device),
            path=camera_path,
            feather_deg=feather_deg,
            colour_match=colour_match,
            interpolation=interpolation,
            hold_last=hold_last,
            on_frame=lambda: progress.update(1),
            **angles,
        )
        return io.NodeOutput(own_frames_to_image(out), weight)
