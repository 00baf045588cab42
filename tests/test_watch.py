"""Which held-out clips a run is watched on."""

from pathlib import Path

import av
import pytest
import torch

from viewpoint_core.training.spread import spread
from viewpoint_core.training.watch import loss_clips, sample_clips, write_sample

IMAGES, CLIPS, SHORT = (1, 32, 32), (13, 32, 32), (3, 32, 32)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [15]), (2, [12, 17]), (3, [11, 15, 18]), (20, list(range(10, 20)))]
)
def test_clips_are_spread_evenly(count: int, expected: list[int]) -> None:
    assert spread(range(10, 20), count) == expected


def test_losses_are_measured_on_videos_behind_many_images_too() -> None:
    buckets = {IMAGES: range(300), CLIPS: range(300, 306)}
    assert loss_clips(buckets, 8) == [300, 302, 303, 305, 37, 112, 187, 262]
    assert loss_clips(buckets, 1) == [303]


def test_losses_are_measured_on_several_rides_not_on_the_first() -> None:
    rides = [index // 40 for index in range(160)]
    assert {rides[index] for index in loss_clips({CLIPS: range(160)}, 8)} == {0, 1, 2, 3}


@pytest.mark.parametrize("sizes", [(2, 300), (300, 2), (1, 1)])
def test_where_one_kind_is_short_the_other_fills_up(sizes: tuple[int, int]) -> None:
    buckets = {IMAGES: range(sizes[0]), CLIPS: range(sizes[0], sum(sizes))}
    chosen = loss_clips(buckets, 8)
    assert len(chosen) == len(set(chosen)) == min(8, sum(sizes))


def test_samples_are_of_the_longest_clips_before_any_other() -> None:
    buckets = {IMAGES: range(300), SHORT: range(300, 306), CLIPS: range(306, 308)}
    assert sample_clips(buckets, 1) == [307]
    assert sample_clips(buckets, 4) == [306, 307, 301, 304]
    assert sample_clips({IMAGES: range(300)}, 2) == [75, 225]


def test_samples_play_at_the_rate_of_the_caches_clips(tmp_path: Path) -> None:
    for file in write_sample(torch.rand(3, 2, 64, 64), tmp_path, "sample", fps=7.5):
        with av.open(str(file)) as container:
            assert container.streams.video[0].average_rate == 7.5
