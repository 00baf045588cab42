"""Upright charts cover the sphere, show it as flat cameras do, and fuse without a step and without a swirl."""

import math
from collections.abc import Callable

import pytest
import torch
from spandrel import ModelLoader
from torch import Tensor

from scripts.tiny_upscaler import upscaler_weights
from tests.analytic import smooth
from viewpoint_core import upright
from viewpoint_core.camera import view_directions, view_rotation
from viewpoint_core.cubemap import FACE_YAW_PITCH, FACES
from viewpoint_core.map_layout import erp_width_for_map, map_directions
from viewpoint_core.sphere import erp_directions
from viewpoint_core.upright import (
    GUARD,
    REACH,
    UprightLayout,
    chart_weights,
    match_density,
    upright_layout,
    upright_to_erp,
    viewpoint_to_upright,
)
from viewpoint_core.viewpoint_map import viewpoint_to_erp
from viewpoint_core.views import render_view

MAP = 128


def chart_directions(face: str, layout: UprightLayout, scale: int = 1) -> Tensor:
    """Directions of a chart's pixels once it is upscaled."""
    yaw, pitch = FACE_YAW_PITCH[face]
    side = layout.side * scale
    return view_directions(side, side, yaw_deg=yaw, pitch_deg=pitch, fov_deg=layout.fov_deg)


def weight_by_hand(direction: list[float], face: str) -> float:
    """A chart's weight at one direction before normalising, in plain arithmetic."""
    yaw, pitch = FACE_YAW_PITCH[face]
    x, y, z = (torch.tensor(direction, dtype=torch.float64) @ view_rotation(yaw, pitch, 0)).tolist()
    weight = 1.0
    for aside in (x, y):
        angle, last = math.atan2(abs(aside), z), math.atan(REACH)
        part = min(1.0, max(0.0, (last - angle) / (2 * (last - math.pi / 4))))
        weight *= 3 * part**2 - 2 * part**3
    return weight


def angular_steps(erp: Tensor) -> Tensor:
    """The largest change between neighbouring pixels, per radian: along meridians and over the poles, and across the
    seam; rows near a pole, whose pixels nearly coincide, are compared at a distance of a row."""
    height, width = erp.shape[-2:]
    ring = torch.cat([erp, erp.roll(width // 2, -1).flip(-2)], dim=-2)  # full meridian circles
    along = (ring - ring.roll(1, -2)).abs().max() / (math.pi / height)
    latitude = torch.sin((torch.arange(height) + 0.5) * math.pi / height)
    across = (erp - erp.roll(1, -1)).abs().amax((0, 2)) / (latitude.clamp(min=2 / width) * 2 * math.pi / width)
    return torch.maximum(along, across.max())


def test_weights_are_those_by_hand_and_sum_to_1() -> None:
    direction = erp_directions(16, 32)
    weights = chart_weights(direction)
    assert float((weights.sum(0) - 1).abs().max()) < 1e-12
    for row, column in ((0, 0), (3, 7), (5, 11), (5, 12), (8, 3), (12, 28), (15, 31)):
        by_hand = torch.tensor([weight_by_hand(direction[row, column].tolist(), face) for face in FACES])
        torch.testing.assert_close(weights[:, row, column].float(), (by_hand / by_hand.sum()).float())


def test_charts_show_the_map_as_flat_upright_cameras_do() -> None:
    layout = upright_layout(MAP)
    charts = viewpoint_to_upright(smooth(map_directions(MAP)), layout)
    for face, chart in zip(FACES, charts, strict=True):
        assert float((chart - smooth(chart_directions(face, layout))).abs().max()) < 5e-3


@pytest.mark.parametrize(("scale", "width"), [(1, 192), (1, 1028), (2, 512), (4, 256)])
def test_a_smooth_function_survives_fusion(scale: int, width: int) -> None:
    layout = upright_layout(MAP)
    charts = (smooth(chart_directions(face, layout, scale)) for face in FACES)
    erp = upright_to_erp(charts, layout, width)
    assert erp.shape == (3, width // 2, width)
    assert float((erp - smooth(erp_directions(width // 2, width))).abs().max()) < 2e-3


@pytest.mark.parametrize("side", [1, 3, 8])
def test_a_constant_stays_constant(side: int) -> None:
    layout = upright_layout(MAP)
    charts = [torch.full((3, side * layout.side, side * layout.side), 0.3)] * 6
    assert float((upright_to_erp(charts, layout, 200) - 0.3).abs().max()) < 1e-5


def test_map_to_panorama_through_charts_is_the_direct_way() -> None:
    layout = upright_layout(MAP, 2.0)
    viewpoint = smooth(map_directions(MAP))
    through = upright_to_erp(viewpoint_to_upright(viewpoint, layout), layout, 512)
    assert float((through - viewpoint_to_erp(viewpoint, 512)).abs().max()) < 4e-3


def test_charts_that_disagree_leave_no_step_anywhere() -> None:
    layout, width = upright_layout(MAP), 1024
    values = torch.tensor([0.0, 1.0, 0.2, 0.9, 0.6, 0.4])
    charts = [value.expand(1, layout.side, layout.side) for value in values]
    erp = upright_to_erp(charts, layout, width)
    band = 2 * (math.atan(REACH) - math.pi / 4)
    assert float(angular_steps(erp)) < 1.5 * 1.5 / band  # a smoothstep's steepest slope, and three charts at a corner
    hard = values[chart_weights(erp_directions(width // 2, width)).argmax(0)][None]
    assert float(angular_steps(hard)) > 10 * 1.5 / band, "the measure sees a step"


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = upright_layout(MAP)
    charts = list(torch.rand(6, 3, 2 * layout.side, 2 * layout.side, generator=torch.Generator().manual_seed(1)))
    whole = upright_to_erp(charts, layout, 256)
    monkeypatch.setattr(upright, "BAND_SAMPLES", 3000)
    upright.chart_bands.clear()
    assert len(upright.build_bands("U", 256, 2 * layout.side, layout.fov_deg, 2)) > 10
    assert torch.equal(upright_to_erp(charts, layout, 256), whole)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_what_a_network_gets_wrong_at_a_charts_border_is_not_seen(scale: int) -> None:
    layout = upright_layout(MAP)
    inner = torch.zeros(1, layout.side * scale, layout.side * scale)
    wrong = torch.full_like(inner, 1e6)
    border = GUARD * scale // 2
    wrong[:, border:-border, border:-border] = 0
    assert float(upright_to_erp([wrong] * 6, layout, 256).abs().max()) == 0


@pytest.mark.parametrize("scale", [4, 5, 8])
def test_charts_finer_than_the_panorama_do_not_alias(scale: int) -> None:
    layout, width = upright_layout(MAP), 192
    side = layout.side * scale
    stripes = (torch.arange(side) % 2).float().expand(1, side, side)
    assert float((upright_to_erp([stripes] * 6, layout, width) - 0.5).abs().max()) < 0.06
    assert match_density(stripes, layout, width)[0].shape[-1] < side


def test_what_cannot_be_fused_is_refused() -> None:
    layout = upright_layout(MAP)
    charts = [torch.zeros(3, layout.side, layout.side)] * 6
    with pytest.raises(ValueError, match="multiple of 4"):
        upright_to_erp(charts, layout, 150)
    with pytest.raises(ValueError, match="shorter"):
        upright_to_erp(charts[:5], layout, 200)


def grain(direction: Tensor) -> Tensor:
    """A texture without any preferred direction or place: waves of many directions on the sphere (1, h, w)."""
    generator = torch.Generator().manual_seed(3)
    waves = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    waves = 16 * waves / waves.norm(dim=-1, keepdim=True)
    phase = torch.rand(60, generator=generator, dtype=torch.float64) * 2 * math.pi
    unit = direction / direction.norm(dim=-1, keepdim=True)
    values = torch.sin(unit @ waves.T + phase).sum(-1) / 60**0.5
    return (0.5 + 0.15 * values).float().expand(3, -1, -1)


def upscale_through_charts(
    world: Callable[[Tensor], Tensor], network: Callable[[Tensor], Tensor], scale: int
) -> Tensor:
    layout = upright_layout(MAP)
    charts = viewpoint_to_upright(world(map_directions(MAP)), layout)
    return upright_to_erp((network(chart) for chart in charts), layout, scale * erp_width_for_map(MAP))


def upscale_panorama(world: Callable[[Tensor], Tensor], network: Callable[[Tensor], Tensor], scale: int) -> Tensor:
    width = erp_width_for_map(MAP)
    return network(viewpoint_to_erp(world(map_directions(MAP)), width))


@pytest.mark.parametrize(("pole", "pitch"), [("zenith", 90), ("nadir", -90)])
def test_a_pole_is_upscaled_like_any_other_place(pole: str, pitch: float) -> None:
    """The world tilted so that its pole lies ahead: upscaled, the pole must look as it does where it was."""
    scale = 2
    model = ModelLoader().load_from_state_dict(upscaler_weights(scale, features=8, layers=2))
    tilt = view_rotation(0, pitch, 0)

    def network(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return model(picture[None])[0]

    def change(route: Callable[..., Tensor]) -> float:
        there, here = route(grain, network, scale), route(lambda d: grain(d @ tilt.T), network, scale)
        at_pole = render_view(there, 96, 96, pitch_deg=pitch, fov_deg=50)
        ahead = render_view(here, 96, 96, fov_deg=50)
        return float((at_pole - ahead).square().mean().sqrt())

    through_charts, whole = change(upscale_through_charts), change(upscale_panorama)
    assert through_charts < 0.5 * whole
