"""Whether what a node makes fits into memory, asked before it is made."""

from torch import Tensor

from ..viewpoint_core.kept import KEPT_BYTES, forget_large
from ..viewpoint_core.resample import BAND_PIXELS
from .host import free_bytes, give_up_memory

GIB = 1 << 30
SAMPLE_BYTES = 64  # of a position that is looked up: up to 36 stay, the rest is what one frame's samples take
SOURCE_BYTES = 72  # of a pixel of the one frame that is read, padded and masked
WORKING_BYTES = 512 * BAND_PIXELS + KEPT_BYTES  # while lookups are made, and in small ones from before


def check_room(needed: int, what: str, way_out: str) -> None:
    """Raise ValueError where `needed` bytes are not free, even once kept lookups are given up and the host was asked
    for them: `what` needs them, and `way_out` is what to do instead."""
    if needed <= free_bytes():
        return
    forget_large()
    if needed <= free_bytes():
        return
    give_up_memory(needed)
    free = free_bytes()
    if needed > free:
        raise ValueError(
            f"{what} need {needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; {way_out}, or unload models "
            "(Edit > Unload Models and Execution Cache)"
        )


def check_room_for_frames(
    frames: int, height: int, width: int, what: str, *, source: Tensor, samples: int, masks: int = 0
) -> None:
    """Raise ValueError where so many RGB frames of float32, the host's copy of them, `masks` masks for each of them and
    the lookup of `samples` positions on a frame of the source (..., H, W) do not fit into memory."""
    needed = 4 * (2 * 3 + masks) * frames * height * width
    needed += SAMPLE_BYTES * samples + SOURCE_BYTES * source.shape[-2] * source.shape[-1] + WORKING_BYTES
    check_room(needed, f"{what} ({frames} frames of {width} x {height})", "give fewer frames or a smaller size")
