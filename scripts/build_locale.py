"""Writes locales/en/nodeDefs.json, the English names and tooltips of the nodes, for the editor and for translators.

All texts but the readable names of inputs and outputs come from the nodes' schemas, by a running ComfyUI.
Run in the repository root: python -m scripts.build_locale
"""

import re
import sys
from typing import Any

from scripts.build_workflows import read_object_info, write_json
from scripts.comfy_server import PACK
from scripts.host import ROOT

LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"
SYNTAX = re.compile(r"[{}@|]")  # characters with a meaning in the editor's messages
LABELS = {
    "colour_match": "match colours of",
    "crf": "quality (CRF)",
    "drift_deg": "drift (degrees)",
    "erp": "panorama (ERP)",
    "erp_width": "panorama width",
    "feather_deg": "feather (degrees)",
    "filename_prefix": "file name prefix",
    "fov_deg": "field of view (degrees)",
    "fps": "frames per second",
    "hold_last": "hold last frame",
    "hold_seen": "hold what was seen",
    "jpeg_quality": "JPEG quality",
    "pitch_deg": "pitch (degrees)",
    "reference": "reference frame",
    "roll_deg": "roll (degrees)",
    "sampler_name": "sampler",
    "start_s": "start (seconds)",
    "vae": "VAE",
    "viewpoint": "ViewPoint map",
    "yaw_deg": "yaw (degrees)",
}


def label(name: str) -> str:
    """An input's or output's name for people: its unit in brackets, blanks between words."""
    return LABELS.get(name, name.replace("_", " "))


def message(text: str) -> str:
    """A text as the editor's message format has it: characters of its syntax are quoted."""
    return SYNTAX.sub(lambda found: f"{{'{found[0]}'}}", text)


def entry(name: str, tooltip: str | None) -> dict[str, str]:
    """An input or output."""
    return {"name": message(label(name))} | ({"tooltip": message(tooltip)} if tooltip else {})


def pack_nodes(object_info: dict[str, Any]) -> dict[str, Any]:
    """The nodes of this pack among the host's answer to GET /object_info."""
    return {node: info for node, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK}"}


def node_inputs(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A node's inputs by name, with their options."""
    parts = [info["input"].get(part, {}) for part in ("required", "optional")]
    return {name: spec[1] if len(spec) > 1 else {} for part in parts for name, spec in part.items()}


def node_outputs(info: dict[str, Any]) -> list[tuple[str, str | None]]:
    """A node's outputs in order, with their tooltips."""
    return list(zip(info["output_name"], info["output_tooltips"], strict=True)) if info["output"] else []


def node_texts(info: dict[str, Any]) -> dict[str, Any]:
    """All texts of a node in the editor's format; outputs go by their number."""
    texts = {"display_name": message(info["display_name"]), "description": message(info["description"])}
    inputs = {name: entry(name, options.get("tooltip")) for name, options in node_inputs(info).items()}
    outputs = {str(number): entry(*output) for number, output in enumerate(node_outputs(info))}
    return texts | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


def locale(object_info: dict[str, Any]) -> dict[str, Any]:
    """The file's content."""
    return {node: node_texts(info) for node, info in pack_nodes(object_info).items()}


def main() -> int:
    """Write the file."""
    write_json(LOCALE, locale(read_object_info()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
