"""Whether what a node makes fits into memory, asked before it is made."""

from .host import free_memory

GIB = 1 << 30


def check_room(needed: int, what: str, way_out: str) -> None:
    """Raise ValueError where `needed` bytes are not free: `what` needs them, and `way_out` is what to do instead."""
    free = free_memory()
    if needed > free:
        raise ValueError(f"{what} need {needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; {way_out}")


def check_room_for_frames(frames: int, height: int, width: int, what: str, *, masks: int = 0) -> None:
    """Raise ValueError where so many RGB frames of float32, the host's copy of them, and `masks` masks for each of them
    do not fit into memory."""
    needed = 4 * (2 * 3 + masks) * frames * height * width
    check_room(needed, f"{what} ({frames} frames of {width} x {height})", "give fewer frames or a smaller size")
