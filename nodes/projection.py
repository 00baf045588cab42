"""Nodes that move pictures between ERP, the ViewPoint map, cubemaps and perspective views."""

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.camera_path import CameraPath, still_path
from ..viewpoint_core.conditioning import GREY, extend_held, extend_unknown, known_whenever_seen
from ..viewpoint_core.partial import partial_erp_to_viewpoint
from ..viewpoint_core.reorient import reorient_erp
from ..viewpoint_core.resample import INTERPOLATIONS
from ..viewpoint_core.viewpoint_map import erp_to_viewpoint, erp_width_for_map, unit_pixels, viewpoint_to_erp
from ..viewpoint_core.views import cubemap_to_viewpoint, place_view, render_view, viewpoint_to_cubemap
from .camera import CameraPathType, camera_path_input
from .convert import FACE_INPUTS, image_to_frames, mask_to_frames, own_frames_to_image, stack_faces
from .host import node_schema, progress_bar
from .memory import check_room_for_frames

CATEGORY = "ViewPoint/projection"
MAX_SIZE = 16384


def map_size_input() -> io.Int.Input:
    """The side of the map, as every node asks for it."""
    return io.Int.Input(
        "map_size",
        default=736,
        min=64,
        max=4096,
        step=32,
        tooltip="Side of the square ViewPoint map in pixels, a multiple of 32. 736 (the paper's) makes 1056 x 528.",
    )


def interpolation_input() -> io.Combo.Input:
    """How pixels between pixels are read."""
    return io.Combo.Input(
        "interpolation",
        options=list(INTERPOLATIONS),
        default="bicubic",
        tooltip="How to read between pixels. bicubic keeps most detail; nearest keeps labels and hard masks.",
    )


def fusion_input() -> io.Boolean.Input:
    """Whether overlaps are blended."""
    return io.Boolean.Input(
        "fusion",
        default=True,
        tooltip="Blend what the map shows twice, so that no seam is left. Off: only the nearest subregion is read.",
    )


def angle_inputs() -> list[io.Float.Input]:
    """Yaw, pitch, roll and field of view, in degrees."""
    degrees = {"default": 0.0, "step": 0.5, "round": 0.001}
    return [
        io.Float.Input(
            "yaw_deg", min=-360, max=360, tooltip="Degrees to the right of the panorama's centre.", **degrees
        ),
        io.Float.Input("pitch_deg", min=-90, max=90, tooltip="Degrees upwards from the horizon.", **degrees),
        io.Float.Input(
            "roll_deg", min=-180, max=180, tooltip="Degrees that the camera is turned clockwise.", **degrees
        ),
        io.Float.Input(
            "fov_deg",
            default=90.0,
            min=-360.0,
            max=360.0,
            step=0.5,
            round=0.001,
            tooltip="Horizontal field of view in degrees, between 0 and 180. Pixels are square, so the height follows.",
        ),
    ]


class ViewPointFromERP(io.ComfyNode):
    """ERP -> ViewPoint map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointFromERP",
            search_aliases=["360", "panorama", "equirectangular", "erp to map", "vr"],
            display_name="ViewPoint: panorama to map",
            category=CATEGORY,
            description="Turn an equirectangular (2:1) image or video into the square ViewPoint map.",
            inputs=[
                io.Image.Input("erp", tooltip="Equirectangular panorama, width = 2 x height."),
                map_size_input(),
                interpolation_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 where the panorama is known; without it, everywhere. Load Image and the mask editor "
                    "give 1 where there is a hole: put Invert Mask between.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="viewpoint", tooltip="The map."),
                io.Mask.Output(display_name="mask", tooltip="1 where the map is known."),
            ],
        )

    @classmethod
    def execute(cls, erp: Tensor, map_size: int, interpolation: str, mask: Tensor | None = None) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(erp, "erp")
        check_room_for_frames(len(frames), map_size, map_size, "the maps")
        if mask is None:
            viewpoint = erp_to_viewpoint(frames, map_size, interpolation=interpolation)
            known = frames.new_ones(len(frames), map_size, map_size)
        else:
            masks = mask_to_frames(mask.to(frames.device), "mask", len(frames), *frames.shape[-2:])
            viewpoint, known = partial_erp_to_viewpoint(frames, masks, map_size, interpolation=interpolation)
        return io.NodeOutput(own_frames_to_image(viewpoint), known)


class ViewPointToERP(io.ComfyNode):
    """ViewPoint map -> ERP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointToERP",
            search_aliases=["360", "panorama", "equirectangular", "map to erp", "unfold map", "vr"],
            display_name="ViewPoint: map to panorama",
            category=CATEGORY,
            description="Turn a ViewPoint map back into an equirectangular (2:1) panorama and blend its overlaps.",
            inputs=[
                io.Image.Input("viewpoint", tooltip="Square ViewPoint map, its side a multiple of 32."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_SIZE,
                    step=4,
                    tooltip="Panorama width in pixels, a multiple of 4. 0: the map's own (1056 for a map of 736).",
                ),
                fusion_input(),
                interpolation_input(),
            ],
            outputs=[io.Image.Output(display_name="erp", tooltip="Equirectangular panorama, width = 2 x height.")],
        )

    @classmethod
    def execute(cls, viewpoint: Tensor, width: int, fusion: bool, interpolation: str) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(viewpoint, "viewpoint")
        width = width or erp_width_for_map(frames.shape[-1])
        check_room_for_frames(len(frames), width // 2, width, "the panoramas")
        erp = viewpoint_to_erp(frames, width, interpolation=interpolation, fusion=fusion)
        return io.NodeOutput(own_frames_to_image(erp))


class ViewPointFromCubemap(io.ComfyNode):
    """Six faces -> ViewPoint map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        faces = [
            io.Image.Input(
                name, tooltip=f"The {name} face: a square view of 90 degrees. Up and down as seen from front."
            )
            for name in FACE_INPUTS
        ]
        return node_schema(
            node_id="ViewPointFromCubemap",
            search_aliases=["360", "cubemap", "skybox", "cube faces", "panorama"],
            display_name="ViewPoint: cubemap to map",
            category=CATEGORY,
            description="Turn the six faces of a cubemap into the square ViewPoint map.",
            inputs=[*faces, map_size_input(), interpolation_input()],
            outputs=[io.Image.Output(display_name="viewpoint", tooltip="The map.")],
        )

    @classmethod
    def execute(cls, map_size: int, interpolation: str, **faces: Tensor) -> io.NodeOutput:
        """Convert, one core call, convert."""
        cubemap = stack_faces([faces[name] for name in FACE_INPUTS])
        check_room_for_frames(len(cubemap), map_size, map_size, "the maps")
        return io.NodeOutput(own_frames_to_image(cubemap_to_viewpoint(cubemap, map_size, interpolation=interpolation)))


class ViewPointToCubemap(io.ComfyNode):
    """ViewPoint map -> six faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointToCubemap",
            search_aliases=["360", "cubemap", "skybox", "cube faces", "panorama"],
            display_name="ViewPoint: map to cubemap",
            category=CATEGORY,
            description="Turn a ViewPoint map into the six faces of a cubemap.",
            inputs=[
                io.Image.Input("viewpoint", tooltip="Square ViewPoint map, its side a multiple of 32."),
                io.Int.Input(
                    "face_size",
                    default=0,
                    min=0,
                    max=MAX_SIZE,
                    tooltip="Side of a face in pixels. 0: the map's own resolution (260 for a map of 736).",
                ),
                fusion_input(),
                interpolation_input(),
            ],
            outputs=[io.Image.Output(display_name=name, tooltip=f"The {name} face.") for name in FACE_INPUTS],
        )

    @classmethod
    def execute(cls, viewpoint: Tensor, face_size: int, fusion: bool, interpolation: str) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(viewpoint, "viewpoint")
        size = face_size or round(2 * unit_pixels(frames.shape[-1]))
        check_room_for_frames(len(frames), 6 * size, size, "the faces")
        faces = viewpoint_to_cubemap(frames, size, interpolation=interpolation, fusion=fusion)
        return io.NodeOutput(*(own_frames_to_image(face) for face in faces.unbind(1)))


class ViewPointPlaceView(io.ComfyNode):
    """Perspective clip -> ViewPoint map and mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointPlaceView",
            search_aliases=["360", "perspective to panorama", "outpaint 360", "place video", "field of view"],
            display_name="ViewPoint: place a clip on the map",
            category=CATEGORY,
            description="Draw a perspective clip or photo on the map where its camera looked; the rest is grey.",
            inputs=[
                io.Image.Input("view", tooltip="The clip or photo, RGB, any aspect."),
                map_size_input(),
                io.Int.Input(
                    "length",
                    default=0,
                    min=0,
                    max=MAX_SIZE,
                    tooltip="Frames of the map video. 0: as many as the clip has. More: see 'hold_last'.",
                ),
                *angle_inputs(),
                interpolation_input(),
                io.Boolean.Input(
                    "hold_last",
                    default=True,
                    optional=True,
                    tooltip="Where 'length' is more than the clip has: its last frame stays, as a photo does for a "
                    "whole video. Off: nothing is known of the frames after it.",
                ),
                io.Boolean.Input(
                    "hold_seen",
                    default=True,
                    optional=True,
                    tooltip="Of a camera that turns: what it showed at another time stays known, as it was when it was "
                    "seen last or next. Off: the model makes it up again whenever it is out of sight.",
                ),
                camera_path_input("Where the clip's camera looked in each of its frames."),
            ],
            outputs=[
                io.Image.Output(display_name="viewpoint", tooltip="The map, grey where nothing is known."),
                io.Mask.Output(display_name="mask", tooltip="1 where the map is known, per frame."),
                CameraPathType.Output(
                    display_name="camera_path",
                    tooltip="Where each of the clip's frames was placed, for 'lay the clip over the panorama'.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        view: Tensor,
        map_size: int,
        length: int,
        interpolation: str,
        camera_path: CameraPath | None = None,
        hold_last: bool = True,
        hold_seen: bool = True,
        **angles: float,
    ) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(view, "view")
        if length and length < len(frames):
            raise ValueError(
                f"length is {length} but the clip has {len(frames)} frames; load fewer (ViewPointLoadClip takes a part "
                "of a video at any rate), or raise length"
            )
        check_room_for_frames(max(length, len(frames)), map_size, map_size, "the maps")
        progress = progress_bar(len(frames))
        placed, mask = place_view(
            frames,
            map_size,
            path=camera_path,
            interpolation=interpolation,
            on_frame=lambda: progress.update(1),
            **angles,
        )
        if hold_seen and camera_path is not None:
            placed, mask = known_whenever_seen(placed, mask)
        image, masks = own_frames_to_image(placed), mask.expand(len(frames), -1, -1)
        more = max(0, length - len(frames))
        if hold_last:
            image, masks = extend_held(image, more), extend_held(masks, more)
        else:
            image, masks = extend_unknown(image, more, GREY), extend_unknown(masks, more, 0)
        path = still_path(len(frames), **angles)
        if camera_path is not None:
            path = camera_path.turned(*(angles[name] for name in ("yaw_deg", "pitch_deg", "roll_deg")))
        return io.NodeOutput(image.contiguous(), masks, path)


class ViewPointRenderView(io.ComfyNode):
    """ERP -> perspective view."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        sizes = [
            io.Int.Input(name, default=512, min=1, max=MAX_SIZE, tooltip=f"The view's {name} in pixels.")
            for name in ("width", "height")
        ]
        return node_schema(
            node_id="ViewPointRenderView",
            search_aliases=["360", "reframe", "panorama to perspective", "virtual camera", "field of view"],
            display_name="ViewPoint: look into a panorama",
            category=CATEGORY,
            description="Render a flat perspective view of an equirectangular panorama.",
            inputs=[
                io.Image.Input("erp", tooltip="Equirectangular panorama, width = 2 x height."),
                *sizes,
                *angle_inputs(),
                interpolation_input(),
                camera_path_input("Where to look in each frame; a single panorama is looked at by all of its cameras."),
            ],
            outputs=[io.Image.Output(display_name="view", tooltip="The perspective view.")],
        )

    @classmethod
    def execute(
        cls,
        erp: Tensor,
        width: int,
        height: int,
        interpolation: str,
        camera_path: CameraPath | None = None,
        **angles: float,
    ) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(erp, "erp")
        count = len(frames) if camera_path is None else len(camera_path)
        check_room_for_frames(count, height, width, "the views")
        progress = progress_bar(count)
        view = render_view(
            frames,
            height,
            width,
            path=camera_path,
            interpolation=interpolation,
            on_frame=lambda: progress.update(1),
            **angles,
        )
        return io.NodeOutput(own_frames_to_image(view))


class ViewPointReorient(io.ComfyNode):
    """ERP -> ERP with another front."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointReorient",
            search_aliases=["360", "rotate panorama", "level horizon", "change front", "recenter", "stabilise"],
            display_name="ViewPoint: turn a panorama",
            category=CATEGORY,
            description="Give an equirectangular panorama another front, or level its horizon.",
            inputs=[
                io.Image.Input("erp", tooltip="Equirectangular panorama, width = 2 x height."),
                *angle_inputs()[:3],
                interpolation_input(),
                camera_path_input(
                    "Where the front is in each frame; a single panorama is turned by all of its cameras.",
                    fov="does not count",
                ),
            ],
            outputs=[io.Image.Output(display_name="erp", tooltip="The turned panorama, of the same size.")],
        )

    @classmethod
    def execute(
        cls, erp: Tensor, interpolation: str, camera_path: CameraPath | None = None, **angles: float
    ) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(erp, "erp")
        count = len(frames) if camera_path is None else len(camera_path)
        check_room_for_frames(count, *frames.shape[-2:], "the panoramas")
        progress = progress_bar(count)
        turned = reorient_erp(
            frames, path=camera_path, interpolation=interpolation, on_frame=lambda: progress.update(1), **angles
        )
        return io.NodeOutput(own_frames_to_image(turned))
