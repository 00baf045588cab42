"""Nodes that make camera paths: where a camera looks, frame by frame."""

from comfy_api.latest import io

from ..viewpoint_core.camera_path import (
    INTERPOLATIONS,
    CameraPath,
    cut_path,
    hold_path,
    parse_keyframes,
    path_from_keyframes,
)

CATEGORY = "ViewPoint/camera"
CameraPathType = io.Custom("VIEWPOINT_CAMERA_PATH")
MAX_FRAMES = 16384
EXAMPLE = "0: 0 0 0 90\n24: 60 10 0 75\n48: 120 0 0 90"


def camera_path_input(what: str) -> io.Input:
    """An optional camera path beside the angles of a node."""
    return CameraPathType.Input(
        "camera_path",
        optional=True,
        tooltip=f"{what} Its field of view replaces fov_deg; yaw_deg, pitch_deg and roll_deg turn the whole path, so "
        "for an estimated path they say where its first frame looks.",
    )


def length_input(tooltip: str) -> io.Int.Input:
    """A number of frames."""
    return io.Int.Input("length", default=49, min=1, max=MAX_FRAMES, tooltip=tooltip)


class ViewPointCameraPath(io.ComfyNode):
    """Keyframes -> camera path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ViewPointCameraPath",
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
                    options=list(INTERPOLATIONS),
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
        return io.Schema(
            node_id="ViewPointCutCameraPath",
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
        if not hold or start + length <= len(camera_path):
            return io.NodeOutput(cut_path(camera_path, start, length))
        return io.NodeOutput(hold_path(cut_path(camera_path, start, len(camera_path) - start), length))
