"""Clips: which pictures, how turned, and that their maps are what the geometry says."""

import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.analytic import smooth
from tests.panorama_files import HEIGHT, WIDTH, numbers_shown, write_frames, write_image, write_video
from viewpoint_core import video as video_file
from viewpoint_core.sphere import erp_directions, rotate_yaw
from viewpoint_core.training.data import clips
from viewpoint_core.training.data.clips import (
    ClipSpec,
    Sampling,
    clips_of,
    draw_map,
    load_map,
    map_to_video,
    pictures_at,
    plan_clips,
    turn_erp,
)
from viewpoint_core.training.data.manifest import Item
from viewpoint_core.training.data.map_video import map_from_bytes, map_to_bytes
from viewpoint_core.training.data.media import read_frames
from viewpoint_core.viewpoint_map import erp_to_viewpoint

HERE = Path("/data")


def video(frames: int, fps: float, start: int = 0, split: str = "train") -> Item:
    return Item(HERE / "a.mp4", start, frames, fps, 64, 32, split=split)


def image(split: str = "train", name: str = "a.png") -> Item:
    return Item(HERE / name, 0, 1, 0.0, 64, 32, split=split)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# Which pictures


def test_a_clip_of_the_same_rate_takes_every_picture() -> None:
    (spec,) = clips_of(video(9, 16.0, start=100), HERE, Sampling(length=9, variants=1))
    assert spec.indices == list(range(100, 109))


def test_a_clip_takes_the_picture_that_is_on_screen() -> None:
    spec = ClipSpec("key", video(60, 30.0, start=7), "a.mp4", first=3, length=5, fps=16.0)
    assert spec.indices == [7 + math.floor((3 + k) / 16 * 30) for k in range(5)]


@pytest.mark.parametrize(
    ("frames", "fps", "pictures"),
    [(49, 16, 49), (91, 30, 49), (90, 30, 48), (90, 30000 / 1001, 48), (25, 8, 49), (1, 16, 1), (1, 0, 1)],
)
def test_pictures_at_another_rate_are_counted_within_the_span(frames: int, fps: float, pictures: int) -> None:
    assert pictures_at(video(frames, fps), 16) == pictures


def test_three_seconds_of_any_usual_rate_make_a_clip_of_49() -> None:
    for fps in (10, 12.5, 15, 16, 24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60000 / 1001, 60):
        item = video(math.ceil(3 * fps) + 1, fps)
        assert pictures_at(item, 16) >= 49
        (spec,) = clips_of(item, HERE, Sampling(variants=1))
        assert max(spec.indices) < item.frames


@settings(derandomize=True, deadline=None, database=None)
@given(st.integers(1, 400), st.floats(4, 120), st.integers(0, 5).map(lambda k: 4 * k + 1), st.integers(0, 4))
def test_clips_of_an_item_stay_inside_it_and_apart(frames: int, fps: float, length: int, most: int) -> None:
    item = video(frames, fps, start=11)
    sampling = Sampling(length=length, variants=3, clips=most)
    if pictures_at(item, 16) < length:
        with pytest.raises(ValueError, match="too short"):
            clips_of(item, HERE, sampling)
        return
    specs = clips_of(item, HERE, sampling)
    count = min(pictures_at(item, 16) // length, most or frames * 30)
    assert len(specs) == 3 * count
    assert len({spec.key for spec in specs}) == len(specs)
    ends = [0]
    for number in range(count):
        group = specs[3 * number : 3 * number + 3]
        assert min(spec.first for spec in group) >= ends[-1]
        ends.append(max(spec.first + spec.length for spec in group))
    assert ends[-1] <= pictures_at(item, 16)
    assert all(11 <= index < 11 + frames for spec in specs for index in spec.indices)


@settings(derandomize=True, deadline=None, database=None)
@given(st.integers(1, 200), st.permutations([1, 5, 9, 49]).map(lambda lengths: tuple(lengths[:3])), st.integers(0, 2))
def test_several_lengths_give_the_clips_of_each(frames: int, lengths: tuple[int, ...], most: int) -> None:
    item, sampling = video(frames, 16.0), Sampling(lengths[0], clips=most, other_lengths=lengths[1:])
    fitting = [length for length in lengths if length <= frames]
    if not fitting:
        with pytest.raises(ValueError, match=f"expected {min(lengths)}"):
            clips_of(item, HERE, sampling)
        return
    specs = clips_of(item, HERE, sampling)
    assert len({spec.key for spec in specs}) == len(specs)
    for length in fitting:
        alone = clips_of(item, HERE, Sampling(length, clips=most))
        own = [spec for spec in specs if spec.length == length]
        assert [(spec.variant, spec.length) for spec in own] == [(spec.variant, spec.length) for spec in alone]
        assert all(0 <= spec.first <= frames - length for spec in own)
        if length == lengths[0]:
            assert own == alone, "a cache of this length alone stays as it is"


def test_an_image_is_one_picture_whatever_the_length() -> None:
    for others in ((), (9, 1)):
        (spec,) = clips_of(image(), HERE, Sampling(length=49, variants=1, other_lengths=others))
        assert (spec.length, spec.indices) == (1, [0])


def test_items_that_are_too_short_are_named_and_the_rest_is_planned() -> None:
    short = video(90, 30.0, start=5)
    specs, problems = plan_clips([image(), short, video(91, 30.0)], HERE, Sampling(variants=1))
    assert [spec.length for spec in specs] == [1, 49]
    assert [problem.name for problem in problems] == [f"{HERE / 'a.mp4'} from picture 5"]
    assert "90 frames at 30 fps are 48 at 16 fps; expected 49" in problems[0].reason


# Variants


def test_the_first_variant_and_held_out_items_are_as_they_are() -> None:
    specs, _ = plan_clips([image("heldout"), image(name="b.png")], HERE, Sampling(variants=4))
    assert [(spec.item.split, spec.variant) for spec in specs] == [("heldout", 0)] + [("train", v) for v in range(4)]
    assert all((spec.yaw, spec.mirror) == (0, False) for spec in specs if spec.variant == 0)
    assert all(0 <= spec.yaw < 64 for spec in specs)


def test_variants_are_the_same_twice_and_more_of_them_change_none() -> None:
    item = video(200, 16.0)
    few, many = (clips_of(item, HERE, Sampling(variants=variants)) for variants in (2, 5))
    assert few == [spec for spec in many if spec.variant < 2]


def test_variants_differ_between_items_clips_and_seeds() -> None:
    items = [image(name=f"{number}.png") for number in range(40)]
    specs, _ = plan_clips(items, HERE, Sampling(variants=2))
    turned = [spec for spec in specs if spec.variant]
    assert len({spec.yaw for spec in turned}) > 20
    assert 8 < sum(spec.mirror for spec in turned) < 32
    others, _ = plan_clips(items, HERE, Sampling(variants=2, seed=1))
    assert [spec.key for spec in others] == [spec.key for spec in specs]
    assert sum(a.yaw != b.yaw for a, b in zip(specs, others, strict=True)) > 30
    unmirrored, _ = plan_clips(items, HERE, Sampling(variants=2, mirror=False))
    assert [spec.yaw for spec in unmirrored] == [spec.yaw for spec in specs]
    assert not any(spec.mirror for spec in unmirrored)


@pytest.mark.parametrize("mirror", [False, True])
def test_turning_by_pixels_is_turning_the_sphere(mirror: bool) -> None:
    directions, yaw = erp_directions(HEIGHT, WIDTH), 11
    seen = rotate_yaw(directions, -math.radians(ClipSpec("", image(), "", 0, 1, 16.0, yaw=yaw).yaw_deg))
    if mirror:
        seen = seen * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(turn_erp(smooth(directions), yaw, mirror), smooth(seen), atol=1e-6)


def test_turning_is_exact() -> None:
    erp = noise(3, 32, 64)
    assert torch.equal(turn_erp(turn_erp(erp, 13, False), 51, False), erp)
    assert torch.equal(turn_erp(turn_erp(erp, 13, True), 13, True), erp)


# Maps


def test_a_clips_map_is_the_geometrys_of_the_turned_picture(tmp_path: Path) -> None:
    erp = noise(3, HEIGHT, WIDTH)
    Image.fromarray(erp.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    item = Item(tmp_path / "a.png", 0, 1, 0.0, WIDTH, HEIGHT)
    spec = ClipSpec("key", item, "a.png", 0, 1, 16.0, yaw=9, mirror=True)
    expected = erp_to_viewpoint(erp.flip(-1).roll(9, -1).float() / 255, 64)
    pixels = load_map(spec, 64)
    assert (pixels.shape, pixels.dtype) == ((3, 1, 64, 64), torch.uint8)
    assert float((pixels[:, 0] / 255 - expected.clamp(0, 1)).abs().max()) <= 0.5001 / 255


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_clip_shows_its_own_pictures(kind: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, fps=30) if kind == "video" else write_frames(tmp_path / "a", 40)
    item = Item(path, 4, 30, 30.0, WIDTH, HEIGHT)
    spec = ClipSpec("key", item, "a", 2, 5, 16.0)
    assert numbers_shown(read_frames(path, spec.indices, 30.0)) == spec.indices
    pixels = load_map(spec, 32)
    for number in range(5):
        alone = load_map(ClipSpec("key", item, "a", 2 + number, 1, 16.0), 32)
        assert torch.equal(pixels[:, number : number + 1], alone)


@pytest.mark.parametrize("first", [0, 30])
def test_a_clip_is_decoded_in_one_pass_and_one_panorama_is_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    item = Item(write_video(tmp_path / "a.mp4", 60), 0, 60, 16.0, WIDTH, HEIGHT)  # a key frame every 12 frames
    decoded, drawn, most = [], [], 0
    clean_frames, to_rgb = video_file.clean_frames, video_file.to_rgb

    def counted(*args: Any) -> Iterator[Any]:
        for frame in clean_frames(*args):
            decoded.append(frame.pts)
            yield frame

    def followed(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal most
        picture = to_rgb(*args, **kwargs)
        drawn.append(weakref.ref(picture))
        most = max(most, sum(other() is not None for other in drawn))
        return picture

    monkeypatch.setattr(video_file, "clean_frames", counted)
    monkeypatch.setattr(video_file, "to_rgb", followed)
    pixels = load_map(ClipSpec("key", item, "a.mp4", first, 25, 16.0), 32)
    assert (pixels.shape[1], len(drawn)) == (25, 25)
    assert most <= 2  # the one before is let go once the next is there
    assert len(decoded) <= 1 + 11 + 25 + 1  # the first frame, those since the key frame, the clip, the frame after it


def test_a_picture_that_is_shown_twice_is_twice_in_the_map(tmp_path: Path) -> None:
    item = Item(write_video(tmp_path / "a.mp4", 40, fps=10), 0, 40, 10.0, WIDTH, HEIGHT)
    spec = ClipSpec("key", item, "a.mp4", 20, 9, 16.0)
    assert len(set(spec.indices)) < 9
    alone = {index: load_map(ClipSpec("key", item, "a.mp4", index, 1, 10.0), 32) for index in set(spec.indices)}
    assert torch.equal(load_map(spec, 32), torch.cat([alone[index] for index in spec.indices], dim=1))


def test_a_source_of_another_size_than_the_manifests_is_refused(tmp_path: Path) -> None:
    item = Item(write_image(tmp_path / "a.png"), 0, 1, 0.0, 2 * WIDTH, 2 * HEIGHT)
    with pytest.raises(ValueError, match="is 64 x 32; the manifest says 128 x 64"):
        load_map(ClipSpec("key", item, "a.png", 0, 1, 16.0), 32)


def test_maps_are_drawn_as_the_projections_name_says() -> None:
    """Where these values change, PROJECTION must change too, or caches mix two kinds of maps."""
    viewpoint = draw_map(noise(3, 64, 128), 64)
    picked = viewpoint[:, [5, 20, 40, 60], [50, 31, 33, 11]]
    assert int((picked.int() - torch.tensor(BICUBIC_1)).abs().max()) <= 1
    assert clips.PROJECTION == "bicubic-1"


BICUBIC_1 = [[63, 99, 95, 73], [98, 112, 207, 84], [60, 209, 131, 162]]


# Lossless pixels


@pytest.mark.parametrize("frames", [1, 5])
def test_pixels_survive_the_file_bit_for_bit(frames: int) -> None:
    pixels = noise(3, frames, 64, 64)
    data = map_to_bytes(pixels)
    assert torch.equal(map_from_bytes(data), pixels)
    assert map_to_bytes(pixels) == data


def test_bytes_that_are_no_map_are_refused() -> None:
    data = map_to_bytes(noise(3, 1, 32, 32))
    for wrong in (b"", b"not a video", data[:200]):
        with pytest.raises(ValueError, match="cannot be read"):
            map_from_bytes(wrong)


def test_the_vae_sees_pixels_from_minus_one_to_one() -> None:
    assert map_to_video(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
