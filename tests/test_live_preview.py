"""The preview while sampling, on the real ComfyUI server: ViewPoint's sampler shows a panorama, if the host asks."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scripts.comfy_client import Workflow
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from scripts.tiny_models import write_models
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs
from tests.saved_prompts import write_text_embedding
from tests.workflow_runs import with_map_size, with_saved_embeddings
from viewpoint_core.preview import preview_panorama, resize_subregions
from viewpoint_core.viewpoint_map import erp_to_viewpoint, viewpoint_to_erp

API = Path(__file__).parents[1] / "workflows" / "api"
STEPS, MAP = 3, 160  # a latent of 20 x 20, no multiple of 32
JPEG = b"\xff\xd8\xff"


def text_to_360() -> Workflow:
    """The shipped workflow with tiny settings."""
    workflow = with_saved_embeddings(read_workflow(API / "text_to_360.json"), "p.safetensors", "n.safetensors")
    settings = {"steps": STEPS, "seed": 3, "sampler_name": "euler"}
    return with_inputs(
        with_map_size(workflow, MAP), {"ViewPointSampler": settings, "ViewPointConditioning": {"length": 5}}
    )


def with_ksampler(workflow: Workflow) -> Workflow:
    """ViewPointSampler replaced by the host's KSampler on the patched model."""
    (sampler,) = nodes_of(workflow, "ViewPointSampler")
    inputs = dict(workflow[sampler]["inputs"])
    patch = {"model": inputs["model"], "schedule": inputs.pop("schedule")}
    workflow["patch"] = {"class_type": "ViewPointPatchModel", "inputs": patch}
    shift = {"model": ["patch", 0], "shift": inputs.pop("shift")}
    workflow["shift"] = {"class_type": "ModelSamplingSD3", "inputs": shift}
    inputs |= {"model": ["shift", 0], "latent_image": inputs.pop("latent")}
    workflow[sampler] = {"class_type": "KSampler", "inputs": inputs}
    return workflow


def previews(server: ComfyServer, workflow: Workflow) -> list[Tensor]:
    """Run a workflow; the pictures (3, h, w) that came over the websocket."""
    messages: list[bytes] = []

    def note(kind: str, data: dict[str, Any]) -> None:
        if kind == "preview":
            messages.append(data["content"])

    server.client.run(workflow, note)
    pictures = [Image.open(io.BytesIO(message[message.index(JPEG) :])).convert("RGB") for message in messages]
    return [torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255 for picture in pictures]


def make_server(base: Path, *flags: str) -> ComfyServer:
    make_base_directory(base)
    write_models(base / "models")
    for seed, name in enumerate("pn"):
        write_text_embedding(base / "input" / f"{name}.safetensors", seed=seed)
    return ComfyServer(provide_host(), base, flags=("--cpu", *flags))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with tiny models that makes previews."""
    with make_server(tmp_path_factory.mktemp("comfy"), "--preview-method", "latent2rgb") as running:
        yield running


@pytest.mark.host
def test_each_step_previews_the_panorama_of_what_the_hosts_sampler_previews_as_a_map(server: ComfyServer) -> None:
    panoramas = previews(server, text_to_360())
    maps = previews(server, with_ksampler(text_to_360()))
    assert [tuple(picture.shape) for picture in panoramas] == [(3, 256, 512)] * STEPS
    assert [tuple(picture.shape) for picture in maps] == [(3, 512, 512)] * STEPS
    for panorama, folded in zip(panoramas, maps, strict=True):
        expected = preview_panorama(folded)
        related = np.corrcoef(panorama.flatten(), expected.flatten())[0, 1]
        assert panorama.std() > 0.03
        assert related > 0.9  # the host enlarges the map across its subregions' borders, and JPEG costs a little


@pytest.mark.host
def test_no_preview_is_sent_where_the_host_makes_none(tmp_path: Path) -> None:
    with make_server(tmp_path, "--preview-method", "none") as quiet:
        assert previews(quiet, text_to_360()) == []


def smooth_panorama(height: int) -> Tensor:
    """A slow wave over the sphere (3, h, 2 h)."""
    lat = (0.5 - (torch.arange(height) + 0.5) / height) * torch.pi
    lon = ((torch.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * torch.pi
    x, y = torch.cos(lat)[:, None] * lon.sin(), lat.sin()[:, None].expand(-1, 2 * height)
    return torch.stack([x, y, torch.cos(lat)[:, None] * lon.cos()]) / 2 + 0.5


@pytest.mark.parametrize("side", [64, 92, 736])
def test_a_map_of_any_even_side_gives_the_panorama(side: int) -> None:
    erp = smooth_panorama(256)
    folded = erp_to_viewpoint(erp[None], 736)
    if side != 736:
        folded = resize_subregions(folded, side)
    assert folded.shape[-1] == side
    assert (preview_panorama(folded[0]) - erp).abs().max() < 0.05


def test_subregions_do_not_bleed_when_resized() -> None:
    quadrants = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat_interleave(10, 0).repeat_interleave(10, 1)
    resized = resize_subregions(quadrants[None, None], 32)[0, 0]
    assert torch.equal(
        resized, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    )


def test_a_side_that_fits_is_not_resized() -> None:
    folded = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = viewpoint_to_erp(folded[None], 512, interpolation="bilinear")[0]
    assert torch.equal(preview_panorama(folded), expected)


@pytest.mark.parametrize("shape", [(3, 63, 63), (3, 64, 32), (1, 3, 64, 64)])
def test_what_is_no_map_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="square map"):
        preview_panorama(torch.zeros(shape))
