"""Camera paths: keyframes, rotations, cuts, and clips placed and rendered along them."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from tests.analytic import smooth
from viewpoint_core import reorient, views
from viewpoint_core.camera import view_directions, view_rotation
from viewpoint_core.camera_path import (
    ANGLES,
    CameraPath,
    Keyframe,
    cut_path,
    hold_path,
    parse_keyframes,
    path_from_keyframes,
    path_from_rotations,
    still_path,
)
from viewpoint_core.map_layout import map_directions
from viewpoint_core.reorient import reorient_erp
from viewpoint_core.rotation import rotation_angle, rotation_from_vector, rotation_vector
from viewpoint_core.sphere import erp_directions
from viewpoint_core.views import place_view, render_view

SHAKE = "0: 0 0 0 90\n2: 170 10 -5 80\n4: -170 -20 15 60\n5: -100 80 0 100"


def typed(text: str, length: int, interpolation: str = "smooth") -> CameraPath:
    return path_from_keyframes(parse_keyframes(text), length, interpolation)


def degrees(rotation: Tensor) -> Tensor:
    return rotation_angle(rotation).rad2deg()


def same_turn(found: Tensor, expected: float) -> bool:
    return abs((float(found) - expected + 180) % 360 - 180) < 1e-9


# Rotations


@pytest.mark.parametrize("angle", [0, 1e-9, 1e-3, 1, 3.0, 3.14159, math.pi - 1e-7, math.pi])
def test_a_rotation_vector_survives_its_matrix(angle: float) -> None:
    axes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = torch.nn.functional.normalize(axes, dim=-1) * angle
    matrices = rotation_from_vector(vectors)
    found = rotation_vector(matrices)
    assert float(rotation_angle(matrices).sub(angle).abs().max()) < 1e-7
    assert float((rotation_from_vector(found) - matrices).abs().max()) < 1e-7
    if angle < 3.14:
        assert float((found - vectors).abs().max()) < 1e-7


def test_angles_survive_rotations() -> None:
    angles = torch.tensor([[0, 0, 0], [170, -80, 33], [-120, 89, -179], [45, -89.9, 5]]).double()
    path = CameraPath(*angles.T, torch.full((4,), 90.0).double())
    back = path_from_rotations(path.rotations(), path.fov_deg)
    for name in ANGLES:
        torch.testing.assert_close(getattr(back, name), getattr(path, name), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pitch_deg", [90, -90])
def test_a_camera_straight_up_or_down_keeps_its_rotation(pitch_deg: float) -> None:
    rotation = view_rotation(30, pitch_deg, 20)[None]
    path = path_from_rotations(rotation, torch.tensor([90.0]))
    assert float(path.roll_deg) == 0
    assert float((path.rotations() - rotation).abs().max()) < 1e-9


def test_a_turned_path_puts_the_zero_camera_where_it_is_told() -> None:
    path = typed(SHAKE, 6).turned(40, 20, -10)
    assert path.camera(0) == pytest.approx({"yaw_deg": 40, "pitch_deg": 20, "roll_deg": -10, "fov_deg": 90})
    relative = typed(SHAKE, 6).rotations()
    assert float((path.rotations() - view_rotation(40, 20, -10) @ relative).abs().max()) < 1e-12
    assert torch.equal(path.fov_deg, typed(SHAKE, 6).fov_deg)
    yaw = typed("0: 10 5 3 90\n5: 60 -5 3 90", 6)
    assert float((yaw.turned(100).yaw_deg - yaw.yaw_deg - 100).abs().max()) < 1e-9


# Keyframes


@pytest.mark.parametrize("interpolation", ["smooth", "linear", "slerp"])
def test_a_path_goes_through_its_keyframes(interpolation: str) -> None:
    path = typed(SHAKE, 8, interpolation)
    for key in parse_keyframes(SHAKE):
        assert same_turn(path.yaw_deg[key.frame], key.yaw_deg)
        found = path.camera(key.frame)
        assert [found[name] for name in ANGLES[1:]] == pytest.approx([key.pitch_deg, key.roll_deg, key.fov_deg])


@pytest.mark.parametrize("interpolation", ["smooth", "linear", "slerp"])
def test_yaw_turns_the_shorter_way_round(interpolation: str) -> None:
    path = typed("0: 170 0 0 90\n10: -170 0 0 90", 11, interpolation)
    turned = degrees(path.rotations()[0].T @ path.rotations())
    assert float(turned.max()) == pytest.approx(20)
    assert same_turn(path.yaw_deg[5], 180)


@pytest.mark.parametrize(("to", "middle"), [(180, 90), (-180, -90), (179, 89.5), (181, -89.5)])
def test_half_a_turn_goes_as_typed(to: float, middle: float) -> None:
    assert float(typed(f"0: 0 0 0 90\n10: {to} 0 0 90", 11).yaw_deg[5]) == pytest.approx(middle)


def test_a_whole_turn_needs_keyframes_between() -> None:
    for name, key in (("yaw", "360 0 0 90"), ("roll", "0 0 360 90")):
        with pytest.raises(ValueError, match=f"{name} goes from 0 to 360 between frames 0 and 48.*0, 120, 240, 360"):
            typed(f"0: 0 0 0 90\n48: {key}", 49)
    path = typed("0: 0 0 0 90\n16: 120 0 0 90\n32: 240 0 0 90\n48: 360 0 0 90", 49, "linear")
    torch.testing.assert_close(path.yaw_deg, torch.linspace(0, 360, 49).double())


@pytest.mark.parametrize(("begin", "end"), [(359.8, 719.8), (152.05, 512.05), (-0.1, -360.1)])
def test_a_whole_turn_in_decimals_is_one_too(begin: float, end: float) -> None:
    with pytest.raises(ValueError, match="a whole turn needs keyframes between"):
        path_from_keyframes(parse_keyframes(f"0: {begin} 0 0 90\n4: {end} 0 0 90"), 5, "linear")


@pytest.mark.parametrize(("begin", "end"), [(332.07, 512.07), (-179.6, -359.6), (332.07, 152.07), (0.1, 180.1)])
def test_half_a_turn_in_decimals_goes_as_typed_too(begin: float, end: float) -> None:
    path = path_from_keyframes(parse_keyframes(f"0: {begin} 0 0 90\n4: {end} 0 0 90"), 5, "linear")
    expected = torch.linspace(begin, end, 5, dtype=torch.float64)
    torch.testing.assert_close(path.yaw_deg, expected, rtol=0, atol=1e-9)


def test_linear_moves_at_constant_speed_and_slerp_turns_at_constant_speed() -> None:
    path = typed("0: 0 -20 10 90\n8: 80 40 -30 50", 9, "linear")
    for name in ANGLES:
        steps = getattr(path, name).diff()
        torch.testing.assert_close(steps, steps[:1].expand(8))
    turning = typed("0: 0 -20 10 90\n8: 80 40 -30 50", 9, "slerp")
    torch.testing.assert_close(turning.fov_deg, path.fov_deg)
    rotations = turning.rotations()
    steps = degrees(rotations[:-1].mT @ rotations[1:])
    torch.testing.assert_close(steps, steps[:1].expand(8))
    assert float(steps.sum()) == pytest.approx(float(degrees(rotations[0].T @ rotations[8])))


def test_smooth_starts_and_stops_gently_and_never_overshoots() -> None:
    path = typed("0: 0 0 0 90\n20: 0 0 0 90\n40: 60 0 0 60\n60: 60 10 0 60", 80)
    assert not bool(path.yaw_deg[:21].any())
    assert float(path.yaw_deg.min()) == 0
    assert float(path.yaw_deg.max()) == pytest.approx(60, abs=1e-12)
    assert bool((path.yaw_deg.diff() >= -1e-9).all())
    assert float(path.yaw_deg[21]) < 1
    assert float(path.yaw_deg.diff().diff().abs().max()) < 1, "the speed jumps"
    assert float((path.pitch_deg[60:] - 10).abs().max()) < 1e-9
    level = typed("0: 0 30 0 90\n20: 120 30 0 90", 21)
    assert float((level.pitch_deg - 30).abs().max()) < 1e-9
    assert not bool(level.roll_deg.any())


def test_smooth_keeps_its_speed_through_keyframes_on_a_line() -> None:
    path = typed("0: 0 0 0 90\n20: 20 0 0 90\n40: 40 0 0 90\n60: 60 0 0 90", 61)
    assert float(path.yaw_deg.diff()[20:40].sub(1).abs().max()) < 1e-9


def test_between_inner_keyframes_smooth_is_the_monotone_cubic_of_fritsch_and_butland() -> None:
    times, yaws = [0, 4, 13, 15, 30], [0, 10, 40, 80, 90]
    path = typed("\n".join(f"{time}: {yaw} 0 0 90" for time, yaw in zip(times, yaws, strict=True)), 31)
    expected = PchipInterpolator(times, yaws)(range(4, 16))
    torch.testing.assert_close(path.yaw_deg[4:16], torch.from_numpy(expected))


def test_slerp_goes_over_the_zenith() -> None:
    path = typed("0: 0 80 0 90\n10: 180 80 0 90", 11, "slerp")
    assert float(path.pitch_deg.min()) > 79
    rotations = path.rotations()
    assert bool(torch.isfinite(rotations).all())


def test_the_camera_stands_still_before_the_first_and_after_the_last_keyframe() -> None:
    for interpolation in ("smooth", "linear", "slerp"):
        path = typed("3: 10 0 0 90\n6: 40 5 0 80", 10, interpolation)
        assert float((path.yaw_deg[:4] - 10).abs().max()) < 1e-9
        assert float((path.yaw_deg[6:] - 40).abs().max()) < 1e-9
    assert len(typed("0: 5 0 0 90", 4, "slerp")) == 4


def test_keyframes_are_read_with_commas_comments_and_blank_lines() -> None:
    text = "# a pan\n\n0: 0, 0, 0, 90\n  12 : -45.5 +10 .5 60  # the door\r\n"
    assert parse_keyframes(text) == [Keyframe(0, 0, 0, 0, 90), Keyframe(12, -45.5, 10, 0.5, 60)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no keyframe was given; expected lines 'frame: yaw pitch roll fov'"),
        ("# nothing", "no keyframe was given"),
        ("0 0 0 0 90", r"line 1 \('0 0 0 0 90'\): no colon"),
        ("0: 0 0 0 90\nx: 0 0 0 90", r"line 2 .*the frame is 'x'; expected a whole number"),
        ("-1: 0 0 0 90", "the frame is '-1'"),
        ("1.5: 0 0 0 90", "the frame is '1.5'"),
        ("0: 0 0 90", "3 numbers after the colon; expected four"),
        ("0: 0 0 0 90 1", "5 numbers after the colon"),
        ("0: 0 a 0 90", "pitch_deg is 'a'; expected a number of degrees"),
        ("0: nan 0 0 90", "yaw_deg is 'nan'"),
        ("0: 1e3 0 0 90", "yaw_deg is '1e3'"),
        ("0: 99999 0 0 90", "at most 3600"),
        ("0: __import__('os') 0 0 90", "yaw_deg is"),
        ("0: 0 0 0 180", r"line 1 .*fov_deg is 180.0.*between 0 and 180"),
        ("5: 0 0 0 90\n5: 1 0 0 90", "frame 5 follows the one at frame 5"),
        ("5: 0 0 0 90\n4: 1 0 0 90", "rising order"),
    ],
)
def test_bad_keyframes_are_refused_by_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_keyframes(text)


def test_bad_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="frame 10 lies beyond the path's last frame, 9; expected a length of 11"):
        typed("10: 0 0 0 90", 10)
    with pytest.raises(ValueError, match="length is 0"):
        typed("0: 0 0 0 90", 0)
    with pytest.raises(ValueError, match="interpolation is 'cubic'"):
        typed("0: 0 0 0 90", 5, "cubic")
    nothing = torch.zeros(3).double()
    for fovs in ([0, 0, 0], [90, 0, 60], [90, 180, 60]):
        with pytest.raises(ValueError, match="between 0 and 180"):
            CameraPath(nothing, nothing, nothing, torch.tensor(fovs).double())
    with pytest.raises(ValueError, match="once per frame"):
        CameraPath(*[nothing[:, None] + 90] * 4)
    with pytest.raises(ValueError, match="no keyframe was given"):
        path_from_keyframes([], 5)
    with pytest.raises(ValueError, match="once per frame"):
        CameraPath(nothing, nothing, nothing, nothing[:2] + 90)
    with pytest.raises(ValueError, match="yaw_deg .*not finite"):
        CameraPath(nothing / 0, nothing, nothing, nothing + 90)
    with pytest.raises(ValueError, match="confidence"):
        CameraPath(nothing, nothing, nothing, nothing + 90, confidence=torch.ones(2))


# Length


def test_a_path_is_cut_and_held_only_when_asked() -> None:
    path = typed(SHAKE, 6)
    part = cut_path(path, 2, 3)
    assert torch.equal(part.yaw_deg, path.yaw_deg[2:5])
    held = hold_path(part, 5)
    assert torch.equal(held.yaw_deg, path.yaw_deg[[2, 3, 4, 4, 4]])
    assert torch.equal(cut_path(path, 2, 4).yaw_deg, path.yaw_deg[2:])
    sure = replace(path, confidence=torch.arange(6) / 6)
    assert torch.equal(hold_path(cut_path(sure, 2, 3), 5).confidence, sure.confidence[[2, 3, 4, 4, 4]])
    assert torch.equal(sure.turned(10).confidence, sure.confidence)
    for start, length in ((0, 7), (4, 3), (-1, 2)):
        with pytest.raises(ValueError, match="of a camera path of 6 frames"):
            cut_path(path, start, length)
    with pytest.raises(ValueError, match="at least one frame"):
        cut_path(path, 0, 0)
    with pytest.raises(ValueError, match="cannot be held to 5 frames; cut it"):
        hold_path(path, 5)


# Views along a path


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(40, 40), (36, 64), (300, 200)])
def test_a_path_places_each_frame_as_its_camera_alone_would(size: tuple[int, int], interpolation: str) -> None:
    clip = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(1))
    path = typed(SHAKE, 6)
    maps, masks = place_view(clip, 96, path=path, interpolation=interpolation, fill=0.25)
    assert maps.shape == (6, 3, 96, 96)
    assert masks.shape == (6, 96, 96)
    for frame in range(6):
        one, mask = place_view(clip[frame], 96, **path.camera(frame), interpolation=interpolation, fill=0.25)
        assert torch.equal(masks[frame], mask)
        assert torch.equal(maps[frame], one)


def test_a_path_renders_each_frame_as_its_camera_alone_would() -> None:
    video = torch.rand(6, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    path = typed(SHAKE, 6)
    views = render_view(video, 24, 32, path=path)
    still = render_view(video[:1], 24, 32, path=path)
    for frame in range(6):
        assert torch.equal(views[frame], render_view(video[frame], 24, 32, **path.camera(frame)))
        assert torch.equal(still[frame], render_view(video[0], 24, 32, **path.camera(frame)))


def test_a_path_leaves_the_cached_grids_of_still_cameras_alone() -> None:
    video = torch.rand(1, 3, 64, 128)
    render_view(video, 24, 32, yaw_deg=3.25)
    before = list(views.erp_view_grid.results)
    render_view(video, 24, 32, path=typed(SHAKE, 6))
    place_view(torch.rand(6, 3, 24, 32), 64, path=typed(SHAKE, 6))
    assert list(views.erp_view_grid.results) == before


def test_each_frame_of_a_path_is_told() -> None:
    told: list[int] = []
    place_view(torch.rand(6, 3, 24, 32), 64, path=typed(SHAKE, 6), on_frame=lambda: told.append(1))
    assert len(told) == 6
    render_view(torch.rand(1, 3, 64, 128), 24, 32, path=typed(SHAKE, 7), on_frame=lambda: told.append(1))
    assert len(told) == 13


@pytest.mark.parametrize("work", ["place", "reorient"])
def test_a_camera_that_stands_still_for_a_while_is_located_once(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = (views, "locate_pixels") if work == "place" else (reorient, "rotation_grid")
    located: list[int] = []
    locate = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (located.append(1), locate(*a, **k))[1])
    path = hold_path(typed(SHAKE, 6), 9)
    clip = torch.rand(9, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    made = place_view(clip, 64, path=path)[0] if work == "place" else reorient_erp(clip, path=path)
    assert len(located) == 6
    for frame, picture, result in zip(range(9), clip, made, strict=True):
        camera = path.camera(frame)
        if work == "place":
            assert torch.equal(result, place_view(picture, 64, **camera)[0])
        else:
            del camera["fov_deg"]
            torch.testing.assert_close(result, reorient_erp(picture, **camera), rtol=0, atol=1e-4)


def test_a_path_that_stands_still_makes_its_grid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    views.erp_view_grid.clear()
    made: list[int] = []
    rays = views.view_directions
    monkeypatch.setattr(views, "view_directions", lambda *a, **k: (made.append(1), rays(*a, **k))[1])
    render_view(torch.rand(1, 3, 64, 128), 24, 32, path=still_path(5, yaw_deg=3.5))
    assert made == [1]


def test_a_moving_camera_shows_the_still_world_still() -> None:
    path = typed(SHAKE, 6).turned(25, -10, 5)
    clip = torch.stack([smooth(view_directions(64, 96, **path.camera(frame))) for frame in range(6)])
    maps, masks = place_view(clip, 128, path=typed(SHAKE, 6), yaw_deg=25, pitch_deg=-10, roll_deg=5)
    expected = smooth(map_directions(128))
    for placed, mask in zip(maps, masks, strict=True):
        assert float((placed - expected)[:, mask == 1].abs().max()) < 2e-2
    views = render_view(smooth(erp_directions(128, 256))[None], 64, 96, path=path)
    assert float((views - clip).abs().max()) < 4e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_path_keeps_the_dtype(dtype: torch.dtype) -> None:
    clip = torch.rand(2, 3, 16, 16).to(dtype)
    maps, masks = place_view(clip, 64, path=still_path(2))
    views = render_view(torch.rand(2, 3, 32, 64).to(dtype), 8, 8, path=still_path(2))
    assert maps.dtype == masks.dtype == views.dtype == dtype


def test_a_path_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="camera path has 5 frames and view has 4.*cut the path, or hold"):
        place_view(torch.zeros(4, 3, 8, 8), 64, path=still_path(5))
    with pytest.raises(ValueError, match="camera path has 5 frames and erp has 4"):
        render_view(torch.zeros(4, 3, 8, 16), 8, 8, path=still_path(5))
    with pytest.raises(ValueError, match=r"expected frames \(T, C, H, W\)"):
        place_view(torch.zeros(3, 8, 8), 64, path=still_path(3))
