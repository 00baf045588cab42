"""Views and cubemaps against analytic functions of direction and the slow reference."""

import math

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.analytic import pixel_solid_angle, smooth
from viewpoint_core import cubemap, resample, views
from viewpoint_core.camera import check_fov, direction_to_view, focal_length, view_directions
from viewpoint_core.cubemap import (
    FACE_YAW_PITCH,
    FACES,
    cubemap_to_erp,
    cubemap_to_viewpoint,
    face_directions,
    viewpoint_to_cubemap,
)
from viewpoint_core.kept import KEPT_RESULTS
from viewpoint_core.map_layout import SUBREGIONS, map_directions, unit_pixels
from viewpoint_core.partial import partial_erp_to_viewpoint
from viewpoint_core.sphere import erp_directions, pixel_grid, rotate_yaw
from viewpoint_core.viewpoint_map import erp_to_viewpoint, viewpoint_to_erp
from viewpoint_core.views import place_view, render_view

SIZE = 256
CAMERAS = [
    {},
    {"yaw_deg": 130.0},
    {"pitch_deg": 55.0},
    {"pitch_deg": 90.0, "roll_deg": 30.0},
    {"yaw_deg": -75.0, "pitch_deg": -35.0, "roll_deg": 20.0, "fov_deg": 60.0},
    {"yaw_deg": 180.0, "roll_deg": -110.0, "fov_deg": 120.0},
]
VIEW_SIZES = [(96, 96), (64, 128), (128, 72)]


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def full(camera: dict[str, float]) -> dict[str, float]:
    return {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0} | camera


def unit(direction: Tensor) -> Tensor:
    return direction / direction.norm(dim=-1, keepdim=True)


def smooth_cubemap(size: int) -> Tensor:
    return torch.stack([smooth(face_directions(face, size)) for face in FACES])


# The camera


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("size", VIEW_SIZES)
def test_view_directions_equal_the_slow_reference(camera: dict[str, float], size: tuple[int, int]) -> None:
    found = unit(view_directions(*size, **camera))
    for row in range(0, size[0], 7):
        for column in range(0, size[1], 7):
            expected = torch.tensor(reference.view_direction(column, row, size, **full(camera)), dtype=torch.float64)
            assert float((found[row, column] - unit(expected)).abs().max()) < 1e-12


@pytest.mark.parametrize("camera", CAMERAS)
def test_direction_to_view_inverts_view_directions(camera: dict[str, float]) -> None:
    x, y, seen = direction_to_view(view_directions(40, 60, **camera), 40, 60, **camera)
    assert bool(seen.all())
    torch.testing.assert_close(x, (torch.arange(60) + 0.5).double().expand(40, 60))
    torch.testing.assert_close(y, (torch.arange(40) + 0.5).double()[:, None].expand(40, 60))


def test_a_view_does_not_see_what_is_beside_or_behind_it() -> None:
    directions = torch.tensor([[0, 0, -1], [1, 0, 0], [1.01, 0, 1], [0, 1.01, 1], [0, 0, 0.0]]).double()
    x, y, seen = direction_to_view(directions, 64, 64)
    assert not bool(seen.any())
    assert bool(((x == 32) & (y == 32)).all()), "what is not seen is given the view's centre"
    assert bool(direction_to_view(torch.tensor([[0.99, -0.99, 1]]).double(), 64, 64)[2].all())


def test_yaw_turns_right_pitch_looks_up_and_roll_is_clockwise() -> None:
    centre = unit(view_directions(1, 1, yaw_deg=90))[0, 0]
    torch.testing.assert_close(centre, torch.tensor([1, 0, 0]).double())
    centre = unit(view_directions(1, 1, pitch_deg=90))[0, 0]
    torch.testing.assert_close(centre, torch.tensor([0, -1, 0]).double())
    right = view_directions(3, 3, roll_deg=90)[1, 2]
    assert float(right[1]) > 0.5
    assert abs(float(right[0])) < 1e-9


def test_field_of_view_is_horizontal_whatever_the_aspect() -> None:
    for height in (10, 40, 90):
        edge = focal_length(40, 73.0)
        assert math.degrees(2 * math.atan(20 / edge)) == pytest.approx(73)
        left, right = unit(view_directions(height, 40, fov_deg=73.0))[height // 2][[0, -1]]
        assert 70 < math.degrees(math.acos(float((left * right).sum()))) < 73


@pytest.mark.parametrize("fov_deg", [0, -10, 180, 200, math.nan, math.inf])
def test_fov_outside_0_to_180_is_refused_by_its_value(fov_deg: float) -> None:
    view, erp = torch.zeros(3, 8, 8), torch.zeros(3, 16, 32)
    for call in (
        lambda: check_fov(fov_deg),
        lambda: place_view(view, 32, fov_deg=fov_deg),
        lambda: render_view(erp, 8, 8, fov_deg=fov_deg),
    ):
        with pytest.raises(ValueError, match=f"fov_deg is {fov_deg};.*between 0 and 180"):
            call()


# A view on the map


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("size", VIEW_SIZES)
def test_placed_view_shows_its_directions_wherever_the_map_shows_them(
    camera: dict[str, float], size: tuple[int, int]
) -> None:
    placed, mask = place_view(smooth(view_directions(*size, **camera)), SIZE, **camera)
    assert placed.shape == (3, SIZE, SIZE)
    assert mask.shape == (SIZE, SIZE)
    expected = smooth(map_directions(SIZE))
    known = mask == 1
    assert int(known.sum()) > 1000
    assert float((placed - expected)[:, known].abs().max()) < 2e-2
    assert float((placed - expected)[:, known].abs().mean()) < 2e-3
    seen = direction_to_view(map_directions(SIZE), *size, **full(camera))[2]
    x, y, inside = direction_to_view(map_directions(SIZE), *size, **full(camera))
    margin = torch.stack([x, size[1] - x, y, size[0] - y]).amin(0)
    assert bool((mask[inside & (margin > 3)] == 1).all())
    assert float((mask.double() - seen.double()).abs().mean()) < 0.02


@pytest.mark.parametrize("camera", CAMERAS)
def test_placed_view_is_drawn_in_every_place_that_shows_it(camera: dict[str, float]) -> None:
    known = place_view(torch.ones(1, 64, 64), SIZE, **camera)[1] > 0.5
    directions = map_directions(SIZE)
    side = SIZE // 2
    for region in SUBREGIONS:
        quadrant = slice(region.row * side, (region.row + 1) * side), slice(region.column * side, None)
        own = directions[quadrant][:, :side]
        seen = direction_to_view(own, 64, 64, **full(camera))[2]
        assert float((known[quadrant][:, :side] != seen).double().mean()) < 0.02


def test_a_view_straight_ahead_is_drawn_on_three_subregions() -> None:
    known = place_view(torch.ones(1, 64, 64), SIZE)[1] > 0.5
    side = SIZE // 2
    shown = {
        region.face: int(known[region.row * side :, region.column * side :][:side, :side].sum())
        for region in SUBREGIONS
    }
    face_area = side * side / 2
    assert shown["F"] == pytest.approx(face_area, rel=0.03)
    assert shown["L"] == pytest.approx(face_area / 4, rel=0.1)
    assert shown["R"] == pytest.approx(face_area / 4, rel=0.1)
    assert shown["B"] == 0


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("size", VIEW_SIZES)
def test_mask_covers_the_solid_angle_of_the_view(camera: dict[str, float], size: tuple[int, int]) -> None:
    _, mask = place_view(torch.ones(1, *size), SIZE, **camera)
    erp = viewpoint_to_erp(mask[None], 512, interpolation="bilinear")[0].double()
    half_x = math.tan(math.radians(full(camera)["fov_deg"]) / 2)
    half_y = half_x * size[0] / size[1]
    expected = 4 * math.asin(half_x * half_y / math.sqrt((1 + half_x**2) * (1 + half_y**2)))
    assert float((erp * pixel_solid_angle(256)).sum()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("fill", [0.5, 0.0, -1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_the_unknown_is_filled(fill: float, interpolation: str) -> None:
    placed, mask = place_view(random_image(2, 3, 64, 64), SIZE, fill=fill, interpolation=interpolation)
    assert placed.shape == (2, 3, SIZE, SIZE)
    assert bool((placed[..., mask == 0] == fill).all())
    assert float(mask.min()) == 0
    assert float(mask.max()) == 1


@pytest.mark.parametrize("size", [64, 512])
def test_a_constant_view_stays_constant_where_known(size: int) -> None:
    placed, mask = place_view(torch.full((1, size, size), 0.8), 128, yaw_deg=40.0)
    expected = 0.8 * mask + 0.5 * (1 - mask)
    assert float((placed[0] - expected).abs().max()) < 1e-5
    assert bool((mask >= 0).all() & (mask <= 1).all())


def test_a_view_finer_than_the_map_is_filtered() -> None:
    size = 512
    checkerboard = ((torch.arange(size)[:, None] + torch.arange(size)) % 2).float()[None]
    placed, mask = place_view(checkerboard, 128)
    assert float((placed[0, mask == 1] - 0.5).abs().max()) < 0.15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_views_keep_their_dtype(dtype: torch.dtype) -> None:
    view, erp, faces = random_image(2, 3, 32, 32), random_image(2, 3, 64, 128), random_image(2, 6, 3, 32, 32)
    for convert, image in (
        (lambda v: place_view(v, 64)[0], view),
        (lambda v: place_view(v, 64, fov_deg=20.0)[1], view),
        (lambda e: render_view(e, 32, 32), erp),
        (lambda c: cubemap_to_viewpoint(c, 64), faces),
        (lambda v: viewpoint_to_cubemap(v, 16), random_image(2, 3, 64, 64)),
    ):
        result = convert(image.to(dtype))
        assert result.dtype == dtype
        assert float((result.float() - convert(image)).abs().max()) < 3e-2


def test_batch_and_time_give_what_single_views_give() -> None:
    view, erp = random_image(2, 3, 1, 32, 32), random_image(2, 3, 1, 64, 128)
    faces, viewpoint = random_image(2, 3, 6, 1, 32, 32), random_image(2, 3, 1, 64, 64)
    for convert, images in (
        (lambda v: place_view(v, 64)[0], view),
        (lambda e: render_view(e, 20, 30), erp),
        (lambda c: cubemap_to_viewpoint(c, 64), faces),
        (lambda v: viewpoint_to_cubemap(v, 24), viewpoint),
    ):
        result = convert(images)
        singles = torch.stack([convert(image) for image in images.flatten(0, 1)])
        assert torch.equal(result.flatten(0, 1), singles)


def test_a_view_too_small_for_any_map_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.01 degrees covers no pixel of a map of side 32"):
        place_view(torch.zeros(1, 1, 1), 32, fov_deg=0.01, yaw_deg=1.0)


@pytest.mark.parametrize(
    ("shape", "map_size", "message"),
    [
        ((8, 8), 32, r"view: .*\(8, 8\)"),
        ((0, 3, 8, 8), 32, r"empty tensor \(0, 3, 8, 8\)"),
        ((3, 8, 8), 40, "side is 40"),
    ],
)
def test_place_view_names_what_came(shape: tuple[int, ...], map_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place_view(torch.zeros(shape), map_size)


# A view of an ERP


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("size", VIEW_SIZES)
def test_rendered_view_shows_its_directions(camera: dict[str, float], size: tuple[int, int]) -> None:
    view = render_view(smooth(erp_directions(256, 512)), *size, **camera)
    assert float((view - smooth(view_directions(*size, **camera))).abs().max()) < 2e-3


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_view_comes_back_from_the_map(camera: dict[str, float]) -> None:
    view = smooth(view_directions(96, 96, **camera))
    placed, _ = place_view(view, SIZE, **camera)
    back = render_view(viewpoint_to_erp(placed, 512), 96, 96, **camera)
    assert float((back - view)[:, 8:-8, 8:-8].abs().max()) < 1.5e-2


def test_render_view_names_what_came() -> None:
    with pytest.raises(ValueError, match="100 x 64"):
        render_view(torch.zeros(3, 64, 100), 8, 8)
    with pytest.raises(ValueError, match="size is 8 x 0"):
        render_view(torch.zeros(3, 64, 128), 0, 8)
    with pytest.raises(ValueError, match="size is -8 x 8"):
        render_view(torch.zeros(3, 64, 128), 8, -8)


# Cubemaps


@pytest.mark.parametrize(
    ("face", "centre", "top", "right"),
    [
        ("F", (0, 0, 1), (0, -1, 0), (1, 0, 0)),
        ("R", (1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ("B", (0, 0, -1), (0, -1, 0), (-1, 0, 0)),
        ("L", (-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ("U", (0, -1, 0), (0, 0, -1), (1, 0, 0)),
        ("D", (0, 1, 0), (0, 0, 1), (1, 0, 0)),
    ],
)
def test_faces_are_what_a_camera_sees_that_turns_or_tilts_from_f(
    face: str, centre: tuple[int, ...], top: tuple[int, ...], right: tuple[int, ...]
) -> None:
    directions = face_directions(face, 101)
    middle = directions[50, 50]
    for found, expected in (
        (middle, centre),
        (directions[0, 50] - middle, top),
        (directions[50, 100] - middle, right),
    ):
        torch.testing.assert_close(unit(found), torch.tensor(expected).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("interpolation", "tolerance"), [("bicubic", 3e-3), ("bilinear", 3e-3), ("nearest", 3e-2)])
@pytest.mark.parametrize("size", [64, 92])
def test_a_smooth_cubemap_survives_cubemap_to_map(interpolation: str, tolerance: float, size: int) -> None:
    viewpoint = cubemap_to_viewpoint(smooth_cubemap(size), SIZE, interpolation=interpolation)
    assert float((viewpoint - smooth(map_directions(SIZE))).abs().max()) < tolerance


@pytest.mark.parametrize(("interpolation", "tolerance"), [("bicubic", 4e-3), ("bilinear", 4e-3), ("nearest", 3e-2)])
@pytest.mark.parametrize("fusion", [True, False])
def test_a_smooth_map_survives_map_to_cubemap(interpolation: str, tolerance: float, fusion: bool) -> None:
    faces = viewpoint_to_cubemap(smooth(map_directions(SIZE)), 92, interpolation=interpolation, fusion=fusion)
    assert faces.shape == (6, 3, 92, 92)
    assert float((faces - smooth_cubemap(92)).abs().max()) < tolerance


def test_every_face_lands_on_its_own_place() -> None:
    for index, face in enumerate(FACES):
        faces = torch.zeros(6, 1, 32, 32)
        faces[index] = 1
        viewpoint = cubemap_to_viewpoint(faces, 128, interpolation="nearest")[0]
        ahead = unit(map_directions(128)) @ cubemap.FACE_AHEAD[index]
        others = unit(map_directions(128)) @ torch.cat([cubemap.FACE_AHEAD[:index], cubemap.FACE_AHEAD[index + 1 :]]).T
        lead = ahead - others.amax(-1)
        assert bool((viewpoint[lead > 0.05] == 1).all()), face
        assert bool((viewpoint[lead < -0.05] == 0).all()), face


@pytest.mark.parametrize("size", [1, 3, 64, 737, 4096])
@pytest.mark.parametrize("face", FACES)
def test_a_faces_pixels_lie_on_their_own_places_in_the_stack(face: str, size: int) -> None:
    for rows in (slice(0, 2), slice(size // 2, size // 2 + 1), slice(max(0, size - 2), size)):
        found = cubemap.direction_to_faces(face_directions(face, size, rows), size, 3)
        x, y = pixel_grid(size, size, rows)
        wanted = x + 3, y + 3 + FACES.index(face) * (size + 6)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 64, 8192])
@pytest.mark.parametrize("directions", [map_directions(32), map_directions(736), erp_directions(64, 128)])
def test_every_direction_lies_on_the_face_that_it_is_nearest_to(directions: Tensor, size: int) -> None:
    nearest = (directions @ cubemap.FACE_AHEAD.T).argmax(-1)
    for index, angles in enumerate(FACE_YAW_PITCH.values()):
        camera = dict(zip(("yaw_deg", "pitch_deg"), angles, strict=True))
        seen = direction_to_view(directions[nearest == index], size, size, **camera, fov_deg=90)[2]
        assert bool(seen.all())


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.parametrize("size", [12, 40])
def test_faces_looked_up_together_are_those_looked_up_one_by_one(
    size: int, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewpoint = random_image(2, 3, 64, 64)

    def make(pixels: int) -> Tensor:
        monkeypatch.setattr(cubemap, "LOOKUP_PIXELS", pixels)
        return viewpoint_to_cubemap(viewpoint, size, interpolation=interpolation)

    together = make(1 << 22)
    assert cubemap.to_cubemap_samples(64, size) % 6 == 0
    for pixels in (1, 2 * size**2, 3 * size**2, 4 * size**2):
        assert torch.equal(make(pixels), together)


def test_on_face_is_called_once_a_face_of_each_map() -> None:
    calls: list[None] = []
    viewpoint_to_cubemap(random_image(2, 1, 64, 64), 8, on_face=lambda: calls.append(None))
    assert len(calls) == 12


def test_a_constant_cubemap_stays_constant() -> None:
    for size in (16, 200):
        viewpoint = cubemap_to_viewpoint(torch.full((6, 1, size, size), 0.3), 64)
        assert float((viewpoint - 0.3).abs().max()) < 1e-5
        assert float((viewpoint_to_cubemap(viewpoint, size // 4) - 0.3).abs().max()) < 1e-5


def test_a_cubemap_finer_than_the_map_is_filtered() -> None:
    checkerboard = ((torch.arange(256)[:, None] + torch.arange(256)) % 2).float().expand(6, 1, 256, 256)
    viewpoint = cubemap_to_viewpoint(checkerboard, 96, interpolation="bilinear")
    assert float((viewpoint - 0.5).abs().mean()) < 0.03


@pytest.mark.parametrize(
    ("shape", "map_size", "message"),
    [
        ((5, 3, 8, 8), 32, r"six square faces.*\(5, 3, 8, 8\)"),
        ((6, 3, 8, 9), 32, r"six square faces.*\(6, 3, 8, 9\)"),
        ((3, 8, 8), 32, r"six square faces.*\(3, 8, 8\)"),
        ((6, 3, 8, 8), 33, "side is 33"),
        ((0, 6, 3, 8, 8), 32, "empty tensor"),
    ],
)
def test_cubemap_to_viewpoint_names_what_came(shape: tuple[int, ...], map_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cubemap_to_viewpoint(torch.zeros(shape), map_size)


def test_viewpoint_to_cubemap_names_what_came() -> None:
    with pytest.raises(ValueError, match="face size is 0"):
        viewpoint_to_cubemap(torch.zeros(3, 64, 64), 0)
    with pytest.raises(ValueError, match="128 x 64"):
        viewpoint_to_cubemap(torch.zeros(3, 64, 128), 16)


def test_turning_the_camera_turns_the_picture() -> None:
    view = random_image(1, 48, 48)
    ahead = place_view(view, 128)[0]
    turned = place_view(view, 128, yaw_deg=90.0)[0]
    torch.testing.assert_close(
        viewpoint_to_erp(turned, 256), viewpoint_to_erp(ahead, 256).roll(64, -1), rtol=0, atol=2e-3
    )
    torch.testing.assert_close(
        smooth(rotate_yaw(map_directions(32), 0.3)), smooth(map_directions(32) @ yaw_matrix(0.3)), rtol=0, atol=1e-6
    )


def yaw_matrix(yaw: float) -> Tensor:
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]], dtype=torch.float64)


@pytest.mark.parametrize("fine", [1, 8])
def test_labels_are_never_mixed_by_nearest(fine: int) -> None:
    def labels(*size: int) -> Tensor:
        return (random_image(*size, seed=fine) * 10).floor().repeat_interleave(fine, -1).repeat_interleave(fine, -2)

    viewpoint, erp = labels(1, 256 // fine, 256 // fine), labels(1, 256 // fine, 512 // fine)
    faces = labels(6, 1, 32, 32)
    known = (labels(1, 256 // fine, 512 // fine) > 4).float()
    placed, cover = place_view(labels(1, 90, 160), 64, pitch_deg=20, fov_deg=130, interpolation="nearest", fill=11)
    partial, mask = partial_erp_to_viewpoint(erp[None], known, 64, interpolation="nearest", fill=11)
    for picture, whole in (
        (erp_to_viewpoint(erp, 64, interpolation="nearest"), True),
        (viewpoint_to_erp(viewpoint, 64, interpolation="nearest"), True),
        (viewpoint_to_erp(viewpoint, 512, interpolation="nearest"), True),
        (viewpoint_to_cubemap(viewpoint, 16, interpolation="nearest"), True),
        (cubemap_to_viewpoint(faces, 64, interpolation="nearest"), True),
        (cubemap_to_erp(faces, 64, interpolation="nearest"), True),
        (render_view(erp, 20, 30, pitch_deg=80, interpolation="nearest"), True),
        (placed[:, cover == 1], True),
        (placed, False),
        (partial[:, :, mask[0] == 1], True),
        (partial, False),
    ):
        assert set(picture.unique().tolist()) <= {*range(10), *(() if whole else (11,))}
    assert set(cover.unique().tolist()) == {0, 1}
    assert set(mask.unique().tolist()) == {0, 1}


def test_view_caches_are_bounded() -> None:
    for yaw in range(KEPT_RESULTS + 3):
        render_view(torch.zeros(1, 16, 32), 8, 8, yaw_deg=float(yaw))
    assert len(views.erp_view_grid.results) == KEPT_RESULTS


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, view, erp = random_image(6, 3, 24, 24), random_image(3, 90, 160), random_image(3, 128, 256)
    viewpoint = random_image(3, 64, 64)
    kept = (
        views.erp_view_grid,
        cubemap.faces_grid,
        cubemap.face_margin_grid,
        cubemap.erp_faces_grid,
        cubemap.faces_lookup,
    )

    def make() -> list[Tensor]:
        for lookups in kept:
            lookups.clear()
        drawn = place_view(view, 64, yaw_deg=20, pitch_deg=30, fov_deg=100)
        seen = render_view(erp, 9, 16, pitch_deg=-70, roll_deg=3)
        cubes = [cubemap_to_viewpoint(faces, 64), cubemap_to_erp(faces, 64), viewpoint_to_cubemap(viewpoint, 10)]
        return [*drawn, seen, *cubes]

    whole = make()
    monkeypatch.setattr(resample, "BAND_PIXELS", 300)
    assert all(torch.equal(one, other) for one, other in zip(make(), whole, strict=True))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(40, 40), (36, 64), (300, 200)])
def test_a_view_is_drawn_near_it_as_on_the_whole_map(size: tuple[int, int], interpolation: str) -> None:
    view, camera = random_image(2, 3, *size), {"yaw_deg": 10.0, "pitch_deg": 20.0, "roll_deg": 30.0, "fov_deg": 80.0}
    factor, reduction = views.view_filtering(unit_pixels(96), 96, *size, camera["fov_deg"])
    grid, seen = views.locate_on_view(map_directions(96, factor), *size, factor, reduction, **camera)
    wanted, cover = views.sample_view(view, grid, seen, 96, camera["fov_deg"], interpolation, 0.25)
    placed, mask = place_view(view, 96, **camera, interpolation=interpolation, fill=0.25)
    assert torch.equal(placed, wanted)
    assert torch.equal(mask, cover)


@pytest.mark.parametrize("fov_deg", [4.0, 20.0, 60.0])
def test_a_view_much_finer_than_the_map_keeps_its_mean_and_needs_no_more_memory_than_a_coarse_one(
    fov_deg: float,
) -> None:
    view = random_image(1, 720, 1280)
    factor, reduction = views.view_filtering(unit_pixels(256), 256, 720, 1280, fov_deg)
    assert factor <= 8
    placed, mask = place_view(view, 256, fov_deg=fov_deg)
    inside = placed[0][mask == 1]
    assert abs(float(inside.mean()) - 0.5) < 0.02
    assert float(inside.std()) < 0.2 / reduction


def test_a_gradient_much_finer_than_the_map_stays_where_it_is() -> None:
    x = torch.linspace(0, 1, 2000).expand(1, 1000, 2000)
    placed, mask = place_view(x, 128, fov_deg=70.0)
    coarse, coarse_mask = place_view(torch.nn.functional.avg_pool2d(x, 20), 128, fov_deg=70.0)
    both = (mask == 1) & (coarse_mask == 1)
    assert int(both.sum()) > 300
    torch.testing.assert_close(placed[0][both], coarse[0][both], rtol=0, atol=4e-3)
