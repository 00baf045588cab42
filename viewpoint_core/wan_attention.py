"""Pano-Perspective attention (paper 3.3): which blocks are Perspective, and the regrouping of tokens for them."""

import re
from collections.abc import Iterable

from einops import rearrange
from torch import Tensor

PANO, PERSPECTIVE, ALTERNATING = "pano", "perspective", "alternating"
SUBREGION_COUNT = 4


def perspective_blocks(schedule: str, num_blocks: int) -> tuple[int, ...]:
    """Indices of the blocks that attend inside each subregion.

    `schedule`: "alternating" (odd blocks, the paper's), "pano" (none), "perspective" (all), or indices and ranges such
    as "1,3,8-11". Raises ValueError for anything else and for blocks that the model does not have.
    """
    named = {ALTERNATING: range(1, num_blocks, 2), PANO: (), PERSPECTIVE: range(num_blocks)}
    text = schedule.strip().lower()
    if text in named:
        return tuple(named[text])
    if not re.fullmatch(r"\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*", text):
        raise ValueError(
            f"schedule is {schedule!r}; expected alternating, pano, perspective, or blocks like '1,3,8-11'"
        )
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    if any(end[0] > end[-1] or end[-1] >= num_blocks for end in ends):
        raise ValueError(f"schedule is {schedule!r}; the model has blocks 0 to {num_blocks - 1}, ranges go upwards")
    return tuple(sorted({block for end in ends for block in range(end[0], end[-1] + 1)}))


def format_schedule(blocks: Iterable[int]) -> str:
    """The text that `perspective_blocks` reads back: "1,3,5", or "pano" for none."""
    return ",".join(str(block) for block in blocks) or PANO


def check_token_grid(tokens: int, grid_sizes: tuple[int, int, int]) -> None:
    """Raise ValueError unless the tokens are exactly a (t, h, w) grid with h and w even."""
    t, h, w = grid_sizes
    if h % 2 or w % 2 or h != w:
        raise ValueError(f"the token grid is {t} x {h} x {w}; a ViewPoint map needs a square with even sides")
    if tokens != t * h * w:
        raise ValueError(
            f"the model carries {tokens} tokens for a grid of {t} x {h} x {w} = {t * h * w}; extra tokens (reference "
            "or context latents) do not fit on a ViewPoint map: remove the node that adds them"
        )


def split_subregions(tokens: Tensor, grid_sizes: tuple[int, int, int]) -> Tensor:
    """Tokens (b, t h w, ...) -> (b 4, t (h/2) (w/2), ...), the subregions in the order L, F, B, R."""
    t, h, w = grid_sizes
    tail = tokens.shape[2:]
    flat = tokens.reshape(*tokens.shape[:2], -1)
    out = rearrange(flat, "b (t i h j w) c -> (b i j) (t h w) c", t=t, i=2, j=2, h=h // 2, w=w // 2)
    return out.reshape(*out.shape[:2], *tail)


def merge_subregions(tokens: Tensor, grid_sizes: tuple[int, int, int]) -> Tensor:
    """The inverse of `split_subregions`: (b 4, t (h/2) (w/2), c) -> (b, t h w, c)."""
    t, h, w = grid_sizes
    return rearrange(tokens, "(b i j) (t h w) c -> b (t i h j w) c", t=t, i=2, j=2, h=h // 2, w=w // 2)


def subregion_positions(pe: Tensor, grid_sizes: tuple[int, int, int]) -> Tensor:
    """RoPE (1, t h w, ...) of the map -> (1, t (h/2) (w/2), ...), one subregion's own positions for all four."""
    return split_subregions(pe, grid_sizes)[:1]


def subregion_modulation(vec: Tensor, tokens: int, grid_sizes: tuple[int, int, int]) -> Tensor:
    """Time modulation (b, 1 or t or t h w, 6, c) for the four subregions: (b 4, ...)."""
    if vec.ndim > 3 and vec.shape[1] == tokens and vec.shape[1] > 1:
        return split_subregions(vec, grid_sizes)
    return vec.repeat_interleave(SUBREGION_COUNT, dim=0)
