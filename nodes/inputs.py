"""Inputs that several nodes ask for, in the same words."""

from comfy_api.latest import io

from ..viewpoint_core.resample import INTERPOLATIONS

MAX_SIZE = 16384  # pixels of a side
MAX_LENGTH = 4097  # frames of a clip or of a map's video
MAX_FPS = 240


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
        tooltip="Blend what the map shows twice, so that no seam is left. Off, and by 'nearest': only the nearest "
        "subregion is read.",
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
            min=1.0,
            max=179.0,
            step=0.5,
            round=0.001,
            tooltip="Horizontal field of view in degrees, 1 to 179. Pixels are square, so the height follows.",
        ),
    ]


def prefix_input(default: str, size: str = "%width%, %height%, ") -> io.String.Input:
    """Where to save; `size` names what of a picture's size is filled in."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip=f"Where to save below ComfyUI's output folder. Filled in: {size}%year%, %month%, %day%, %hour%, "
        "%minute%, %second%; in the editor also %date:yyyy-MM-dd% and another node's value by its type or title, as in "
        "%ViewPointSampler.seed%.",
    )
