"""The camera and compose nodes as the host calls them: python cameras.py HOST PACK, as in checks.py."""

import asyncio
from typing import Any

from checks import comfy, host_access, torch
from memory_peak import peak_bytes
from running import expect_error, run_checks

# isort: split
# found once checks has put the host and the pack on the path
import execution
import pack.nodes.memory as memory
from pack import comfy_entrypoint
from pack.nodes import NODES
from pack.nodes.camera import ViewPointCameraPath, ViewPointCutCameraPath, ViewPointEstimateCamera
from pack.nodes.compose import ViewPointCompose, ViewPointComposite
from pack.nodes.projection import ViewPointFromCubemap, ViewPointFromERP, ViewPointToCubemap, ViewPointToERP
from pack.nodes.views import ViewPointPlaceView, ViewPointRenderView, ViewPointReorient
from pack.viewpoint_core import kept, resample
from pack.viewpoint_core.camera_path import CameraPath

import nodes as host_nodes

ANGLES = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0}
MOVING = "0: 0 5 0 120\n1: 9 0 5 130"
KEYS = "0: 0 0 0 75\n4: 16 4 -8 75"


def world() -> torch.Tensor:
    """A panorama full of blobs, IMAGE (1, 256, 512, 3)."""
    noise = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, scale_factor=4, mode="bicubic").clamp(0, 1).movedim(1, -1)


def keyed(length: int = 5) -> CameraPath:
    """The path of KEYS."""
    return ViewPointCameraPath.execute(KEYS, length, "linear").args[0]


def look(path: CameraPath | None, **angles: float) -> torch.Tensor:
    """Views of the world, IMAGE (T, 180, 240, 3)."""
    return ViewPointRenderView.execute(world(), 240, 180, "bicubic", path, **{**ANGLES, **angles}).args[0]


def check_node_names_are_unique() -> None:
    names = [node.define_schema().node_id for node in NODES]
    assert len(set(names)) == len(names)


def check_a_clip_placed_by_its_estimate_lies_where_its_camera_looked() -> None:
    clip = look(keyed(9))  # drift is told of frames eight apart
    path, confidence, drift, report = ViewPointEstimateCamera.execute(clip, 75.0, False, 0, "stop").args
    assert confidence > 0.5, report
    assert 0 <= drift < 1
    assert "75.0 degrees" in report
    found, masks, placed = ViewPointPlaceView.execute(clip, 128, 0, "bicubic", path, **ANGLES).args
    true, true_masks, _ = ViewPointPlaceView.execute(clip, 128, 0, "bicubic", keyed(9), **ANGLES).args
    assert found.shape == (9, 128, 128, 3)
    assert masks.shape == (9, 128, 128)
    assert float((found - true)[(masks == 1) & (true_masks == 1)].abs().mean()) < 0.01
    fleeting, seen, _ = ViewPointPlaceView.execute(clip, 128, 0, "bicubic", path, hold_seen=False, **ANGLES).args
    assert not torch.equal(seen[0], seen[4])
    assert torch.equal(masks, seen.amax(0).expand(9, -1, -1))
    assert torch.equal(found[seen == 1], fleeting[seen == 1])
    assert torch.equal(placed.rotations(), path.rotations())


def check_without_a_path_nodes_do_what_they_did() -> None:
    clip = look(None, yaw_deg=20.0)
    assert clip.shape == (1, 180, 240, 3)
    still = ViewPointCameraPath.execute("0: 20 0 0 90", 1, "smooth").args[0]
    assert torch.equal(look(still), clip)
    placed = [
        ViewPointPlaceView.execute(
            clip, 128, 5, "bicubic", yaw_deg=20.0, pitch_deg=0.0, roll_deg=0.0, fov_deg=90.0
        ).args,
        ViewPointPlaceView.execute(clip, 128, 5, "bicubic", still, **ANGLES).args,
    ]
    assert placed[0][0].shape == (5, 128, 128, 3)
    assert all(torch.equal(one, other) for one, other in zip(*(pair[:2] for pair in placed), strict=True))
    assert placed[0][2].camera(0) == {"yaw_deg": 20.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0}
    assert len(placed[0][2]) == 1


def check_the_angles_turn_a_path() -> None:
    assert float((look(keyed(), yaw_deg=30.0)[0] - look(None, yaw_deg=30.0, fov_deg=75.0)[0]).abs().max()) < 1e-4


def check_a_path_is_cut_and_held_when_asked() -> None:
    assert len(ViewPointCutCameraPath.execute(keyed(), 1, 3, False).args[0]) == 3
    assert len(ViewPointCutCameraPath.execute(keyed(), 1, 9, True).args[0]) == 9
    expect_error(lambda: ViewPointCutCameraPath.execute(keyed(), 1, 9, False), "of a camera path of 5 frames")
    expect_error(lambda: ViewPointCutCameraPath.execute(keyed(), 7, 2, True), "of a camera path of 5 frames")


def check_two_clips_lie_on_one_map() -> None:
    left, right = look(None, yaw_deg=-30.0), look(None, yaw_deg=30.0)
    lower = ViewPointPlaceView.execute(left, 128, 0, "bicubic", **{**ANGLES, "yaw_deg": -30.0}).args
    upper = ViewPointPlaceView.execute(right, 128, 0, "bicubic", **{**ANGLES, "yaw_deg": 30.0}).args
    maps, known = ViewPointCompose.execute(lower[0], lower[1], upper[0], upper[1], 4.0).args
    assert maps.shape == (1, 128, 128, 3)
    assert torch.equal(known, torch.maximum(lower[1], upper[1]))
    expect_error(
        lambda: ViewPointCompose.execute(
            lower[0], lower[1], upper[0].repeat(2, 1, 1, 1), upper[1].repeat(2, 1, 1), 4.0
        ),
        "expected maps of one size and length",
    )
    expect_error(lambda: ViewPointCompose.execute(lower[0], lower[1][:, :64], upper[0], upper[1], 4.0), "lower_mask")


def check_the_clip_lies_sharp_over_the_panorama() -> None:
    clip, erp = look(keyed()), world().repeat(5, 1, 1, 1)
    dull = 0.5 * erp + 0.2
    out, weight = ViewPointComposite.execute(dull, clip, 3.0, "panorama to clip", "bicubic", keyed(), **ANGLES).args
    assert out.shape == erp.shape
    assert weight.shape == erp.shape[:3]
    assert float((out - erp).abs().mean()) < 0.02 < float((dull - erp).abs().mean())
    expect_error(
        lambda: ViewPointComposite.execute(erp[:2], clip, 3.0, "off", "bicubic", keyed(), **ANGLES),
        "expected at most as many",
    )


def check_a_clip_is_laid_where_it_was_placed() -> None:
    turned = {"yaw_deg": 40.0, "pitch_deg": 20.0, "roll_deg": 10.0, "fov_deg": 75.0}
    clip = look(keyed())[:3]
    path = ViewPointCutCameraPath.execute(keyed(), 0, 3, False).args[0]
    for given in (path, None):
        _, _, placed = ViewPointPlaceView.execute(clip, 128, 5, "bicubic", given, **turned).args
        erp = world().repeat(5, 1, 1, 1)
        laid = ViewPointComposite.execute(erp, clip, 3.0, "off", "bicubic", placed, **ANGLES).args
        typed = ViewPointComposite.execute(erp, clip, 3.0, "off", "bicubic", given, **turned).args
        for one, other in zip(laid, typed, strict=True):
            assert float((one - other).abs().max()) < 1e-4
        assert torch.equal(laid[1][4], laid[1][2]), "the last camera stays"


def check_a_held_photo_is_no_view_into_itself() -> None:
    placed, masks, path = ViewPointPlaceView.execute(look(None), 128, 5, "bicubic", **ANGLES).args
    placed[0] = 0
    assert float(placed[1].max()) > 0
    assert masks.shape == (5, 128, 128)
    assert len(path) == 1


def check_placing_a_clip_takes_the_memory_that_is_asked_for() -> None:
    clip, path = torch.rand(60, 32, 32, 3), ViewPointCameraPath.execute(KEYS, 60, "linear").args[0]
    maps = 60 * 128 * 128 * 3 * 4
    for length, given, copies in ((0, None, 2), (60, None, 2), (61, None, 2), (0, path, 2 + 2 / 3)):
        arguments = (clip[: length - 1] if length == 61 else clip, 128, length, "bicubic", given)
        ViewPointPlaceView.execute(*arguments, **ANGLES)
        peak = peak_bytes(lambda arguments=arguments: ViewPointPlaceView.execute(*arguments, **ANGLES))
        assert peak < (copies + 0.2) * maps, (length, peak / maps)


def check_large_conversions_take_no_more_memory_than_is_asked_for() -> None:
    maps, erp, face = torch.rand(1, 512, 512, 3), torch.rand(1, 512, 1024, 3), torch.rand(1, 256, 256, 3)
    faces = dict.fromkeys(("front", "right", "back", "left", "up", "down"), face)
    wide, path = {**ANGLES, "fov_deg": 130.0}, ViewPointCameraPath.execute(MOVING, 2, "linear").args[0]
    asked, was = [], (memory.check_room, memory.WORKING_BYTES, resample.BAND_PIXELS, kept.KEPT_BYTES)
    memory.check_room = lambda needed, *said: asked.append(needed)
    memory.WORKING_BYTES, resample.BAND_PIXELS, kept.KEPT_BYTES = (value // 16 for value in was[1:])
    try:
        for call in (
            lambda: ViewPointFromERP.execute(erp, 544, "bicubic"),
            lambda: ViewPointFromERP.execute(erp, 96, "bicubic", torch.ones(1, 512, 1024)),
            lambda: ViewPointToERP.execute(maps, 1024, True, "bicubic"),
            lambda: ViewPointToERP.execute(maps, 420, False, "bicubic"),
            lambda: ViewPointFromCubemap.execute(512, "bicubic", **faces),
            lambda: ViewPointToCubemap.execute(maps, 400, True, "bicubic"),
            lambda: ViewPointPlaceView.execute(erp, 256, 0, "bicubic", **wide),
            lambda: ViewPointRenderView.execute(erp, 512, 512, "bicubic", **wide),
            lambda: ViewPointReorient.execute(erp, "bicubic", yaw_deg=0.0, pitch_deg=7.0, roll_deg=0.0),
            lambda: ViewPointPlaceView.execute(erp[:, :, :512].repeat(2, 1, 1, 1), 256, 0, "bicubic", path, **ANGLES),
            lambda: ViewPointRenderView.execute(erp, 512, 512, "bicubic", path, **ANGLES),
            lambda: ViewPointReorient.execute(erp, "bicubic", path, yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0),
        ):
            asked.clear()
            peak = peak_bytes(call)
            assert peak < asked[0], (call.__code__.co_firstlineno, peak / asked[0])
    finally:
        memory.check_room, memory.WORKING_BYTES, resample.BAND_PIXELS, kept.KEPT_BYTES = was


def check_an_impossible_field_of_view_is_refused_when_queued() -> None:
    empty = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0}}
    settings = {"width": 64, "height": 64, "interpolation": "bicubic", **ANGLES}
    host_nodes.NODE_CLASS_MAPPINGS["ViewPointRenderView"] = ViewPointRenderView
    try:
        for fov, fits in ((0.0, False), (1.0, True), (179.0, True), (180.0, False), (-90.0, False)):
            inputs = {"erp": ["1", 0], **settings, "fov_deg": fov}
            prompt = {"1": empty, "2": {"class_type": "ViewPointRenderView", "inputs": inputs}}
            valid, errors, _ = asyncio.run(execution.validate_inputs("id", prompt, "2", {}))
            assert valid == fits, (fov, errors)
            assert {error["extra_info"]["input_name"] for error in errors} <= {"fov_deg"}
    finally:
        del host_nodes.NODE_CLASS_MAPPINGS["ViewPointRenderView"]
    expect_error(lambda: ViewPointRenderView.execute(world(), **{**settings, "fov_deg": 180.0}), "between 0 and 180")
    limits = {
        node.define_schema().node_id: (entry.min, entry.max)
        for node in NODES
        for entry in node.define_schema().inputs
        if entry.id == "fov_deg"
    }
    assert limits.pop("ViewPointEstimateCamera") == (0, 179)  # 0: not known
    assert set(limits) == {"ViewPointPlaceView", "ViewPointRenderView", "ViewPointComposite"}
    assert set(limits.values()) == {(1, 179)}


def check_videos_beyond_memory_are_refused_before_work() -> None:
    erp, clip = world().expand(600, -1, -1, -1), look(None)[:, :32, :32].expand(600, -1, -1, -1)
    free = memory.free_bytes
    memory.free_bytes = lambda: 1 << 30
    try:
        expect_error(
            lambda: ViewPointComposite.execute(erp, clip, 3.0, "off", "bicubic", **ANGLES),
            "600 panoramas of 512 x 256 and their masks need 1.2 GiB of memory, 1.0 GiB are free",
        )
        maps, masks = torch.zeros(1, 256, 256, 3).expand(700, -1, -1, -1), torch.ones(1, 256, 256).expand(700, -1, -1)
        expect_error(lambda: ViewPointCompose.execute(maps, masks, maps, masks, 0.0), "700 maps of side 256")
        room = "GiB of memory, 1.0 GiB are free"
        expect_error(lambda: ViewPointToERP.execute(maps, 2048, True, "bicubic"), room)
        expect_error(lambda: ViewPointToCubemap.execute(maps, 512, True, "bicubic"), room)
        expect_error(lambda: ViewPointFromERP.execute(erp, 736, "bicubic"), room)
        expect_error(lambda: ViewPointPlaceView.execute(clip, 736, 0, "bicubic", **ANGLES), room)
        expect_error(lambda: ViewPointPlaceView.execute(clip[:1], 736, 600, "bicubic", **ANGLES), room)
        expect_error(lambda: ViewPointRenderView.execute(erp, 1920, 1080, "bicubic", **ANGLES), room)
    finally:
        memory.free_bytes = free


def check_every_conversion_counts_its_frames_and_ends_when_it_is_cancelled() -> None:
    maps, erp, face = torch.rand(5, 64, 64, 3), torch.rand(5, 32, 64, 3), torch.rand(5, 16, 16, 3)
    faces = dict.fromkeys(("front", "right", "back", "left", "up", "down"), face)
    turns = {name: ANGLES[name] for name in ("yaw_deg", "pitch_deg", "roll_deg")}
    steps: list[int] = []

    def count(bar: Any, value: int) -> None:  # newer hosts tell their hook of a part of the steps only
        assert value == 1
        steps.append(bar.total)
        if len(steps) == stop_at:
            raise InterruptedError

    update = host_access.CancellableBar.update
    host_access.CancellableBar.update = count
    try:
        for call, total in (
            (lambda: ViewPointFromERP.execute(erp, 64, "bicubic"), 5),
            (lambda: ViewPointFromERP.execute(erp, 64, "bicubic", torch.ones(5, 32, 64)), 5),
            (lambda: ViewPointToERP.execute(maps, 64, True, "bicubic"), 5),
            (lambda: ViewPointFromCubemap.execute(64, "bicubic", **faces), 5),
            (lambda: ViewPointToCubemap.execute(maps, 16, True, "bicubic"), 30),
            (lambda: ViewPointPlaceView.execute(face, 64, 0, "bicubic", **ANGLES), 5),
            (lambda: ViewPointRenderView.execute(erp, 16, 16, "bicubic", **ANGLES), 5),
            (lambda: ViewPointReorient.execute(erp, "bicubic", **{**turns, "pitch_deg": 7.0}), 5),
            (lambda: ViewPointReorient.execute(erp, "bicubic", **{**turns, "yaw_deg": 45.0}), 5),
        ):
            stop_at = None
            call()
            assert steps == [total] * total, steps
            steps.clear()
            stop_at = 2
            try:
                call()
            except InterruptedError:
                assert len(steps) == 2
            else:
                raise AssertionError("went on to its end")
            steps.clear()
    finally:
        host_access.CancellableBar.update = update


def check_each_step_of_the_progress_bar_heeds_a_cancel() -> None:
    bar = host_access.progress_bar(10_000)
    for _ in range(3):
        bar.update(1)
    comfy.model_management.interrupt_current_processing(True)
    try:
        bar.update(1)
    except comfy.model_management.InterruptProcessingException:
        assert bar.current == 3
    else:
        raise AssertionError("went on")


def check_a_cancel_is_heeded_while_positions_are_worked_out() -> None:
    from pack.viewpoint_core.viewpoint_map import map_from_erp_grid

    asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
    map_from_erp_grid.clear()
    comfy.model_management.interrupt_current_processing(True)
    try:
        map_from_erp_grid(96, 64, 128, True)
    except comfy.model_management.InterruptProcessingException:
        assert not map_from_erp_grid.results
    else:
        raise AssertionError("went on")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert map_from_erp_grid(96, 64, 128, True).x.shape == (96, 96)


def check_sizes_that_cannot_be_are_refused_in_words_before_anything_is_reckoned() -> None:
    """Links give what the widgets do not."""
    narrow, clip = torch.zeros(1, 64, 1, 3), look(None)
    expect_error(lambda: ViewPointToCubemap.execute(narrow, 0, True, "bicubic"), "square")
    expect_error(lambda: ViewPointToERP.execute(narrow, 0, True, "bicubic"), "square")
    expect_error(lambda: ViewPointFromERP.execute(world(), 0, "bicubic"), "map's side is 0")
    expect_error(lambda: ViewPointPlaceView.execute(clip, 0, 0, "bicubic", **ANGLES), "map's side is 0")
    faces = dict.fromkeys(("front", "right", "back", "left", "up", "down"), clip)
    expect_error(lambda: ViewPointFromCubemap.execute(0, "bicubic", **faces), "map's side is 0")
    expect_error(lambda: ViewPointRenderView.execute(world(), 0, 16, "bicubic", **ANGLES), "0 x 16; expected positive")


def check_angles_that_are_no_numbers_are_refused() -> None:
    nowhere = {**ANGLES, "yaw_deg": float("nan")}
    expect_error(lambda: ViewPointRenderView.execute(world(), 16, 16, "bicubic", **nowhere), "expected finite degrees")
    del nowhere["fov_deg"]
    expect_error(lambda: ViewPointReorient.execute(world(), "bicubic", **nowhere), "expected finite degrees")


def check_a_flat_clip_is_refused_or_held() -> None:
    flat = torch.full((3, 64, 96, 3), 0.5)
    expect_error(lambda: ViewPointEstimateCamera.execute(flat, 75.0, False, 0, "stop"), "cannot be told")
    path, confidence, drift, report = ViewPointEstimateCamera.execute(flat, 75.0, False, 0, "hold").args
    assert len(path) == 3
    assert confidence == 0
    assert drift == -1
    assert "too little to follow" in report


if __name__ == "__main__":
    run_checks(dict(globals()))
