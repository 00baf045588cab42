"""IMAGE and MASK of the host <-> tensors of the core, with the checks that every node shares."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..viewpoint_core.checkpoint import TEXT_DIM
from ..viewpoint_core.conditioning import check_finite
from ..viewpoint_core.pixels import to_uint8

NOTHING_PAINTED = (1, 64, 64)  # the MASK of the host's Load Image for a picture without transparency
NOTHING_PAINTED_ADVICE = (
    ". This one is what 'Load Image' gives where nothing is painted in the mask editor and nothing is transparent: "
    "paint what is meant, or connect no mask"
)


@dataclass(frozen=True)
class FrameStream:
    """Frames (3, H, W) that are computed one by one, where a tensor of all of them (`shape`) would not fit."""

    frames: Iterable[Tensor]
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.frames)


def image_to_frames(image: Tensor, name: str) -> Tensor:
    """IMAGE (T, H, W, 3) -> frames (T, 3, H, W), a view. Raises ValueError for what is no RGB video."""
    if image.ndim != 4:
        raise ValueError(f"{name}: expected an IMAGE (frames, height, width, 3), got {tuple(image.shape)}")
    if image.shape[0] == 0 or image.numel() == 0:
        raise ValueError(f"{name}: the batch is empty {tuple(image.shape)}; expected at least one frame")
    channels = image.shape[-1]
    if channels == 4:
        raise ValueError(f"{name}: got RGBA (4 channels), expected RGB; drop the alpha with 'Split Image with Alpha'")
    if channels != 3:
        raise ValueError(
            f"{name}: got {channels} channel(s), expected RGB (3); a mask becomes RGB by 'Convert Mask to Image'"
        )
    check_finite(image, name)
    return image.movedim(-1, 1)


def own_frames_to_image(frames: Tensor) -> Tensor:
    """Frames (T, C, H, W) that nobody else holds, changed in place -> IMAGE (T, H, W, C) in [0, 1]; bicubic sampling
    overshoots a little. No copy where their channels lie last in memory."""
    return frames.clamp_(0, 1).movedim(1, -1).contiguous()


def frame_bytes(frame: Tensor) -> np.ndarray:
    """A frame (3, H, W) -> uint8 (H, W, 3), rounded; what lies beyond [0, 1] is cut off."""
    return np.ascontiguousarray(to_uint8(frame).movedim(0, -1).cpu().numpy())


def sound_to_audio(sound: tuple[Tensor, int] | None) -> dict[str, Any] | None:
    """A waveform (channels, samples) and its rate -> AUDIO; None stays None."""
    return None if sound is None else {"waveform": sound[0][None], "sample_rate": sound[1]}


def mask_to_frames(mask: Tensor, name: str, frames: int, height: int, width: int) -> Tensor:
    """MASK (T, H, W), or (H, W) or (1, H, W) for all frames -> (frames, H, W), a view. Raises ValueError unless it fits
    its video."""
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape[1:] != (height, width) or len(mask) not in (1, frames):
        nothing_painted = mask.shape == NOTHING_PAINTED and bool((mask == mask[0, 0, 0]).all())
        raise ValueError(
            f"{name}: got a mask {tuple(mask.shape)} (frames, height, width) for a video of {frames} frames, "
            f"{height} x {width}; expected the same size, and as many frames or one for all of them"
            + (NOTHING_PAINTED_ADVICE if nothing_painted else "")
        )
    if mask.dtype == torch.bool:
        mask = mask.float()
    if not mask.is_floating_point():
        raise ValueError(f"{name}: got a mask of {mask.dtype}; expected floats in [0, 1]")
    check_finite(mask, name)
    if bool(((mask < 0) | (mask > 1)).any()):
        raise ValueError(f"{name}: values from {float(mask.min())} to {float(mask.max())}; expected [0, 1]")
    return mask.expand(frames, -1, -1)


def check_prompt(embedding: Any, name: str) -> None:
    """Raise ValueError unless it is an encoded prompt (batch, tokens, 4096) and finite; `name` says whose."""
    is_tensor = isinstance(embedding, Tensor)
    if not is_tensor or embedding.ndim != 3 or embedding.shape[-1] != TEXT_DIM or not embedding.numel():
        got = f"an embedding {tuple(embedding.shape)}" if is_tensor else f"a {type(embedding).__name__}"
        raise ValueError(
            f"{name}: got {got}; expected (batch, tokens, {TEXT_DIM}), as of Wan's text encoder ('Load CLIP', type wan)"
        )
    check_finite(embedding, name)


def stack_faces(faces: list[Tensor]) -> Tensor:
    """Six IMAGEs F, R, B, L, U, D -> cubemaps (T, 6, 3, a, a)."""
    frames = [image_to_frames(face, name) for face, name in zip(faces, FACE_INPUTS, strict=True)]
    shapes = [tuple(face.shape) for face in frames]
    if len(set(shapes)) != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in zip(FACE_INPUTS, shapes, strict=True))
        raise ValueError(f"the six faces differ in frames or size (frames, channels, height, width): {listed}")
    return torch.stack(frames, dim=1)


FACE_INPUTS = ("front", "right", "back", "left", "up", "down")
