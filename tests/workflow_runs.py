"""Shipped workflows made small enough for tiny models on a CPU, and what a run of them wrote."""

import copy
from pathlib import Path
from typing import Any

import av
import numpy as np

from scripts.comfy_client import ComfyClient, ComfyError
from scripts.comfy_server import ComfyServer
from scripts.host import ROOT
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs

API = ROOT / "workflows" / "api"
ASSETS = ROOT / "workflows" / "assets"
MAP, ERP_WIDTH = 128, 192
Workflow = dict[str, dict[str, Any]]


def with_map_size(workflow: Workflow, map_size: int) -> Workflow:
    """The workflow with this map size on every node that has one."""
    edited = copy.deepcopy(workflow)
    for content in edited.values():
        if "map_size" in content["inputs"]:
            content["inputs"]["map_size"] = map_size
    return edited


def with_saved_embeddings(workflow: Workflow, positive_file: str, negative_file: str) -> Workflow:
    """The workflow with its text encoder replaced by saved embeddings: CLIPTextEncode nodes load a file instead.

    A node that some other node takes as "negative" loads `negative_file`, the others `positive_file`.
    """
    edited = copy.deepcopy(workflow)
    links = [content["inputs"].get("negative") for content in edited.values()]
    negatives = {link[0] for link in links if isinstance(link, list)}
    for node in nodes_of(edited, "CLIPTextEncode"):
        file = negative_file if node in negatives else positive_file
        edited[node] = {"class_type": "ViewPointLoadTextEmbedding", "inputs": {"file": file}}
    return {node: content for node, content in edited.items() if content["class_type"] != "CLIPLoader"}


def small(name: str, *, positive: str = "positive.safetensors", length: int | None = 5, **sampling: Any) -> Workflow:
    """A shipped API workflow with tiny settings."""
    workflow = with_saved_embeddings(read_workflow(API / f"{name}.json"), positive, "negative.safetensors")
    workflow = with_map_size(workflow, MAP)
    if length is not None and nodes_of(workflow, "ViewPointConditioning"):
        workflow = with_inputs(workflow, {"ViewPointConditioning": {"length": length}})
    if length is not None and name == "image_to_360":
        workflow = with_inputs(workflow, {"ViewPointPlaceView": {"length": length}})
    for sampler in ("ViewPointSampler", "KSampler"):
        if nodes_of(workflow, sampler):
            workflow = with_inputs(workflow, {sampler: {"steps": 2, **sampling}})
    return workflow


def add(workflow: Workflow, name: str, class_type: str, **inputs: Any) -> list:
    """Add a node; a link to its first output."""
    workflow[name] = {"class_type": class_type, "inputs": inputs}
    return [name, 0]


def set_on(workflow: Workflow, class_type: str, **inputs: Any) -> None:
    """Set inputs on all nodes of a class, in place."""
    for node in nodes_of(workflow, class_type):
        workflow[node]["inputs"].update(inputs)


def read_video(file: Path) -> np.ndarray:
    """Frames (T, H, W, 3) of a video file."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def only_output(server: ComfyServer, workflow: Workflow) -> Path:
    """Run a workflow; the one file that it wrote."""
    (file,) = server.client.outputs(server.client.run(workflow))
    return file


def interrupt(client: ComfyClient) -> None:
    """Cancel the running prompt."""
    response = client.request("POST", "/interrupt", json={})
    if not response.ok:
        raise ComfyError(f"interrupt: {response.status_code} {response.text[:500]}")
