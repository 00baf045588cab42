"""Conditioning in 2 C + 1 channels against sums written out by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from viewpoint_core.conditioning import (
    check_finite,
    check_length,
    fill_unknown,
    latent_frames,
    latent_shape,
    mask_to_latent,
    pack_known,
    video_frames,
)
from viewpoint_core.hold import extend_held, extend_unknown, known_whenever_seen
from viewpoint_core.resample import GREY

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slow_mask_to_latent(mask: Tensor) -> Tensor:
    """Every latent cell by itself, with the frames and pixels that it stands for."""
    batch, frames, height, width = mask.shape
    out = torch.zeros(batch, 1, latent_frames(frames), height // 8, width // 8)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in out.shape)).tolist():
        b, _, t, row, column = index
        times = slice(0, 1) if t == 0 else slice(4 * t - 3, 4 * t + 1)
        cell = mask[b, times, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        out[tuple(index)] = math.fsum(cell.flatten().tolist()) / cell.numel()
    return out


# Lengths


@pytest.mark.parametrize(("length", "frames"), [(1, 1), (5, 2), (9, 3), (49, 13), (81, 21)])
def test_latent_frames_count_the_first_frame_alone_and_then_four_at_a_time(length: int, frames: int) -> None:
    assert latent_frames(length) == frames
    assert video_frames(frames) == length


@settings(derandomize=True, deadline=None, database=None)
@given(st.integers(-100, 1000))
def test_a_length_is_taken_exactly_when_it_is_4k_plus_1(length: int) -> None:
    if length in range(1, 1001, 4):
        check_length(length)
    else:
        with pytest.raises(ValueError, match=rf"got {length} frames; expected 4k \+ 1"):
            check_length(length)


@pytest.mark.parametrize(
    ("length", "offer"), [(48, "45 or 49"), (50, "49 or 53"), (2, "1 or 5"), (0, "1 or 5"), (-7, "1 or 5")]
)
def test_a_wrong_length_is_answered_with_the_lengths_beside_it(length: int, offer: str) -> None:
    with pytest.raises(ValueError, match=f"such as {offer}$"):
        latent_frames(length)


def test_latent_shape_of_the_papers_clip() -> None:
    assert latent_shape(736, 49) == (1, 16, 13, 92, 92)
    assert latent_shape(128, 1, channels=48, batch=2) == (2, 48, 1, 16, 16)


def test_latent_shape_refuses_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="got 48 frames"):
        latent_shape(736, 48)


# Values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_their_count(value: float) -> None:
    image = torch.zeros(3, 4, 4)
    image[1, 2, :2] = value
    with pytest.raises(ValueError, match="erp: 2 of 48 values are NaN or infinite"):
        check_finite(image, "erp")


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_values_are_taken(dtype: torch.dtype) -> None:
    check_finite(torch.full((2, 2), 1e4, dtype=dtype), "erp")


@pytest.mark.parametrize("dtype", DTYPES)
def test_unknown_places_are_grey_and_known_ones_untouched(dtype: torch.dtype) -> None:
    video = random(2, 3, 4, 6).to(dtype)
    mask = torch.zeros(2, 4, 6, dtype=dtype)
    mask[0, 1, 2], mask[1, 3, 5] = 1, 0.01  # partly known counts as known
    out = fill_unknown(video, mask)
    known = (mask > 0).unsqueeze(1).expand_as(video)
    assert out.dtype == dtype
    assert torch.equal(out[known], video[known])
    assert torch.equal(out[~known], torch.full_like(out[~known], GREY))


def test_grey_is_zero_in_the_range_of_the_vae() -> None:
    assert 2 * GREY - 1 == 0


def test_filling_hides_whatever_stood_in_unknown_places() -> None:
    video = torch.full((1, 3, 2, 2), math.nan)
    assert torch.equal(fill_unknown(video, torch.zeros(1, 2, 2)), torch.full_like(video, GREY))


def test_filling_leaves_its_inputs_as_they_were() -> None:
    video, mask = random(1, 3, 4, 4), torch.zeros(1, 4, 4)
    before = video.clone()
    fill_unknown(video, mask)
    assert torch.equal(video, before)


def test_one_mask_serves_all_frames_of_a_video() -> None:
    video, mask = random(5, 3, 4, 4), (random(1, 4, 4, seed=1) > 0.5).float()
    assert torch.equal(fill_unknown(video, mask), fill_unknown(video, mask.expand(5, -1, -1)))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4)])
def test_extending_keeps_the_frames_and_adds_the_fill(shape: tuple[int, ...]) -> None:
    video = random(*shape)
    out = extend_unknown(video, 3, 0.25)
    assert out.shape == (5, *shape[1:])
    assert torch.equal(out[:2], video)
    assert torch.equal(out[2:], torch.full_like(out[2:], 0.25))
    assert torch.equal(extend_unknown(video, 0, 0.25), video)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4), (1, 3, 4, 4)])
def test_holding_keeps_the_frames_and_repeats_the_last(shape: tuple[int, ...]) -> None:
    video = random(*shape)
    out = extend_held(video, 3)
    assert out.shape == (shape[0] + 3, *shape[1:])
    assert torch.equal(out[: shape[0]], video)
    assert torch.equal(out[shape[0] :], video[-1:].repeat(3, *[1] * (len(shape) - 1)))
    assert torch.equal(extend_held(video, 0), video)


def test_a_held_picture_takes_no_more_memory() -> None:
    picture = random(1, 3, 4, 4)
    for still in (picture, picture.expand(5, -1, -1, -1)):
        held = extend_held(still, 48)
        assert len(held) == len(still) + 48
        assert held.untyped_storage().data_ptr() == picture.untyped_storage().data_ptr()


def test_nothing_is_copied_where_nothing_is_held() -> None:
    video = random(3, 3, 4, 4)
    assert extend_held(video, 0) is video


# What a turning camera showed at another time


def slow_known_whenever_seen(video: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel by pixel."""
    held, masks = video.clone(), mask.clone()
    frames, height, width = mask.shape
    for y, x in itertools.product(range(height), range(width)):
        best = float(mask[:, y, x].max())
        knowing = [t for t in range(frames) if float(mask[t, y, x]) == best]
        for t in range(frames):
            nearest = min(knowing, key=lambda other: (abs(other - t), -other))
            held[t, :, y, x] = video[nearest, :, y, x]
            masks[t, y, x] = best
    return held, masks


@pytest.mark.parametrize(("frames", "rows"), [(1, 5), (4, 5), (7, 16), (5, 70)])
def test_what_a_frame_knows_all_know_as_the_slow_reference_says(frames: int, rows: int) -> None:
    video = random(frames, 3, rows, 3)
    mask = torch.randint(0, 4, (frames, rows, 3), generator=torch.Generator().manual_seed(frames)) / 3
    mask[:, 0] = 0
    held, masks = known_whenever_seen(video, mask)
    wanted, wanted_masks = slow_known_whenever_seen(video, mask)
    assert torch.equal(held, wanted)
    assert torch.equal(masks, wanted_masks)


def test_a_camera_that_stands_still_is_left_as_it_is() -> None:
    video = random(5, 3, 8, 8)
    mask = (random(1, 8, 8) > 0.5).float().expand(5, -1, -1)
    held, masks = known_whenever_seen(video, mask)
    assert torch.equal(held, video)
    assert torch.equal(masks, mask)


# The mask's latent cells


@pytest.mark.parametrize("length", [1, 5, 9])
def test_mask_cells_equal_the_slow_reference(length: int) -> None:
    mask = random(2, length, 16, 24)
    assert torch.allclose(mask_to_latent(mask), slow_mask_to_latent(mask), atol=1e-6)


def test_mask_cells_stand_for_their_own_frames() -> None:
    mask = torch.zeros(1, 9, 8, 8)
    mask[0, 0] = 1
    assert mask_to_latent(mask).flatten().tolist() == [1, 0, 0]
    mask[0, 1] = 1
    assert mask_to_latent(mask).flatten().tolist() == [1, 0.25, 0]
    mask[0, 8] = 0.5
    assert mask_to_latent(mask).flatten().tolist() == [1, 0.25, 0.125]


def test_a_mask_of_ones_stays_one_and_of_zeros_zero() -> None:
    for value in (0.0, 1.0):
        assert torch.equal(
            mask_to_latent(torch.full((2, 5, 32, 32), value)), torch.full(latent_shape(32, 5, 1, 2), value)
        )


@pytest.mark.parametrize("length", [0, 2, 4, 48])
def test_a_mask_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"got {length} frames"):
        mask_to_latent(torch.zeros(1, length, 8, 8))


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (7, 7)])
def test_a_mask_that_does_not_fall_into_whole_cells_is_refused_not_cropped(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"the mask is {size[0]} x {size[1]}; expected multiples of 8"):
        mask_to_latent(torch.zeros(1, 1, *size))


# Packing


@pytest.mark.parametrize("channels", [16, 48])
def test_known_channels_are_the_latent_and_then_the_mask(channels: int) -> None:
    latent, mask = random(*latent_shape(32, 5, channels, 2)) - 0.5, random(2, 5, 32, 32, seed=1)
    packed = pack_known(latent, mask)
    assert packed.shape == (2, channels + 1, 2, 4, 4)
    assert torch.equal(packed[:, :channels], latent)
    assert torch.equal(packed[:, channels:], mask_to_latent(mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_takes_the_latents_dtype(dtype: torch.dtype) -> None:
    latent = random(*latent_shape(16, 1)).to(dtype)
    packed = pack_known(latent, torch.ones(1, 1, 16, 16))
    assert packed.dtype == dtype
    assert torch.equal(packed[:, 16], torch.ones_like(packed[:, 16]))


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param((1, 9, 32, 32), id="longer"),
        pytest.param((1, 1, 32, 32), id="shorter"),
        pytest.param((1, 5, 40, 32), id="taller"),
        pytest.param((1, 5, 32, 16), id="narrower"),
        pytest.param((2, 5, 32, 32), id="of another batch"),
    ],
)
def test_a_mask_of_another_size_or_length_is_refused_with_both_sizes(mask: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask cells \(.*\) do not fit the latent \(1, 16, 2, 4, 4\)"):
        pack_known(torch.zeros(latent_shape(32, 5)), torch.zeros(mask))
