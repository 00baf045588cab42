"""Changes to API workflows (node id -> {"class_type", "inputs"}); each returns a copy."""

import copy
import json
from pathlib import Path
from typing import Any

Workflow = dict[str, dict[str, Any]]


def read_workflow(file: Path) -> Workflow:
    """An API workflow from its file."""
    return json.loads(file.read_text(encoding="utf-8"))


def nodes_of(workflow: Workflow, class_type: str) -> list[str]:
    """Ids of the nodes of a class."""
    return [node for node, content in workflow.items() if content["class_type"] == class_type]


def with_inputs(workflow: Workflow, values: dict[str, dict[str, Any]]) -> Workflow:
    """The workflow with inputs set on all nodes of each class that `values` names. Raises KeyError if there is none."""
    edited = copy.deepcopy(workflow)
    for class_type, inputs in values.items():
        nodes = nodes_of(edited, class_type)
        if not nodes:
            raise KeyError(f"the workflow has no {class_type} node")
        for node in nodes:
            edited[node]["inputs"].update(inputs)
    return edited


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
