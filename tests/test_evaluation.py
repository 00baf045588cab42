"""Scores of panoramas: 1 where nothing shows, more where a seam does; fills that use the known view alone."""

import math

import pytest
import torch
from torch import Tensor

from tests.analytic import pixel_solid_angle, smooth
from viewpoint_core.evaluation.fills import MEAN, MIRRORED, STRETCHED, fills, view_seen
from viewpoint_core.evaluation.scores import FLOW, REST, VIEW, mean_flow, panorama_scores, weighted_psnr
from viewpoint_core.evaluation.seams import ARCS, EDGES, LINES, SEAM, all_lines, seam_ratios, seam_steps
from viewpoint_core.sphere import erp_area, erp_directions

WIDTH = 192
HEIGHT = WIDTH // 2


def noise_erp(seed: int = 0, frames: int = 1) -> Tensor:
    """Isotropic enough: noise over the sphere, finer than the distances that are compared."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(3, 60, generator=generator, dtype=torch.float64), dim=0)
    phase = torch.rand(60, generator=generator, dtype=torch.float64) * 2 * math.pi
    waves = torch.sin(erp_directions(HEIGHT, WIDTH) @ points * 25 + phase).mean(-1)
    return (0.5 + 2 * waves).float().clamp(0, 1).expand(frames, 3, -1, -1)


def test_lines_lie_where_they_should() -> None:
    lines = all_lines()
    for line in lines.values():
        assert torch.allclose(line.points.norm(dim=-1), torch.ones(len(line.points), dtype=torch.float64))
        assert float((line.points * line.across).sum(-1).abs().max()) < 1e-12
    assert float(lines[SEAM].points[:, 0].abs().max()) < 1e-12
    largest = lines[EDGES].points.abs().sort(-1).values
    assert torch.allclose(largest[:, 1], largest[:, 2])
    on_u = lines[ARCS].points / -lines[ARCS].points[:, 1:2]
    to_edges = torch.stack([on_u[:, 0] - 1, on_u[:, 0] + 1, on_u[:, 2] - 1, on_u[:, 2] + 1]).abs()
    other = torch.stack([on_u[:, 2], on_u[:, 2], on_u[:, 0], on_u[:, 0]])
    assert float((torch.hypot(to_edges, other) - 1).abs().amin(0).max()) < 1e-9


def test_a_picture_without_seams_scores_one_and_a_constant_does_too() -> None:
    ratios = seam_ratios(*(seam_steps(noise_erp(seed)) for seed in range(6)))
    assert all(abs(value - 1) < 0.12 for value in ratios.values()), ratios
    assert set(seam_ratios(seam_steps(torch.full((1, 3, HEIGHT, WIDTH), 0.3))).values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "brighter"),
    [
        (SEAM, lambda x, y, z: (x > 0) & (z < 0)),
        (EDGES, lambda x, y, z: (z > x.abs()) & (z > y.abs())),
        (ARCS, lambda x, y, z: (y < 0) & (torch.hypot(x / -y, 1 - z / -y) < 1)),
    ],
)
def test_a_step_shows_at_its_own_kind_of_line(name: str, brighter: object) -> None:
    part = brighter(*erp_directions(HEIGHT, WIDTH).unbind(-1)).float()
    clean = [noise_erp(seed) * 0.7 for seed in range(3)]
    before = seam_ratios(*(seam_steps(erp) for erp in clean))
    after = seam_ratios(*(seam_steps(erp + 0.2 * part) for erp in clean))
    assert after[name] > before[name] + 0.15
    assert max(LINES, key=lambda line: after[line] - before[line]) == name


def test_the_area_sums_to_one_and_a_face_view_sees_a_sixth() -> None:
    weight = erp_area(HEIGHT, WIDTH)
    assert float(weight.sum()) == pytest.approx(1)
    torch.testing.assert_close(weight * 4 * math.pi, pixel_solid_angle(HEIGHT).expand(-1, WIDTH))
    assert float(weight[view_seen(HEIGHT, WIDTH)].sum()) == pytest.approx(1 / 6, abs=0.005)


def test_fills_use_the_view_alone_and_keep_it() -> None:
    erp = noise_erp()
    seen = view_seen(HEIGHT, WIDTH)
    margin = torch.nn.functional.max_pool2d(seen.float()[None], 5, 1, 2)[0] > 0
    other = torch.where(margin, erp, 1 - erp)
    for name, picture in fills(erp).items():
        assert torch.equal(picture[..., seen], erp[..., seen])
        assert torch.allclose(picture, fills(other)[name].where(~seen, picture), atol=1e-6), name


def test_fills_stay_on_the_pictures_device() -> None:
    for picture in fills(torch.empty(2, 3, HEIGHT, WIDTH, device="meta")).values():
        assert picture.device.type == "meta"
        assert picture.shape == (2, 3, HEIGHT, WIDTH)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_on_a_gpu_are_those_on_the_cpu() -> None:
    true = noise_erp(frames=3)
    made = true.roll(3, -1)
    on_gpu, on_cpu = panorama_scores(made.cuda(), true.cuda()), panorama_scores(made, true)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_the_mirrored_fill_repeats_the_view_at_the_back() -> None:
    erp = smooth(erp_directions(HEIGHT, WIDTH)).float()[None]
    mirrored = fills(erp)[MIRRORED]
    middle = slice(HEIGHT // 2 - 4, HEIGHT // 2 + 4)
    turned = mirrored.roll(WIDTH // 2, -1)
    front = slice(WIDTH // 2 - 10, WIDTH // 2 + 10)
    assert torch.allclose(turned[..., middle, front], erp[..., middle, front], atol=0.02)


def test_scores_of_the_truth_are_perfect_and_of_a_fill_are_the_fills_own() -> None:
    true = torch.cat([noise_erp().roll(shift, -1) for shift in range(3)])
    scores = panorama_scores(true, true)
    assert scores[VIEW] > 100
    assert scores[REST] > 100
    assert scores[FLOW] == pytest.approx(1)
    for name in (MEAN, STRETCHED, MIRRORED):
        made = panorama_scores(fills(true)[name], true)
        assert made[VIEW] > 100
        assert made[REST] == pytest.approx(scores[name])


def test_the_flow_is_as_long_as_the_picture_moves() -> None:
    frames = torch.cat([noise_erp().roll(2 * frame, -1) for frame in range(3)])
    assert mean_flow(frames, erp_area(HEIGHT, WIDTH)) == pytest.approx(2, rel=0.25)
    assert mean_flow(frames[:1].expand(3, -1, -1, -1), erp_area(HEIGHT, WIDTH)) < 0.05


def test_a_psnr_counts_pixels_by_weight() -> None:
    true = torch.zeros(1, 3, 4, 8)
    made = true.clone()
    made[..., :2, :] = 0.1
    weight = torch.ones(4, 8)
    assert weighted_psnr(made, true, weight) == pytest.approx(23.01, abs=0.01)
    weight[:2] = 0
    assert weighted_psnr(made, true, weight) == pytest.approx(120)
