"""Nodes of cameras: a clip placed where its camera looked, a view into a panorama, a panorama turned."""

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.camera_path import CameraPath, still_path
from ..viewpoint_core.hold import extend, known_whenever_seen
from ..viewpoint_core.map_layout import check_map_size
from ..viewpoint_core.reorient import reorient_erp
from ..viewpoint_core.views import check_view_size, place_samples, place_view, render_samples, render_view
from .camera import CameraPathType, camera_path_input
from .convert import image_to_frames, own_frames_to_image
from .host import node_schema, progress_bar
from .inputs import MAX_LENGTH, MAX_SIZE, angle_inputs, interpolation_input, map_size_input
from .memory import check_room_for_frames
from .projection import CATEGORY


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
                    max=MAX_LENGTH,
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
        check_map_size(map_size)
        frames = image_to_frames(view, "view")
        check_clip_fits(length, frames)
        masks = 0 if camera_path is None and hold_last else 2  # a still camera has one for all frames
        fovs = angles["fov_deg"] if camera_path is None else camera_path.fov_deg
        samples = place_samples(map_size, *frames.shape[-2:], fovs)
        check_room_for_frames(
            max(length, len(frames)), map_size, map_size, "the maps", source=frames, samples=samples, masks=masks
        )
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
        del placed  # a third copy otherwise, where frames are held
        image, masks = extend(image, masks, max(0, length - len(frames)), held=hold_last)
        return io.NodeOutput(image.contiguous(), masks, placed_path(camera_path, len(frames), **angles))


def check_clip_fits(length: int, frames: Tensor) -> None:
    """Raise ValueError where a clip is longer than the maps' length; 0 is the clip's own."""
    if length and length < len(frames):
        raise ValueError(
            f"length is {length} but the clip has {len(frames)} frames; load fewer (ViewPointLoadClip takes a part "
            "of a video at any rate), or raise length"
        )


def placed_path(path: CameraPath | None, frames: int, *, fov_deg: float, **angles: float) -> CameraPath:
    """The cameras that `place_view` places a clip with."""
    return still_path(frames, **angles, fov_deg=fov_deg) if path is None else path.turned(**angles)


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
        check_view_size(width, height)
        frames = image_to_frames(erp, "erp")
        count = len(frames) if camera_path is None else len(camera_path)
        fovs = angles["fov_deg"] if camera_path is None else camera_path.fov_deg
        samples = render_samples(frames.shape[-1], height, width, fovs)
        check_room_for_frames(count, height, width, "the views", source=frames, samples=samples)
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
        samples = frames.shape[-2] * frames.shape[-1]
        check_room_for_frames(count, *frames.shape[-2:], "the panoramas", source=frames, samples=samples)
        progress = progress_bar(count)
        turned = reorient_erp(
            frames, path=camera_path, interpolation=interpolation, on_frame=lambda: progress.update(1), **angles
        )
        return io.NodeOutput(own_frames_to_image(turned))
