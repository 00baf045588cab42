"""What is known of a map at other times: unknown, held from the last frame, or held from whenever it was seen."""

import torch
from torch import Tensor

from .resample import GREY

ROWS_AT_ONCE = 16


def extend_unknown(video: Tensor, frames: int, fill: float) -> Tensor:
    """A video or mask (T, ...) followed by `frames` frames of nothing but `fill`."""
    return torch.cat([video, video.new_full((frames, *video.shape[1:]), fill)]) if frames else video


def extend_held(video: Tensor, frames: int) -> Tensor:
    """A video or mask (T, ...) whose last frame stays for `frames` more. Not to be changed in place: of one picture, or
    of one that `expand` repeated, it is a view, and without more frames the video itself."""
    if len(video) == 1 or video.stride(0) == 0:
        return video[:1].expand(len(video) + frames, *video.shape[1:])
    return torch.cat([video, video[-1:].expand(frames, *video.shape[1:])]) if frames else video


def extend(video: Tensor, mask: Tensor, frames: int, *, held: bool) -> tuple[Tensor, Tensor]:
    """A video (T, ...) and its mask for `frames` more: the last frame held, or grey of which nothing is known."""
    if held:
        return extend_held(video, frames), extend_held(mask, frames)
    return extend_unknown(video, frames, GREY), extend_unknown(mask, frames, 0)


def known_whenever_seen(video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What any frame knows, known in all of them: video (T, C, H, W) and mask (T, H, W) in [0, 1] -> the same.

    A pixel comes from the nearest in time of the frames that know it best, of two as near from the later. So one mask
    holds for all frames, as the trainer's do, and what moved meanwhile stands still where it is not seen.
    """
    time = torch.arange(len(video), dtype=torch.int32, device=mask.device)[:, None, None]
    held, best = torch.empty_like(video), mask.amax(0)
    for start in range(0, video.shape[-2], ROWS_AT_ONCE):  # of all rows at once, the indices would outweigh the video
        band = slice(start, start + ROWS_AT_ONCE)
        knows = mask[:, band] == best[band]
        before = torch.where(knows, time, -len(video)).cummax(0).values
        after = torch.where(knows, time, 2 * len(video)).flip(0).cummin(0).values.flip(0)
        nearest = torch.where(time - before < after - time, before, after).long()
        held[:, :, band] = video[:, :, band].gather(0, nearest[:, None].expand(-1, video.shape[1], -1, -1))
    return held, best.expand(len(video), -1, -1)
