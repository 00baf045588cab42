"""Nodes that make camera paths: where a camera looks, frame by frame."""

import math

from comfy_api.latest import io
from torch import Tensor

from ..viewpoint_core.camera_estimate import WHEN_UNSURE, estimate_camera
from ..viewpoint_core.camera_path import (
    KEYFRAME_INTERPOLATIONS,
    CameraPath,
    cut_path,
    hold_path,
    parse_keyframes,
    path_from_keyframes,
)
from .convert import image_to_frames
from .host import node_schema, progress_bar

CATEGORY = "ViewPoint/camera"
CameraPathType = io.Custom("VIEWPOINT_CAMERA_PATH")
MAX_FRAMES = 16384
EXAMPLE = "0: 0 0 0 90\n24: 60 10 0 75\n48: 120 0 0 90"


def camera_path_input(what: str, fov: str = "replaces fov_deg") -> io.Input:
    """An optional camera path beside the angles of a node; fov: what becomes of its field of view."""
    return CameraPathType.Input(
        "camera_path",
        optional=True,
        tooltip=f"{what} Its field of view {fov}; yaw_deg, pitch_deg and roll_deg turn the whole path, so "
        "for an estimated path they say where its reference frame looks.",
    )


def length_input(tooltip: str) -> io.Int.Input:
    """A number of frames."""
    return io.Int.Input("length", default=49, min=1, max=MAX_FRAMES, tooltip=tooltip)


class ViewPointCameraPath(io.ComfyNode):
    """Keyframes -> camera path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointCameraPath",
            search_aliases=["360", "camera path", "keyframes", "pan", "virtual camera"],
            display_name="ViewPoint: camera path",
            category=CATEGORY,
            description="A camera that moves from keyframe to keyframe, for placing clips and looking into panoramas.",
            inputs=[
                io.String.Input(
                    "keyframes",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="One keyframe a line, 'frame: yaw pitch roll fov' in degrees, frames from 0 in rising "
                    "order; # starts a comment. Before the first and after the last the camera stands still.",
                ),
                length_input("Frames of the path: as many as the video that it is used with."),
                io.Combo.Input(
                    "interpolation",
                    options=list(KEYFRAME_INTERPOLATIONS),
                    default="smooth",
                    tooltip="smooth: starts and stops gently, never beyond a keyframe. linear: constant speed. Both "
                    "turn the shorter way round and keep the horizon level. slerp: about one axis, over the poles if "
                    "that is shorter, and the horizon may tilt.",
                ),
            ],
            outputs=[CameraPathType.Output(display_name="camera_path", tooltip="Yaw, pitch, roll, fov per frame.")],
        )

    @classmethod
    def execute(cls, keyframes: str, length: int, interpolation: str) -> io.NodeOutput:
        """Convert, one core call, convert."""
        return io.NodeOutput(path_from_keyframes(parse_keyframes(keyframes), length, interpolation))


class ViewPointCutCameraPath(io.ComfyNode):
    """Camera path -> its part, or a longer one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointCutCameraPath",
            search_aliases=["360", "camera path", "trim", "hold"],
            display_name="ViewPoint: cut or hold a camera path",
            category=CATEGORY,
            description="Take a part of a camera path, or hold its last camera, to fit it to a video's length.",
            inputs=[
                CameraPathType.Input("camera_path", tooltip="The path to change."),
                io.Int.Input("start", default=0, min=0, max=MAX_FRAMES, tooltip="First frame to keep, from 0."),
                length_input("Frames of the new path."),
                io.Boolean.Input(
                    "hold",
                    default=False,
                    tooltip="On: past its end the path's last camera stays. Off: a path that is too short is an error.",
                ),
            ],
            outputs=[CameraPathType.Output(display_name="camera_path", tooltip="The path of the asked length.")],
        )

    @classmethod
    def execute(cls, camera_path: CameraPath, start: int, length: int, hold: bool) -> io.NodeOutput:
        """Cut what is there, and hold the rest if asked."""
        there = len(camera_path) - start
        if hold and 0 < there < length:
            return io.NodeOutput(hold_path(cut_path(camera_path, start, there), length))
        return io.NodeOutput(cut_path(camera_path, start, length))


class ViewPointEstimateCamera(io.ComfyNode):
    """Clip -> camera path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointEstimateCamera",
            search_aliases=["360", "camera tracking", "handheld", "stabilize", "camera motion", "field of view"],
            display_name="ViewPoint: estimate a clip's camera",
            category=CATEGORY,
            description="Find out how a handheld or panning camera turned, so that its clip can be placed with the "
            "world standing still. For a camera that turns on one spot; needs opencv-python.",
            inputs=[
                io.Image.Input("view", tooltip="The clip, two frames or more, without cuts."),
                io.Float.Input(
                    "fov_deg",
                    default=0.0,
                    min=0.0,
                    max=179.0,
                    step=0.5,
                    round=0.001,
                    tooltip="The clip's horizontal field of view in degrees, with zoom the reference frame's. "
                    "0: find it out, which needs a camera that turns enough.",
                ),
                io.Boolean.Input(
                    "zoom", default=False, tooltip="On: the lens zooms, so each frame gets a field of view of its own."
                ),
                io.Int.Input(
                    "reference",
                    default=0,
                    min=0,
                    max=MAX_FRAMES,
                    tooltip="The frame that yaw, pitch and roll are counted from. A clip does not tell where up or "
                    "north is: turn the path by the angles of the node that uses it.",
                ),
                io.Combo.Input(
                    "when_unsure",
                    options=list(WHEN_UNSURE),
                    default="stop",
                    tooltip="Where the camera cannot be told (a cut, nothing to follow): stop with the reason, or hold "
                    "it still there, with confidence 0.",
                ),
            ],
            outputs=[
                CameraPathType.Output(display_name="camera_path", tooltip="Yaw, pitch, roll, fov per frame."),
                io.Float.Output(display_name="confidence", tooltip="The lowest confidence of all frames, 0 to 1."),
                io.Float.Output(
                    display_name="drift_deg",
                    tooltip="How far frames that lie far apart disagree with the path at most, in degrees; -1 where "
                    "none of them show the same.",
                ),
                io.String.Output(display_name="report", tooltip="What was found, and where it cannot be told."),
            ],
        )

    @classmethod
    def execute(cls, view: Tensor, fov_deg: float, zoom: bool, reference: int, when_unsure: str) -> io.NodeOutput:
        """Convert, one core call, convert."""
        frames = image_to_frames(view, "view")
        progress = progress_bar(len(frames) + 1)  # the fit, whose steps nobody can count before, is the last part
        found = estimate_camera(
            frames,
            fov_deg or None,
            zoom=zoom,
            reference=reference,
            when_unsure=when_unsure,
            on_frame=lambda: progress.update(1),
            on_step=lambda: progress.update(0),  # raises once the user cancels
        )
        progress.update(1)
        drift = -1.0 if math.isnan(found.drift_deg) else found.drift_deg
        return io.NodeOutput(found.path, found.lowest_confidence(), drift, found.report())
