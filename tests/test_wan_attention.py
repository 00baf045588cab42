"""Schedules and the regrouping of tokens for Perspective blocks, against loops over single tokens."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from viewpoint_core.map_layout import SUBREGIONS
from viewpoint_core.wan_attention import (
    SUBREGION_COUNT,
    check_token_grid,
    format_schedule,
    merge_subregions,
    perspective_blocks,
    split_subregions,
    subregion_modulation,
    subregion_positions,
)

repeatable = settings(derandomize=True, deadline=None, database=None)
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)).map(lambda g: (g[0], 2 * g[1], 2 * g[2]))
GRID = (3, 4, 4)
TOKENS = 48


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slow_split(tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Token by token: where it lies on the map says its subregion and its place there."""
    t, h, w = grid
    out = torch.full((4 * len(tokens), t * h * w // 4, *tokens.shape[2:]), torch.nan)
    for batch in range(len(tokens)):
        for index in range(t * h * w):
            time, row, column = index // (h * w), index // w % h, index % w
            subregion = 2 * (row >= h // 2) + (column >= w // 2)
            place = (time * (h // 2) + row % (h // 2)) * (w // 2) + column % (w // 2)
            out[4 * batch + subregion, place] = tokens[batch, index]
    return out


def rope(grid: tuple[int, int, int], dim: int = 12, start: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """Rotations of a (t, h, w) grid that starts anywhere, in the host's layout: (1, t h w, 1, dim / 2, 2, 2)."""
    positions = torch.cartesian_prod(*(torch.arange(n) + s for n, s in zip(grid, start, strict=True))).double()
    angles = (positions[..., None] / 10 ** torch.arange(dim // 6)).flatten(1)
    c, s = angles.cos(), angles.sin()
    return torch.stack([c, -s, s, c], dim=-1).reshape(1, len(positions), 1, dim // 2, 2, 2)


def scores(q: Tensor, k: Tensor, pe: Tensor) -> Tensor:
    """Attention scores (b, L, L) of tokens (b, L, d) that are turned by their positions."""
    q, k = ((pe[:, :, 0] @ x.unflatten(-1, (-1, 2, 1)))[..., 0].flatten(-2) for x in (q, k))
    return q @ k.transpose(1, 2)


# Schedules


def test_alternating_means_the_odd_blocks() -> None:
    assert perspective_blocks("alternating", 30) == tuple(range(1, 30, 2))
    assert perspective_blocks("alternating", 1) == ()


def test_pano_means_none_and_perspective_all() -> None:
    assert perspective_blocks("pano", 30) == ()
    assert perspective_blocks("perspective", 3) == (0, 1, 2)


@pytest.mark.parametrize(
    ("schedule", "blocks"),
    [
        ("0", (0,)),
        ("1,3,8-11", (1, 3, 8, 9, 10, 11)),
        (" 1 , 3 - 5 ", (1, 3, 4, 5)),
        ("5,1,3-4,4", (1, 3, 4, 5)),
        ("2-2", (2,)),
        ("0-11", tuple(range(12))),
        (" Alternating\n", (1, 3, 5, 7, 9, 11)),
        ("PANO", ()),
    ],
)
def test_a_schedule_reads_as_sorted_blocks(schedule: str, blocks: tuple[int, ...]) -> None:
    assert perspective_blocks(schedule, 12) == blocks


@repeatable
@given(st.sets(st.integers(0, 39)))
def test_every_set_of_blocks_survives_being_written_and_read(blocks: set[int]) -> None:
    assert perspective_blocks(format_schedule(sorted(blocks)), 40) == tuple(sorted(blocks))


@pytest.mark.parametrize("schedule", ["", " ", ",", "1,", ",1", "1,,2", "1 2", "-1", "1-", "1--2", "1-2-3", "1.0"])
@pytest.mark.parametrize("wrap", ["{}", "0,{}"])
def test_a_list_that_is_not_well_formed_is_refused(schedule: str, wrap: str) -> None:
    text = wrap.format(schedule)
    with pytest.raises(ValueError, match=f"^schedule is {re.escape(repr(text))}; expected alternating, pano"):
        perspective_blocks(text, 12)


@pytest.mark.parametrize("schedule", ["odd", "alternating,1", "all", "0x1", "1e1", "__import__('os')"])
def test_a_word_that_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="expected alternating, pano, perspective, or blocks like"):
        perspective_blocks(schedule, 12)


@pytest.mark.parametrize("schedule", ["12", "0,12", "3-12", "3-1", "1,3-2", "5-4,1", "99999999999"])
def test_blocks_that_the_model_lacks_and_ranges_that_go_down_are_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="the model has blocks 0 to 11, ranges go upwards"):
        perspective_blocks(schedule, 12)


def test_a_huge_range_is_refused_before_it_is_counted_out() -> None:
    with pytest.raises(ValueError, match="blocks 0 to 11"):
        perspective_blocks("0-999999999999999", 12)


@repeatable
@given(st.text("0123456789,- alternigp", max_size=20))
def test_any_text_is_a_schedule_or_a_value_error(schedule: str) -> None:
    try:
        blocks = perspective_blocks(schedule, 8)
    except ValueError:
        return
    assert set(blocks) <= set(range(8))


# The grid of tokens


@pytest.mark.parametrize("grid", [(1, 2, 2), (13, 46, 46)])
def test_a_square_grid_with_even_sides_is_taken(grid: tuple[int, int, int]) -> None:
    check_token_grid(grid[0] * grid[1] * grid[2], grid)


@pytest.mark.parametrize("grid", [(2, 3, 3), (2, 4, 6), (2, 4, 5), (2, 5, 4)])
def test_a_grid_that_is_no_map_is_refused(grid: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"the token grid is {' x '.join(map(str, grid))}; .* square with even sides"):
        check_token_grid(grid[0] * grid[1] * grid[2], grid)


@pytest.mark.parametrize("tokens", [TOKENS + 16, TOKENS + 1, TOKENS - 1, 2 * TOKENS])
def test_extra_tokens_are_refused_with_both_counts_and_the_way_out(tokens: int) -> None:
    with pytest.raises(
        ValueError, match=rf"carries {tokens} tokens for a grid of 3 x 4 x 4 = 48; .*reference.*remove the node"
    ):
        check_token_grid(tokens, GRID)


# Regrouping


@repeatable
@given(GRIDS, st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_splitting_equals_the_slow_reference(grid: tuple[int, int, int], batch: int, tail: list[int]) -> None:
    tokens = random(batch, grid[0] * grid[1] * grid[2], *tail)
    assert torch.equal(split_subregions(tokens, grid), slow_split(tokens, grid))


@repeatable
@given(GRIDS, st.integers(1, 3), st.integers(1, 4), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_merging_inverts_splitting_bit_for_bit(
    grid: tuple[int, int, int], batch: int, width: int, dtype: torch.dtype
) -> None:
    tokens = random(batch, grid[0] * grid[1] * grid[2], width).to(dtype)
    merged = merge_subregions(split_subregions(tokens, grid), grid)
    assert merged.dtype == dtype
    assert torch.equal(merged, tokens)


@repeatable
@given(GRIDS, st.integers(1, 3), st.integers(1, 4))
def test_splitting_inverts_merging_bit_for_bit(grid: tuple[int, int, int], batch: int, width: int) -> None:
    parts = random(4 * batch, grid[0] * grid[1] * grid[2] // 4, width)
    assert torch.equal(split_subregions(merge_subregions(parts, grid), grid), parts)


def test_subregions_come_in_the_order_of_the_map_left_front_back_right() -> None:
    t, h, w = GRID
    names = [[["L", "F"], ["B", "R"]][row >= h // 2][column >= w // 2] for row in range(h) for column in range(w)]
    tokens = torch.tensor([ord(name) for name in names * t]).reshape(1, -1, 1)
    split = split_subregions(tokens, GRID)
    assert [chr(part.unique().item()) for part in split] == ["L", "F", "B", "R"]
    assert [chr(part.unique().item()) for part in split] == [region.face for region in SUBREGIONS]


def test_subregions_of_one_clip_stand_side_by_side_in_the_batch() -> None:
    tokens = random(2, TOKENS, 3)
    alone = [split_subregions(clip[None], GRID) for clip in tokens]
    assert torch.equal(split_subregions(tokens, GRID), torch.cat(alone))


def test_gradients_pass_through_regrouping_unchanged() -> None:
    tokens = random(1, TOKENS, 2).requires_grad_()
    weight = random(1, TOKENS, 2, seed=1)
    (merge_subregions(split_subregions(tokens, GRID), GRID) * weight).sum().backward()
    assert torch.equal(tokens.grad, weight)


# Positions and modulation


@pytest.mark.parametrize("grid", [(1, 2, 2), GRID, (2, 6, 6)])
def test_positions_of_a_subregion_are_those_of_a_grid_of_its_size(grid: tuple[int, int, int]) -> None:
    own = subregion_positions(rope(grid), grid)
    assert torch.equal(own, rope((grid[0], grid[1] // 2, grid[2] // 2)))


@pytest.mark.parametrize("shift", [(0, 0, 2), (0, 2, 0), (0, 2, 2)])
def test_scores_under_own_positions_equal_those_under_the_maps(shift: tuple[int, int, int]) -> None:
    q, k = random(1, TOKENS // 4, 12).double(), random(1, TOKENS // 4, 12, seed=1).double()
    own, on_map = subregion_positions(rope(GRID), GRID), rope((3, 2, 2), start=shift)
    assert (on_map - own).abs().max() > 0.1
    assert torch.allclose(scores(q, k, own), scores(q, k, on_map), atol=1e-12)


@pytest.mark.parametrize("count", [1, GRID[0]])
def test_modulation_of_a_clip_or_a_frame_is_the_same_in_its_four_subregions(count: int) -> None:
    vec = random(2, count, 6, 5)
    out = subregion_modulation(vec, TOKENS, GRID)
    assert out.shape == (8, count, 6, 5)
    for index, part in enumerate(out):
        assert torch.equal(part, vec[index // SUBREGION_COUNT])


def test_modulation_of_a_token_goes_where_the_token_goes() -> None:
    vec = random(2, TOKENS, 6, 5)
    out = subregion_modulation(vec, TOKENS, GRID)
    assert torch.equal(out, slow_split(vec, GRID))
    assert out.shape == (8, TOKENS // 4, 6, 5)


def test_modulation_without_a_token_axis_is_repeated() -> None:
    vec = random(2, 6, 5)
    assert torch.equal(subregion_modulation(vec, TOKENS, GRID), vec.repeat_interleave(4, dim=0))
