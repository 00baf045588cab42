"""Turns one described graph into its two files, with what the host says of its nodes."""

import uuid
from typing import Any, NamedTuple

from scripts.stock_files import STOCK_FILES
from scripts.workflow_graph import Graph, Link, Node

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
UPLOAD_OPTIONS = ("image_upload", "video_upload")
NOTE_WIDTH, NODE_WIDTH, GAP, TEXT_HEIGHT = 460, 320, 60, 140
COLUMN_WIDTH = NODE_WIDTH + GAP
SIZES = {"ViewPointPreview360": (440, 480)}  # as web/viewpoint_preview.js makes them


class Slot(NamedTuple):
    """An input as the host describes it."""

    name: str
    type: str
    options: dict[str, Any]
    choices: list[Any]
    optional: bool

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def is_upload(self) -> bool:
        return any(self.options.get(option) for option in UPLOAD_OPTIONS)

    def default(self) -> Any:
        if "default" in self.options:
            return self.options["default"]
        if not self.choices:
            raise ValueError(f"{self.name} has no default and the graph gives no value")
        return self.choices[0]


def read_slot(name: str, spec: list[Any], optional: bool) -> Slot:
    """V1 nodes give a combo's choices in place of the type, V3 nodes among its options."""
    options = spec[1] if len(spec) > 1 else {}
    if isinstance(spec[0], list):
        return Slot(name, "COMBO", options, spec[0], optional)
    return Slot(name, spec[0], options, options.get("options", []), optional)


class Builder:
    """Turns one graph into its two files. object_info is the host's answer to GET /object_info."""

    def __init__(self, name: str, graph: Graph, object_info: dict[str, Any]) -> None:
        self.name, self.graph, self.info = name, graph, object_info
        self.ids = {key: number for number, key in enumerate(graph.nodes, start=1)}
        self.links: list[list[Any]] = []
        self.add_links()

    def slots(self, node: Node) -> list[Slot]:
        """In the editor's order: inputs for links first, then widgets."""
        info = self.info[node.type]
        parts = [part for part in ("required", "optional") if part in info["input"]]
        slots = [
            read_slot(name, info["input"][part][name], part == "optional")
            for part in parts
            for name in info["input_order"][part]
        ]
        if unknown := node.inputs.keys() - {slot.name for slot in slots}:
            raise ValueError(f"{node.type} has no input {', '.join(sorted(unknown))}")
        return sorted(slots, key=lambda slot: slot.is_widget)

    def output_slot(self, link: Link) -> int:
        return self.info[self.graph.nodes[link.node].type]["output_name"].index(link.output)

    def add_links(self) -> None:
        for key, node in self.graph.nodes.items():
            for slot_number, slot in enumerate(self.slots(node)):
                value = node.inputs.get(slot.name)
                if isinstance(value, Link):
                    ends = [self.ids[value.node], self.output_slot(value), self.ids[key], slot_number]
                    self.links.append([len(self.links) + 1, *ends, slot.type])

    def value(self, node: Node, slot: Slot) -> Any:
        value = node.inputs[slot.name] if slot.name in node.inputs else slot.default()
        return [str(self.ids[value.node]), self.output_slot(value)] if isinstance(value, Link) else value

    def title(self, node: Node) -> str:
        return node.title or self.info[node.type]["display_name"] or node.type

    def api(self) -> dict[str, Any]:
        return {str(self.ids[key]): self.api_node(node) for key, node in self.graph.nodes.items()}

    def api_node(self, node: Node) -> dict[str, Any]:
        used = [slot for slot in self.slots(node) if slot.is_widget or slot.name in node.inputs]
        inputs = {slot.name: self.value(node, slot) for slot in used}
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": self.title(node)}}

    def depth(self, key: str) -> int:
        """Links between this node and the farthest node that it depends on."""
        before = [value.node for value in self.graph.nodes[key].inputs.values() if isinstance(value, Link)]
        return 1 + max((self.depth(node) for node in before), default=-1)

    def editor_inputs(self, key: str) -> list[dict[str, Any]]:
        targets = {link[4]: link[0] for link in self.links if link[3] == self.ids[key]}
        inputs = []
        for number, slot in enumerate(self.slots(self.graph.nodes[key])):
            shape = {"shape": 7} if slot.optional else {}
            widget = {"widget": {"name": slot.name}} if slot.is_widget else {}
            inputs.append({"name": slot.name, **shape, "type": slot.type, **widget, "link": targets.get(number)})
        if any(slot.is_upload for slot in self.slots(self.graph.nodes[key])):
            inputs.append({"name": "upload", "type": "IMAGEUPLOAD", "widget": {"name": "upload"}, "link": None})
        return inputs

    def editor_outputs(self, key: str) -> list[dict[str, Any]]:
        info = self.info[self.graph.nodes[key].type]
        outputs = []
        for number, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True)):
            links = [link[0] for link in self.links if link[1:3] == [self.ids[key], number]]
            outputs.append({"name": name, "type": kind, "links": links})
        return outputs

    def widget_values(self, node: Node) -> list[Any]:
        """The editor puts one more widget after a seed, and an upload button at the end."""
        values, slots = [], self.slots(node)
        for slot in slots:
            if slot.is_widget:
                linked = isinstance(node.inputs.get(slot.name), Link)  # the widget under a link keeps its default
                values.append(slot.default() if linked else self.value(node, slot))
            if slot.options.get("control_after_generate"):
                values.append("randomize")
        return values + (["image"] if any(slot.is_upload for slot in slots) else [])

    def size(self, key: str) -> list[int]:
        """About what the editor gives the node, so that none overlaps the next."""
        node = self.graph.nodes[key]
        if node.type in SIZES:
            return list(SIZES[node.type])
        slots = self.slots(node)
        sockets = max(sum(not slot.is_widget for slot in slots), len(self.info[node.type]["output"]))
        text = TEXT_HEIGHT if any(slot.options.get("multiline") for slot in slots) else 0
        picture = 300 if any(slot.is_upload for slot in slots) or not self.info[node.type]["output"] else 0
        return [NODE_WIDTH, 40 + 20 * sockets + 26 * len(self.widget_values(node)) + text + picture]

    def positions(self) -> dict[str, list[int]]:
        """Columns by depth, right of the note, each as wide as its widest node."""
        columns = {key: self.depth(key) for key in self.graph.nodes}
        widths: dict[int, int] = {}
        for key, column in columns.items():
            widths[column] = max(widths.get(column, 0), self.size(key)[0] + GAP)
        bottoms: dict[int, int] = {}
        positions = {}
        for key, column in columns.items():
            top = bottoms.get(column, 0)
            left = NOTE_WIDTH + GAP + sum(widths[before] for before in range(column))
            positions[key] = [left, top]
            bottoms[column] = top + self.size(key)[1] + GAP
        return positions

    def editor_node(self, key: str, position: list[int], order: int) -> dict[str, Any]:
        node = self.graph.nodes[key]
        head = {"id": self.ids[key], "type": node.type, "pos": position, "size": self.size(key)}
        state = {"flags": {}, "order": order, "mode": 0}
        slots = {"inputs": self.editor_inputs(key), "outputs": self.editor_outputs(key)}
        title = {"title": node.title} if node.title else {}
        properties = {"Node name for S&R": node.type, **self.models(node)}
        return {**head, **state, **slots, **title, "properties": properties, "widgets_values": self.widget_values(node)}

    def models(self, node: Node) -> dict[str, Any]:
        """The published files among the node's values, as ComfyUI's own templates name them."""
        files = [STOCK_FILES[value]._asdict() for value in node.inputs.values() if value in STOCK_FILES]
        return {"models": files} if files else {}

    def note_node(self) -> dict[str, Any]:
        place = {"pos": [0, 0], "size": [NOTE_WIDTH, 620]}
        state = {"flags": {}, "order": len(self.ids), "mode": 0, "inputs": [], "outputs": [], "properties": {}}
        look = {"title": "What is needed", "color": "#432", "bgcolor": "#653"}
        note = {"id": len(self.ids) + 1, "type": "MarkdownNote", **place, **state, **look}
        return {**note, "widgets_values": [self.graph.note]}

    def editor(self) -> dict[str, Any]:
        order = sorted(self.graph.nodes, key=self.depth)
        positions = self.positions()
        nodes = [self.editor_node(key, positions[key], order.index(key)) for key in self.graph.nodes]
        identity = {"id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"viewpoint.{self.name}")), "revision": 0}
        last = {"last_node_id": len(nodes) + 1, "last_link_id": len(self.links)}
        rest = {"groups": [], "config": {}, "extra": {}, "version": 0.4}
        return {**identity, **last, "nodes": [*nodes, self.note_node()], "links": self.links, **rest}
