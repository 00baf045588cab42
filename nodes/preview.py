"""The node that shows a panorama or a map inside the graph, to look around in."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..viewpoint_core.choices import check_choice
from ..viewpoint_core.map_layout import check_map
from ..viewpoint_core.replacing import replacing
from ..viewpoint_core.resample import check_erp
from .convert import frame_bytes, image_to_frames
from .host import node_schema
from .host_files import free_names
from .inputs import MAX_FPS
from .preview_video import (
    CRF,
    audible,
    check_loading_room,
    joined,
    loaded_size,
    thinned,
    video_file,
    write_file_preview,
)
from .video_encoder import encode_video, frame_rate

CHECKS = {"erp": check_erp, "viewpoint": check_map}
SUFFIXES = {"image": ".png", "video": ".mp4"}
RESULT = "viewpoint_360"  # what web/viewpoint_preview.js looks for
PNG_COMPRESSION = 1  # a preview is written often and kept only while the host runs


def frames_and_sound(source: Any, fps: float) -> tuple[Tensor, float, Any, str]:
    """IMAGE or VIDEO -> frames (T, 3, H, W), frames per second, AUDIO or None, and what is left out of the preview.

    A VIDEO brings its own rate, and keeps its speed where that is too high for the file.
    """
    if isinstance(source, Tensor):
        return image_to_frames(source, "panorama"), fps, None, ""
    parts = source.get_components()
    rate = float(parts.frame_rate)
    every, note = thinned(rate)
    audio, silent = audible(lambda: parts.audio)
    return image_to_frames(parts.images[::every], "panorama"), rate / every, audio, joined(note, silent)


def write_preview(path: Path, frames: Tensor, fps: float, audio: Any) -> None:
    """One frame as PNG, several as H.264, under a temporary name first."""
    with replacing(path) as partial:
        if len(frames) == 1:
            Image.fromarray(frame_bytes(frames[0])).save(partial, "PNG", compress_level=PNG_COMPRESSION)
        else:
            encode_video(partial, frames, frame_rate(fps), "h264", CRF, audio, {})


def preview_path(media: str) -> tuple[Path, str]:
    """A new file for the viewer in the host's temp folder, and its subfolder there; media: "image" or "video"."""
    names, subfolder = free_names(f"ViewPoint360_{uuid4().hex[:8]}", SUFFIXES[media], kind="temp")
    return next(names), subfolder


def check_size(width: int, height: int, projection: str) -> None:
    """Raise ValueError for pictures of a size that is none of the projection's."""
    CHECKS[projection](torch.empty(1, 3, height, width, device="meta"))


def result(
    path: Path, subfolder: str, media: str, projection: str, fps: float, sound: bool, note: str
) -> io.NodeOutput:
    """What the viewer is told of its file."""
    file = {"filename": path.name, "subfolder": subfolder, "type": "temp"}
    shown = {"media": media, "projection": projection, "fps": fps, "audio": sound, "note": note}
    return io.NodeOutput(ui={RESULT: [file | shown]})


class ViewPointPreview360(io.ComfyNode):
    """IMAGE or VIDEO -> a viewer in the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs."""
        return node_schema(
            node_id="ViewPointPreview360",
            search_aliases=["360", "panorama viewer", "vr preview", "look around", "equirectangular"],
            display_name="ViewPoint: look around",
            category="ViewPoint/output",
            description="Look around in a 360 degree image or video inside the node. Saves nothing.",
            inputs=[
                io.MultiType.Input(
                    "panorama",
                    types=[io.Image, io.Video],
                    tooltip="Panorama (width = 2 x height) or square ViewPoint map: an image, frames or a video.",
                ),
                io.Combo.Input(
                    "projection",
                    options=list(CHECKS),
                    tooltip="erp for an equirectangular panorama, viewpoint for a map, whose overlaps are blended.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=MAX_FPS,
                    step=0.01,
                    round=0.001,
                    tooltip="Frames per second of several images. ViewPoint makes 16; a video brings its own.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, panorama: Any, projection: str, fps: float) -> io.NodeOutput:
        """Check, write a file for the browser, tell the viewer where it is."""
        check_choice(projection, CHECKS, "projection")
        file = None if isinstance(panorama, Tensor) else video_file(panorama)
        if file is not None:
            check_size(file.width, file.height, projection)
            path, subfolder = preview_path("video")
            fps, sound, note = write_file_preview(file, path)
            return result(path, subfolder, "video", projection, fps, sound, note)
        size = None if isinstance(panorama, Tensor) else loaded_size(panorama)
        if size is not None:
            check_size(*size[1:], projection)
            check_loading_room(*size)
        frames, fps, audio, note = frames_and_sound(panorama, fps)
        CHECKS[projection](frames)
        media = "image" if len(frames) == 1 else "video"
        path, subfolder = preview_path(media)
        write_preview(path, frames, fps, audio)
        return result(path, subfolder, media, projection, fps, audio is not None and media == "video", note)
