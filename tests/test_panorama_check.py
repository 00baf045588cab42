"""What is 2:1 and no panorama is told from what is one, at every yaw and size; where it cannot be told, it passes."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.synthetic_pictures import render_erp
from tests.two_to_one import (
    PANORAMAS,
    dual_fisheye,
    flat,
    letterboxed,
    panorama,
    pillarboxed,
    turned,
    vr180,
)
from viewpoint_core.training.data.panorama_check import LONGEST_SIDE, panorama_problem, seam_of, shrink
from viewpoint_core.training.synthetic.clips import draw_scene

NAMES = [file.stem for file in PANORAMAS]


def verdict(*pictures: Tensor) -> str:
    """What is said of float pictures; "" where nothing is."""
    return panorama_problem([shrink((picture * 255).round().byte()) for picture in pictures]) or ""


def as_jpeg(picture: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray((picture * 255).byte().movedim(0, -1).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).movedim(-1, 0) / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [512, 128, 32])
def test_a_photographed_panorama_passes_at_every_yaw_and_size_and_when_compressed(name: str, width: int) -> None:
    erp = panorama(name, width)
    for yaw_deg in range(0, 360, 5):
        assert verdict(turned(erp, yaw_deg)) == ""
        assert yaw_deg % 45 or verdict(as_jpeg(turned(erp, yaw_deg), 20)) == ""


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_panorama_passes_at_every_yaw(seed: int) -> None:
    erp = render_erp(draw_scene(seed), 128, 1, factor=1)[0]
    assert all(verdict(turned(erp, yaw_deg)) == "" for yaw_deg in range(0, 360, 5))


def test_a_seam_on_a_hard_edge_passes_although_it_differs_as_a_flat_films_does() -> None:
    erp = panorama("interior")
    worst = max((turned(erp, yaw_deg) for yaw_deg in range(360)), key=lambda picture: seam_of(picture * 255).ratio)
    assert seam_of(worst * 255).ratio > 6
    assert verdict(worst) == ""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flat, "its left and right edges do not meet"),
        (vr180, "halves show the same"),
        (dual_fisheye, "two circles in black"),
        (letterboxed, "black bars above and below (10 and 10% of the height)"),
        (pillarboxed, "black bars left and right (10 and 10% of the width)"),
        (torch.zeros_like, "every picture is black"),
    ],
)
def test_what_is_no_panorama_is_named(spoil: Callable[[Tensor], Tensor], message: str) -> None:
    assert message in verdict(spoil(panorama()))
    assert verdict(panorama()) == ""


def test_most_flat_pictures_are_named() -> None:
    films = [flat(panorama(name, 512), yaw_deg) for name in NAMES for yaw_deg in range(0, 360, 45)]
    assert sum(bool(verdict(film)) for film in films) > 0.7 * len(films)


@pytest.mark.parametrize("value", [0.2, 0.5, 1.0])
def test_what_has_nothing_to_see_passes(value: float) -> None:
    assert verdict(torch.full((3, 64, 128), value)) == ""
    noise = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    assert verdict(value - noise) == ""


@pytest.mark.parametrize("part", [0.03, 0.1, 0.2])
def test_bars_are_found_under_the_traces_of_compression(part: float) -> None:
    for spoil in (letterboxed, pillarboxed):
        assert "black bars" in verdict(as_jpeg(spoil(panorama("forest", 512), part), 50))


def test_a_black_patch_below_and_a_black_sky_pass() -> None:
    erp = panorama()
    erp[:, -12:] = 0
    assert verdict(erp) == ""
    night = panorama("night") * torch.linspace(0, 1, 128).clamp_min(0.3)[:, None]
    night[:, :20] = 0
    assert verdict(night) == ""


def test_the_median_of_the_pictures_counts_and_black_ones_do_not() -> None:
    good, bad, black = panorama(), flat(panorama()), torch.zeros(3, 128, 256)
    assert verdict(good, bad, good) == ""
    assert verdict(black, black, good) == ""
    assert "do not meet" in verdict(black, black, black, bad, good, bad)
    assert verdict(good, letterboxed(good)) == ""


@pytest.mark.parametrize(("height", "width"), [(2, 4), (4, 8), (10, 20), (300, 600), (128, 256)])
def test_any_size_is_shrunk_and_judged(height: int, width: int) -> None:
    picture = torch.full((3, height, width), 200, dtype=torch.uint8)
    small = shrink(picture)
    assert small.shape[-1] == min(width, LONGEST_SIDE)
    assert (small == 200).all()
    assert panorama_problem([small]) is None


def test_a_picture_is_shrunk_to_its_rounded_means() -> None:
    picture = torch.tensor([[10, 11, 10, 10], [11, 11, 10, 11]], dtype=torch.uint8).expand(3, 2, 4)
    assert shrink(picture, 2).tolist() == [[[11, 10]]] * 3
