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
