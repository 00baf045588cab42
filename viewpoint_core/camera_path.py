"""Where a camera looks in every frame: a path of angles, made of keyframes, cut, held, turned as a whole."""

import re
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .camera import check_fov, view_rotation
from .choices import check_choice
from .rotation import rotation_from_vector, rotation_vector

KEYFRAME_INTERPOLATIONS = ("smooth", "linear", "slerp")
ANGLES = ("yaw_deg", "pitch_deg", "roll_deg", "fov_deg")
KEYFRAME_FORM = "frame: yaw pitch roll fov"
MAX_ANGLE = 3600.0
ROUNDING = 1e-6  # degrees; of differences of angles that were typed as decimals


@dataclass(frozen=True, eq=False)
class CameraPath:
    """A camera per frame: yaw_deg, pitch_deg, roll_deg, fov_deg (horizontal), each float64 (T,).

    confidence (T,) in [0, 1] where the path was estimated: 0 where a frame's camera is a guess. Raises ValueError for
    tensors of different lengths, an empty path, angles that are not finite, and fields of view outside (0, 180).
    """

    yaw_deg: Tensor
    pitch_deg: Tensor
    roll_deg: Tensor
    fov_deg: Tensor
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in ANGLES}
        if len(set(shapes.values())) != 1 or self.yaw_deg.ndim != 1 or not len(self.yaw_deg):
            raise ValueError(f"a camera path needs its four angles once per frame, (frames,); got {shapes}")
        if self.confidence is not None and self.confidence.shape != self.yaw_deg.shape:
            raise ValueError(f"confidence {tuple(self.confidence.shape)} does not fit a path of {len(self)} frames")
        for name in ANGLES:
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} of a camera path holds values that are not finite")
        for value in (float(self.fov_deg.min()), float(self.fov_deg.max())):
            check_fov(value)

    def __len__(self) -> int:
        return len(self.yaw_deg)

    def camera(self, frame: int) -> dict[str, float]:
        """The four angles of a frame, as the functions for single views take them."""
        return {name: float(getattr(self, name)[frame]) for name in ANGLES}

    def rotations(self) -> Tensor:
        """Camera-to-world rotations, float64 (T, 3, 3)."""
        angles = zip(self.yaw_deg.tolist(), self.pitch_deg.tolist(), self.roll_deg.tolist(), strict=True)
        return torch.stack([view_rotation(*three) for three in angles])

    def turned(self, yaw_deg: float = 0, pitch_deg: float = 0, roll_deg: float = 0) -> "CameraPath":
        """The path as a whole turned so that a camera with all angles zero gets these. Field of view unchanged."""
        if yaw_deg == pitch_deg == roll_deg == 0:
            return self
        rotations = view_rotation(yaw_deg, pitch_deg, roll_deg) @ self.rotations()
        return path_from_rotations(rotations, self.fov_deg, self.confidence)

    def frames(self, index: Tensor) -> "CameraPath":
        """The path made of these frames (n,)."""
        chosen = {name: getattr(self, name)[index] for name in ANGLES}
        return CameraPath(**chosen, confidence=None if self.confidence is None else self.confidence[index])


def path_from_rotations(rotations: Tensor, fov_deg: Tensor, confidence: Tensor | None = None) -> CameraPath:
    """Camera-to-world rotations (T, 3, 3) and fields of view (T,) to a path. Straight up or down, roll is 0."""
    rotation = rotations.double()
    pitch = torch.atan2(-rotation[:, 1, 2], torch.hypot(rotation[:, 0, 2], rotation[:, 2, 2]))
    yaw = torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2])
    roll = torch.atan2(rotation[:, 1, 0], rotation[:, 1, 1])
    upright = torch.hypot(rotation[:, 0, 2], rotation[:, 2, 2]) < 1e-9
    yaw = torch.where(upright, torch.atan2(-rotation[:, 2, 0], rotation[:, 0, 0]), yaw)
    roll = torch.where(upright, torch.zeros_like(roll), roll)
    return CameraPath(*(angle.rad2deg() for angle in (yaw, pitch, roll)), fov_deg.double(), confidence)


def still_path(
    length: int, *, yaw_deg: float = 0, pitch_deg: float = 0, roll_deg: float = 0, fov_deg: float = 90
) -> CameraPath:
    """A camera that does not move, for `length` frames."""
    check_length(length)
    values = (yaw_deg, pitch_deg, roll_deg, fov_deg)
    return CameraPath(*(torch.full((length,), float(value), dtype=torch.float64) for value in values))


def check_length(length: int) -> None:
    """Raise ValueError unless a path can have this many frames."""
    if length < 1:
        raise ValueError(f"the camera path's length is {length}; expected at least one frame")


def check_path_fits(path: CameraPath, frames: int, name: str) -> None:
    """Raise ValueError unless the path has a camera for each of the frames of `name`."""
    if len(path) != frames:
        raise ValueError(
            f"the camera path has {len(path)} frames and {name} has {frames}; expected as many: "
            "cut the path, or hold its last camera"
        )


def cut_path(path: CameraPath, start: int, length: int) -> CameraPath:
    """`length` frames from frame `start` on. Raises ValueError where the path does not have them."""
    check_length(length)
    if start < 0 or start + length > len(path):
        raise ValueError(
            f"frames {start} to {start + length - 1} were asked of a camera path of {len(path)} frames "
            f"(0 to {len(path) - 1})"
        )
    return path.frames(torch.arange(start, start + length))


def hold_path(path: CameraPath, length: int) -> CameraPath:
    """The path made longer: its last camera stays until there are `length` frames. ValueError for a longer path."""
    if length < len(path):
        raise ValueError(f"a camera path of {len(path)} frames cannot be held to {length} frames; cut it")
    return path.frames(torch.arange(length).clamp(max=len(path) - 1))


# Keyframes


@dataclass(frozen=True)
class Keyframe:
    """The camera at one frame, angles in degrees."""

    frame: int
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    fov_deg: float


def parse_keyframes(text: str) -> list[Keyframe]:
    """Keyframes from lines "frame: yaw pitch roll fov"; commas may stand between numbers, # starts a comment.

    Raises ValueError that names the line, what it holds and what was expected.
    """
    keyframes = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.split("#")[0].strip()
        if content:
            keyframes.append(parse_keyframe(content, f"line {number} ({line.strip()!r})"))
    check_keyframes(keyframes)
    return keyframes


def parse_keyframe(content: str, where: str) -> Keyframe:
    """One keyframe. `where` begins the error."""
    frame, colon, rest = content.partition(":")
    if not colon:
        raise ValueError(f"keyframes, {where}: no colon; expected '{KEYFRAME_FORM}', such as '24: 90 0 0 75'")
    if not re.fullmatch(r"\s*\d{1,7}\s*", frame, re.ASCII):
        raise ValueError(f"keyframes, {where}: the frame is {frame.strip()!r}; expected a whole number, 0 or more")
    words = rest.replace(",", " ").split()
    if len(words) != len(ANGLES):
        raise ValueError(
            f"keyframes, {where}: {len(words)} numbers after the colon; expected four: yaw pitch roll fov, in degrees"
        )
    values = [angle(word, name, where) for word, name in zip(words, ANGLES, strict=True)]
    try:
        check_fov(values[3])
    except ValueError as error:
        raise ValueError(f"keyframes, {where}: {error}") from None
    return Keyframe(int(frame), *values)


def angle(word: str, name: str, where: str) -> float:
    """A typed number of degrees."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", word, re.ASCII):
        raise ValueError(f"keyframes, {where}: {name} is {word!r}; expected a number of degrees, such as -12.5")
    if abs(float(word)) > MAX_ANGLE:
        raise ValueError(f"keyframes, {where}: {name} is {word}; expected at most {MAX_ANGLE:g} degrees")
    return float(word)


def check_keyframes(keyframes: list[Keyframe]) -> None:
    """Raise ValueError unless there are keyframes, in order, and no two of them mean a turn that would not be seen."""
    if not keyframes:
        raise ValueError(f"no keyframe was given; expected lines '{KEYFRAME_FORM}', such as '0: 0 0 0 90'")
    for before, after in pairwise(keyframes):
        if after.frame <= before.frame:
            raise ValueError(
                f"the keyframe at frame {after.frame} follows the one at frame {before.frame}; expected each frame "
                "once, in rising order"
            )
        for name in ANGLES[:3]:
            begin, end = getattr(before, name), getattr(after, name)
            if abs(end - begin) >= 360 - ROUNDING:
                raise ValueError(
                    f"{name.removesuffix('_deg')} goes from {begin:g} to {end:g} between frames {before.frame} and "
                    f"{after.frame}; the camera turns the shorter way round, so a whole turn needs keyframes between, "
                    "such as 0, 120, 240, 360"
                )


def path_from_keyframes(keyframes: list[Keyframe], length: int, interpolation: str = "smooth") -> CameraPath:
    """The camera between keyframes, for `length` frames; before the first and after the last it stands still.

    "smooth": each angle on a monotone cubic that starts and stops gently, passes through the keyframes and never
    beyond them. "linear": each angle at constant speed. Both turn the shorter way round (half a turn goes as typed) and
    leave a level horizon level. "slerp": one rotation about one axis from key to key at constant speed, over the poles
    if that is shorter; the horizon may tilt between.
    """
    check_length(length)
    check_keyframes(keyframes)
    check_choice(interpolation, KEYFRAME_INTERPOLATIONS, "interpolation")
    if keyframes[-1].frame >= length:
        raise ValueError(
            f"the keyframe at frame {keyframes[-1].frame} lies beyond the path's last frame, {length - 1}; expected a "
            f"length of {keyframes[-1].frame + 1} or more"
        )
    times = torch.tensor([key.frame for key in keyframes], dtype=torch.float64)
    keys = torch.tensor([[getattr(key, name) for name in ANGLES] for key in keyframes], dtype=torch.float64)
    frames = torch.arange(length, dtype=torch.float64)
    if interpolation == "slerp":
        fov_deg = interpolate(times, keys[:, 3:], frames, smooth=False)[:, 0]
        return path_from_rotations(slerp(times, CameraPath(*keys.T).rotations(), frames), fov_deg)
    keys = torch.cat([unwrap(keys[:, :3]), keys[:, 3:]], dim=1)
    return CameraPath(*interpolate(times, keys, frames, smooth=interpolation == "smooth").T)


def unwrap(angles_deg: Tensor) -> Tensor:
    """Angles (n, k) in degrees, whole turns added so that neighbours are at most half a turn apart, half as typed."""
    step = angles_deg.diff(dim=0)
    shorter = torch.remainder(step + 180, 360) - 180
    shorter = torch.where((shorter < ROUNDING - 180) & (step > 0), shorter + 360, shorter)
    shorter = torch.where((shorter > 180 - ROUNDING) & (step < 0), shorter - 360, shorter)
    return torch.cat([angles_deg[:1], angles_deg[:1] + shorter.cumsum(0)])


def segments(times: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """For each frame the index of the key before it and how far it is to the next, in [0, 1]."""
    index = (torch.searchsorted(times, frames, right=True) - 1).clamp(0, max(0, len(times) - 2))
    span = (times[1:] - times[:-1])[index] if len(times) > 1 else torch.ones_like(frames)
    return index, ((frames - times[index]) / span).clamp(0, 1)


def interpolate(times: Tensor, keys: Tensor, frames: Tensor, *, smooth: bool) -> Tensor:
    """Values (n, k) at rising times (n,) -> values (T, k) at frames (T,)."""
    if len(times) == 1:
        return keys.expand(len(frames), -1).clone()
    index, part = segments(times, frames)
    span = (times[1:] - times[:-1])[:, None]
    slope = (keys[1:] - keys[:-1]) / span
    part = part[:, None]
    if not smooth:
        return keys[index] + slope[index] * span[index] * part
    tangent = torch.zeros_like(keys)
    if len(times) > 2:
        tangent[1:-1] = monotone_tangents(span, slope)
    t, s, h = part, 1 - part, span[index]
    ends = keys[index] * (1 + 2 * t) * s * s + keys[index + 1] * (3 - 2 * t) * t * t
    return ends + h * (tangent[index] * t * s * s - tangent[index + 1] * t * t * s)


def monotone_tangents(span: Tensor, slope: Tensor) -> Tensor:
    """Tangents at the inner keys after Fritsch and Butland: 0 at turning points, else a harmonic mean."""
    before, after = slope[:-1], slope[1:]
    first, second = 2 * span[1:] + span[:-1], span[1:] + 2 * span[:-1]
    same = before * after > 0
    safe = (torch.where(same, value, 1.0) for value in (before, after))
    return torch.where(same, (first + second) / sum(w / v for w, v in zip((first, second), safe, strict=True)), 0.0)


def slerp(times: Tensor, rotations: Tensor, frames: Tensor) -> Tensor:
    """Rotations (n, 3, 3) at times (n,) -> (T, 3, 3) at frames (T,), at constant speed, the shortest way."""
    if len(times) == 1:
        return rotations.repeat(len(frames), 1, 1)
    index, part = segments(times, frames)
    turn = rotation_vector(rotations[:-1].mT @ rotations[1:])
    return rotations[index] @ rotation_from_vector(turn[index] * part[:, None])
