"""Clips laid over one another on the map, and partial panoramas."""

import math

import pytest
import torch
from torch import Tensor

from tests.analytic import smooth
from viewpoint_core import compose
from viewpoint_core.camera import direction_to_view, view_directions
from viewpoint_core.camera_path import CameraPath
from viewpoint_core.compose import border_angle, compose_maps, feathered
from viewpoint_core.map_layout import map_directions
from viewpoint_core.partial import partial_erp_to_viewpoint
from viewpoint_core.sphere import erp_directions
from viewpoint_core.viewpoint_map import erp_to_viewpoint, fuse_overlaps, map_from_erp_grid, viewpoint_to_erp
from viewpoint_core.views import place_view

SIZE = 192
LEFT, RIGHT = {"yaw_deg": -25.0, "fov_deg": 80.0}, {"yaw_deg": 25.0, "pitch_deg": 35.0, "fov_deg": 80.0}


def placed(camera: dict[str, float], value: float | None = None, frames: int = 1) -> tuple[Tensor, Tensor]:
    """A placed view (T, 3, S, S) of one value, or of a smooth world, and its mask."""
    view = smooth(view_directions(96, 128, **camera)) if value is None else torch.full((3, 96, 128), value)
    maps, mask = place_view(view.expand(frames, -1, -1, -1), SIZE, **camera)
    return maps, mask.expand(frames, -1, -1)


def unit(direction: Tensor) -> Tensor:
    return direction / direction.norm(dim=-1, keepdim=True)


# One map


def test_border_angle_is_the_angle_to_the_nearest_unknown_direction() -> None:
    known = placed(RIGHT)[1][0] > 0
    reach = math.radians(15)
    found = border_angle(known, reach).double()
    direction = unit(map_directions(SIZE))
    unknown = direction[~known]
    for row, column in known.nonzero()[::307].tolist():
        nearest = (direction[row, column] - unknown).norm(dim=-1).min()
        expected = min(reach, 2 * math.asin(float(nearest) / 2))
        assert float(found[row, column]) == pytest.approx(expected, abs=1e-6)
    assert not bool(found[~known].any())


def test_everything_known_and_nothing_known_have_no_border() -> None:
    everything = torch.ones(SIZE, SIZE, dtype=torch.bool)
    assert bool((border_angle(everything, 0.2) == torch.tensor(0.2)).all())
    assert not bool(border_angle(~everything, 0.2).any())


def test_what_the_map_shows_twice_stays_one() -> None:
    lower, upper = placed(LEFT), placed(RIGHT)
    out, mask = compose_maps(*lower, *upper, feather_deg=8)
    for before, after in ((lower[0], out), (lower[1][:, None], mask[:, None])):
        was = (fuse_overlaps(before) - before).abs()
        now = (fuse_overlaps(after) - after).abs()
        assert float(now.quantile(0.99)) < float(was.quantile(0.99)) + 5e-3
    weight = torch.stack(list(feathered(upper[1], 8)))[:, None]
    assert float((fuse_overlaps(weight) - weight).abs().max()) < 0.05
    assert float((fuse_overlaps(weight) - weight).abs().mean()) < 1e-3


@pytest.mark.parametrize("feather_deg", [0, 0.5, 2, 4, 8])
def test_no_grey_rim_of_the_upper_map_is_left_where_the_lower_one_knows_more(feather_deg: float) -> None:
    maps, mask = placed(RIGHT, 1.0)
    assert float(maps[:, :, mask[0] > 0].min()) < 0.9  # covered in part, grey in part
    lower, known = torch.ones_like(maps), torch.ones_like(mask)
    assert float(compose_maps(lower, known, maps, mask, feather_deg=feather_deg)[0].min()) > 0.999
    assert float(compose_maps(maps, mask, lower, known, feather_deg=feather_deg)[0].min()) > 0.999


@pytest.mark.parametrize("feather_deg", [0.0, 4.0])
def test_each_frame_is_told_when_it_is_done(feather_deg: float, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, mask = placed(RIGHT, frames=3)
    mask = torch.stack([mask[0], mask[1] * 0.5, mask[2]])
    weighed, weigh = [], compose.border_weights
    monkeypatch.setattr(compose, "border_weights", lambda *mask: (weighed.append(1), weigh(*mask))[1])

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compose_maps(maps, mask, maps, mask, feather_deg=feather_deg, on_frame=stop)
    assert len(weighed) == 2


def test_the_upper_map_covers_the_lower_one_and_fades_at_its_border() -> None:
    lower, upper = placed(LEFT, 0.2), placed(RIGHT, 0.8)
    out, mask = compose_maps(*lower, *upper, feather_deg=6)
    assert torch.equal(mask, torch.maximum(lower[1], upper[1]))
    inner = border_angle(upper[1][0] > 0, 1).rad2deg()
    below = border_angle(lower[1][0] > 0, 1).rad2deg()
    deep, edge, only = inner > 6.5, (inner > 0) & (inner < 2) & (below > 6.5), (lower[1][0] == 1) & (upper[1][0] == 0)
    for region, value, tolerance in ((deep, 0.8, 1e-5), (edge, 0.2, 0.17), (only, 0.2, 1e-5)):
        assert int(region.sum()) > 20
        assert float((out[0, :, region] - value).abs().max()) < tolerance
    assert bool((out[0, :, mask[0] == 0] == 0.5).all())
    order = (below > 6.5) & (upper[1][0] == 1)
    rising = out[0, 0, order][inner[order].argsort()]
    assert float((rising.cummax(0).values - rising).max()) < 1e-4, "the blend is not a matter of the distance alone"


def step_across_borders(feather_deg: float) -> float:
    """The largest step between neighbouring panorama pixels that lie well inside one of the two clips."""
    lower, upper = placed(LEFT, 0.2), placed(RIGHT, 0.8)
    out, _ = compose_maps(*lower, *upper, feather_deg=feather_deg)
    steps, largest = viewpoint_to_erp(out, 512).diff(dim=-1).abs()[0, 0], 0.0
    for mask in (lower[1], upper[1]):
        known = (viewpoint_to_erp(mask[:, None], 512, interpolation="bilinear") > 0.999).float()
        inside = 1 - torch.nn.functional.max_pool2d(1 - known, 11, 1, 5)[0, 0]
        largest = max(largest, float((steps * inside[:, 1:] * inside[:, :-1]).max()))
    return largest


def test_a_feather_leaves_no_step() -> None:
    assert step_across_borders(10) < 0.1
    assert step_across_borders(0) > 0.25


def test_a_world_seen_twice_is_the_same_world() -> None:
    out, mask = compose_maps(*placed(LEFT), *placed(RIGHT), feather_deg=5)
    expected = smooth(map_directions(SIZE))
    whole = mask[0] == 1
    assert float((out[0] - expected)[:, whole].abs().max()) < 3e-2


@pytest.mark.parametrize("feather_deg", [0, 5])
def test_soft_masks_blend_and_nothing_unknown_shines_through(feather_deg: float) -> None:
    ramp = (torch.arange(SIZE) / (SIZE - 1)).expand(1, SIZE, SIZE)
    lower, upper = torch.full((1, 3, SIZE, SIZE), 0.3), torch.full((1, 3, SIZE, SIZE), 0.7)
    out, mask = compose_maps(lower, torch.ones_like(ramp), upper, ramp, feather_deg=feather_deg)
    assert bool((mask == 1).all())
    assert float((out.amin(), out.amax())[0]) >= 0.3 - 1e-6
    assert float(out.max()) <= 0.7 + 1e-6
    if not feather_deg:
        inside = border_angle(ramp[0] > 0, 0.1) > 0.05  # on the border itself the map that knows more stands alone
        assert float(inside.float().mean()) > 0.8
        torch.testing.assert_close(out[0, 0, inside], (0.3 + 0.4 * ramp[0])[inside])
    alone, known = compose_maps(torch.zeros_like(lower), torch.zeros_like(ramp), upper, ramp, feather_deg=feather_deg)
    assert torch.equal(known, ramp)
    assert float((alone[0, :, known[0] > 0] - 0.7).abs().max()) < 1e-5
    assert bool((alone[0, :, known[0] == 0] == 0.5).all())


def test_each_frame_has_its_own_masks() -> None:
    view = torch.full((3, 3, 64, 64), 0.8)
    path = CameraPath(*(torch.tensor(v).double() for v in ([0, 0, 60], [0] * 3, [0] * 3, [70] * 3)))
    upper = place_view(view, SIZE, path=path)
    lower = placed(LEFT, 0.2, frames=3)
    out, mask = compose_maps(*lower, *upper, feather_deg=5)
    for frame in range(3):
        one = slice(frame, frame + 1)
        single, known = compose_maps(lower[0][one], lower[1][one], upper[0][one], upper[1][one], feather_deg=5)
        assert torch.equal(out[one], single)
        assert torch.equal(mask[one], known)
    assert not torch.equal(out[1], out[2])


def test_maps_that_do_not_fit_are_refused_in_plain_words() -> None:
    maps, masks = torch.zeros(2, 3, 64, 64), torch.ones(2, 64, 64)
    with pytest.raises(ValueError, match="lower map has 2 frames of side 64 and the upper one 1 of side 64; expected"):
        compose_maps(maps, masks, maps[:1], masks[:1])
    with pytest.raises(ValueError, match="2 of side 96"):
        compose_maps(maps, masks, torch.zeros(2, 3, 96, 96), torch.ones(2, 96, 96))
    with pytest.raises(ValueError, match="upper map .* and its mask .* do not fit"):
        compose_maps(maps, masks, maps, masks[:, :32])
    for feather_deg in (-1, 91):
        with pytest.raises(ValueError, match=f"feather_deg is {feather_deg}; expected 0 to 90"):
            compose_maps(maps, masks, maps, masks, feather_deg=feather_deg)


def test_every_frame_is_told_and_the_maps_lie_as_an_image() -> None:
    told: list[int] = []
    out, _ = compose_maps(*placed(LEFT, frames=2), *placed(RIGHT, frames=2), on_frame=lambda: told.append(1))
    assert len(told) == 2
    assert out.movedim(1, -1).is_contiguous()


# Partial panoramas


def partial_world(height: int) -> tuple[Tensor, Tensor]:
    """A smooth world of which a patch across the seam and the zenith is known, the rest wild; and its mask."""
    erp = smooth(erp_directions(height, 2 * height))[None]
    seen = direction_to_view(erp_directions(height, 2 * height), 64, 64, yaw_deg=170, pitch_deg=60, fov_deg=100)[2]
    mask = seen.float()[None]
    return torch.where(mask[:, None] > 0, erp, 40.0), mask


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("height", [64, 128, 512])
def test_nothing_unknown_bleeds_into_a_partial_panorama(height: int, interpolation: str) -> None:
    erp, mask = partial_world(height)
    maps, known = partial_erp_to_viewpoint(erp, mask, 128, interpolation=interpolation)
    error = (maps - smooth(map_directions(128)))[0][:, known[0] > 0].abs()
    assert int((known > 0).sum()) > 1000
    assert float(error.max()) < 4 / height + 0.04
    assert float(error.mean()) < 0.02
    assert bool((maps[0][:, known[0] == 0] == 0.5).all())
    flat = torch.where(mask[:, None] > 0, 0.8, erp)
    constant, _ = partial_erp_to_viewpoint(flat, mask, 128, interpolation=interpolation)
    assert float((constant[0][:, known[0] > 0] - 0.8).abs().max()) < 1e-5


def test_labels_of_a_partial_panorama_are_not_mixed_by_nearest() -> None:
    erp, mask = partial_world(64)
    labels = torch.where(mask[:, None] > 0, (erp > 0.5).float(), erp)
    maps, known = partial_erp_to_viewpoint(labels, mask, 128, interpolation="nearest")
    assert maps[0][:, known[0] > 0].unique().tolist() == [0, 1]


def test_a_wholly_known_partial_panorama_is_the_panorama() -> None:
    erp = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    told: list[int] = []
    maps, known = partial_erp_to_viewpoint(erp, torch.ones(2, 64, 128), 128, on_frame=lambda: told.append(1))
    assert len(told) == 2
    assert torch.equal(maps, erp_to_viewpoint(erp, 128))
    assert bool((known == 1).all())


def test_a_soft_mask_keeps_its_values_and_its_colours() -> None:
    erp = smooth(erp_directions(64, 128))[None]
    soft = (erp_directions(64, 128)[..., 2].float().clamp(0, 1))[None]
    maps, known = partial_erp_to_viewpoint(erp, soft, 128)
    expected = map_directions(128)
    ahead = (unit(expected)[..., 2].float()).clamp(0, 1)
    assert float((known[0] - ahead).abs().max()) < 0.06
    assert float((maps[0] - smooth(expected))[:, known[0] > 0].abs().max()) < 0.05
    assert known.shape == (1, 128, 128)
    assert map_from_erp_grid(128, 64, 128).factor == 1


def test_a_mask_that_does_not_fit_a_panorama_is_refused() -> None:
    with pytest.raises(ValueError, match="and their mask .* do not fit"):
        partial_erp_to_viewpoint(torch.zeros(2, 3, 32, 64), torch.ones(1, 32, 64), 64)
    with pytest.raises(ValueError, match="and their mask .* do not fit"):
        partial_erp_to_viewpoint(torch.zeros(3, 32, 64), torch.ones(3, 32, 64), 64)
