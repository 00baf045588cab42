"""What users do, on the real ComfyUI server with tiny models: shipped workflows, other samplers, cancel, bad input."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scripts.comfy_client import PromptFailed, PromptInterrupted, PromptRefused
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from scripts.tiny_models import write_models
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs
from tests.saved_prompts import write_text_embedding
from tests.workflow_runs import (
    API,
    ASSETS,
    ERP_WIDTH,
    MAP,
    Workflow,
    add,
    interrupt,
    only_output,
    read_video,
    set_on,
    small,
)

pytestmark = pytest.mark.host
PARTIAL_LOADING = """\
import comfy.model_management

comfy.model_management.is_device_cpu = lambda device: False
comfy.model_management.vram_state = comfy.model_management.VRAMState.NO_VRAM
NODE_CLASS_MAPPINGS = {}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with tiny models, sample files and two prompts."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    write_models(base / "models")
    for seed, name in enumerate(("positive", "negative", "other")):
        write_text_embedding(base / "input" / f"{name}.safetensors", seed=seed)
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        for asset in ("sample_clip.mp4", "sample_photo.png", "sample_erp.png"):
            running.client.upload_file(ASSETS / asset)
        yield running


def panorama_frames(server: ComfyServer, workflow: Workflow) -> np.ndarray:
    """Run a workflow; its panorama's frames (T, H, W, 3), lossless: the host's H.264 differs from run to run."""
    (erp,) = nodes_of(workflow, "ViewPointToERP")
    inputs = {"images": [erp, 0], "filename_prefix": f"frames/{uuid.uuid4().hex}"}
    files = server.client.outputs(
        server.client.run({**workflow, "frames": {"class_type": "SaveImage", "inputs": inputs}}), "frames"
    )
    return np.stack([cv2.imread(str(file)) for file in files])


@pytest.mark.parametrize(("name", "frames"), [("video_to_360", 49), ("image_to_360", 5), ("text_to_360", 5)])
def test_shipped_workflow_makes_a_2_to_1_video(server: ComfyServer, name: str, frames: int) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    workflow = small(name, length=frames)
    prompt = server.client.run(workflow, lambda kind, data: events.append((kind, data)))
    (file,) = server.client.outputs(prompt)
    video = read_video(file)
    assert video.shape == (frames, ERP_WIDTH // 2, ERP_WIDTH, 3)
    assert video.std() > 2, "the video is flat"
    sampler = nodes_of(workflow, "ViewPointSampler")[0]
    steps = [data["value"] for kind, data in events if kind == "progress" and data["node"] == sampler]
    assert steps[-1] == 2
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 16


def test_shipped_round_trip_returns_the_panorama(server: ComfyServer) -> None:
    workflow = read_workflow(API / "erp_roundtrip.json")
    result = cv2.imread(str(only_output(server, workflow))).astype(float)
    source = cv2.imread(str(ASSETS / "sample_erp.png")).astype(float)
    assert result.shape == source.shape == (512, 1024, 3)
    assert 10 * np.log10(255**2 / ((result - source) ** 2).mean()) > 30


def test_panorama_through_map_cubemap_and_view_keeps_its_picture(server: ComfyServer) -> None:
    workflow = read_workflow(API / "erp_roundtrip.json")
    (from_erp,), (to_erp,) = nodes_of(workflow, "ViewPointFromERP"), nodes_of(workflow, "ViewPointToERP")
    add(
        workflow,
        "cubemap",
        "ViewPointToCubemap",
        viewpoint=[from_erp, 0],
        face_size=260,
        fusion=True,
        interpolation="bicubic",
    )
    faces = {name: ["cubemap", index] for index, name in enumerate(("front", "right", "back", "left", "up", "down"))}
    again = add(workflow, "again", "ViewPointFromCubemap", map_size=736, interpolation="bicubic", **faces)
    workflow[to_erp]["inputs"]["viewpoint"] = again
    view = {
        "erp": [to_erp, 0],
        "width": 200,
        "height": 100,
        "yaw_deg": 0.0,
        "pitch_deg": 0.0,
        "roll_deg": 0.0,
        "fov_deg": 90.0,
    }
    add(workflow, "view", "ViewPointRenderView", interpolation="bicubic", **view)
    add(workflow, "save", "SaveImage", images=["view", 0], filename_prefix="view")
    prompt = server.client.run(workflow)
    (shown,) = server.client.outputs(prompt, "save")
    (saved,) = [
        file
        for node in nodes_of(workflow, "SaveImage")
        if node != "save"
        for file in server.client.outputs(prompt, node)
    ]
    source = cv2.imread(str(ASSETS / "sample_erp.png")).astype(float)
    assert 10 * np.log10(255**2 / ((cv2.imread(str(saved)) - source) ** 2).mean()) > 26
    assert cv2.imread(str(shown)).shape == (100, 200, 3)


def placed_photo(server: ComfyServer, **hold_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks (5, S, S, 3) of a photo placed for five frames."""
    workflow: Workflow = {}
    photo = add(workflow, "load", "LoadImage", image="sample_photo.png")
    angles = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0, "interpolation": "bicubic"}
    add(workflow, "place", "ViewPointPlaceView", view=photo, map_size=MAP, length=5, **angles, **hold_last)
    masks = add(workflow, "masks", "MaskToImage", mask=["place", 1])
    for name, images in (("map", ["place", 0]), ("mask", masks)):
        add(workflow, f"save_{name}", "SaveImage", images=images, filename_prefix=f"placed/{uuid.uuid4().hex}")
    prompt = server.client.run(workflow)
    maps, masks = (
        np.stack([cv2.imread(str(file)) for file in server.client.outputs(prompt, f"save_{name}")])
        for name in ("map", "mask")
    )
    return maps, masks


@pytest.mark.parametrize("inputs", [{}, {"hold_last": True}])
def test_a_photo_for_a_whole_video_is_known_in_every_frame(server: ComfyServer, inputs: dict[str, bool]) -> None:
    maps, masks = placed_photo(server, **inputs)
    assert maps.shape == masks.shape == (5, MAP, MAP, 3)
    assert maps[0].std() > 20
    assert 0.1 < (masks[0] == 255).mean() < 0.4
    for frames in (maps, masks):
        assert (frames == frames[0]).all()


def test_without_holding_nothing_is_known_after_the_photo(server: ComfyServer) -> None:
    maps, masks = placed_photo(server, hold_last=False)
    (held, _) = placed_photo(server)
    assert np.array_equal(maps[0], held[0])
    assert masks[0].max() == 255
    assert masks[1:].max() == 0
    assert np.abs(maps[1:].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("held", [True, False])
def test_what_a_turning_camera_showed_stays_known_while_it_looks_elsewhere(server: ComfyServer, held: bool) -> None:
    workflow: Workflow = {}
    erp = add(workflow, "load", "LoadImage", image="sample_erp.png")
    keys = {"keyframes": "0: -30 0 0 75\n4: 30 0 0 75", "length": 5, "interpolation": "linear"}
    path = add(workflow, "path", "ViewPointCameraPath", **keys)
    angles = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0, "interpolation": "bicubic"}
    clip = add(workflow, "clip", "ViewPointRenderView", erp=erp, width=240, height=180, camera_path=path, **angles)
    placing = {"map_size": MAP, "length": 0, "camera_path": path, "hold_seen": held}
    add(workflow, "place", "ViewPointPlaceView", view=clip, **placing, **angles)
    masks = add(workflow, "masks", "MaskToImage", mask=["place", 1])
    add(workflow, "whole", "ViewPointFromERP", erp=erp, map_size=MAP, interpolation="bicubic")
    for name, images in (("map", ["place", 0]), ("mask", masks), ("true", ["whole", 0])):
        add(workflow, f"save_{name}", "SaveImage", images=images, filename_prefix=f"turned/{uuid.uuid4().hex}")
    prompt = server.client.run(workflow)
    maps, masks, true = (
        np.stack([cv2.imread(str(file)) for file in server.client.outputs(prompt, f"save_{name}")]).astype(int)
        for name in ("map", "mask", "true")
    )
    known = (masks == 255).all(-1)
    assert maps.shape == (5, MAP, MAP, 3)
    if held:
        assert (known == known[0]).all()
        assert known[0].mean() > 0.2
        assert np.abs(maps - true)[known].mean() < 4, "the world does not stand still"
    else:
        assert not known.all(0).all()
        assert (known[0] & ~known[4]).mean() > 0.05
        assert np.abs(maps[4][known[0] & (masks[4] == 0).all(-1)] - 128).max() <= 1


def test_a_clip_taken_along_a_path_comes_back_along_its_estimate(server: ComfyServer) -> None:
    workflow: Workflow = {}
    angles = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0, "interpolation": "bicubic"}
    erp = add(workflow, "load", "LoadImage", image="sample_erp.png")
    keys = {"keyframes": "0: 0 0 0 75\n4: 16 4 -8 75", "length": 5, "interpolation": "linear"}
    typed = add(workflow, "typed", "ViewPointCameraPath", **keys)
    clip = add(workflow, "clip", "ViewPointRenderView", erp=erp, width=240, height=180, camera_path=typed, **angles)
    settings = {"fov_deg": 75.0, "zoom": False, "reference": 0, "when_unsure": "stop"}
    path = add(workflow, "path", "ViewPointEstimateCamera", view=clip, **settings)
    placing = {"map_size": MAP, "length": 0, "camera_path": path}
    add(workflow, "place", "ViewPointPlaceView", view=clip, **placing, **angles)
    whole = {"erp": erp, "map_size": MAP, "interpolation": "bicubic"}
    add(workflow, "below", "ViewPointFromERP", **whole)
    repeated = add(workflow, "repeated", "RepeatImageBatch", image=["below", 0], amount=5)
    mask = add(workflow, "nothing", "SolidMask", value=0.0, width=MAP, height=MAP)
    masks = add(workflow, "masks", "MaskToImage", mask=mask)
    masks = add(workflow, "more", "RepeatImageBatch", image=masks, amount=5)
    masks = add(workflow, "again", "ImageToMask", image=masks, channel="red")
    lower, upper = {"lower": repeated, "lower_mask": masks}, {"upper": ["place", 0], "upper_mask": ["place", 1]}
    composed = add(workflow, "compose", "ViewPointCompose", **lower, **upper, feather_deg=4.0)
    small = {"fusion": True, "interpolation": "bicubic"}
    flat = add(workflow, "flat", "ViewPointToERP", viewpoint=composed, width=1024, **small)
    edge = {"feather_deg": 3.0, "colour_match": "off", "camera_path": path}
    add(workflow, "composite", "ViewPointComposite", erp=flat, view=clip, **edge, **angles)
    add(workflow, "save", "SaveImage", images=["composite", 0], filename_prefix="composite")
    shown = np.stack([cv2.imread(str(f)) for f in server.client.outputs(server.client.run(workflow), "save")])
    source = cv2.imread(str(ASSETS / "sample_erp.png"))
    assert shown.shape == (5, 512, 1024, 3)
    ahead = np.s_[:, 200:300, 520:600]
    assert np.abs(shown[ahead].astype(float) - source[ahead[1:]]).mean() < 6
    assert np.abs(shown[:, :, :200].astype(int) - 128).max() <= 1, "what no clip shows is not grey"
    set_on(workflow, "ViewPointCameraPath", keyframes="0: 0 0 90")
    with pytest.raises(PromptFailed, match="3 numbers after the colon; expected four"):
        server.client.run(workflow)


def test_seed_and_prompt_change_the_video_and_nothing_else_does(server: ComfyServer) -> None:
    first = panorama_frames(server, small("text_to_360", seed=1))
    other_seed = panorama_frames(server, small("text_to_360", seed=2))
    other_prompt = panorama_frames(server, small("text_to_360", seed=1, positive="other.safetensors"))
    again = panorama_frames(server, small("text_to_360", seed=1))
    assert (first != other_seed).any()
    assert (first != other_prompt).any()
    np.testing.assert_array_equal(first, again)


def test_cancelled_run_leaves_the_server_able_to_run_again(server: ComfyServer) -> None:
    workflow = with_inputs(small("text_to_360", seed=5), {"ViewPointSampler": {"steps": 200}})

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and 2 <= data["value"] < data["max"]:
            interrupt(server.client)

    with pytest.raises(PromptInterrupted):
        server.client.run(workflow, cancel)
    assert only_output(server, small("text_to_360", seed=6)).exists()


def with_ksampler(workflow: Workflow) -> Workflow:
    """ViewPointSampler replaced by ViewPointPatchModel, the host's shift node and KSampler."""
    sampler = nodes_of(workflow, "ViewPointSampler")[0]
    inputs = workflow[sampler]["inputs"]
    patch = {"model": inputs["model"], "schedule": inputs["schedule"]}
    workflow["patch"] = {"class_type": "ViewPointPatchModel", "inputs": patch}
    shift = {"model": ["patch", 0], "shift": inputs["shift"]}
    workflow["shift"] = {"class_type": "ModelSamplingSD3", "inputs": shift}
    kept = {key: inputs[key] for key in inputs if key not in ("schedule", "shift", "latent", "model")}
    kept |= {"model": ["shift", 0], "latent_image": inputs["latent"]}
    workflow[sampler] = {"class_type": "KSampler", "inputs": kept}
    return workflow


def with_custom_sampler(workflow: Workflow) -> Workflow:
    """ViewPointSampler replaced by ViewPointPatchModel and SamplerCustomAdvanced."""
    sampler = nodes_of(workflow, "ViewPointSampler")[0]
    workflow = with_ksampler(workflow)
    old = workflow[sampler]["inputs"]
    model = {"model": ["shift", 0]}
    conds = {key: old[key] for key in ("positive", "negative", "cfg")}
    sigmas = {key: old[key] for key in ("scheduler", "steps", "denoise")}
    workflow |= {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": old["seed"]}},
        "guider": {"class_type": "CFGGuider", "inputs": model | conds},
        "algorithm": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": old["sampler_name"]}},
        "sigmas": {"class_type": "BasicScheduler", "inputs": model | sigmas},
    }
    links = {name: [name, 0] for name in ("noise", "guider", "sigmas")}
    links |= {"sampler": ["algorithm", 0], "latent_image": old["latent_image"]}
    workflow[sampler] = {"class_type": "SamplerCustomAdvanced", "inputs": links}
    return workflow


def test_host_samplers_on_the_patched_model_give_what_the_sampler_node_gives(server: ComfyServer) -> None:
    settings = {"seed": 7, "sampler_name": "euler"}  # for uni_pc KSampler drops a step that BasicScheduler keeps
    expected = panorama_frames(server, small("text_to_360", **settings))
    for change in (with_ksampler, with_custom_sampler):
        np.testing.assert_array_equal(panorama_frames(server, change(small("text_to_360", **settings))), expected)


def force_partial_loading(base: Path) -> None:
    """Make the next server on this base directory load models in parts, as --novram does, though it runs on the CPU.

    ComfyUI takes only one of --cpu and --novram, so a custom node switches it. On a GPU use the flag --novram instead.
    """
    node = base / "custom_nodes" / "force_partial_loading.py"
    node.write_text(PARTIAL_LOADING, encoding="utf-8")


def test_low_vram_loading_gives_the_same_panorama(server: ComfyServer, tmp_path: Path) -> None:
    base = make_base_directory(tmp_path / "comfy")
    for folder in ("models", "input"):
        shutil.copytree(server.base / folder, base / folder, dirs_exist_ok=True)
    force_partial_loading(base)
    with ComfyServer(provide_host(), base) as low:
        found = panorama_frames(low, small("text_to_360", seed=9))
        assert "loaded partially" in low.log_text()
    expected = panorama_frames(server, small("text_to_360", seed=9))
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_saved_embedding_is_the_prompt_and_runs(server: ComfyServer) -> None:
    save = {
        "class_type": "ViewPointSaveTextEmbedding",
        "inputs": {"conditioning": ["load", 0], "filename_prefix": "t/p"},
    }
    load = {"class_type": "ViewPointLoadTextEmbedding", "inputs": {"file": "positive.safetensors"}}
    file = only_output(server, {"load": load, "save": save})
    assert file.parent == (server.base / "output" / "t")
    loaded, given = (
        load_file(path)["text_embedding"] for path in (file, server.base / "input" / "positive.safetensors")
    )
    assert torch.equal(loaded, given)
    names = ("positive.safetensors", f"t/{file.name} [output]")
    np.testing.assert_array_equal(
        *(panorama_frames(server, small("text_to_360", seed=8, positive=name)) for name in names)
    )


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "positive.png", "missing.safetensors"])
def test_embedding_files_outside_the_hosts_folders_are_refused(server: ComfyServer, file: str) -> None:
    with pytest.raises(PromptRefused):
        server.client.run(small("text_to_360", positive=file))


def grey(workflow: Workflow, width: int, height: int, frames: int = 1) -> list:
    """A grey IMAGE of that size."""
    return add(workflow, "grey", "EmptyImage", width=width, height=height, batch_size=frames, color=0x808080)


def erp_not_2_to_1(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointFromERP", erp=grey(workflow, 100, 64))


def map_size_no_multiple_of_32(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointFromERP", map_size=100)


def map_not_square(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointToERP", viewpoint=grey(workflow, 128, 64))


def rgba(workflow: Workflow) -> None:
    mask = add(workflow, "solid", "SolidMask", value=1.0, width=128, height=64)
    image = add(workflow, "rgba", "JoinImageWithAlpha", image=grey(workflow, 128, 64), alpha=mask)
    set_on(workflow, "ViewPointFromERP", erp=image)


def length_not_4k_plus_1(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointConditioning", length=6)


def fov_of_180(workflow: Workflow) -> None:
    # by a link, since the host refuses what is typed when it is queued
    set_on(workflow, "ViewPointPlaceView", fov_deg=add(workflow, "fov", "PrimitiveFloat", value=180.0))


def mask_of_another_size(workflow: Workflow) -> None:
    mask = add(workflow, "solid", "SolidMask", value=1.0, width=64, height=64)
    set_on(workflow, "ViewPointConditioning", mask=mask)


def map_without_its_mask(workflow: Workflow) -> None:
    (node,) = nodes_of(workflow, "ViewPointConditioning")
    del workflow[node]["inputs"]["mask"]


def map_of_another_length(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointConditioning", length=9)


def stock_model(workflow: Workflow) -> None:
    set_on(workflow, "UNETLoader", unet_name="wan2.1_t2v_1.3B_bf16.safetensors")


def conditioning_that_passed_nothing(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointSampler", positive=[nodes_of(workflow, "ViewPointLoadTextEmbedding")[0], 0])


def latent_of_another_size(workflow: Workflow) -> None:
    latent = add(workflow, "latent", "EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    set_on(workflow, "ViewPointSampler", latent=latent)


def schedule_of_another_model(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointSampler", schedule="1,30")


def damaged_embedding(workflow: Workflow) -> None:
    set_on(workflow, "ViewPointLoadTextEmbedding", file="damaged.safetensors")


BAD_INPUT = [
    ("erp_roundtrip", erp_not_2_to_1, "100 x 64"),
    ("erp_roundtrip", map_size_no_multiple_of_32, "multiple of 32"),
    ("erp_roundtrip", map_not_square, "square"),
    ("erp_roundtrip", rgba, "Split Image with Alpha"),
    ("text_to_360", length_not_4k_plus_1, "4k + 1"),
    ("image_to_360", fov_of_180, "between 0 and 180"),
    ("image_to_360", mask_of_another_size, "expected the same size"),
    ("image_to_360", map_without_its_mask, "came without its mask"),
    ("image_to_360", map_of_another_length, "5 frames"),
    ("text_to_360", stock_model, "viewpoint_core.inflate"),
    ("text_to_360", conditioning_that_passed_nothing, "did not pass ViewPointConditioning"),
    ("text_to_360", latent_of_another_size, "same ViewPointConditioning"),
    ("text_to_360", schedule_of_another_model, "blocks 0 to 3"),
    ("text_to_360", damaged_embedding, "damaged"),
]


@pytest.mark.parametrize(("name", "change", "words"), BAD_INPUT, ids=[case[1].__name__ for case in BAD_INPUT])
def test_bad_input_is_refused_in_plain_words(server: ComfyServer, name: str, change: Any, words: str) -> None:
    (server.base / "input" / "damaged.safetensors").write_bytes(b"not a safetensors file")
    workflow = small(name)
    change(workflow)
    with pytest.raises(PromptFailed, match="(?s)" + words.replace("+", r"\+")):
        server.client.run(workflow)
