"""Writes workflows/*.json (for the editor) and workflows/api/*.json (for queueing) from one description of each graph.

The order of the nodes' inputs, and the values that a graph leaves at their default, come from a running ComfyUI.
Run in the repository root: python -m scripts.build_workflows
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.generation_graphs import GENERATION_GRAPHS
from scripts.host import ROOT, provide_host
from scripts.tool_graphs import TOOL_GRAPHS
from scripts.workflow_builder import Builder

WORKFLOWS = ROOT / "workflows"
GRAPHS = {**GENERATION_GRAPHS, **TOOL_GRAPHS}


def read_object_info() -> dict[str, Any]:
    """What a running ComfyUI, whose only custom node pack is this one, says of its nodes."""
    with tempfile.TemporaryDirectory() as folder:
        with ComfyServer(provide_host(), make_base_directory(Path(folder))) as server:
            return server.client.get("/object_info")


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(file.relative_to(ROOT))


def workflow_files(object_info: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """What each file holds, by its path."""
    files = {}
    for name, graph in GRAPHS.items():
        builder = Builder(name, graph(), object_info)
        files |= {WORKFLOWS / "api" / f"{name}.json": builder.api(), WORKFLOWS / f"{name}.json": builder.editor()}
    return files


def main() -> int:
    for file, content in workflow_files(read_object_info()).items():
        write_json(file, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
