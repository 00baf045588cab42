"""Nodes that upscale the ViewPoint map into a large panorama, by any upscale model or none."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.camera_path import CameraPath
from ..viewpoint_core.choices import check_choice
from ..viewpoint_core.composite import MEASURE_HEIGHT, Overlay, overlaid_frames, plan_overlay
from ..viewpoint_core.conditioning import check_finite
from ..viewpoint_core.cubemap import FACES
from ..viewpoint_core.map_layout import check_map, erp_width_for_map
from ..viewpoint_core.resample import check_erp_width
from ..viewpoint_core.upright import (
    LOSSLESS_OVERSAMPLING,
    OVERSAMPLING,
    UprightLayout,
    band_bytes,
    chart_samples,
    upright_layout,
    upright_to_erp,
    viewpoint_to_upright,
)
from ..viewpoint_core.viewpoint_map import viewpoint_to_erp
from .camera import CameraPathType
from .compose import hold_clip_input, overlay_inputs
from .convert import FrameStream, image_to_frames
from .host import check_upscale_model, loaded_upscaler, node_schema, progress_bar, workflow_metadata
from .inputs import prefix_input
from .memory import SAMPLE_BYTES, WORKING_BYTES, check_room
from .output import encoding_inputs, save_video
from .video_encoder import CODECS, frame_rate

CATEGORY = "ViewPoint/upscale"
MAX_ERP_WIDTH = 16384


@dataclass(frozen=True)
class UpscalePlan:
    """How maps become panoramas `width` wide: `passes` of an upscale model, or none, by tiles on upright charts."""

    model: Any
    layout: UprightLayout
    width: int
    passes: int
    tile: int

    @property
    def scale(self) -> int:
        """How much finer the charts become."""
        return int(self.model.scale**self.passes) if self.model is not None else 1

    @property
    def working_bytes(self) -> int:
        """What fusing needs beside the model where it runs: two charts of full size, the panorama twice."""
        return 3 * 4 * (2 * (self.layout.side * self.scale) ** 2 + self.width**2)

    def lookup_bytes(self, map_size: int) -> int:
        """What the lookups take in RAM: where the charts lie on maps of this side, and the panorama on the charts."""
        lookups = SAMPLE_BYTES * chart_samples(map_size, self.layout) + band_bytes(self.layout, self.scale, self.width)
        return lookups + WORKING_BYTES


def plan_upscale(frames: Tensor, model: Any, width: int, passes: int, tile: int) -> UpscalePlan:
    """Check all that can be checked before work. Raises ValueError for no map, no RGB model, an impossible width and
    more memory than is free."""
    check_map(frames)
    if passes < 1:
        raise ValueError(f"passes is {passes}; expected 1 or more")
    if model is not None:
        check_upscale_model(model)
    layout = upright_layout(frames.shape[-1], LOSSLESS_OVERSAMPLING if model is None else OVERSAMPLING)
    plan = UpscalePlan(model, layout, width, passes, tile)
    width = width or erp_width_for_map(frames.shape[-1]) * plan.scale
    check_erp_width(width)
    if width > MAX_ERP_WIDTH:
        raise ValueError(f"the panorama would be {width} pixels wide; expected at most {MAX_ERP_WIDTH}")
    plan = replace(plan, width=width)
    check_working_room(plan, frames.shape[-1])
    return plan


def check_working_room(plan: UpscalePlan, map_size: int) -> None:
    """Raise ValueError where one panorama and its charts would not fit into free memory."""
    side = plan.layout.side * plan.scale
    check_room(
        plan.working_bytes + plan.lookup_bytes(map_size),
        f"one panorama of {plan.width} x {plan.width // 2} and its charts of {side} x {side}",
        "expected fewer passes, or a model of a smaller factor",
    )


@contextmanager
def chart_upscaler(plan: UpscalePlan) -> Iterator[tuple[Callable[[Tensor], Tensor], torch.device]]:
    """What turns a chart (3, s, s) into a larger one, and the device for what follows."""
    if plan.model is None:
        yield lambda chart: chart, torch.device("cpu")
        return
    with loaded_upscaler(plan.model, plan.tile, plan.working_bytes) as (upscale, device):

        def repeated(chart: Tensor) -> Tensor:
            for _ in range(plan.passes):
                chart = upscale(chart.clamp(0, 1))
                check_finite(chart, "what the upscale model made")
            return chart

        yield repeated, device


def upscaled_frames(frames: Tensor, plan: UpscalePlan, progress: Any) -> Iterator[Tensor]:
    """Maps (T, 3, S, S) -> panoramas (3, width/2, width), one at a time; `progress` goes on by one a chart."""

    def counted(charts: Tensor, upscale: Callable[[Tensor], Tensor], device: torch.device) -> Iterator[Tensor]:
        for chart in charts:
            yield upscale(chart).to(device)
            progress.update(1)

    with chart_upscaler(plan) as (upscale, device):
        for frame in frames:
            charts = viewpoint_to_upright(frame.float(), plan.layout)
            yield upright_to_erp(counted(charts, upscale, device), plan.layout, plan.width).clamp_(0, 1)


def plan_clip(frames: Tensor, view: Tensor | None, path: CameraPath | None, **how: Any) -> Overlay | None:
    """How an IMAGE, if there is one, is laid over the panoramas of these maps. Its colours are compared with the maps',
    which an upscale model leaves as they are. Raises ValueError for a clip without its path, and the other way round.
    """
    if view is None and path is None:
        return None
    if path is None:
        raise ValueError("a view is connected, but no camera path; connect the one that 'place a clip' gives")
    if view is None:
        raise ValueError("a camera path is connected, but no view to lay there; connect the clip, or neither")
    small = viewpoint_to_erp(frames.float(), 2 * MEASURE_HEIGHT)
    return plan_overlay(small, image_to_frames(view, "view").to(small.device), path=path, **how)


def upscale_inputs() -> list[io.Input]:
    """Map, model and how to use it."""
    return [
        io.Image.Input("viewpoint", tooltip="Square ViewPoint map, its side a multiple of 32."),
        io.UpscaleModel.Input(
            "upscale_model",
            optional=True,
            tooltip="From 'Load Upscale Model'; any factor. It sees level views and views straight up and down. "
            "Without it the map is only interpolated.",
        ),
        io.Int.Input(
            "erp_width",
            default=4096,
            min=0,
            max=MAX_ERP_WIDTH,
            step=4,
            tooltip="Panorama width in pixels, a multiple of 4: 4096 is 4K, 8192 is 8K. 0: as large as the model makes "
            "it (4224 for a map of 736 and a 4x model).",
        ),
        io.Int.Input(
            "passes",
            default=1,
            min=1,
            max=3,
            tooltip="How often the model runs on its own result. 2 for 8K from a map of 736 with a 2x or 4x model.",
        ),
        io.Int.Input(
            "tile_size",
            default=512,
            min=128,
            max=4096,
            step=32,
            tooltip="Side of the tiles that the upscale model gets, in pixels. Smaller needs less memory.",
        ),
    ]


class ViewPointUpscale(io.ComfyNode):
    """ViewPoint map and UPSCALE_MODEL -> large ERP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointUpscale",
            search_aliases=["360", "panorama", "4k", "8k", "upscale panorama"],
            display_name="ViewPoint: upscale map to panorama",
            category=CATEGORY,
            description="Upscale a ViewPoint map with any upscale model, without swirls at the poles, into a panorama. "
            "For stills and short clips: all frames are held in memory, 0.1 GB each at 4K, 0.4 GB at 8K.",
            inputs=upscale_inputs(),
            outputs=[io.Image.Output(display_name="erp", tooltip="Equirectangular panorama, width = 2 x height.")],
        )

    @classmethod
    def execute(
        cls, viewpoint: Tensor, erp_width: int, passes: int, tile_size: int, upscale_model: Any = None
    ) -> io.NodeOutput:
        """Check, then fill one large IMAGE frame by frame."""
        frames = image_to_frames(viewpoint, "viewpoint")
        plan = plan_upscale(frames, upscale_model, erp_width, passes, tile_size)
        check_room(
            len(frames) * plan.width * (plan.width // 2) * 3 * 4,
            f"{len(frames)} panoramas of {plan.width} x {plan.width // 2}",
            "'ViewPoint: upscale and save 360 video' holds one at a time",
        )
        image = torch.empty(len(frames), plan.width // 2, plan.width, 3)
        progress = progress_bar(len(frames) * len(FACES))
        with closing(upscaled_frames(frames, plan, progress)) as panoramas:
            for target, panorama in zip(image, panoramas, strict=True):
                target.copy_(panorama.movedim(0, -1))
        return io.NodeOutput(image)


class ViewPointUpscaleSave360Video(io.ComfyNode):
    """ViewPoint map, UPSCALE_MODEL and AUDIO -> MP4 file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointUpscaleSave360Video",
            search_aliases=["360", "vr video", "4k", "8k", "upscale panorama", "save mp4"],
            display_name="ViewPoint: upscale and save 360 video",
            category=CATEGORY,
            description="Upscale a ViewPoint map video, without swirls at the poles, straight into a 4K or 8K MP4 "
            "marked as 360 degrees, with the sharp clip laid over it if it is given. Holds one panorama at a time.",
            inputs=[
                *upscale_inputs(),
                prefix_input("video/ViewPoint360_upscaled"),
                *encoding_inputs(),
                io.Image.Input(
                    "view",
                    optional=True,
                    tooltip="The original clip or photo, laid over the panorama in its full sharpness. Needs the "
                    "camera path from 'place a clip'.",
                ),
                CameraPathType.Input(
                    "camera_path",
                    optional=True,
                    tooltip="From 'place a clip': where each of the clip's frames lies.",
                ),
                *overlay_inputs(optional=True),
                hold_clip_input(),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        viewpoint: Tensor,
        erp_width: int,
        passes: int,
        tile_size: int,
        filename_prefix: str,
        fps: float,
        codec: str,
        crf: int,
        upscale_model: Any = None,
        audio: Any = None,
        view: Tensor | None = None,
        camera_path: CameraPath | None = None,
        **how: Any,
    ) -> io.NodeOutput:
        """Check, then upscale, lay over, encode and drop frame by frame."""
        check_choice(codec, CODECS, "codec")
        frames, rate = image_to_frames(viewpoint, "viewpoint"), frame_rate(fps)
        plan = plan_upscale(frames, upscale_model, erp_width, passes, tile_size)
        overlay = plan_clip(frames, view, camera_path, **how)
        progress = progress_bar(len(frames) * (len(FACES) + 1))
        metadata = workflow_metadata(cls.hidden)
        with closing(upscaled_frames(frames, plan, progress)) as panoramas:
            if overlay is not None:
                on_cpu = (panorama.cpu() for panorama in panoramas)
                panoramas = (panorama.clamp_(0, 1) for panorama in overlaid_frames(on_cpu, overlay))
            stream = FrameStream(panoramas, (len(frames), 3, plan.width // 2, plan.width))
            return save_video(stream, filename_prefix, rate, codec, crf, audio, metadata, progress)
