"""A node that loads footage as ViewPoint wants it: upright, at a constant rate, 4k + 1 frames, with its sound."""

import math
from pathlib import Path

import torch
from comfy_api.latest import io

from ..viewpoint_core.conditioning import check_length
from ..viewpoint_core.video import VIDEO_SUFFIXES, clip_size, read_clip
from .convert import sound_to_audio
from .host import node_schema, progress_bar, raise_if_cancelled
from .host_files import chosen_file, file_change, listed_files
from .inputs import MAX_FPS, MAX_LENGTH, MAX_SIZE
from .memory import check_room

CATEGORY = "ViewPoint/input"
PIXEL_BYTES = 3 * (1 + 4)  # as it is read, and as IMAGE


def check_clip_length(length: int) -> None:
    """Raise ValueError for a number of frames that is not 4k + 1 or too many."""
    check_length(length)
    if length > MAX_LENGTH:
        raise ValueError(f"length is {length}; expected at most {MAX_LENGTH}")


def check_clip_room(path: Path, length: int, longest_side: int) -> None:
    """Raise ValueError where so many pictures of a video do not fit into free memory."""
    width, height = clip_size(path, longest_side)
    check_room(
        PIXEL_BYTES * length * width * height,
        f"{length} frames of {width} x {height}",
        "load fewer, or set a smaller longest_side",
    )


class ViewPointLoadClip(io.ComfyNode):
    """Video file -> IMAGE, AUDIO and frames per second."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointLoadClip",
            search_aliases=["360", "load video", "phone video", "rotate", "frame rate"],
            display_name="ViewPoint: load clip",
            category=CATEGORY,
            description="Load a part of a video at a constant rate: phone clips come upright and keep their speed, "
            "whatever their frame rate, and their sound is cut to the part.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=listed_files("input", VIDEO_SUFFIXES),
                    upload=io.UploadType.video,
                    tooltip="A video in ComfyUI's input folder. Its rotation flag and pixel shape are heeded.",
                ),
                io.Float.Input(
                    "start_s",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.1,
                    round=0.001,
                    tooltip="Where to begin, in seconds.",
                ),
                io.Int.Input(
                    "length",
                    default=49,
                    min=1,
                    max=MAX_LENGTH,
                    step=4,
                    tooltip="Frames to load, 4k + 1. At 16 fps 49 are 3 seconds and 81 are 5.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=MAX_FPS,
                    step=0.01,
                    round=0.001,
                    tooltip="Frames per second to load; frames are taken by their time stamps. Wan makes 16.",
                ),
                io.Int.Input(
                    "longest_side",
                    default=1920,
                    min=0,
                    max=MAX_SIZE,
                    tooltip="Larger pictures are shrunk to this longest side in pixels. 0: as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The clip, for 'ViewPoint: place a clip on the map'."),
                io.Audio.Output(display_name="audio", tooltip="Its sound; nothing where the video has none."),
                io.Float.Output(display_name="fps", tooltip="The rate, for the node that saves."),
            ],
        )

    @classmethod
    def execute(cls, file: str, start_s: float, length: int, fps: float, longest_side: int) -> io.NodeOutput:
        """Check what came by a link too, read the part, convert."""
        check_clip_length(length)
        if not 0 <= start_s < math.inf or not 1 <= fps <= MAX_FPS or longest_side < 0:
            raise ValueError(
                f"start_s is {start_s}, fps {fps} and longest_side {longest_side}; expected 0 or more, 1 to {MAX_FPS}, "
                "and 0 or more"
            )
        path, progress = chosen_file(file, VIDEO_SUFFIXES), progress_bar(length)
        check_clip_room(path, length, longest_side)
        pictures, sound = read_clip(
            path,
            start_s=start_s,
            length=length,
            fps=fps,
            longest_side=longest_side,
            on_frame=lambda: progress.update(1),
            on_step=raise_if_cancelled,
        )
        images = pictures.movedim(1, -1).float(memory_format=torch.contiguous_format).div_(255)
        return io.NodeOutput(images, sound_to_audio(sound), fps)

    @classmethod
    def validate_inputs(cls, file: str | None, length: int | None) -> bool | str:
        """Refuse names outside the host's folders and impossible lengths before anything runs. What is linked comes as
        None, and `execute` checks it."""
        try:
            if file is not None:
                chosen_file(file, VIDEO_SUFFIXES)
            if length is not None:
                check_clip_length(length)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: object) -> float:
        """Run again when the file changed."""
        return file_change(file, VIDEO_SUFFIXES)
