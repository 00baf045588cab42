"""What a step trains on: batches, their random numbers, the learning rate."""

from collections import Counter
from itertools import islice

import pytest
import torch

from viewpoint_core.training.plan import (
    batches_an_epoch,
    batches_from,
    derive_seed,
    epoch_batches,
    generator_for,
    lr_at,
)

BUCKETS = {(13, 32, 32): list(range(7)), (1, 32, 32): [7, 8, 9]}


def test_an_epoch_shows_every_item_in_batches_of_one_bucket() -> None:
    batches = epoch_batches(BUCKETS, 2, seed=0, epoch=0)
    assert {index for batch in batches for index in batch} == set(range(10))
    assert all(len({index < 7 for index in batch}) == 1 for batch in batches)
    assert batches != epoch_batches(BUCKETS, 2, seed=0, epoch=1)
    assert batches != epoch_batches(BUCKETS, 2, seed=1, epoch=0)


def test_a_buckets_last_batch_is_filled_from_its_start() -> None:
    batches = epoch_batches({(13, 32, 32): list(range(7))}, 5, seed=0, epoch=0)
    assert [len(set(batch)) for batch in batches] == [5, 5]
    assert sorted(Counter(index for batch in batches for index in batch).values()) == [1] * 4 + [2] * 3


def test_the_order_in_which_a_cache_lists_its_buckets_does_not_count() -> None:
    assert epoch_batches(dict(reversed(BUCKETS.items())), 2, seed=0, epoch=0) == epoch_batches(BUCKETS, 2, 0, 0)


@pytest.mark.parametrize("first", [0, 1, 5, 6, 7, 23])
def test_the_plan_goes_on_anywhere_as_if_it_had_never_stopped(first: int) -> None:
    whole = list(islice(batches_from(BUCKETS, 2, 3, 0), 40))
    assert list(islice(batches_from(BUCKETS, 2, 3, first), 40 - first)) == whole[first:]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_images_are_the_part_of_the_batches_that_was_asked_for(share: float) -> None:
    buckets = {(1, 2, 2): list(range(100, 130)), (3, 2, 2): list(range(12)), (2, 2, 2): list(range(12, 24))}
    length = batches_an_epoch(buckets, 2, share)
    first, second = (epoch_batches(buckets, 2, 0, epoch, share) for epoch in range(2))
    assert len(first) == len(second) == length
    images = [batch for batch in first if min(batch) >= 100]
    assert abs(len(images) / length - share) < 0.02
    assert {index for batch in first for index in batch if index < 100} == set(range(24))
    assert all(min(batch) >= 100 or max(batch) < 100 for batch in first)
    starts = {first.index(batch) for batch in images}
    assert len(images) < 3 or max(starts) - min(starts) > len(images) - 1, "images come in between"


def test_epochs_with_few_images_go_on_through_all_of_them() -> None:
    buckets = {(1, 2, 2): list(range(100, 130)), (3, 2, 2): list(range(12))}
    seen = [index for epoch in range(5) for batch in epoch_batches(buckets, 2, 0, epoch, 1 / 3) for index in batch]
    counts = Counter(index for index in seen if index >= 100)
    assert counts == dict.fromkeys(range(100, 130), 1), "3 batches of 2 in each of 5 epochs"


def test_a_share_of_less_than_a_batch_an_epoch_is_carried_over_to_later_ones() -> None:
    """50 videos on 8 processes are 7 batches; 5% of images are 7/19 of a batch: 7 in 19 epochs."""
    buckets = {(1, 2, 2): list(range(100, 130)), (3, 2, 2): list(range(50))}
    epochs = [epoch_batches(buckets, 8, 0, epoch, 0.05) for epoch in range(38)]
    images = [sum(min(batch) >= 100 for batch in batches) for batches in epochs]
    assert set(images) == {0, 1}
    assert sum(images) == 14
    assert sum(images[:19]) == 7
    assert batches_an_epoch(buckets, 8, 0.05) == pytest.approx(7 / 0.95)
    assert list(islice(batches_from(buckets, 8, 0, 0, 0.05), sum(map(len, epochs)))) == sum(epochs, [])


def test_the_share_of_a_decimal_number_is_exact() -> None:
    """A fifth of the batches beside 8 of videos are 2 in every epoch, though no float is 0.2."""
    buckets = {(1, 2, 2): list(range(100, 130)), (3, 2, 2): list(range(16))}
    assert {len(epoch_batches(buckets, 2, 0, epoch, 0.2)) for epoch in range(50)} == {10}


@pytest.mark.parametrize("share", [1 / 3, 0.05, 0.4])
@pytest.mark.parametrize("first", [0, 1, 6, 8, 9, 10, 31])
def test_a_plan_with_a_share_of_images_goes_on_anywhere(first: int, share: float) -> None:
    buckets = {(1, 2, 2): list(range(100, 107)), (3, 2, 2): list(range(12))}
    whole = list(islice(batches_from(buckets, 2, 3, 0, share), 60))
    assert list(islice(batches_from(buckets, 2, 3, first, share), 60 - first)) == whole[first:]


def test_a_share_of_images_counts_only_where_there_are_videos_too() -> None:
    for buckets in ({(1, 2, 2): list(range(5))}, {(3, 2, 2): list(range(5)), (2, 2, 2): [5, 6]}):
        assert epoch_batches(buckets, 2, 0, 0, 0.5) == epoch_batches(buckets, 2, 0, 0)


def test_a_cache_without_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="no training clips"):
        next(batches_from({}, 1, 0, 0))


def test_seeds_depend_on_every_part() -> None:
    seeds = {
        derive_seed(*parts) for parts in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1"), ("0", "a", 1)]
    }
    assert len(seeds) == 6
    assert torch.equal(torch.rand(3, generator=generator_for(1, 2)), torch.rand(3, generator=generator_for(1, 2)))


def test_the_learning_rate_rises_then_stays_or_falls_to_0() -> None:
    rates = [lr_at(step, lr=1.0, warmup=4, steps=10, decay="constant") for step in range(10)]
    assert rates == [0.25, 0.5, 0.75, 1.0] + [1.0] * 6
    falling = [lr_at(step, lr=1.0, warmup=4, steps=10, decay="cosine") for step in range(4, 11)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1.0
    assert falling[-1] == pytest.approx(0.0)
    assert lr_at(12, lr=1.0, warmup=4, steps=10, decay="cosine") == pytest.approx(0.0), "and does not rise again"
    assert lr_at(4, lr=1.0, warmup=4, steps=4, decay="cosine") == 1.0
