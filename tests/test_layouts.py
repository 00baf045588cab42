"""The pictures that a panorama may be trained as: sizes, directions, and back to ERP."""

import math

import pytest
import torch
from torch import Tensor

from tests.analytic import smooth
from viewpoint_core import resample
from viewpoint_core.cubemap import FACES, face_directions
from viewpoint_core.sphere import erp_directions
from viewpoint_core.training import known_view, layouts
from viewpoint_core.training.config import TrainingConfig, check_values
from viewpoint_core.training.layouts import (
    CUBEMAP,
    ERP,
    LAYOUTS,
    VIEWPOINT,
    faces_to_picture,
    from_erp,
    layout_directions,
    picture_size,
    picture_to_faces,
    to_erp,
)


def smooth_erp(width: int) -> Tensor:
    return smooth(erp_directions(width // 2, width)).float()[None]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_whole_tokens_and_about_the_maps_pixels(layout: str) -> None:
    height, width = picture_size(layout, 256)
    assert height % 16 == 0
    assert width % 16 == 0
    assert 0.85 < height * width / 256**2 < 1.16
    assert layout_directions(layout, 256).shape == (height, width, 3)
    assert layout_directions(layout, 256, 2).shape == (2 * height, 2 * width, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_smooth_panorama_survives_every_layout(layout: str) -> None:
    erp = smooth_erp(256)
    picture = from_erp(erp, layout, 256)
    expected = smooth(layout_directions(layout, 256)).float()
    assert (picture[0] - expected).abs().max() < 0.02
    assert (to_erp(picture, layout, 256) - erp).abs().max() < 0.03


@pytest.mark.parametrize("layout", [ERP, CUBEMAP])
def test_a_fine_panorama_is_filtered(layout: str) -> None:
    """A checkerboard of single pixels becomes grey, not moire."""
    board = torch.arange(1024)[:, None] + torch.arange(2048)
    picture = from_erp((board % 2).float()[None, None], layout, 64)
    middle = picture[..., 8:24, :]  # near an ERP's poles a pixel of the board is wide across
    assert (middle - 0.5).abs().mean() < 0.06


@pytest.mark.parametrize("layout", [ERP, CUBEMAP])
def test_filtering_begins_where_a_panorama_is_finer_than_the_picture_and_not_before(layout: str) -> None:
    height, width = picture_size(layout, 256)
    around = width if layout == ERP else round(height / 4 * 2 * math.pi)  # a face's middle sets the density
    assert layouts.erp_source_grid(layout, 256, around // 4 * 4).factor == 1
    fine = layouts.erp_source_grid(layout, 256, 16 * (around // 4))
    assert fine.factor * fine.reduction == pytest.approx(4, abs=1)


@pytest.mark.parametrize("layout", [ERP, CUBEMAP])
def test_a_panoramas_seam_leaves_no_trace_in_a_picture(layout: str) -> None:
    noise = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    picture, turned = from_erp(noise, layout, 256), from_erp(noise.roll(64, -1), layout, 256)
    if layout == ERP:
        assert torch.allclose(turned, picture.roll(picture.shape[-1] // 4, -1), atol=1e-4)
    else:  # F and R become R and B, B and L become L and F
        faces, others = picture_to_faces(picture)[0], picture_to_faces(turned)[0]
        assert torch.allclose(others[[1, 2, 3, 0]], faces[[0, 1, 2, 3]], atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bands_change_nothing(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    erp = smooth_erp(512)
    whole = from_erp(erp, layout, 64)
    directions = layout_directions(layout, 64)
    bands = [layouts.build_layout_directions(layout, 64, 1, slice(top, top + 5)) for top in range(0, 96, 5)]
    assert torch.equal(torch.cat(bands), directions)
    layouts.erp_source_grid.clear()
    monkeypatch.setattr(resample, "BAND_PIXELS", 300)
    assert torch.equal(from_erp(erp, layout, 64), whole)


def test_a_cubemaps_directions_are_those_of_its_faces() -> None:
    faces = torch.stack([face_directions(face, 32) for face in FACES])
    picture = faces_to_picture(faces.movedim(-1, 1)).movedim(0, -1)
    assert torch.equal(layout_directions(CUBEMAP, 64), picture)


def test_faces_lie_side_by_side_and_come_back() -> None:
    faces = torch.arange(6.0)[:, None, None, None].expand(6, 1, 16, 16)
    picture = faces_to_picture(faces)
    assert picture[0, 8::16, 8::16].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(picture_to_faces(picture), faces)


def test_a_view_covers_its_sixth_of_a_cubemap_and_of_the_sphere() -> None:
    mask = known_view.view_mask(known_view.View(), 256, CUBEMAP)
    assert float(picture_to_faces(mask[None])[0].mean()) == 1.0
    assert float(mask.mean()) == pytest.approx(1 / 6, abs=0.01)
    assert known_view.view_mask(None, 256, ERP).shape == picture_size(ERP, 256)


def test_an_unknown_layout_and_one_with_perspective_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of viewpoint, erp, cubemap"):
        picture_size("fisheye", 256)
    with pytest.raises(ValueError, match="expected one of viewpoint, erp, cubemap"):
        to_erp(smooth_erp(64), "fisheye", 64)
    given = {"model": "m", "vae": "v", "cache": "c", "output": "o"}
    check_values(TrainingConfig(**given, layout=ERP, schedule="pano"))
    check_values(TrainingConfig(**given, layout=VIEWPOINT))
    with pytest.raises(ValueError, match="no subregions"):
        check_values(TrainingConfig(**given, layout=ERP))
