"""Synthetic worlds: exact per direction, without seams or aliasing, with parallax; and the clips made of them."""

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic_pictures import render_erp, render_map
from viewpoint_core.cubemap import face_directions
from viewpoint_core.map_layout import map_directions
from viewpoint_core.sphere import erp_directions
from viewpoint_core.training.data.clips import Sampling, load_map, plan_clips
from viewpoint_core.training.data.manifest import read_manifest
from viewpoint_core.training.data.media import probe, read_frames
from viewpoint_core.training.synthetic.clips import (
    THEMES,
    Scene,
    draw_scene,
    erp_frames,
    render_directions,
    write_clips,
)
from viewpoint_core.training.synthetic.render import shaded, sun_light
from viewpoint_core.training.synthetic.solids import Solid, constant, hit_solid, near, solid_surface, to_local
from viewpoint_core.training.synthetic.texture import Material, covered
from viewpoint_core.training.synthetic.turn import turn_panorama
from viewpoint_core.viewpoint_map import erp_to_viewpoint

SEED = 7
MAP_TOLERANCE_DB = 30.0  # box-filtered rays against bicubic samples of an ERP with four rays a pixel
PATHS = range(150)


def psnr(image: Tensor, other: Tensor) -> float:
    return float(-10 * ((image - other) ** 2).mean().log10())


def step(image: Tensor, dim: int = -1) -> Tensor:
    """Mean difference between neighbours."""
    return (image.narrow(dim, 1, image.shape[dim] - 1) - image.narrow(dim, 0, image.shape[dim] - 1)).abs().mean()


def flow(first: Tensor, second: Tensor) -> np.ndarray:
    """Farneback's optical flow in pixels, (h, w, 2)."""
    grey = [(frame.mean(0) * 255).byte().numpy() for frame in (first, second)]
    return cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def face_view(scene: Scene, face: str, time_s: float, size: int = 96) -> Tensor:
    return render_directions(scene, face_directions(face, size), time_s)


def still_camera(scene: Scene) -> Scene:
    """The same scene with a camera that moves but does not turn."""
    camera = replace(scene.camera, yaw=0.0, yaw_rate=0.0, sway=(0.0, 0.0, 0.0), rise=0.0)
    return replace(scene, camera=camera)


# What a scene is


def test_a_seed_gives_the_same_scene_and_pictures() -> None:
    assert draw_scene(SEED) == draw_scene(SEED)
    assert torch.equal(render_erp(draw_scene(SEED), 64, 2), render_erp(draw_scene(SEED), 64, 2))


def test_other_seeds_give_other_pictures() -> None:
    pictures = [render_erp(draw_scene(seed, "meadow"), 64, 1) for seed in range(4)]
    assert min((a - b).abs().mean() for i, a in enumerate(pictures) for b in pictures[:i]) > 0.02


def test_every_theme_is_drawn_by_some_seed() -> None:
    assert {draw_scene(seed).theme for seed in range(100)} == set(THEMES)


@pytest.mark.parametrize("theme", THEMES)
def test_pictures_stay_in_range_and_have_contrast(theme: str) -> None:
    for seed in range(3):
        picture = render_erp(draw_scene(seed, theme), 64, 1)
        assert picture.dtype == torch.float32
        assert picture.shape == (1, 3, 32, 64)
        assert picture.isfinite().all()
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert picture.std() > 0.06


def test_the_camera_never_enters_a_solid_nor_a_wall() -> None:
    for seed in PATHS:
        scene = draw_scene(seed)
        places = [scene.camera.position(float(moment)) for moment in range(0, 40)]
        points = tuple(torch.tensor(axis) for axis in zip(*places, strict=True))
        for solid in scene.solids:
            local, _ = to_local(solid, points, points)
            outside = torch.stack([part.abs() - half for part, half in zip(local, solid.half, strict=True)]).amax(0)
            assert outside.min() > 0.1, (seed, solid)
        if scene.room:
            assert points[0].abs().max() < scene.room.half_x - 0.5
            assert points[2].abs().max() < scene.room.half_z - 0.5


# Exact per direction


def test_a_pixel_depends_on_its_own_direction_alone() -> None:
    scene, directions = draw_scene(SEED, "temple"), erp_directions(32, 64)
    order = torch.randperm(32 * 64, generator=torch.Generator().manual_seed(0))
    shuffled = directions.reshape(-1, 3)[order].reshape(32, 64, 3)
    picture = render_directions(scene, directions, 0.5, pixel_rad=0.1)
    other = render_directions(scene, 3 * shuffled, 0.5, pixel_rad=0.1)
    assert (picture.flatten(1)[:, order] - other.flatten(1)).abs().mean() < 1e-5


@pytest.mark.parametrize("theme", ["meadow", "town", "sea", "chamber"])
def test_a_map_is_what_its_erp_becomes(theme: str) -> None:
    scene = draw_scene(SEED, theme)
    direct, through_erp = render_map(scene, 128, 1), erp_to_viewpoint(render_erp(scene, 512, 1), 128)
    assert psnr(direct, through_erp) > MAP_TOLERANCE_DB


def test_rays_of_map_and_erp_agree_where_directions_do() -> None:
    scene = draw_scene(SEED, "winter")
    directions = map_directions(32)
    twice = torch.cat([directions, directions], dim=1)
    picture = render_directions(scene, twice, 0, pixel_rad=0.1)
    assert (picture[..., :32] - render_directions(scene, directions, 0, pixel_rad=0.1)).abs().max() < 1e-3
    assert torch.equal(picture[..., :32], picture[..., 32:])


@pytest.mark.parametrize("theme", THEMES)
def test_the_left_and_right_edges_of_an_erp_continue(theme: str) -> None:
    picture = render_erp(draw_scene(SEED, theme), 256, 1)
    worst = step(picture, -1) * 2.5
    assert (picture[..., 0] - picture[..., -1]).abs().mean() < worst
    assert (picture[..., 0] - picture[..., 128]).abs().mean() > worst / 2.5


@pytest.mark.parametrize("theme", ["town", "sea", "temple"])
def test_four_rays_a_pixel_leave_no_aliasing(theme: str) -> None:
    scene = draw_scene(SEED, theme)
    assert psnr(render_erp(scene, 128, 1), render_erp(scene, 128, 1, factor=4)) > 33


# Moving


@pytest.mark.parametrize("theme", ["meadow", "chamber", "temple"])
def test_frames_move_smoothly(theme: str) -> None:
    scene = draw_scene(SEED, theme)
    views = [face_view(scene, "F", frame / 16) for frame in range(4)]
    moved = [np.linalg.norm(flow(a, b), axis=-1).mean() for a, b in zip(views, views[1:], strict=False)]
    assert min(moved) > 0.05
    assert max(moved) < 4
    assert max(moved) < 2 * min(moved)


def test_time_is_continuous() -> None:
    scene = draw_scene(SEED, "temple")
    now, soon, later = (render_erp(replace_time(scene, start), 64, 1) for start in (1.0, 1.001, 1.0625))
    assert (now - soon).abs().mean() < 2e-3
    assert (now - later).abs().mean() > 3 * (now - soon).abs().mean()


def replace_time(scene: Scene, start_s: float) -> Scene:
    """A scene whose camera begins where it otherwise is at `start_s`."""
    camera = scene.camera
    return replace(scene, camera=replace(camera, phase=camera.phase + camera.turns * start_s))


def marker(distance: float, colour: tuple[float, float, float]) -> Solid:
    """A glowing ball straight ahead of the world's origin."""
    size = 0.08 * distance
    return Solid("ball", (0.0, -1.7, distance), (size, size, size), Material(colour, grain=0.0, glow=9.0))


def centroid(weight: Tensor) -> tuple[float, float]:
    """x and y in pixels."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in weight.shape)
    total = weight.sum()
    return float((weight.sum(0) * columns).sum() / total), float((weight.sum(1) * rows).sum() / total)


def test_near_things_move_more_than_far_things() -> None:
    scene = still_camera(draw_scene(SEED, "gallery"))
    camera = replace(scene.camera, radii=(2.0, 2.0), turns=0.5, phase=np.pi / 2, height=1.7)
    near_ball, far_ball = marker(8.0, (1.0, 0.0, 0.0)), marker(60.0, (0.0, 0.0, 1.0))
    moved = {}
    for name, ball, channel in (("near", near_ball, 0), ("far", far_ball, 2)):
        lone = replace(scene, camera=camera, solids=(ball,), ridges=(), fog=1e9, lamps=())
        empty = replace(lone, solids=())
        places = []
        for moment in (0.0, 1.0):
            view, background = (face_view(world, "F", moment, 192)[channel] for world in (lone, empty))
            places.append(centroid((view - background).abs() * (torch.arange(192)[:, None] < 130)))
        moved[name] = places[1][0] - places[0][0]
    expected = 96 * 2 * np.sin(0.5) / (8 - 2 * np.cos(0.5))  # to the left, so the balls go right
    assert moved["near"] == pytest.approx(expected, abs=1.5)
    assert moved["near"] > 5 * abs(moved["far"])


# Solids and textures


@pytest.mark.parametrize("shape", ["box", "frustum", "ball", "gable"])
def test_rays_meet_a_solid_on_its_surface_with_an_outward_normal(shape: str) -> None:
    solid = Solid(shape, (0.5, -1.0, 6.0), (1.0, 0.8, 1.4), Material((1, 1, 1)), yaw=0.6, taper=0.4)
    rays = face_directions("F", 64).reshape(-1, 3).float()
    rays = tuple((rays / rays.norm(dim=-1, keepdim=True)).T.contiguous())
    origin = tuple(torch.zeros(1) for _ in range(3))
    distance = hit_solid(solid, origin, rays)
    met = (distance < 100).nonzero()[:, 0]
    assert set(met.tolist()) <= set(near([solid], origin, rays)[0][1].tolist())
    point, ray = tuple(distance[met] * axis[met] for axis in rays), tuple(axis[met] for axis in rays)
    normal, patch = solid_surface(solid, point, ray, torch.full_like(distance[met], 0.01))
    assert len(met) > 20
    assert sum(n * r for n, r in zip(normal, ray, strict=True)).max() < 1e-3
    assert (sum(n * n for n in normal) - 1).abs().max() < 1e-3
    assert patch.footprint_u.min() >= 0.0099
    beyond = tuple(p + 0.01 * n for p, n in zip(point, normal, strict=True))
    inward = tuple(-n for n in normal)
    assert hit_solid(solid, beyond, inward).median() == pytest.approx(0.01, abs=2e-3)


def test_stripes_are_averaged_exactly() -> None:
    x = torch.linspace(-3, 3, 50)
    for width in (0.05, 0.7, 2.3):
        samples = (x[:, None] + width * torch.linspace(-0.5, 0.5, 4001)).remainder(1) < 0.3
        mean = samples.float().mean(1)
        assert torch.allclose(covered(x, torch.full_like(x, width), 0.3), mean, atol=2e-3)


# Speed


def test_nine_frames_of_a_map_cost_no_more_than_twelve_times_one() -> None:
    scene, seconds = draw_scene(3), []
    render_map(scene, 32, 1)
    for frames in (1, 9):
        start = time.process_time()
        render_map(scene, 256, frames)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 12 * seconds[0]


# Clips on disk


def test_written_clips_are_what_the_trainer_reads(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", [1, 2], 128, 5, heldout=[3])
    items = read_manifest(manifest)
    assert all(item.caption for item in items)
    assert [item.split for item in items] == ["train", "train", "heldout"]
    info = probe(items[0].path)
    assert (info.frames, info.fps, info.width, info.height, info.missing) == (5, 16, 128, 64, 0)
    stored = read_frames(items[0].path, range(5)).float() / 255
    assert psnr(stored, render_erp(draw_scene(1), 128, 5)) > 40
    specs, problems = plan_clips(items, manifest.parent, Sampling(length=5))
    assert problems == []
    assert load_map(specs[0], 32).shape == (3, 5, 32, 32)


def test_clips_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    first = write_clips(tmp_path, [1], 64, 2)
    file = read_manifest(first)[0].path
    changed = file.stat().st_mtime_ns
    second = write_clips(tmp_path, [1, 2], 64, 2)
    assert file.stat().st_mtime_ns == changed
    assert len(read_manifest(second)) == 2
    assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []


# Clips turned out of a panorama


def test_turned_clips_are_smooth_and_follow_the_seed() -> None:
    erp = render_erp(draw_scene(SEED, "town"), 128, 1)[0]
    clip = turn_panorama(erp, 6, 3)
    assert clip.shape == (6, 3, 64, 128)
    assert clip.min() >= 0
    assert clip.max() <= 1
    assert torch.equal(clip, turn_panorama(erp, 6, 3))
    assert (clip - turn_panorama(erp, 6, 4)).abs().mean() > 0.02
    steps = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    assert steps.min() > 1e-3
    assert steps.max() < 2 * steps.min()


# Wrong input


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    scene = draw_scene(1)
    with pytest.raises(ValueError, match="theme is 'moon'"):
        draw_scene(1, "moon")
    with pytest.raises(ValueError, match="ERP width is 30"):
        erp_frames(scene, 30, 1)
    with pytest.raises(ValueError, match="frames is 0"):
        erp_frames(scene, 64, 0)
    with pytest.raises(ValueError, match=r"\(h, w, 3\)"):
        render_directions(scene, torch.zeros(4, 3), 0)
    with pytest.raises(ValueError, match="different seeds"):
        write_clips(tmp_path, [1], 64, 1, heldout=[1])
    with pytest.raises(ValueError, match="2:1"):
        turn_panorama(torch.zeros(3, 64, 64), 2, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_single_reflected_ray_that_the_sun_does_not_reach_is_dark() -> None:
    """A chunk with one mirroring pixel, turned away from the sun, once left a ray of its own for no point at all."""
    scene = next(scene for scene in map(draw_scene, range(99)) if scene.solids and not scene.room)
    solid = next(solid for solid in scene.solids if not solid.material.glow)
    point = tuple(torch.tensor([part]) for part in solid.centre)
    nothing = torch.zeros(0)
    assert shaded(scene, point, constant(scene.sky.sun, nothing), nothing).shape == (0,)
    away = tuple(torch.tensor([-part]) for part in scene.sky.sun)
    assert not bool(sun_light(scene, point, away).any())
