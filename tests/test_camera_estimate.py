"""Estimated camera paths against the paths that clips of the sample panorama were taken on."""

import math
import sys
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.camera_clips import panorama, shaken, taken, typed, worst_angle
from viewpoint_core import camera_estimate, clip_matches
from viewpoint_core.camera import focal_length
from viewpoint_core.camera_estimate import MAX_FRAMES, MIN_CONFIDENCE, drifts, estimate_camera, summarise
from viewpoint_core.camera_path import CameraPath, cut_path, still_path
from viewpoint_core.clip_matches import Clip
from viewpoint_core.feature_matches import Matches
from viewpoint_core.rotation import rotation_from_vector, rotation_vector
from viewpoint_core.rotation_fit import Cameras, Fit, PairFit, Points, fit_all, linearise, parameters, rays, stepped
from viewpoint_core.views import place_view

LENGTH, FOV = 17, 75
MAP = 736
PATHS = {
    "pan": "0: -20 0 0 75\n16: 25 0 0 75",
    "tilt": "0: 20 -15 0 75\n16: 25 20 0 75",
    "roll": "0: 60 0 -20 75\n16: 60 5 30 75",
    "shake": "0: 100 5 0 75",
    "zoom": "0: 40 0 0 80\n16: 50 5 0 50",
}


@pytest.fixture(scope="module")
def erp() -> Tensor:
    return panorama()


def path_of(kind: str, length: int = LENGTH) -> CameraPath:
    return shaken(typed(PATHS[kind], length), 0.7, seed=list(PATHS).index(kind))


@cache
def clip_of(kind: str) -> Tensor:
    """The clip that is taken on such a path; only to be read."""
    return taken(panorama(), path_of(kind))


@pytest.mark.parametrize("kind", PATHS)
def test_rotation_is_found_within_a_degree(kind: str) -> None:
    path = path_of(kind)
    zoom = kind == "zoom"
    found = estimate_camera(clip_of(kind), float(path.fov_deg[0]), zoom=zoom)
    assert worst_angle(found.path, path) < 0.5
    assert worst_angle(still_path(LENGTH), path) > 1.5, "the camera did not move"
    assert float((found.path.fov_deg - path.fov_deg).abs().max()) < 0.5
    start = {"yaw_deg": 0, "pitch_deg": 0, "roll_deg": 0, "fov_deg": float(path.fov_deg[0])}
    assert found.path.camera(0) == pytest.approx(start)
    assert found.lowest_confidence() > 0.6
    assert found.unsure == {}
    assert not found.drift_deg > 1  # nan where no far frames show the same


@pytest.mark.parametrize("kind", ["pan", "roll", "zoom"])
def test_the_field_of_view_is_found_too(kind: str) -> None:
    path = path_of(kind)
    found = estimate_camera(clip_of(kind), None, zoom=kind == "zoom")
    assert worst_angle(found.path, path) < 1
    assert float((found.path.fov_deg - path.fov_deg).abs().max()) < 1.5
    assert "field of view" in found.report()


def test_a_whole_turn_closes(erp: Tensor) -> None:
    path = typed("0: 0 0 0 90\n10: 120 5 0 90\n20: 240 -5 0 90\n30: 360 0 0 90", 31)
    found = estimate_camera(taken(erp, path, shutter=0), 90)
    assert worst_angle(found.path, path) < 1
    assert worst_angle(cut_path(found.path, 30, 1), cut_path(found.path, 0, 1)) < 0.3


def test_the_reference_frame_is_zero() -> None:
    path = path_of("pan")
    found = estimate_camera(clip_of("pan"), FOV, reference=6)
    assert worst_angle(cut_path(found.path, 6, 1), still_path(1)) < 1e-6
    assert worst_angle(found.path, path, reference=6) < 0.5


def test_what_moves_in_the_picture_does_not_turn_the_camera(erp: Tensor) -> None:
    path = path_of("shake")
    clip = clip_of("shake").clone()
    other = taken(erp, typed("0: 200 0 0 40\n16: 260 10 0 40", LENGTH))
    clip[:, :, 60:200, 40:160] = other[:, :, 60:200, 40:160]  # a quarter of the picture goes its own way
    found = estimate_camera(clip, FOV)
    assert worst_angle(found.path, path) < 0.5
    assert found.lowest_confidence() > 0.4


def placed_tracks(clip: Tensor, path: CameraPath) -> Tensor:
    """How far points of the first placed frame have moved in the later ones, pixels (n, 2) at a map of 736."""
    maps, masks = place_view(clip, MAP, path=path)
    pictures = (maps.mean(1) * 255).byte().numpy()
    inside = [cv2.erode((mask == 1).byte().numpy(), np.ones((25, 25), np.uint8)) for mask in masks]
    moved = []
    for picture, both in zip(pictures[1:], inside[1:], strict=True):
        points = cv2.goodFeaturesToTrack(pictures[0], 200, 0.02, 6, mask=inside[0] & both)
        there, found, _ = cv2.calcOpticalFlowPyrLK(pictures[0], picture, points, None, winSize=(15, 15))
        back, again, _ = cv2.calcOpticalFlowPyrLK(picture, pictures[0], there, None, winSize=(15, 15))
        sure = (found & again).ravel().astype(bool) & (np.abs(back - points).max(axis=(1, 2)) < 0.5)
        assert sure.sum() > 25
        moved.append(torch.from_numpy((there - points)[sure, 0]))
    return torch.cat(moved)


def rms(moved: Tensor) -> float:
    return float(moved.square().sum(1).mean().sqrt())


def test_a_handheld_clip_shows_the_still_world_still(erp: Tensor) -> None:
    path = shaken(still_path(LENGTH, yaw_deg=30, pitch_deg=5, fov_deg=FOV), 1.2, seed=5)
    clip = taken(erp, path, height=360, width=480)
    found = estimate_camera(clip, FOV)
    some = torch.arange(0, LENGTH, 3)
    assert rms(placed_tracks(clip[some], found.path.frames(some))) < 0.6
    assert rms(placed_tracks(clip[some], still_path(len(some), fov_deg=FOV))) > 3, "the clip was still before"


# When it cannot tell


def cut_clip(erp: Tensor) -> Tensor:
    """Eight frames, the last three of which show what lies behind."""
    front = taken(erp, shaken(still_path(5, yaw_deg=30, fov_deg=60), 0.5))
    return torch.cat([front, taken(erp, shaken(still_path(3, yaw_deg=210, fov_deg=60), 0.5))])


def test_flat_clips_are_refused() -> None:
    noise = 0.02 * torch.randn(5, 3, 120, 160, generator=torch.Generator().manual_seed(0))
    for clip in (torch.full((5, 3, 120, 160), 0.4), (0.5 + noise).clamp(0, 1)):
        with pytest.raises(ValueError, match="cannot be told. frame"):
            estimate_camera(clip, 75)


def test_a_scene_cut_is_refused_by_its_frames(erp: Tensor) -> None:
    with pytest.raises(ValueError, match="frames 5 to 7: not tied to the reference frame .*scene cut"):
        estimate_camera(cut_clip(erp), 60)


def test_hardly_any_overlap_is_refused(erp: Tensor) -> None:
    path = CameraPath(*(torch.tensor(v).double() for v in ([0, 58, 116], [0] * 3, [0] * 3, [60] * 3)))
    with pytest.raises(ValueError, match="hardly any overlap"):
        estimate_camera(taken(erp, path), 60)


def test_held_frames_have_no_confidence_and_a_reason(erp: Tensor) -> None:
    found = estimate_camera(cut_clip(erp), 60, when_unsure="hold")
    confidence = found.path.confidence
    assert confidence is not None
    assert not bool(confidence[5:].any())
    assert bool((confidence[:5] > 0.5).all())
    for frame in (5, 6, 7):
        assert found.path.camera(frame) == pytest.approx(found.path.camera(4))
    assert "cannot tell: frames 5 to 7: not tied" in found.report()
    still = estimate_camera(torch.full((4, 3, 64, 96), 0.4), 60, when_unsure="hold")
    assert worst_angle(still.path, still_path(4)) < 1e-6
    assert still.lowest_confidence() == 0


def test_a_lost_frame_is_held_between_its_neighbours(erp: Tensor) -> None:
    path = typed("0: 0 0 0 75\n6: 24 0 0 75", 7)
    clip = taken(erp, path)
    clip[3] = 0.5
    found = estimate_camera(clip, 75, when_unsure="hold")
    assert list(found.unsure) == [3]
    assert "too little to follow" in found.unsure[3]
    assert worst_angle(found.path, path) < 1


def test_a_contradicted_path_is_refused_or_held_with_little_confidence(
    erp: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = taken(erp, typed("0: 0 0 0 75\n4: 12 0 0 75", 5))
    assert "contradict" not in estimate_camera(clip, 75, when_unsure="hold").report()
    monkeypatch.setattr(camera_estimate, "drifts", lambda *_: (3.0, 1.0, 0.25))
    with pytest.raises(ValueError, match="25% of the links between frames far apart contradict"):
        estimate_camera(clip, 75)
    found = estimate_camera(clip, 75, when_unsure="hold")
    assert "25% of the links between frames far apart contradict the path, by up to 3.0 degrees" in found.report()
    assert found.path.confidence is not None
    assert float(found.path.confidence.max()) < MIN_CONFIDENCE


def test_cameras_that_far_matches_contradict_are_found_and_refused(erp: Tensor) -> None:
    """Real matches of twelve frames, and the true cameras, of which the last six are turned by five degrees."""
    path = typed("0: 0 0 0 75\n11: 16 4 0 75", 12)
    clip, everywhere = Clip.of(taken(erp, path), lambda: None), torch.ones(12, dtype=torch.bool)
    true = Cameras(path.rotations(), torch.full((12,), math.log(focal_length(clip.size[1], 75))).double())
    drift, chained, contradicted = drifts(clip, true, everywhere)
    assert drift < 0.5
    assert chained < 0.5
    assert contradicted == 0
    turned = torch.cat([true.rotation[:6], still_path(6, yaw_deg=5).rotations() @ true.rotation[6:]])
    wrong = Cameras(turned, true.log_focal)
    drift, chained, contradicted = drifts(clip, wrong, everywhere)
    assert drift == pytest.approx(5, abs=0.5)
    assert chained == pytest.approx(5, abs=0.5)
    assert contradicted == 1  # each of the far links leads from the first half to the second
    fit = Fit(wrong, torch.full((12, 4), -1), torch.zeros(0, 0, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"100% of the links between frames far apart contradict it, by up to \d\.\d"):
        summarise(clip, fit, everywhere, clip.size[1], 0, "fixed", "stop")


def test_the_field_of_view_of_a_still_camera_cannot_be_told(erp: Tensor) -> None:
    clip = taken(erp, still_path(5, yaw_deg=30, fov_deg=75))
    with pytest.raises(ValueError, match="field of view cannot be told.*Give fov_deg"):
        estimate_camera(clip)
    found = estimate_camera(clip, 75)
    assert worst_angle(found.path, still_path(5)) < 0.1
    assert found.lowest_confidence() > 0.6


def test_where_no_frames_match_the_field_of_view_cannot_be_told_either() -> None:
    clip = torch.full((5, 3, 120, 160), 0.4)
    with pytest.raises(ValueError, match="field of view cannot be told: no frame could be tied to the reference"):
        estimate_camera(clip, when_unsure="hold")
    assert estimate_camera(clip, 75, when_unsure="hold").lowest_confidence() == 0


def test_other_bad_input_is_refused() -> None:
    clip = torch.zeros(4, 3, 32, 32)
    with pytest.raises(ValueError, match="the clip has 1 frame"):
        estimate_camera(clip[:1], 75)
    with pytest.raises(ValueError, match=f"the clip has {MAX_FRAMES + 1} frames; .*cut the clip"):
        estimate_camera(torch.zeros(MAX_FRAMES + 1, 3, 8, 8), 75)
    with pytest.raises(ValueError, match="between 0 and 180"):
        estimate_camera(clip, 180)
    with pytest.raises(ValueError, match="reference frame is 4; expected 0 to 3"):
        estimate_camera(clip, 75, reference=4)
    with pytest.raises(ValueError, match="when_unsure is 'guess'"):
        estimate_camera(clip, 75, when_unsure="guess")
    with pytest.raises(ValueError, match="expected RGB frames"):
        estimate_camera(clip[:, :1], 75)


def test_the_fit_can_be_stopped_after_all_frames_are_told(erp: Tensor) -> None:
    told: list[str] = []

    def stop() -> None:
        told.append("step")
        if len(told) == 12:
            raise KeyboardInterrupt

    clip = taken(erp, shaken(still_path(4, fov_deg=75), 1), shutter=0)
    with pytest.raises(KeyboardInterrupt):
        estimate_camera(clip, 75, on_frame=lambda: told.append("frame"), on_step=stop)
    assert told == ["frame"] * 4 + ["step"] * 8


def test_without_opencv_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RuntimeError, match=r"does not load \(.*cv2.*pip install opencv-python"):
        estimate_camera(torch.zeros(4, 3, 32, 32), 75)


# The fit


def noisy_turn(seed: int) -> tuple[Matches, Tensor, float]:
    """Matches of two pictures with noise in both, the rotation between them, and their focal length in pixels."""
    generator, focal = torch.Generator().manual_seed(seed), 300.0
    turn = rotation_from_vector(torch.tensor([0.02, 0.1, -0.03], dtype=torch.float64))
    at_j = (torch.rand(60, 2, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([300.0, 200.0])
    ray = rays(at_j, focal) @ turn.T
    at_i = ray[:, :2] / ray[:, 2:] * focal
    noise = 0.3 * torch.randn(2, 60, 2, generator=generator, dtype=torch.float64)
    return Matches(0, 1, at_i + noise[0], at_j + noise[1]), turn, focal


def test_no_pair_of_frames_is_fitted_twice_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    fit = clip_matches.fit_pair

    def fit_and_tell(matches: Matches, *focals: float, zoom: bool = False) -> PairFit:
        asked.append((matches.i, matches.j, *focals, zoom))
        return fit(matches, *focals, zoom=zoom)

    monkeypatch.setattr(clip_matches, "fit_pair", fit_and_tell)
    estimate_camera(clip_of("pan"), FOV)
    assert len(asked) == len(set(asked)) > LENGTH


def test_errors_of_a_fit_are_as_large_as_its_deviations_say() -> None:
    errors = []
    for seed in range(40):
        matches, turn, focal = noisy_turn(seed)
        start = Cameras(torch.eye(3, dtype=torch.float64).expand(2, 3, 3), torch.full((2,), math.log(focal)).double())
        fit = fit_all([matches], start, 0, "fixed", 1000)
        deviation = torch.stack([fit.deviation(axis)[1] for axis in range(3)])
        errors.append(rotation_vector(turn.T @ fit.cameras.rotation[1]) / deviation)
    assert 0.8 < float(torch.stack(errors).square().mean().sqrt()) < 1.2


def test_the_jacobian_is_the_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    path = typed("0: 0 0 0 75\n2: 20 10 -15 75", 3)
    cameras = Cameras(path.rotations(), torch.tensor([5.3, 5.5, 5.4]).double())
    at = [150 * torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in range(2)]
    points = Points(torch.tensor([0, 1] * 10), torch.tensor([1, 2] * 10), *at)
    place, size = parameters(3, 0, "free")
    residual, jacobian = linearise(cameras, points)
    columns = torch.cat([place[points.i, :3], place[points.j, :3], place[points.i, 3:], place[points.j, 3:]], dim=1)
    for unknown in range(size):
        step = torch.zeros(size, dtype=torch.float64)
        step[unknown] = 1e-6
        moved = (linearise(stepped(cameras, step, place), points)[0] - residual) / 1e-6
        expected = (jacobian * (columns == unknown)[:, None]).sum(-1)
        assert float((moved - expected).abs().max()) < 1e-4 * max(1, float(expected.abs().max()))


def test_the_same_clip_gives_the_same_path(erp: Tensor) -> None:
    clip = taken(erp, shaken(still_path(4, fov_deg=75), 1))
    first, second = (estimate_camera(clip, 75) for _ in range(2))
    assert torch.equal(first.path.yaw_deg, second.path.yaw_deg)
    assert not math.isnan(first.chained_drift_deg)
