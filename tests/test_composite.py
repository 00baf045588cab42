"""The sharp clip over the generated panorama."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.analytic import smooth
from viewpoint_core import composite
from viewpoint_core.camera import direction_to_view, view_directions
from viewpoint_core.camera_path import CameraPath, still_path
from viewpoint_core.composite import COLOUR_MATCHES, composite_view, rectangles_near
from viewpoint_core.sphere import erp_area, erp_directions
from viewpoint_core.views import render_view

CAMERAS = [
    {},
    {"yaw_deg": 180.0, "roll_deg": 10.0, "fov_deg": 70.0},
    {"yaw_deg": 170.0, "pitch_deg": 75.0, "fov_deg": 80.0},
    {"pitch_deg": -90.0, "fov_deg": 60.0},
]


def unit(direction: Tensor) -> Tensor:
    return direction / direction.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("colour_match", COLOUR_MATCHES)
def test_the_same_world_laid_over_itself_changes_nothing(camera: dict[str, float], colour_match: str) -> None:
    erp = smooth(erp_directions(128, 256))[None]
    view = smooth(view_directions(90, 120, **camera))[None]
    out, weight = composite_view(erp, view, **camera, feather_deg=4, colour_match=colour_match)
    assert float((out - erp).abs().max()) < 5e-3
    assert float(weight.max()) == 1
    assert float(weight.min()) == 0


@pytest.mark.parametrize("colour_match", COLOUR_MATCHES)
def test_constants_stay_constant(colour_match: str) -> None:
    erp, view = torch.full((1, 3, 64, 128), 0.4), torch.full((1, 3, 48, 64), 0.4)
    out, _ = composite_view(erp, view, yaw_deg=180, colour_match=colour_match)
    assert float((out - 0.4).abs().max()) < 1e-6
    out, weight = composite_view(erp, view + 0.2, yaw_deg=180, colour_match=colour_match)
    expected = {"panorama to clip": torch.tensor(0.6), "clip to panorama": torch.tensor(0.4), "off": 0.4 + 0.2 * weight}
    assert float((out - expected[colour_match]).abs().max()) < 1e-5


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_clip_is_kept_inside_and_fades_over_the_feather(camera: dict[str, float]) -> None:
    out, weight = composite_view(
        torch.zeros(1, 1, 128, 256), torch.ones(1, 1, 90, 120), **camera, feather_deg=8, colour_match="off"
    )
    assert torch.allclose(out[:, 0], weight, atol=1e-5)
    direction = unit(erp_directions(128, 256))
    full = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0} | camera
    seen = direction_to_view(direction, 90, 120, **full)[2]
    outside = direction[~seen]
    for row, column in seen.nonzero()[::211].tolist():
        nearest = float((direction[row, column] - outside).norm(dim=-1).min())
        inside = math.degrees(2 * math.asin(nearest / 2))
        value = float(weight[0, row, column])
        low, high = ((max(0.0, min(1.0, (inside + off) / 8))) for off in (-1.7, 0.3))  # a pixel is 1.4 degrees
        assert low * low * (3 - 2 * low) - 1e-3 <= value <= high * high * (3 - 2 * high) + 1e-3
    assert not bool(weight[0][~seen].max() > 0.05)


def sheared(image: Tensor) -> Tensor:
    """The picture in other colours."""
    return image * torch.tensor([0.7, 0.9, 1.1])[:, None, None] + torch.tensor([0.2, 0.0, -0.05])[:, None, None]


def test_the_contrast_is_at_most_doubled_or_halved_and_a_flat_picture_keeps_its_own() -> None:
    ramp = torch.linspace(0, 1, 9)[:, None]
    for source, target, gain in ((ramp, 0.1 * ramp, 0.5), (0.1 * ramp, ramp, 2.0), (0 * ramp, ramp, 1.0)):
        match = composite.match_colours(source, target, torch.ones(9))
        assert float(match.gain) == gain
        assert float(match.apply(source.T[..., None]).mean()) == pytest.approx(float(target.mean()), abs=1e-6)


@pytest.mark.parametrize("pitch_deg", [0.0, 50.0, 90.0])
def test_colours_count_by_solid_angle(pitch_deg: float) -> None:
    erp, view = torch.rand(1, 3, 128, 256), torch.rand(1, 3, 96, 96)
    cameras = composite.cameras_and_frames(still_path(1, pitch_deg=pitch_deg))
    _, _, weight = composite.overlap_colours(erp, view, cameras)
    assert float(weight.sum() / erp_area(128, 256).sum()) == pytest.approx(1 / 6, rel=0.04)  # 90 x 90 degrees


def test_colours_of_a_camera_that_stands_still_count_once_a_frame() -> None:
    erp, view = torch.rand(5, 3, 64, 128), torch.rand(5, 3, 48, 48)
    stays = still_path(5)
    leaves = replace(stays, yaw_deg=torch.tensor([0.0, 0, 0, 0, 180]).to(stays.yaw_deg))
    shares = []
    for path in (stays, leaves):
        weights = composite.overlap_colours(erp, view, composite.cameras_and_frames(path))[2]
        shares.append(float(weights.sum()))
    assert shares[0] == pytest.approx(shares[1], rel=0.02)


@pytest.mark.parametrize("colour_match", COLOUR_MATCHES[:2])
def test_colours_are_matched_once_for_the_whole_clip(colour_match: str) -> None:
    world = smooth(erp_directions(128, 256)).expand(3, -1, -1, -1)
    path = CameraPath(*(torch.tensor(v).double() for v in ([150, 170, 190], [0, 10, 20], [0] * 3, [80] * 3)))
    clip = render_view(world, 90, 120, path=path)
    out, weight = composite_view(sheared(world), clip, path=path, colour_match=colour_match)
    expected = world if colour_match == "panorama to clip" else sheared(world)
    assert float((out - expected).abs().max()) < 1.5e-2
    plain, _ = composite_view(sheared(world), clip, path=path, colour_match="off")
    assert float((plain - expected).abs().max()) > 0.1
    assert bool((weight.flatten(1).amax(1) == 1).all())


def test_angles_turn_the_path_of_a_composite_and_each_frame_is_one_of_its_own() -> None:
    path = CameraPath(*(torch.tensor(v).double() for v in ([0, 40], [0, 10], [0, 20], [80, 60])))
    erp, clip = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0)), torch.rand(2, 3, 48, 48)
    options = {"colour_match": "off", "feather_deg": 2}
    out, weight = composite_view(erp, clip, path=path, yaw_deg=100, **options)
    for frame, camera in enumerate(({"yaw_deg": 100, "fov_deg": 80}, path.camera(1) | {"yaw_deg": 140})):
        one = slice(frame, frame + 1)
        single, own = composite_view(erp[one], clip[one], **camera, **options)
        assert float((out[one] - single).abs().max()) < 1e-5
        assert float((weight[one] - own).abs().max()) < 1e-5


@pytest.mark.parametrize("photos", [1, 2])
@pytest.mark.parametrize("colour_match", COLOUR_MATCHES)
def test_what_is_shorter_than_the_panorama_stays_with_its_last_camera(photos: int, colour_match: str) -> None:
    numbers = torch.Generator().manual_seed(0)
    erp, clip = torch.rand(4, 3, 64, 128, generator=numbers), torch.rand(photos, 3, 48, 48, generator=numbers)
    path = CameraPath(*(torch.tensor(v[:photos]).double() for v in ([10, 40], [0, 10], [0, 20], [80, 60])))
    out = composite_view(erp, clip, path=path, yaw_deg=5, colour_match=colour_match)
    held = torch.arange(4).clamp(max=photos - 1)
    whole = composite_view(erp, clip[held], path=path.frames(held), yaw_deg=5, colour_match=colour_match)
    assert all(torch.equal(*pair) for pair in zip(out, whole, strict=True))


def test_without_holding_the_frames_after_the_clip_stay_as_they_were_generated() -> None:
    erp, clip = torch.rand(4, 3, 64, 128), torch.rand(2, 3, 48, 48)
    told: list[int] = []
    options = {"hold_last": False, "on_frame": lambda: told.append(1), "colour_match": "off"}
    out, weight = composite_view(erp, clip, **options)
    assert torch.equal(out[2:], erp[2:])
    assert float(weight[2:].max()) == 0
    assert float(weight[:2].amin(0).max()) == 1
    assert len(told) == 4
    changed, _ = composite_view(sheared(erp), clip, hold_last=False)
    assert not torch.equal(changed[3], sheared(erp)[3])  # colours are matched alike in all frames


@pytest.mark.parametrize("colour_match", COLOUR_MATCHES)
@pytest.mark.parametrize("hold_last", [True, False])
@pytest.mark.parametrize("turning", [True, False])
def test_frame_by_frame_is_as_all_at_once(turning: bool, hold_last: bool, colour_match: str) -> None:
    numbers = torch.Generator().manual_seed(0)
    erp, clip = torch.rand(4, 3, 64, 128, generator=numbers), torch.rand(3, 3, 48, 48, generator=numbers)
    angles = ([0, 40, 40], [0, 10, 10], [0, 20, 20], [80, 60, 60])
    path = CameraPath(*(torch.tensor(v).double() for v in angles)) if turning else None
    how = {"path": path, "yaw_deg": 20, "hold_last": hold_last, "colour_match": colour_match}
    whole, _ = composite_view(erp, clip, **how)
    frames = composite.overlaid_frames((frame.clone() for frame in erp), composite.plan_overlay(erp, clip, **how))
    for frame, expected in zip(frames, whole, strict=True):
        assert torch.equal(frame, expected)


def test_a_path_that_stands_still_is_as_quick_as_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    bands = composite.view_bands

    def counted(view: Tensor, height: int, camera: dict[str, float], *how: Any) -> Iterator[composite.Band]:
        asked.append(camera["yaw_deg"])
        return bands(view, height, camera, *how)

    monkeypatch.setattr(composite, "view_bands", counted)
    composite_view(torch.rand(4, 3, 64, 128), torch.rand(4, 3, 48, 48), path=still_path(4), colour_match="off")
    assert asked == [0]
    overlay = composite.plan_overlay(torch.rand(4, 3, 64, 128), torch.rand(1, 3, 48, 48), colour_match="off")
    assert len(list(composite.overlaid_frames(torch.rand(4, 3, 64, 128), overlay))) == 4
    assert asked == [0, 0]


def test_a_sharp_clip_stays_sharp() -> None:
    erp = torch.full((1, 1, 256, 512), 0.5)
    lines = ((torch.arange(180) // 8) % 2).float().expand(1, 1, 135, 180)
    out, weight = composite_view(erp, lines, fov_deg=90, colour_match="off")
    inside = out[0, 0][weight[0] == 1]
    assert float((inside < 0.05).float().mean()) > 0.2
    assert float((inside > 0.95).float().mean()) > 0.2


@pytest.mark.parametrize(
    ("colour_match", "words"),
    [("off", "covers no pixel of a panorama 64 wide"), ("clip to panorama", "too small to match")],
)
def test_a_view_too_small_for_any_pixel_is_refused(colour_match: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"a view of 0.05 degrees .*{words}"):
        composite_view(
            torch.zeros(2, 3, 32, 64), torch.zeros(2, 3, 16, 16), fov_deg=0.05, feather_deg=0, colour_match=colour_match
        )


def test_each_camera_of_a_path_must_show_enough_to_match_colours_by() -> None:
    nothing = torch.zeros(2).double()
    path = CameraPath(nothing, nothing, nothing, torch.tensor([90, 0.0625]).double())
    with pytest.raises(ValueError, match="a view of 0.0625 degrees is too small to match"):
        composite_view(torch.zeros(2, 3, 32, 64), torch.zeros(2, 3, 16, 16), path=path, feather_deg=0)


def test_bad_composites_are_refused_in_plain_words() -> None:
    erp, view = torch.zeros(2, 3, 32, 64), torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match="panorama has 1 frames .* and the clip 2 .*expected at most as many"):
        composite_view(erp[:1], view)
    with pytest.raises(ValueError, match="feather_deg is 46, but .* spans 45.0 degrees"):
        composite_view(erp, view, feather_deg=46)
    with pytest.raises(ValueError, match="feather_deg is 30, but .* spans 26.6 degrees"):
        composite_view(erp, torch.zeros(2, 3, 8, 16), feather_deg=30)
    with pytest.raises(ValueError, match="and the same channels"):
        composite_view(erp, torch.zeros(2, 4, 16, 16))
    with pytest.raises(ValueError, match="feather_deg is -1"):
        composite_view(erp, view, feather_deg=-1)
    with pytest.raises(ValueError, match="colour_match is 'auto'"):
        composite_view(erp, view, colour_match="auto")
    with pytest.raises(ValueError, match="camera path has 3 frames and view has 2"):
        composite_view(erp, view, path=still_path(3))
    with pytest.raises(ValueError, match="2:1"):
        composite_view(torch.zeros(2, 3, 32, 48), view)


@pytest.mark.parametrize("camera", [*CAMERAS, {"yaw_deg": 350.0, "pitch_deg": 40.0, "roll_deg": 45.0, "fov_deg": 30.0}])
@pytest.mark.parametrize("size", [(9, 30), (700, 500)])
def test_the_part_of_a_panorama_that_is_worked_on_holds_all_that_a_view_sees(
    camera: dict[str, float], size: tuple[int, int]
) -> None:
    full = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0} | camera
    seen = direction_to_view(erp_directions(64, 128), *size, **full)[2]
    looked_at = torch.zeros_like(seen)
    for rows, columns in rectangles_near(64, *size, full):
        assert not bool(looked_at[rows, columns].any())
        looked_at[rows, columns] = True
    assert bool(seen.any())
    assert not bool((seen & ~looked_at).any())
    if "pitch_deg" not in camera:
        assert float(looked_at.float().mean()) < 0.5


def test_every_frame_is_told_and_the_result_lies_as_an_image() -> None:
    told: list[int] = []
    erp, clip = torch.rand(3, 3, 32, 64), torch.rand(3, 3, 16, 16)
    for path in (None, still_path(3)):
        told.clear()
        out, _ = composite_view(erp, clip, path=path, on_frame=lambda: told.append(1))
        assert len(told) == 3
        assert out.movedim(1, -1).is_contiguous()


def test_labels_are_not_mixed_by_nearest_without_a_feather() -> None:
    view = torch.randint(0, 2, (1, 3, 200, 200), generator=torch.Generator().manual_seed(0)).float()
    how = {"fov_deg": 60.0, "feather_deg": 0.0, "colour_match": "off", "interpolation": "nearest"}
    laid, weight = composite_view(torch.zeros(1, 3, 64, 128), view, **how)
    assert sorted(laid.unique().tolist()) == sorted(weight.unique().tolist()) == [0, 1]
