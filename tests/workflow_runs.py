"""Shipped workflows made small enough for tiny models on a CPU, and what a run of them wrote."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from scripts.comfy_server import ComfyServer
from scripts.host import ROOT
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs, with_map_size, with_saved_embeddings

API = ROOT / "workflows" / "api"
ASSETS = ROOT / "workflows" / "assets"
MAP, ERP_WIDTH = 128, 192
Workflow = dict[str, dict[str, Any]]


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
