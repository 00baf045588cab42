"""The shipped workflows beyond the plain ones, small, on the real ComfyUI server: what their files show."""

from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from scripts.comfy_client import PromptRefused
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from scripts.make_sample_clip import read_image, to_pixels
from scripts.tiny_models import write_models
from scripts.workflow_edit import nodes_of, read_workflow
from tests.phone_clips import write_pictures
from tests.saved_prompts import write_text_embedding
from tests.workflow_runs import API, ASSETS, ERP_WIDTH, MAP, Workflow, add, read_video, set_on, small, with_map_size
from viewpoint_core.camera_path import CameraPath, parse_keyframes, path_from_keyframes
from viewpoint_core.spherical_metadata import add_spherical_metadata
from viewpoint_core.views import render_view

pytestmark = pytest.mark.host
LENGTH, FPS, VIEW = 5, 16, 256
PHOTO_YAWS = (0.0, 75.0)


def walk() -> CameraPath:
    """How the handheld clip's camera turned, from straight ahead."""
    return path_from_keyframes(parse_keyframes("0: 0 0 0 90\n2: 7 3 -3 90\n4: 15 -2 2 90"), LENGTH, "linear")


@pytest.fixture(scope="module")
def panorama() -> Tensor:
    """The sample panorama (3, 512, 1024) in [0, 1]."""
    return read_image(ASSETS / "sample_erp.png")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, panorama: Tensor) -> Iterator[ComfyServer]:
    """A server with tiny models, a handheld clip with sound, two photos and two prompts."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    write_models(base / "models")
    for seed, name in enumerate(("positive", "negative")):
        write_text_embedding(base / "input" / f"{name}.safetensors", seed=seed)
    (base / "input" / "sample_erp.png").symlink_to(ASSETS / "sample_erp.png")
    clip = render_view(panorama.expand(LENGTH, -1, -1, -1), VIEW, VIEW, path=walk())
    write_pictures(base / "input" / "handheld.mov", [to_pixels(frame) for frame in clip], beep_s=0.1, sound_s=(0, 0.3))
    for number, yaw_deg in enumerate(PHOTO_YAWS):
        photo = render_view(panorama, VIEW, VIEW, yaw_deg=yaw_deg, fov_deg=90)
        Image.fromarray(to_pixels(photo)).save(base / "input" / f"photo_{number}.png")
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        yield running


def outputs_of(server: ComfyServer, workflow: Workflow, class_type: str, prompt: str) -> list[Path]:
    """Files that the nodes of a class wrote."""
    return [file for node in nodes_of(workflow, class_type) for file in server.client.outputs(prompt, node)]


def picture(file: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return read_image(file)


def frames(file: Path) -> Tensor:
    """(T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(read_video(file)).movedim(-1, 1) / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def is_marked_360(file: Path) -> bool:
    """Whether marking the video again would change nothing."""
    again = file.with_suffix(".again.mp4")
    add_spherical_metadata(file, again)
    return again.read_bytes() == file.read_bytes()


def test_a_handheld_clip_lies_in_the_video_where_its_camera_looked_sharper_than_on_the_map(
    server: ComfyServer, panorama: Tensor
) -> None:
    workflow = small("handheld_to_360")
    set_on(workflow, "ViewPointLoadClip", file="handheld.mov", length=LENGTH)
    (save,) = nodes_of(workflow, "ViewPointUpscaleSave360Video")
    assert workflow[save]["inputs"]["erp_width"] == 4096
    set_on(workflow, "ViewPointUpscaleSave360Video", erp_width=1024)
    known = {"viewpoint": [nodes_of(workflow, "ViewPointPlaceView")[0], 0], "width": 1024, "fusion": True}
    placed = add(workflow, "placed", "ViewPointToERP", **known, interpolation="bicubic")
    add(workflow, "saved", "SaveImage", images=placed, filename_prefix="placed")
    prompt = server.client.run(workflow)
    (file,) = server.client.outputs(prompt, save)
    on_the_map = [picture(file) for file in server.client.outputs(prompt, "saved")]
    video = frames(file)
    assert video.shape == (LENGTH, 3, 512, 1024)
    assert is_marked_360(file)
    inside = {"height": 128, "width": 128}
    for number in range(LENGTH):
        looked = walk().camera(number) | {"fov_deg": 70.0}  # off the soft edge
        seen, coarse, given = (
            render_view(erp, **inside, **looked) for erp in (video[number], on_the_map[number], panorama)
        )
        assert psnr(seen, given) > 25, number
        assert psnr(seen, given) > psnr(coarse, given) + 3, number
    made_up, given = (render_view(erp, **inside, yaw_deg=180.0, fov_deg=90.0) for erp in (video[0], panorama))
    assert psnr(made_up, given) < 20
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == FPS
        assert len(container.streams.audio) == 1


def test_both_photos_show_on_the_map_where_they_were_placed(server: ComfyServer, panorama: Tensor) -> None:
    workflow = with_map_size(small("two_photos_to_360", length=1), 2 * MAP)
    places = nodes_of(workflow, "ViewPointPlaceView")
    assert [workflow[place]["inputs"]["yaw_deg"] for place in places] == list(PHOTO_YAWS)
    for number, place in enumerate(places):
        workflow[workflow[place]["inputs"]["view"][0]]["inputs"]["image"] = f"photo_{number}.png"
    (compose,) = nodes_of(workflow, "ViewPointCompose")
    (conditioning,) = nodes_of(workflow, "ViewPointConditioning")
    assert workflow[conditioning]["inputs"]["viewpoint"] == [compose, 0]
    assert workflow[conditioning]["inputs"]["mask"] == [compose, 1]
    known = {"viewpoint": [compose, 0], "width": 512, "fusion": True, "interpolation": "bicubic"}
    add(workflow, "saved", "SaveImage", images=add(workflow, "known", "ViewPointToERP", **known), filename_prefix="k")
    prompt = server.client.run(workflow)
    (shown,) = server.client.outputs(prompt, "saved")
    for yaw_deg in PHOTO_YAWS:
        angles = {"yaw_deg": yaw_deg, "fov_deg": 65.0}
        seen, given = (render_view(erp, 64, 64, **angles) for erp in (picture(shown), panorama))
        assert psnr(seen, given) > 22, yaw_deg
    (saved,) = outputs_of(server, workflow, "ViewPointSave360Image", prompt)
    assert picture(saved).shape == (3, ERP_WIDTH, 2 * ERP_WIDTH)
    assert b"GPano" in saved.read_bytes()


def test_prompts_are_saved_once_and_then_read_instead_of_encoded(server: ComfyServer) -> None:
    workflow = small("saved_prompt_to_360")
    (conditioning,) = nodes_of(workflow, "ViewPointConditioning")
    keeps = nodes_of(workflow, "ViewPointSaveTextEmbedding")
    reads = [workflow[conditioning]["inputs"][name][0] for name in ("positive", "negative")]
    encoded = [workflow[keep]["inputs"]["conditioning"][0] for keep in keeps]
    workflow[encoded[1]]["inputs"]["file"] = "negative.safetensors"
    prompt = server.client.run(workflow)  # the host leaves out what has no file to read yet
    for keep, read, name in zip(keeps, reads, ("positive", "negative"), strict=True):
        (saved,) = server.client.outputs(prompt, keep)
        assert workflow[read]["inputs"]["file"] == f"text_embeddings/{saved.name} [output]"
        given = load_file(server.base / "input" / f"{name}.safetensors")["text_embedding"]
        assert torch.equal(load_file(saved)["text_embedding"], given)
    lower = {node: content for node, content in workflow.items() if node not in (*encoded, *keeps)}
    missing = {"file": "text_embeddings/autumn_forest_00002_.safetensors [output]"}
    with pytest.raises(PromptRefused, match="autumn_forest_00002_"):
        server.client.run({**lower, reads[0]: {**lower[reads[0]], "inputs": missing}})
    (file,) = server.client.outputs(server.client.run(lower))
    assert read_video(file).shape == (LENGTH, ERP_WIDTH // 2, ERP_WIDTH, 3)
    assert read_video(file).std() > 2, "the video is flat"


def test_an_upscale_model_makes_a_wider_picture_and_video(server: ComfyServer, panorama: Tensor) -> None:
    workflow = small("upscale_to_4k")
    kinds = ("ViewPointUpscale", "ViewPointUpscaleSave360Video")
    for kind in kinds:
        (node,) = nodes_of(workflow, kind)
        assert workflow[node]["inputs"]["erp_width"] == 4096
        set_on(workflow, kind, erp_width=512)
    prompt = server.client.run(workflow)
    (image,) = outputs_of(server, workflow, "ViewPointSave360Image", prompt)
    (video,) = outputs_of(server, workflow, kinds[1], prompt)
    half = torch.nn.functional.interpolate(panorama[None], scale_factor=0.5, mode="area")[0]
    assert picture(image).shape == half.shape == (3, 256, 512)
    assert frames(video).shape == (1, *half.shape)
    assert is_marked_360(video)
    assert psnr(picture(image), half) > 18
    assert psnr(frames(video)[0], picture(image)) > 30


def test_the_shot_follows_its_path_and_the_view_stands_still(server: ComfyServer, panorama: Tensor) -> None:
    workflow = read_workflow(API / "reframe.json")
    (path,) = nodes_of(workflow, "ViewPointCameraPath")
    (cut,) = nodes_of(workflow, "ViewPointCutCameraPath")
    typed = workflow[path]["inputs"]
    whole = path_from_keyframes(parse_keyframes(typed["keyframes"]), typed["length"], typed["interpolation"])
    set_on(workflow, "ViewPointCutCameraPath", start=24, length=3)
    assert workflow[cut]["inputs"]["hold"] is False
    prompt = server.client.run(workflow)
    (file,) = outputs_of(server, workflow, "SaveVideo", prompt)
    shot = frames(file)
    assert shot.shape == (3, 3, 360, 640)
    for number, frame in enumerate(shot):
        assert psnr(frame, render_view(panorama, 360, 640, **whole.camera(24 + number))) > 30
    (still,) = outputs_of(server, workflow, "SaveImage", prompt)
    assert psnr(picture(still), render_view(panorama, 360, 640)) > 40
    (turned,) = outputs_of(server, workflow, "ViewPointSave360Image", prompt)
    assert psnr(picture(turned), panorama.roll(-panorama.shape[-1] // 4, -1)) > 45
    (shown,) = server.client.history(prompt)["outputs"][nodes_of(workflow, "ViewPointPreview360")[0]]["viewpoint_360"]
    assert (shown["projection"], shown["media"]) == ("erp", "image")


def test_shipped_cubemap_round_trip_returns_the_panorama(server: ComfyServer, panorama: Tensor) -> None:
    workflow = read_workflow(API / "cubemap_roundtrip.json")
    prompt = server.client.run(workflow)
    (file,) = outputs_of(server, workflow, "ViewPointSave360Image", prompt)
    assert picture(file).shape == panorama.shape
    assert psnr(picture(file), panorama) > 30
