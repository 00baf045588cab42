"""Hard cuts are found to the picture; turns, walks, flashes and lamps are none."""

import math

import pytest
import torch
from torch import Tensor

from tests.analytic import pixel_solid_angle
from tests.synthetic_pictures import render_erp
from tests.two_to_one import PANORAMAS, panorama, turned
from viewpoint_core.training.data.shots import WINDOW, Shots, change, sight_of
from viewpoint_core.training.synthetic.clips import draw_scene

NAMES = [file.stem for file in PANORAMAS]
SHOT = 20


def cuts(pictures: list[Tensor]) -> list[float]:
    """The numbers of the pictures with which shots begin."""
    shots = Shots()
    for number, picture in enumerate(pictures):
        shots.see(number, (picture.clamp(0, 1) * 255).round().byte())
    return shots.finish()


def shot(name: str, count: int = SHOT, degrees_a_picture: float = 1.0) -> list[Tensor]:
    """A panorama whose camera turns."""
    erp = panorama(name, 128)
    return [turned(erp, number * degrees_a_picture) for number in range(count)]


@pytest.mark.parametrize("first", NAMES)
def test_every_pair_of_places_is_cut_to_the_picture(first: str) -> None:
    for second in NAMES:
        expected = [] if second == first else [SHOT]
        assert cuts(shot(first) + shot(second)) == expected


@pytest.mark.parametrize("length", [1, 2, 5, 6, 30])
def test_the_last_shot_may_be_short(length: int) -> None:
    assert cuts(shot("city") + shot("forest", length)) == [SHOT]
    assert cuts(shot("city", length) + shot("forest")) == [length]


def test_several_cuts_are_found_even_close_to_one_another() -> None:
    pictures = shot("city", 30) + shot("forest", 4) + shot("night", 7) + shot("studio", 50)
    assert cuts(pictures) == [30, 34, 41]


def test_a_cut_between_plain_pictures_is_found_and_a_slow_change_of_them_is_none() -> None:
    numbers = torch.Generator().manual_seed(0)
    plain = [
        torch.full((3, 64, 128), level) + 0.02 * torch.randn(3, 64, 128, generator=numbers) for level in (0.2, 0.8)
    ]
    assert cuts([plain[0]] * 20 + [plain[1]] * 20) == [20]
    assert cuts([plain[0] + 0.02 * number for number in range(40)]) == []


@pytest.mark.parametrize("degrees", [3, 17, 60, 180])
def test_a_fast_turn_is_no_cut(degrees: float) -> None:
    for name in NAMES:
        assert cuts(shot(name, 3 * SHOT, degrees)) == []


@pytest.mark.parametrize("length", [1, 2, 3, WINDOW - 1])
def test_a_flash_is_no_cut(length: int) -> None:
    pictures = shot("interior", 40)
    flash = [picture + 0.6 for picture in pictures[15 : 15 + length]]
    assert cuts(pictures[:15] + flash + pictures[15 + length :]) == []


def test_a_lamp_and_a_fade_are_no_cuts() -> None:
    pictures = shot("interior", 40)
    assert cuts([picture * 0.35 for picture in pictures[:20]] + pictures[20:]) == []
    assert cuts([picture * number / 40 for number, picture in enumerate(pictures)]) == []


def test_flicker_and_noise_are_no_cuts() -> None:
    numbers = torch.Generator().manual_seed(0)
    pictures = shot("night", 40)
    assert cuts([picture * (0.3 + 0.7 * (number % 2)) for number, picture in enumerate(pictures)]) == []
    assert cuts([torch.rand(3, 64, 128, generator=numbers) for _ in range(40)]) == []


@pytest.mark.parametrize("seed", [0, 2])
def test_a_walk_through_a_drawn_world_has_no_cut(seed: int) -> None:
    walk = list(render_erp(draw_scene(seed), 64, 16, fps=8, factor=1))
    assert cuts(walk) == []


def test_colours_do_not_depend_on_where_the_camera_looks() -> None:
    pictures = [(picture * 255).byte() for picture in (panorama("city"), turned(panorama("city"), 77))]
    one, other = (sight_of(0, picture) for picture in pictures)
    assert change(one, other) < 0.02
    assert change(one, sight_of(0, (panorama("forest") * 255).byte())) > 0.2


def test_a_row_of_a_panorama_counts_by_the_part_of_the_sphere_that_it_shows() -> None:
    picture = torch.zeros(3, 32, 64, dtype=torch.uint8)
    picture[:, 0] = 255
    share = float(pixel_solid_angle(32)[0] * 64) / (4 * math.pi)
    torch.testing.assert_close(sight_of(0, picture).colours[:, -1], torch.full((3,), share))


def test_few_pictures_are_held() -> None:
    shots = Shots()
    for number in range(100):
        shots.see(number, torch.zeros(3, 32, 64, dtype=torch.uint8))
    assert len(shots.recent) == 2 * WINDOW
