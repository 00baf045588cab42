"""Nodes that move whole pictures between ERP, the ViewPoint map and cubemaps."""

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.cubemap import (
    cubemap_to_viewpoint,
    from_cubemap_samples,
    to_cubemap_samples,
    viewpoint_to_cubemap,
)
from ..viewpoint_core.map_layout import check_map, check_map_size, erp_width_for_map, unit_pixels
from ..viewpoint_core.partial import partial_erp_to_viewpoint
from ..viewpoint_core.viewpoint_map import erp_to_viewpoint, from_erp_samples, to_erp_samples, viewpoint_to_erp
from .convert import FACE_INPUTS, image_to_frames, mask_to_frames, own_frames_to_image, stack_faces
from .host import node_schema, progress_bar
from .inputs import MAX_SIZE, fusion_input, interpolation_input, map_size_input
from .memory import check_room_for_frames

CATEGORY = "ViewPoint/projection"


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
        check_map_size(map_size)
        frames = image_to_frames(erp, "erp")
        samples = from_erp_samples(map_size, frames.shape[-1])
        check_room_for_frames(len(frames), map_size, map_size, "the maps", source=frames, samples=samples, masks=1)
        progress = progress_bar(len(frames))
        how = {"interpolation": interpolation, "on_frame": lambda: progress.update(1)}
        if mask is None:
            viewpoint = erp_to_viewpoint(frames, map_size, **how)
            known = frames.new_ones(len(frames), map_size, map_size)
        else:
            masks = mask_to_frames(mask.to(frames.device), "mask", len(frames), *frames.shape[-2:])
            viewpoint, known = partial_erp_to_viewpoint(frames, masks, map_size, **how)
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
        check_map(frames)
        width = width or erp_width_for_map(frames.shape[-1])
        samples = to_erp_samples(frames.shape[-1], width)
        check_room_for_frames(len(frames), width // 2, width, "the panoramas", source=frames, samples=samples)
        progress = progress_bar(len(frames))
        erp = viewpoint_to_erp(
            frames, width, interpolation=interpolation, fusion=fusion, on_frame=lambda: progress.update(1)
        )
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
        check_map_size(map_size)
        cubemap = stack_faces([faces[name] for name in FACE_INPUTS])
        samples = from_cubemap_samples(map_size, cubemap.shape[-1])
        check_room_for_frames(len(cubemap), map_size, map_size, "the maps", source=cubemap, samples=samples)
        progress = progress_bar(len(cubemap))
        viewpoint = cubemap_to_viewpoint(
            cubemap, map_size, interpolation=interpolation, on_frame=lambda: progress.update(1)
        )
        return io.NodeOutput(own_frames_to_image(viewpoint))


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
        check_map(frames)
        size = face_size or round(2 * unit_pixels(frames.shape[-1]))
        samples = to_cubemap_samples(frames.shape[-1], size)
        check_room_for_frames(len(frames), 6 * size, size, "the faces", source=frames, samples=samples)
        progress = progress_bar(6 * len(frames))
        faces = viewpoint_to_cubemap(
            frames, size, interpolation=interpolation, fusion=fusion, on_face=lambda: progress.update(1)
        )
        return io.NodeOutput(*(own_frames_to_image(face) for face in faces.unbind(1)))
