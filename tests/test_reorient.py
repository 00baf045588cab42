"""A panorama turned as a whole."""

import pytest
import torch
from torch import Tensor

from tests.analytic import smooth
from viewpoint_core.camera import view_rotation
from viewpoint_core.camera_path import CameraPath, still_path
from viewpoint_core.reorient import reorient_erp, rotate_erp, rotation_grid
from viewpoint_core.sphere import erp_directions
from viewpoint_core.views import render_view

ANGLES = [(90.0, 0.0, 0.0), (33.0, 0.0, 0.0), (0.0, 25.0, 0.0), (0.0, 0.0, -40.0), (-170.0, 80.0, 30.0)]


def panorama() -> Tensor:
    """A smooth one, (3, 64, 128)."""
    return smooth(erp_directions(64, 128))


@pytest.mark.parametrize("angles", ANGLES)
def test_a_turned_panorama_shows_each_direction_where_it_went(angles: tuple[float, float, float]) -> None:
    expected = smooth(erp_directions(64, 128) @ view_rotation(*angles).T)
    yaw_deg, pitch_deg, roll_deg = angles
    turned = reorient_erp(panorama(), yaw_deg=yaw_deg, pitch_deg=pitch_deg, roll_deg=roll_deg)
    assert float((turned - expected).abs().max()) < 0.01


@pytest.mark.parametrize("angles", ANGLES)
def test_the_new_front_is_what_a_camera_saw_there(angles: tuple[float, float, float]) -> None:
    camera = dict(zip(("yaw_deg", "pitch_deg", "roll_deg"), angles, strict=True))
    ahead = render_view(reorient_erp(panorama(), **camera), 40, 40, fov_deg=70)
    assert float((ahead - render_view(panorama(), 40, 40, fov_deg=70, **camera)).abs().max()) < 0.02


@pytest.mark.parametrize("pixels", [0, 1, -37, 64, 128, 300])
def test_a_turn_by_whole_pixels_moves_them_and_changes_none(pixels: int) -> None:
    noise = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    turned = reorient_erp(noise, yaw_deg=360 * pixels / 128)
    assert torch.equal(turned, noise.roll(-pixels, -1))
    assert turned.data_ptr() != noise.data_ptr()
    assert float((rotate_erp(noise, view_rotation(360 * pixels / 128, 0, 0)) - turned).abs().max()) < 1e-3


def test_a_turn_by_a_part_of_a_pixel_is_a_turn() -> None:
    turned = reorient_erp(panorama(), yaw_deg=360 * 5.08 / 128)
    assert torch.equal(turned, rotate_erp(panorama(), view_rotation(360 * 5.08 / 128, 0, 0)))
    assert not torch.equal(turned, panorama().roll(-5, -1))


def test_the_seam_leaves_no_trace_in_a_turned_panorama() -> None:
    noise = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))
    turned = reorient_erp(noise, yaw_deg=17)
    assert torch.allclose(reorient_erp(noise.roll(40, -1), yaw_deg=17), turned.roll(40, -1), atol=1e-4)


@pytest.mark.parametrize("path", [None, still_path(1)])
def test_labels_are_not_mixed_by_nearest(path: CameraPath | None) -> None:
    labels = (panorama() > 0.5).float()[None]
    turned = reorient_erp(labels, yaw_deg=20, pitch_deg=10, path=path, interpolation="nearest")
    assert turned.unique().tolist() == [0, 1]


@pytest.mark.parametrize("yaw_deg", [90.0, 91.0])
def test_each_frame_is_told(yaw_deg: float) -> None:
    told: list[int] = []
    reorient_erp(panorama().expand(2, -1, -1, -1), yaw_deg=yaw_deg, on_frame=lambda: told.append(1))
    assert len(told) == 2


def test_turning_back_gives_the_panorama_again() -> None:
    rotation = view_rotation(50, 30, -20)
    again = rotate_erp(rotate_erp(panorama(), rotation), rotation.T)
    assert float((again - panorama()).abs().max()) < 0.01


def test_positions_are_the_same_whatever_is_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rotation_grid(16, 32, view_rotation(10, 20, 30))
    monkeypatch.setattr("viewpoint_core.resample.BAND_PIXELS", 32 * 3)
    banded = rotation_grid(16, 32, view_rotation(10, 20, 30))
    assert torch.equal(whole.x, banded.x)
    assert torch.equal(whole.y, banded.y)


def test_a_path_turns_each_frame_by_its_own_camera() -> None:
    path = CameraPath(*(torch.tensor(v).double() for v in ([0, 40], [0, 10], [0, 20], [80, 60])))
    video, told = torch.stack([panorama(), panorama().flip(0)]), []
    turned = reorient_erp(video, path=path, yaw_deg=15, on_frame=lambda: told.append(1))
    for frame in range(2):
        camera = path.turned(15).camera(frame)
        del camera["fov_deg"]
        assert float((turned[frame] - reorient_erp(video[frame], **camera)).abs().max()) < 1e-4
    assert len(told) == 2
    assert reorient_erp(panorama()[None], path=path).shape == (2, 3, 64, 128)


def test_what_cannot_be_turned_is_refused() -> None:
    with pytest.raises(ValueError, match="2:1"):
        reorient_erp(torch.zeros(3, 64, 100))
    with pytest.raises(ValueError, match="interpolation is 'cubic'"):
        reorient_erp(panorama(), interpolation="cubic")
    with pytest.raises(ValueError, match=r"expected frames \(T, C, H, W\)"):
        reorient_erp(panorama(), path=still_path(3))
    with pytest.raises(ValueError, match="camera path has 3 frames and erp has 2"):
        reorient_erp(torch.zeros(2, 3, 64, 128), path=still_path(3))
