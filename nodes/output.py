"""Nodes that save panoramas as files marked as 360 degrees: MP4 video, PNG and JPEG images."""

import io as buffers
import logging
from fractions import Fraction
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..viewpoint_core.choices import check_choice
from ..viewpoint_core.resample import check_erp
from ..viewpoint_core.spherical_metadata import (
    add_spherical_metadata,
    gpano_xmp,
    jpeg_with_xmp,
    png_with_xmp,
)
from .convert import FrameStream, frame_bytes, image_to_frames
from .host import node_schema, progress_bar, workflow_metadata
from .host_files import new_file
from .inputs import MAX_FPS, prefix_input
from .video_encoder import CODECS, encode_video, frame_rate

CATEGORY = "ViewPoint/output"
IMAGE_SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


def erp_to_frames(erp: Tensor) -> Tensor:
    """IMAGE -> frames (T, 3, H, W), a view. Raises ValueError unless it is a 2:1 panorama with even sides."""
    frames = image_to_frames(erp, "erp")
    check_erp(frames)
    return frames


def encode_image(frame: Tensor, kind: str, quality: int, metadata: dict[str, str]) -> bytes:
    """A frame (3, H, W) as a PNG or JPEG file with GPano XMP, and in PNG the workflow."""
    image = Image.fromarray(frame_bytes(frame))
    xmp = gpano_xmp(image.width, image.height)
    buffer = buffers.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
        return jpeg_with_xmp(buffer.getvalue(), xmp)
    text = PngInfo()
    for name, value in metadata.items():
        if is_png_keyword(name):
            text.add_text(name, value)
        else:
            logging.warning("%r of the workflow's metadata is left out: no PNG holds such a name", name)
    image.save(buffer, "PNG", pnginfo=text, compress_level=4)
    return png_with_xmp(buffer.getvalue(), xmp)


def is_png_keyword(name: str) -> bool:
    """Whether a PNG can hold text of that name."""
    return 0 < len(name) < 80 and name.isprintable() and all(ord(letter) < 256 for letter in name)


def erp_input() -> io.Image.Input:
    """The panorama."""
    return io.Image.Input("erp", tooltip="Equirectangular panorama, width = 2 x height, both even. Cut off to [0, 1].")


def encoding_inputs() -> list[io.Input]:
    """Rate, codec, quality and sound of a video."""
    return [
        io.Float.Input(
            "fps",
            default=16.0,
            min=1.0,
            max=MAX_FPS,
            step=0.01,
            round=0.001,
            tooltip="Frames per second. ViewPoint makes 16; connect a loaded video's own to keep its speed.",
        ),
        io.Combo.Input(
            "codec",
            options=list(CODECS),
            tooltip="h264 plays everywhere, on many headsets up to 4096 wide; h265 is smaller, for 4K and up.",
        ),
        io.Int.Input(
            "crf",
            default=18,
            min=1,
            max=51,
            tooltip="Quality as constant rate factor: 1 best and largest, 18 looks like the source, 51 worst.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Sound: mono, stereo or 5.1, saved as AAC. Cut where the video ends, and off to [-1, 1].",
        ),
    ]


def save_video(
    frames: Tensor | FrameStream,
    filename_prefix: str,
    rate: Fraction,
    codec: str,
    crf: int,
    audio: Any,
    metadata: dict[str, str],
    progress: Any = None,
) -> io.NodeOutput:
    """Encode beside the target, mark as 360 degrees, give it its name. What the node shows."""
    with new_file(filename_prefix, ".mp4", frames.shape[-1], frames.shape[-2]) as file:
        encode_video(file.partial, frames, rate, codec, crf, audio, metadata, progress)
        add_spherical_metadata(file.partial, file.partial)
    return io.NodeOutput(ui=ui.PreviewVideo([ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output)]))


class ViewPointSave360Video(io.ComfyNode):
    """ERP and AUDIO -> MP4 file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSave360Video",
            search_aliases=["360", "vr video", "youtube 360", "spherical metadata", "equirectangular", "save mp4"],
            display_name="ViewPoint: save 360 video",
            category=CATEGORY,
            description="Save a panorama video as MP4, marked as 360 degrees for YouTube, headsets and players.",
            inputs=[
                erp_input(),
                prefix_input("video/ViewPoint360"),
                *encoding_inputs(),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, erp: Tensor, filename_prefix: str, fps: float, codec: str, crf: int, audio: Any = None
    ) -> io.NodeOutput:
        """Check, encode, mark, save."""
        check_choice(codec, CODECS, "codec")
        metadata = workflow_metadata(cls.hidden)
        return save_video(erp_to_frames(erp), filename_prefix, frame_rate(fps), codec, crf, audio, metadata)


class ViewPointSave360Image(io.ComfyNode):
    """ERP -> PNG or JPEG files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSave360Image",
            search_aliases=["360", "vr photo", "photo sphere", "gpano", "equirectangular", "save panorama"],
            display_name="ViewPoint: save 360 image",
            category=CATEGORY,
            description="Save panoramas as images marked as 360 degrees for viewers, one file a frame.",
            inputs=[
                erp_input(),
                prefix_input("ViewPoint360"),
                io.Combo.Input(
                    "format",
                    options=list(IMAGE_SUFFIXES),
                    tooltip="png is lossless and holds the workflow; jpeg is smaller and does not.",
                ),
                io.Int.Input(
                    "jpeg_quality",
                    default=95,
                    min=1,
                    max=100,
                    tooltip="JPEG quality from 1 (smallest) to 100 (best). A png has none.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, erp: Tensor, filename_prefix: str, format: str, jpeg_quality: int) -> io.NodeOutput:
        """Check, then encode and write frame by frame."""
        check_choice(format, IMAGE_SUFFIXES, "format")
        frames, metadata = erp_to_frames(erp), workflow_metadata(cls.hidden)
        progress, saved = progress_bar(len(frames)), []
        for frame in frames:
            with new_file(filename_prefix, IMAGE_SUFFIXES[format], *frame.shape[:0:-1]) as file:
                file.partial.write_bytes(encode_image(frame, format, jpeg_quality, metadata))
            saved.append(ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output))
            progress.update(1)
        return io.NodeOutput(ui=ui.SavedImages(saved))
