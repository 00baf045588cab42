"""Upscaling on the real ComfyUI server: any model, any size, straight into a file."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from scripts.comfy_client import PromptFailed, PromptInterrupted, Workflow
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from scripts.tiny_upscaler import write_upscaler
from tests.analytic import smooth
from tests.host_process import check_names, outcomes
from tests.workflow_runs import interrupt
from viewpoint_core.camera import direction_to_view
from viewpoint_core.sphere import erp_directions
from viewpoint_core.video import to_rgb

pytestmark = pytest.mark.host
SCRIPT = "upscalers.py"
MAP, MAP_ERP = 128, 192
WIDTH = 512


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with upscale models of three factors and a smooth panorama."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    for scale in (1, 2, 4):
        write_upscaler(base / "models" / "upscale_models" / f"x{scale}.safetensors", scale)
    panorama = smooth(erp_directions(256, 512)).movedim(0, -1).mul(255).round().byte().numpy()
    Image.fromarray(panorama).save(base / "input" / "smooth.png")
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        yield running


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def upscale(scale: int, kind: str, frames: int = 1, **inputs: Any) -> Workflow:
    """The smooth panorama on a map, repeated, upscaled by a model of that factor (0: none)."""
    settings = {"erp_width": WIDTH, "passes": 1, "tile_size": 512, **inputs}
    workflow = {
        "load": node("LoadImage", image="smooth.png"),
        "map": node("ViewPointFromERP", erp=["load", 0], map_size=MAP, interpolation="bicubic"),
        "repeat": node("RepeatImageBatch", image=["map", 0], amount=frames),
        "up": node(kind, viewpoint=["repeat", 0], **settings),
    }
    if scale:
        workflow["model"] = node("UpscaleModelLoader", model_name=f"x{scale}.safetensors")
        workflow["up"]["inputs"]["upscale_model"] = ["model", 0]
    return workflow


def image(scale: int, frames: int = 1, **inputs: Any) -> Workflow:
    save = node("SaveImage", images=["up", 0], filename_prefix=f"images/{uuid.uuid4().hex}")
    return upscale(scale, "ViewPointUpscale", frames, **inputs) | {"save": save}


def video(scale: int, frames: int = 1, **inputs: Any) -> Workflow:
    settings = {"fps": 16.0, "codec": "h264", "crf": 12, "filename_prefix": f"video/{uuid.uuid4().hex}", **inputs}
    return upscale(scale, "ViewPointUpscaleSave360Video", frames, **settings)


def outputs(server: ComfyServer, workflow: Workflow) -> list[Path]:
    return server.client.outputs(server.client.run(workflow))


def expected(width: int) -> np.ndarray:
    """The smooth panorama in that width, (width/2, width, 3) up to 255."""
    return smooth(erp_directions(width // 2, width)).movedim(0, -1).numpy() * 255


@pytest.mark.parametrize(
    ("scale", "settings", "width"),
    [
        (0, {}, WIDTH),
        (1, {}, WIDTH),
        (2, {}, WIDTH),
        (4, {"tile_size": 128}, WIDTH),
        (0, {"erp_width": 0}, MAP_ERP),
        (2, {"erp_width": 0}, 2 * MAP_ERP),
        (2, {"erp_width": 0, "passes": 2}, 4 * MAP_ERP),
        (4, {"passes": 2, "erp_width": 128}, 128),
    ],
)
def test_every_factor_and_width_gives_the_panorama(
    server: ComfyServer, scale: int, settings: dict[str, int], width: int
) -> None:
    (file,) = outputs(server, image(scale, **settings))
    found = cv2.imread(str(file))[..., ::-1].astype(float)
    assert found.shape == (width // 2, width, 3)
    assert np.abs(found - expected(width)).max() < 3.5  # and three roundings to 8 bits


def test_a_video_has_its_frames_marks_workflow_and_sound(server: ComfyServer) -> None:
    workflow = video(2, frames=5, codec="h265", audio=["sound", 0])
    workflow["sound"] = node("EmptyAudio", duration=1.0, sample_rate=44100, channels=2)
    events: list[dict[str, Any]] = []
    prompt = server.client.run(workflow, lambda kind, data: events.append(data) if kind == "progress" else None)
    (file,) = server.client.outputs(prompt)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, WIDTH // 2, 16)
        assert stream.codec_context.name == "hevc"
        assert json.loads(container.metadata["prompt"])["up"] == workflow["up"]
        assert container.streams.audio[0].codec_context.name == "aac"
        frames = [to_rgb(frame).movedim(0, -1).numpy().astype(float) for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert max(np.abs(frame - expected(WIDTH)).mean() for frame in frames) < 4
    assert b"GSpherical:Spherical" in file.read_bytes()
    steps = [data["value"] for data in events if data["node"] == "up"]
    assert steps == sorted(steps)
    assert steps[-1] == 5 * 7, "six charts and a saved frame each"
    assert list((server.base / "output").rglob(".*")) == []


def test_the_sharp_clip_lies_over_the_upscaled_video_where_it_was_placed(server: ComfyServer) -> None:
    workflow = video(2, frames=3, view=["clip", 0], camera_path=["place", 2], colour_match="off", feather_deg=0.0)
    workflow["clip"] = node("EmptyImage", width=64, height=64, batch_size=2, color=0xFFFFFF)
    angles = {"yaw_deg": 40.0, "pitch_deg": 10.0, "roll_deg": 0.0, "fov_deg": 60.0}
    placed = {"map_size": MAP, "length": 3, "interpolation": "bicubic", **angles}
    workflow["place"] = node("ViewPointPlaceView", view=["clip", 0], **placed)
    (file,) = outputs(server, workflow)
    with av.open(str(file)) as container:
        frames = [to_rgb(frame).movedim(0, -1).numpy().astype(float) for frame in container.decode(video=0)]
    inside, outside = (
        direction_to_view(erp_directions(WIDTH // 2, WIDTH), 64, 64, **angles | {"fov_deg": fov})[2].numpy()
        for fov in (50.0, 70.0)
    )
    assert len(frames) == 3
    for frame in frames:
        assert frame[inside].mean() > 250
        assert np.abs(frame - expected(WIDTH))[~outside].mean() < 4


def test_a_cancelled_upscale_leaves_no_file(server: ComfyServer) -> None:
    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "up" and 9 <= data["value"] < 20:
            interrupt(server.client)

    with pytest.raises(PromptInterrupted):
        server.client.run(video(4, frames=200, filename_prefix="cancelled/a"), cancel)
    assert list((server.base / "output" / "cancelled").iterdir()) == []
    assert len(outputs(server, video(2))) == 1


def no_map() -> Workflow:
    workflow = image(0)
    workflow["up"]["inputs"]["viewpoint"] = ["load", 0]
    return workflow


def no_view() -> Workflow:
    path = node("ViewPointCameraPath", keyframes="0: 0 0 0 90", length=1, interpolation="smooth")
    return video(0, camera_path=["path", 0]) | {"path": path}


def too_wide() -> Workflow:
    workflow = image(4, erp_width=0, passes=3)
    workflow["map"]["inputs"]["map_size"] = 2 * MAP
    return workflow


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        (no_map(), "a ViewPoint map is square"),
        (too_wide(), "24576 pixels wide; expected at most 16384"),
        (video(0, codec="vp9"), "'vp9'; expected one of h264, h265"),
        (video(0, filename_prefix="../../away"), "outside the output folder"),
        (video(0, view=["load", 0]), "a view is connected, but no camera path"),
        (no_view(), "a camera path is connected, but no view"),
    ],
    ids=["no map", "too wide", "codec", "outside", "no path", "no view"],
)
def test_bad_input_is_refused_in_plain_words(server: ComfyServer, workflow: Workflow, words: str) -> None:
    with pytest.raises(PromptFailed, match=words):
        server.client.run(workflow)


@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_in_host(check: str) -> None:
    assert outcomes(SCRIPT)[check] is None, outcomes(SCRIPT)[check]
