"""Writes subgraphs/*.json, groups of nodes that the editor offers as one node (its subgraph blueprints).

The order of the nodes' inputs, and the values that a graph leaves at their default, come from a running ComfyUI.
Run in the repository root: python -m scripts.build_subgraphs
"""

import sys
import uuid
from typing import Any, NamedTuple

from scripts.build_locale import label
from scripts.build_workflows import read_object_info, write_json
from scripts.generation_graphs import LENGTH
from scripts.host import ROOT
from scripts.workflow_builder import COLUMN_WIDTH, NODE_WIDTH, NOTE_WIDTH, WIDGET_TYPES, Builder, Slot
from scripts.workflow_graph import Graph, Link, Node

SUBGRAPHS = ROOT / "subgraphs"
INPUT_NODE, OUTPUT_NODE = -10, -20  # ids that the editor gives the two ends of every subgraph
END_WIDTH = 120


class Outside(NamedTuple):
    """An input that the subgraph takes from outside, under this name; the value until the user changes it, if any."""

    name: str
    value: Any = None


class Subgraph(NamedTuple):
    """Nodes by a name used only here, what leaves the subgraph by its name there, what it does, and the widgets of
    its nodes, (node, widget), that the editor shows outside as they are."""

    nodes: dict[str, Node]
    outputs: dict[str, Link]
    description: str
    shown: tuple[tuple[str, str], ...] = ()


def video_to_360() -> Subgraph:
    """A clip, a model and two prompts in, a panorama out."""
    sizes = {"map_size": Outside("map_size"), "length": Outside("length", LENGTH)}
    angles = {name: Outside(name) for name in ("yaw_deg", "pitch_deg", "roll_deg", "fov_deg")}
    prompts = {name: Outside(name) for name in ("positive", "negative")}
    conditioned = {name: Link("conditioning", name) for name in ("positive", "negative", "latent")}
    sampling = {name: Outside(name) for name in ("steps", "cfg")}
    known = {"viewpoint": Link("place", "viewpoint"), "mask": Link("place", "mask")}
    nodes = {
        # first, since the outer length is limited as the first node that takes it says: 4k + 1
        "conditioning": Node("ViewPointConditioning", {**prompts, "vae": Outside("vae"), **sizes, **known}),
        "place": Node("ViewPointPlaceView", {"view": Outside("view"), **sizes, **angles}),
        "sampler": Node("ViewPointSampler", {"model": Outside("model"), **conditioned, **sampling}),
        "decode": Node("VAEDecode", {"samples": Link("sampler", "latent"), "vae": Outside("vae")}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("decode", "IMAGE")}),
    }
    description = "A clip or photo, and a ViewPoint model, to a 360-degree panorama video."
    # no inputs of the subgraph: those are copies, and the editor draws the next seed in the sampler's own widget alone
    seed = (("sampler", "seed"), ("sampler", "control_after_generate"))
    return Subgraph(nodes, {"erp": Link("erp", "erp")}, description, seed)


SUBGRAPHS_BY_NAME = {"Video to 360": video_to_360}


def identity(*names: str) -> str:
    """The same id for the same names, in every build."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, ".".join(("viewpoint.subgraphs", *names))))


class SubgraphBuilder(Builder):
    """Turns one subgraph into its file: a workflow whose only node is the subgraph."""

    def __init__(self, name: str, subgraph: Subgraph, object_info: dict[str, Any]) -> None:
        self.subgraph = subgraph
        self.ends: dict[str, list[int]] = {}  # links from outside, by the name of their input
        self.outside: dict[str, tuple[Slot, Any]] = {}  # the first slot that takes it, and its value there
        super().__init__(name, Graph(subgraph.nodes, subgraph.description), object_info)

    def add_links(self) -> None:
        """Links inside, then those from and to the outside."""
        super().add_links()
        taken = [
            (key, number, slot, node.inputs[slot.name])
            for key, node in self.graph.nodes.items()
            for number, slot in enumerate(self.slots(node))
            if isinstance(node.inputs.get(slot.name), Outside)
        ]
        for key, _, slot, outside in sorted(taken, key=lambda entry: entry[2].is_widget):
            self.outside.setdefault(outside.name, (slot, self.value(self.graph.nodes[key], slot)))
        names = list(self.outside)
        for key, number, slot, outside in taken:
            ends = [INPUT_NODE, names.index(outside.name), self.ids[key], number]
            self.links.append([len(self.links) + 1, *ends, slot.type])
            self.ends.setdefault(outside.name, []).append(len(self.links))
        for number, link in enumerate(self.subgraph.outputs.values()):
            kind = self.info[self.graph.nodes[link.node].type]["output"][self.output_slot(link)]
            ends = [self.ids[link.node], self.output_slot(link), OUTPUT_NODE, number]
            self.links.append([len(self.links) + 1, *ends, kind])

    def value(self, node: Node, slot: Slot) -> Any:
        """A node's own value; what comes from outside has one too, if it is a widget."""
        given = node.inputs.get(slot.name)
        if not isinstance(given, Outside):
            return super().value(node, slot)
        if not slot.is_widget:
            return None
        return slot.default() if given.value is None else given.value

    def end(self, number: int, x: int, count: int) -> dict[str, Any]:
        """One of the subgraph's two ends."""
        return {"id": number, "bounding": [x, 0, END_WIDTH, 40 + 20 * count]}

    def ports(self, kind: str, ends: dict[str, tuple[str, list[int]]], x: int) -> list[dict[str, Any]]:
        """The subgraph's inputs or outputs: type and links by name."""
        return [
            {
                "id": identity(self.name, kind, name),
                "name": name,
                "type": slot_type,
                "linkIds": links,
                "label": label(name),
                "pos": [x, 20 + 20 * number],
            }
            for number, (name, (slot_type, links)) in enumerate(ends.items())
        ]

    def definition(self) -> dict[str, Any]:
        """The subgraph itself."""
        order, positions = sorted(self.graph.nodes, key=self.depth), self.positions()
        nodes = [self.editor_node(key, positions[key], order.index(key)) for key in self.graph.nodes]
        left = NOTE_WIDTH + 60 - COLUMN_WIDTH
        right = max(position[0] for position in positions.values()) + COLUMN_WIDTH
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        inputs = {name: (slot.type, self.ends[name]) for name, (slot, _) in self.outside.items()}
        leaving = {link[4]: (link[5], [link[0]]) for link in self.links if link[3] == OUTPUT_NODE}
        outputs = {name: leaving[number] for number, name in enumerate(self.subgraph.outputs)}
        state = {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(self.links), "lastRerouteId": 0}
        return {
            "id": identity(self.name),
            "version": 1,
            "state": state,
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": self.end(INPUT_NODE, left, len(inputs)),
            "outputNode": self.end(OUTPUT_NODE, right, len(outputs)),
            "inputs": self.ports("input", inputs, left + END_WIDTH - 20),
            "outputs": self.ports("output", outputs, right + 20),
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": [dict(zip(names, link, strict=True)) for link in self.links],
            "extra": {},
        }

    def instance(self, definition: dict[str, Any]) -> dict[str, Any]:
        """The node that stands for the subgraph."""
        widgets = {name: value for name, (slot, value) in self.outside.items() if slot.type in WIDGET_TYPES}
        inputs = [
            {"name": port["name"], "type": port["type"], "label": port["label"], "link": None}
            | ({"widget": {"name": port["name"]}} if port["name"] in widgets else {})
            for port in definition["inputs"]
        ]
        outputs = [
            {"name": p["name"], "type": p["type"], "label": p["label"], "links": []} for p in definition["outputs"]
        ]
        shown = [[str(self.ids[key]), widget] for key, widget in self.subgraph.shown]
        height = 40 + 26 * (len(inputs) + len(shown))
        place = {"pos": [0, 0], "size": [NODE_WIDTH, height], "flags": {}, "order": 0, "mode": 0}
        return {
            "id": 1,
            "type": definition["id"],
            **place,
            "inputs": inputs,
            "outputs": outputs,
            "title": self.name,
            "properties": {"proxyWidgets": [["-1", name] for name in widgets] + shown},
            "widgets_values": list(widgets.values()),
        }

    def blueprint(self) -> dict[str, Any]:
        """The whole file."""
        definition = self.definition()
        return {
            "id": identity(self.name, "file"),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [self.instance(definition)],
            "links": [],
            "groups": [],
            "definitions": {"subgraphs": [definition]},
            "config": {},
            "extra": {"BlueprintDescription": self.subgraph.description},
            "version": 0.4,
        }


def blueprints(object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All files by name."""
    return {name: SubgraphBuilder(name, make(), object_info).blueprint() for name, make in SUBGRAPHS_BY_NAME.items()}


def main() -> int:
    """Write them."""
    for name, content in blueprints(read_object_info()).items():
        write_json(SUBGRAPHS / f"{name}.json", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
