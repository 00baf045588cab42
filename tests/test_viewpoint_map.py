"""The ViewPoint map against analytic functions of direction and the slow reference."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.analytic import SHARED, smooth, ws_psnr
from tests.in_host.memory_peak import peak_bytes
from viewpoint_core import map_layout, resample, viewpoint_map
from viewpoint_core.kept import KEPT_RESULTS
from viewpoint_core.map_layout import direction_to_subregion, erp_width_for_map, map_directions
from viewpoint_core.resample import BAND_PIXELS, Grid, filtering
from viewpoint_core.sphere import erp_area, erp_directions
from viewpoint_core.viewpoint_map import (
    MapLookup,
    erp_to_viewpoint,
    fuse_overlaps,
    locate_on_map,
    rotate_yaw,
    viewpoint_to_erp,
)

SIZE, WIDTH = 256, 512
DTYPES = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 0, torch.float64: 1e-5}
GOLDEN_PSNR = {
    "b2": (27.3, 28.4, 28.3),
    "cliff": (32.6, 32.7, 32.7),
    "roadway": (28.3, 28.2, 28.5),
    "sea": (36.0, 35.9, 35.7),
    "snowtown": (28.1, 28.2, 28.1),
}


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_directions(count: int, seed: int = 0) -> Tensor:
    """Uniform on the sphere, float64 (1, count, 3)."""
    return torch.randn(1, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_map(map_size: int = SIZE) -> Tensor:
    return smooth(map_directions(map_size))


def smooth_erp(width: int = WIDTH) -> Tensor:
    return smooth(erp_directions(width // 2, width))


def one_subregion(face: str, map_size: int = SIZE) -> Tensor:
    """A map that is 1 on one subregion and 0 on the others."""
    viewpoint, side = torch.zeros(1, map_size, map_size), map_size // 2
    row, column = reference.QUADRANT[face]
    viewpoint[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 1
    return viewpoint


def up_plane(direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b on the plane of U as seen from F (a right, b away from F's edge, 0 to 2) and a bool tensor: on U."""
    x, y, z = direction.unbind(-1)
    safe = y.abs().clamp(min=1e-9)
    return x / safe, 1 - z / safe, (y < 0) & (y.abs() > x.abs()) & (y.abs() > z.abs())


def assert_same_lookup(one: MapLookup, other: MapLookup) -> None:
    for a, b in [(one.first, other.first), (one.second, other.second)]:
        if a is None or b is None:
            assert a is b
            continue
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.overlap, other.overlap)


# Sphere


def test_the_pixels_of_a_panorama_stand_for_their_parts_of_the_sphere() -> None:
    area = erp_area(64, 128)
    edges = torch.linspace(math.pi / 2, -math.pi / 2, 65, dtype=torch.float64).sin()
    torch.testing.assert_close(area.sum(1), (edges[:-1] - edges[1:]) / 2, atol=1e-6, rtol=1e-3)
    assert float(area.sum()) == pytest.approx(1)
    assert bool((area == area[:, :1]).all())


def test_a_source_is_filtered_from_half_as_fine_again_on_and_shrunk_from_4_times_as_fine_on() -> None:
    asked = {ratio: filtering(100 * ratio, 100, 4096) for ratio in (0.5, 1, 1.5, 1.6, 3.4, 4, 10)}
    assert asked == {0.5: (1, 1), 1: (1, 1), 1.5: (1, 1), 1.6: (2, 1), 3.4: (3, 1), 4: (2, 2), 10: (2, 5)}
    assert filtering(100, 100, 4096, 200) == (2, 1), "a part of the source is finer"
    assert filtering(100, 100, 4096, 10_000) == (8, 1)
    assert filtering(1000, 100, 9) == (3, 3), "no margin is wider than the source"
    assert filtering(1000, 100, 4096, filtered=False) == (1, 1)


# Layout


def test_every_map_pixel_has_the_direction_of_the_table() -> None:
    assert np.abs(map_directions(64).numpy() - reference.map_directions(64)).max() < 1e-12


@pytest.mark.parametrize(
    ("row", "column", "direction"),
    [
        (16, 16, (-1, 0, 0)),
        (16, 48, (0, 0, 1)),
        (48, 16, (0, 0, -1)),
        (48, 48, (1, 0, 0)),
        (32, 32, (0, 1, 0)),
        (0, 0, (0, -1, 0)),
        (0, 64, (0, -1, 0)),
        (64, 0, (0, -1, 0)),
        (64, 64, (0, -1, 0)),
    ],
)
def test_map_shows_l_f_over_b_r_with_d_in_the_middle_and_u_outside(
    row: int, column: int, direction: tuple[int, int, int]
) -> None:
    found = map_directions(64 * 16)[min(row * 16, 1023), min(column * 16, 1023)]
    angle = torch.rad2deg(torch.arccos((found / found.norm() * torch.tensor(direction)).sum()))
    assert angle < 0.5


@pytest.mark.parametrize("region", map_layout.SUBREGIONS)
def test_places_and_weights_equal_the_slow_reference(region: map_layout.Subregion) -> None:
    directions = random_directions(3000)
    found = direction_to_subregion(rotate_yaw(directions, -math.radians(region.yaw_deg)))
    found = torch.stack(found, dim=-1)[0]
    for direction, place in zip(directions[0].tolist(), found, strict=True):
        expected = reference.places(tuple(direction)).get(region.face)
        if expected is None:
            assert place[2] == 0
        else:
            torch.testing.assert_close(place, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_map_pixels_are_found_where_they_are() -> None:
    side = SIZE // 2
    directions = map_directions(SIZE)
    for region in map_layout.SUBREGIONS:
        own = directions[region.row * side :, region.column * side :][:side, :side]
        p, q, _ = direction_to_subregion(rotate_yaw(own, -math.radians(region.yaw_deg)))
        x, y = map_layout.subregion_pixels(p, q, region, side)
        steps = torch.arange(side, dtype=torch.float64) + 0.5
        torch.testing.assert_close(x, steps.expand(side, side), rtol=0, atol=1e-6)
        torch.testing.assert_close(y, steps[:, None].expand(side, side), rtol=0, atol=1e-6)


# Weights


def test_weights_sum_to_one_at_every_direction() -> None:
    corners = torch.tensor([[[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if x or y or z]])
    for directions in (random_directions(100_000), corners.double(), erp_directions(128, 256), map_directions(128)):
        lookup = locate_on_map(directions, SIZE)
        assert bool((lookup.weight >= 0).all())
        torch.testing.assert_close(lookup.weight.sum(0), torch.ones(directions.shape[:2]), rtol=0, atol=1e-6)


def test_no_direction_has_more_than_two_weights() -> None:
    directions = random_directions(100_000)
    weights = [
        direction_to_subregion(rotate_yaw(directions, -math.radians(r.yaw_deg)))[2]
        for r in reversed(map_layout.SUBREGIONS)
    ]
    assert int((torch.stack(weights) > 1e-8).sum(0).max()) <= 2


@pytest.mark.parametrize("face", "LFBR")
def test_step_across_the_arc_of_a_lone_subregion_is_small(face: str) -> None:
    width = 1056
    erp = viewpoint_to_erp(one_subregion(face, 736), width)[0]
    directions = rotate_yaw(erp_directions(width // 2, width), -math.radians(reference.YAW[face]))
    a, b, on_up = up_plane(directions)
    radius = torch.hypot(a, b)
    on_arc = on_up & ((radius - 1).abs() < 0.02) & (b > 0.25) & (torch.hypot(a, b - 1) > 0.25)
    assert int(on_arc.sum()) > 100
    assert float(erp[on_arc].abs().max()) < 0.1
    step = torch.maximum((erp - erp.roll(1, 0)).abs(), (erp - erp.roll(1, 1)).abs())
    assert float(step[on_arc].max()) < 0.05


@pytest.mark.parametrize("face", "LFBR")
def test_a_lone_subregion_fades_toward_its_arc_without_a_crease(face: str) -> None:
    angle = torch.linspace(0.5, 1.1, 200, dtype=torch.float64)  # at the middle of U's edge, away from the zenith
    shares = []
    for distance in (0.02, 0.04):
        a, b = (1 - distance) * angle.cos(), (1 - distance) * angle.sin()
        directions = torch.stack([a, -torch.ones_like(a), 1 - b], dim=-1)
        directions = rotate_yaw(directions, math.radians(reference.YAW[face]))
        lookup = locate_on_map(directions[None], SIZE)
        shares.append(lookup.weight[1].mean())
    assert 0 < float(shares[0]) < float(shares[1]) / 3  # a straight fade halves


def test_unfused_erp_shows_one_subregion_everywhere() -> None:
    for face in "LFBR":
        erp = viewpoint_to_erp(one_subregion(face), WIDTH, interpolation="nearest", fusion=False)
        assert set(erp.unique().tolist()) <= {0.0, 1.0}
    total = sum(viewpoint_to_erp(one_subregion(face), WIDTH, interpolation="nearest", fusion=False) for face in "LFBR")
    assert bool((total == 1).all())


# Fusion


@pytest.mark.parametrize("map_size", [32, 64, 256])
def test_fusion_equals_the_slow_reference_of_equations_9_to_12_on_the_shared_blocks(map_size: int) -> None:
    viewpoint = random_image(3, map_size, map_size)
    expected, shared = reference.fuse_sides(viewpoint.double().numpy())
    assert shared.sum() == 8 * (map_size // 4) ** 2
    assert np.abs(fuse_overlaps(viewpoint).double().numpy() - expected)[:, shared].max() < 1e-5


def test_fusion_leaves_what_only_one_subregion_shows() -> None:
    viewpoint = random_image(1, SIZE, SIZE)
    weights = torch.stack(
        [
            direction_to_subregion(rotate_yaw(map_directions(SIZE), -math.radians(r.yaw_deg)))[2]
            for r in map_layout.SUBREGIONS
        ]
    )
    alone = (weights > 1e-6).sum(0) == 1
    assert int(alone.sum()) > SIZE * SIZE // 4
    assert float((fuse_overlaps(viewpoint) - viewpoint)[:, alone].abs().max()) < 1e-4


def test_fusing_twice_changes_nothing_on_the_sides_whatever_the_map() -> None:
    viewpoint = random_image(2, 64, 64)
    _, shared = reference.fuse_sides(viewpoint.numpy())
    once = fuse_overlaps(viewpoint)
    assert float((fuse_overlaps(once) - once)[:, torch.from_numpy(shared)].abs().max()) < 1e-4


def test_fusing_twice_changes_nothing_where_subregions_disagree_smoothly() -> None:
    viewpoint = smooth_map() + sum(
        level * one_subregion(face) for face, level in zip("LFBR", (0, 0.1, 0.2, -0.1), strict=True)
    )
    once = fuse_overlaps(viewpoint)
    assert float((once - viewpoint).abs().max()) > 0.05
    assert float((fuse_overlaps(once) - once).abs().mean()) < 1e-3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("fusion", [True, False])
def test_a_constant_stays_constant(interpolation: str, fusion: bool) -> None:
    viewpoint, erp = torch.full((2, 64, 64), 0.7), torch.full((2, 64, 128), 0.7)
    results = [
        viewpoint_to_erp(viewpoint, 128, interpolation=interpolation, fusion=fusion),
        viewpoint_to_erp(viewpoint, 32, interpolation=interpolation, fusion=fusion),
        erp_to_viewpoint(erp, 64, interpolation=interpolation),
        erp_to_viewpoint(erp, 32, interpolation=interpolation),
        fuse_overlaps(viewpoint, interpolation=interpolation),
    ]
    for result in results:
        assert float((result - 0.7).abs().max()) < 1e-5


def test_fusion_of_a_consistent_map_changes_nothing() -> None:
    assert float((fuse_overlaps(smooth_map()) - smooth_map()).abs().max()) < 5e-3


@pytest.mark.parametrize("reduction", [2, 3])
def test_a_wide_margin_continues_the_picture_as_a_narrow_one_does(reduction: int) -> None:
    viewpoint = smooth(map_directions(SIZE)).float()[None]
    narrow, wide = (viewpoint_map.pad_subregions(viewpoint, margin) for margin in (3, 3 * reduction))
    off = 3 * (reduction - 1)
    inner = wide.unflatten(-2, (4, -1))[..., off:-off, off:-off].flatten(-3, -2)
    assert float((inner - narrow).abs().max()) < 0.02


# Smooth functions


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize(("interpolation", "tolerance"), [("bicubic", 4e-3), ("bilinear", 4e-3), ("nearest", 2e-2)])
def test_a_smooth_function_survives_map_to_erp(interpolation: str, tolerance: float, fusion: bool) -> None:
    erp = viewpoint_to_erp(smooth_map(), WIDTH, interpolation=interpolation, fusion=fusion)
    assert float((erp - smooth_erp()).abs().max()) < tolerance


@pytest.mark.parametrize(("interpolation", "tolerance"), [("bicubic", 2e-3), ("bilinear", 2e-3), ("nearest", 1e-2)])
def test_a_smooth_function_survives_erp_to_map(interpolation: str, tolerance: float) -> None:
    viewpoint = erp_to_viewpoint(smooth_erp(), SIZE, interpolation=interpolation)
    assert float((viewpoint - smooth_map()).abs().max()) < tolerance


def worst(error: Tensor, where: Tensor) -> float:
    """Largest of an error (3, H, W) where a bool (H, W) holds."""
    assert int(where.sum()) > 50
    return float(error[:, where].max())


def erp_steps(erp: Tensor) -> Tensor:
    """Largest difference of every pixel (C, H, W) to its left and upper neighbours, round the edge and over poles."""
    over_pole = erp.roll(erp.shape[-1] // 2, -1)
    above = torch.cat([over_pole[:, :1], erp[:, :-1]], dim=1)
    step = torch.maximum((erp - erp.roll(1, -1)).abs(), (erp - above).abs())
    step[:, -1] = torch.maximum(step[:, -1], (erp - over_pole)[:, -1].abs())
    return step


def erp_seams(width: int) -> dict[str, Tensor]:
    """Where an ERP could show seams, bool (H, W) each."""
    directions = erp_directions(width // 2, width)
    largest, middle, _ = directions.abs().sort(dim=-1, descending=True).values.unbind(-1)
    nowhere = torch.zeros_like(largest, dtype=torch.bool)
    sides, poles, arcs = nowhere.clone(), nowhere.clone(), nowhere.clone()
    sides[:, [0, 1, -1]] = True
    poles[[0, 1, -1]] = True
    for yaw_deg in reference.YAW.values():
        a, b, on_up = up_plane(rotate_yaw(directions, -math.radians(yaw_deg)))
        arcs |= on_up & ((torch.hypot(a, b) - 1).abs() < 0.03)
    return {"sides": sides, "poles": poles, "face edges": middle / largest > 0.97, "U arcs": arcs}


@pytest.mark.parametrize("seam", erp_seams(16))
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize(("map_size", "width"), [(256, 512), (736, 1056)])
def test_erp_steps_no_more_at_a_seam_than_the_smooth_function_itself(
    seam: str, fusion: bool, map_size: int, width: int
) -> None:
    expected = erp_steps(smooth_erp(width))
    steps = erp_steps(viewpoint_to_erp(smooth_map(map_size), width, fusion=fusion))
    interior = ~torch.stack(list(erp_seams(width).values())).any(0)
    where = erp_seams(width)[seam]
    assert worst(steps, where) < 1.35 * worst(expected, interior)
    assert worst((steps - expected).abs(), where) < 0.85 * worst(expected, interior)


def test_map_has_no_step_over_erp_edges_and_poles() -> None:
    directions = map_directions(SIZE)
    area_mean = torch.nn.functional.avg_pool2d(smooth(map_directions(SIZE, 2)), 2)  # the map bends on U's diagonals
    error = (erp_to_viewpoint(smooth_erp(), SIZE) - area_mean).abs()
    x, y, z = (directions / directions.norm(dim=-1, keepdim=True)).unbind(-1)
    near_edge = (z < 0) & (x.abs() < 0.03)
    near_pole = y.abs() > 0.998
    assert worst(error, near_edge) < 5e-4
    assert worst(error, near_pole) < 5e-4


# Real pictures


def panorama(file: Path) -> Tensor:
    cv2 = pytest.importorskip("cv2")
    return torch.from_numpy(cv2.imread(str(file))).permute(2, 0, 1).float() / 255


@pytest.mark.skipif(not (SHARED / "panoramas").is_dir(), reason="no ../shared/panoramas here")
def test_round_trip_of_real_panoramas_keeps_39_2_db() -> None:
    scores = []
    for file in sorted((SHARED / "panoramas").glob("*.png")):
        erp = panorama(file)
        assert erp.shape == (3, 512, 1024)
        scores.append(ws_psnr(viewpoint_to_erp(erp_to_viewpoint(erp, 736), 1024), erp))
    assert len(scores) == 8
    assert np.mean(scores) >= 39.2


def video_frames(file: Path, wanted: tuple[int, ...]) -> list[Tensor]:
    av = pytest.importorskip("av")
    with av.open(str(file)) as container:
        frames = [
            frame.to_ndarray(format="rgb24") for index, frame in enumerate(container.decode(video=0)) if index in wanted
        ]
    return [torch.from_numpy(frame).permute(2, 0, 1).float() / 255 for frame in frames]


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="no ../shared/golden here")
@pytest.mark.parametrize("clip", GOLDEN_PSNR)
def test_map_to_erp_equals_the_published_panoramas(clip: str) -> None:
    maps = video_frames(SHARED / "golden" / clip / "viewpoint.mp4", (0, 24, 48))
    published = video_frames(SHARED / "golden" / clip / "erp.mp4", (0, 24, 48))
    for viewpoint, expected, least in zip(maps, published, GOLDEN_PSNR[clip], strict=True):
        erp = viewpoint_to_erp(viewpoint, 1056, interpolation="bilinear")
        psnr = float(-10 * torch.log10(((erp - expected) ** 2).mean()))
        assert psnr >= least - 0.1


# Types and shapes


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items())
def test_any_float_dtype_comes_back(dtype: torch.dtype, tolerance: float) -> None:
    viewpoint, erp = smooth_map(64), smooth_erp(128)
    pairs = [
        (viewpoint_to_erp(viewpoint.to(dtype), 128), viewpoint_to_erp(viewpoint, 128)),
        (viewpoint_to_erp(viewpoint.to(dtype), 32), viewpoint_to_erp(viewpoint, 32)),
        (erp_to_viewpoint(erp.to(dtype), 64), erp_to_viewpoint(erp, 64)),
        (fuse_overlaps(viewpoint.to(dtype)), fuse_overlaps(viewpoint)),
    ]
    for result, expected in pairs:
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 2)])
def test_batch_and_time_give_what_single_frames_give(lead: tuple[int, ...]) -> None:
    viewpoint, erp = random_image(*lead, 2, 64, 64), random_image(*lead, 2, 64, 128, seed=1)
    for convert, images in (
        (lambda v: viewpoint_to_erp(v, 128), viewpoint),
        (lambda e: erp_to_viewpoint(e, 64), erp),
        (fuse_overlaps, viewpoint),
    ):
        result = convert(images)
        assert result.shape[:-2] == (*lead, 2)
        singles = torch.stack([convert(image) for image in images.reshape(-1, *images.shape[-3:])])
        assert torch.equal(result, singles.reshape(result.shape))


def test_a_view_gives_what_its_copy_gives() -> None:
    viewpoint = random_image(3, 64, 64, 2).movedim(-1, 1)[:, :, :, :]
    erp = random_image(3, 128, 64, 2).movedim(-1, 1).transpose(-1, -2)
    assert not viewpoint.is_contiguous()
    assert torch.equal(viewpoint_to_erp(viewpoint, 128), viewpoint_to_erp(viewpoint.contiguous(), 128))
    assert torch.equal(erp_to_viewpoint(erp, 64), erp_to_viewpoint(erp.contiguous(), 64))
    assert torch.equal(fuse_overlaps(viewpoint.expand(3, 2, 64, 64)), fuse_overlaps(viewpoint.contiguous()))


def test_the_input_is_left_as_it_was() -> None:
    viewpoint, erp = random_image(1, 64, 64), random_image(1, 64, 128)
    copies = viewpoint.clone(), erp.clone()
    viewpoint_to_erp(viewpoint, 128)
    fuse_overlaps(viewpoint)
    erp_to_viewpoint(erp, 64)
    assert torch.equal(viewpoint, copies[0])
    assert torch.equal(erp, copies[1])


# Caches


def test_cached_grids_equal_uncached_bit_for_bit() -> None:
    for width in (128, 512):
        for _ in range(2):
            cached = viewpoint_map.map_from_erp_grid(64, width // 2, width)
            fresh = viewpoint_map.build_map_from_erp_grid(64, width // 2, width)
            assert torch.equal(cached.x, fresh.x)
            assert torch.equal(cached.y, fresh.y)
            assert_same_lookup(
                viewpoint_map.erp_lookup(64, width, True), viewpoint_map.build_erp_lookup(64, width, True)
            )
    for cached, fresh in (
        (viewpoint_map.fusion_lookup(64), viewpoint_map.build_fusion_lookup(64)),
        (viewpoint_map.up_margin_lookup(64, 3), viewpoint_map.build_up_margin_lookup(64, 3)),
    ):
        assert torch.equal(cached[0], fresh[0])
        assert_same_lookup(cached[1], fresh[1])


def test_cached_calls_equal_uncached_ones_bit_for_bit() -> None:
    viewpoint, erp = random_image(2, 64, 64), random_image(2, 64, 128)
    results = []
    for _ in range(2):
        for cache in (viewpoint_map.erp_lookup, viewpoint_map.map_from_erp_grid, viewpoint_map.fusion_lookup):
            cache.clear()
        for _ in range(2):
            results.append((viewpoint_to_erp(viewpoint, 128), erp_to_viewpoint(erp, 64), fuse_overlaps(viewpoint)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_caches_are_bounded() -> None:
    viewpoint = torch.zeros(1, 32, 32)
    for width in range(16, 16 + 4 * (KEPT_RESULTS + 4), 4):
        viewpoint_to_erp(viewpoint, width)
    assert len(viewpoint_map.erp_lookup.results) == KEPT_RESULTS


@pytest.mark.parametrize("fusion", [True, False])
def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch, fusion: bool) -> None:
    def build() -> tuple[MapLookup, Grid, Tensor]:
        lookup = viewpoint_map.build_erp_lookup(64, 40, fusion)
        return lookup, viewpoint_map.build_map_from_erp_grid(96, 256, 512), viewpoint_to_erp(viewpoint, 40)

    viewpoint = random_image(3, 64, 64)
    whole = build()
    monkeypatch.setattr(resample, "BAND_PIXELS", 500)
    viewpoint_map.erp_lookup.clear()
    banded = build()
    assert whole[0].factor > 1
    assert whole[1].factor > 1
    assert_same_lookup(banded[0], whole[0])
    assert torch.equal(banded[1].x, whole[1].x)
    assert torch.equal(banded[1].y, whole[1].y)
    assert torch.equal(banded[2], whole[2])


def test_a_large_lookup_is_made_in_little_more_memory_than_it_takes() -> None:
    pixels = 1024 * 2048
    assert peak_bytes(lambda: viewpoint_map.build_erp_lookup(512, 2048, True)) < 40 * pixels + 512 * BAND_PIXELS
    assert peak_bytes(lambda: viewpoint_map.build_map_from_erp_grid(1440, 720, 1440)) < 9 * 1440**2 + 256 * BAND_PIXELS


# Filtering


def checkerboard(height: int, width: int) -> Tensor:
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2).float()[None]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_checkerboard_finer_than_the_map_turns_grey(interpolation: str) -> None:
    viewpoint = erp_to_viewpoint(checkerboard(1024, 2048), 352, interpolation=interpolation)
    x, y, z = map_directions(352).unbind(-1)
    away_from_poles = y.abs() < torch.hypot(x, z)
    assert abs(float(viewpoint.mean()) - 0.5) < 0.01
    assert float(viewpoint[:, away_from_poles].std()) < 0.05


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_checkerboard_finer_than_the_erp_turns_grey(interpolation: str) -> None:
    erp = viewpoint_to_erp(checkerboard(736, 736), 208, interpolation=interpolation)
    assert abs(float(erp.mean()) - 0.5) < 0.01
    assert float(erp[:, 26:-26].std()) < 0.06


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_masks_stay_in_0_to_1(interpolation: str) -> None:
    mask = (random_image(1, 64, 128) > 0.5).float()
    for result in (
        erp_to_viewpoint(mask, 64, interpolation=interpolation),
        erp_to_viewpoint(mask, 32, interpolation=interpolation),
        viewpoint_to_erp(mask[..., :64], 128, interpolation=interpolation),
    ):
        assert float(result.min()) >= 0
        assert float(result.max()) <= 1 + 1e-6


# Sizes and bad input


def test_sizes_are_the_papers() -> None:
    assert erp_width_for_map(736) == 1056
    for map_size in (32, 256, 512, 736, 2912):
        width = erp_width_for_map(map_size)
        assert width % 32 == 0
        assert 0 <= width - math.sqrt(2) * map_size < 32


@pytest.mark.parametrize(
    ("shape", "map_size", "message"),
    [
        ((3, 64, 120), 64, r"2:1.*120 x 64"),
        ((3, 63, 126), 64, "126 x 63"),
        ((3, 64, 128), 100, "100.*multiple of 32"),
        ((3, 64, 128), 0, "is 0;"),
        ((3, 64, 128), -32, "-32"),
        ((64, 128), 64, r"\(64, 128\)"),
        ((0, 3, 64, 128), 64, r"empty tensor \(0, 3, 64, 128\)"),
    ],
)
def test_erp_to_viewpoint_names_what_came(shape: tuple[int, ...], map_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        erp_to_viewpoint(torch.zeros(shape), map_size)


@pytest.mark.parametrize(
    ("shape", "width", "message"),
    [
        ((3, 64, 128), 128, r"square.*128 x 64"),
        ((3, 100, 100), 128, "100.*multiple of 32"),
        ((3, 64, 64), 0, "width is 0"),
        ((3, 64, 64), -4, "width is -4"),
        ((3, 64, 64), 130, "130.*multiple of 4"),
        ((64, 64), 128, r"\(64, 64\)"),
        ((0, 3, 64, 64), 128, r"empty tensor \(0, 3, 64, 64\)"),
    ],
)
def test_viewpoint_to_erp_names_what_came(shape: tuple[int, ...], width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        viewpoint_to_erp(torch.zeros(shape), width)


def test_integers_and_unknown_interpolations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float tensor.*uint8"):
        erp_to_viewpoint(torch.zeros(3, 64, 128, dtype=torch.uint8), 64)
    with pytest.raises(ValueError, match=r"float tensor.*uint8"):
        viewpoint_to_erp(torch.zeros(3, 64, 64, dtype=torch.uint8), 128)
    with pytest.raises(ValueError, match="'lanczos'; expected one of bicubic, bilinear, nearest"):
        erp_to_viewpoint(torch.zeros(3, 64, 128), 64, interpolation="lanczos")
    with pytest.raises(ValueError, match="'area'"):
        viewpoint_to_erp(torch.zeros(3, 64, 64), 128, interpolation="area")
