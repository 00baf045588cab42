"""Writes workflows/*.json (for the editor) and workflows/api/*.json (for queueing) from one description of each graph.

The order of the nodes' inputs, and the values that a graph leaves at their default, come from a running ComfyUI.
Run in the repository root: python -m scripts.build_workflows
"""

import json
import math
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import ROOT, provide_host
from scripts.tool_graphs import TOOL_GRAPHS
from scripts.workflow_graph import Graph, Link, Node

WORKFLOWS = ROOT / "workflows"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
UPLOAD_OPTIONS = ("image_upload", "video_upload")
NOTE_WIDTH, NODE_WIDTH, COLUMN_WIDTH, TEXT_HEIGHT = 460, 320, 380, 140

UNET = "viewpoint_wan2.1_t2v_1.3B_33ch_bf16.safetensors"
STOCK_UNET = "wan2.1_t2v_1.3B_bf16.safetensors"
VAE = "wan_2.1_vae.safetensors"
CLIP = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
MAP_SIZE, LENGTH, FPS = 736, 49, 16.0
SECONDS = math.ceil((LENGTH - 1) / FPS)
SAVED_PROMPTS = {
    "positive": "text_embeddings/autumn_forest_00001_.safetensors [output]",
    "negative": "text_embeddings/negative_00001_.safetensors [output]",
}
TINY_UNET, TINY_VAE, TINY_MAP_SIZE = "viewpoint_tiny_33ch.safetensors", "viewpoint_tiny_vae.safetensors", 256

CLIP_PROMPT = "A real place in natural light. Sharp detail, natural colours, the same light in every direction."
TEXT_PROMPT = (
    "A clearing in an autumn forest at sunrise. Tall trees on every side, low mist, leaves drifting down, blue sky "
    "overhead, moss and fallen leaves on the ground. Sharp detail, natural colours."
)
NEGATIVE_PROMPT = (
    "blurry, overexposed, oversaturated, low quality, compression artefacts, text, subtitles, watermark, frame, "
    "border, black bars, visible seams, repeated objects, distorted shapes, flicker"
)

MODEL_NOTE = f"""Model files, in the `models` folder of ComfyUI:

- `diffusion_models/{UNET}`
- `vae/{VAE}`
- `text_encoders/{CLIP}`

The first is a Wan2.1 text-to-video model with 33 input channels. It is made from the stock `{STOCK_UNET}` with
`python -m viewpoint_core.inflate SRC DST` in this pack's folder, and then trained: an inflated, untrained model
does not look at the known picture, and does not know the ViewPoint map.
The other two are the stock Wan2.1 files.

"""
VIDEO_NOTE = f"""# Video to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_clip.mp4`: any clip longer than {SECONDS} seconds, of any frame rate. Say in Place View how wide its lens
  is (90 degrees here) and where it looks. Of a shorter one load fewer frames and set `length` in Place View to
  {LENGTH}: its last frame then stays ('hold last frame').

The video, with the clip's sound, is saved in `output/viewpoint`, marked as 360 degrees. Describe the whole surroundings
in the prompt.
"""
IMAGE_NOTE = f"""# Image to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_photo.png`: any RGB photo. Say in Place View how wide its lens is (90 degrees here) and where it looks.

The photo stands still in all {LENGTH} frames ('hold last frame' in Place View). The video is saved in
`output/viewpoint`, marked as 360 degrees. Describe the whole surroundings in the prompt.
"""
TEXT_NOTE = f"""# Text to 360

{MODEL_NOTE}No input file. The video, {LENGTH} frames at {FPS:g} frames per second, is saved in `output/viewpoint`,
marked as 360 degrees. Describe the whole surroundings in the prompt.
"""
HANDHELD_NOTE = f"""# Handheld clip to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_clip.mp4`: any clip of a camera that turns on one spot, of any frame rate. The camera is estimated, the clip
  placed where it looked, so that the world stands still, and laid over the result again, sharp. Set `fov_deg` in
  Estimate Camera to how wide the lens is, or to 0 to have it found. What the camera showed at another time stays as it
  was then ('hold what was seen' in Place View): right for places, not for people who walk through. If the camera
  looked up or down, say so in Place View (`pitch_deg`); the sharp clip is laid where it was placed.

The video, with the clip's sound, is saved in `output/viewpoint`, marked as 360 degrees.
"""
PHOTOS_NOTE = f"""# Two photos to one panorama

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_photo.png`, twice: choose two photos taken from one spot, and say in each Place View where it looks. Where
  both are known the later one lies on top, with a soft edge.

The picture is saved in `output/viewpoint`, marked as 360 degrees.
"""
SAVED_PROMPT_NOTE = f"""# Text to 360 with a saved prompt

{MODEL_NOTE}First run the upper part alone (mute the rest): it encodes both prompts and saves them. From then on

- `{SAVED_PROMPTS["positive"].removesuffix(" [output]")}`
- `{SAVED_PROMPTS["negative"].removesuffix(" [output]")}`

in the output folder are all that is read: remove the text encoder's nodes. The model is patched by ViewPointPatchModel
and sampled by the host's own KSampler, as in any other workflow. The video is saved in `output/viewpoint`, marked as
360 degrees.
"""
TINY_NOTE = f"""# {{title}}, with the tiny model

Nothing to download: `{TINY_UNET}` and `{TINY_VAE}` come with this pack, and run on a CPU in a few minutes.
They show how the pieces work together. The model was trained on two CPU cores, on small procedural worlds and six real
panoramas, without captions: expect soft pictures, 384 x 192, and use a ViewPoint model of real size for real work.
It knows square views of 90 degrees straight ahead. Say in Place View how wide your lens is (a phone held sideways: 65
to 70 degrees): a narrower, wider or turned view works too, but the surroundings then match it less.

Input, in the `input` folder (or use the upload button):

- {{source}}

The video is saved in `output/viewpoint`, marked as 360 degrees.
"""
ERP_NOTE = """# Panorama to ViewPoint map and back

No model. Input, in the `input` folder (or use the upload button):

- `sample_erp.png`: an equirectangular RGB panorama, its width twice its height. A `width` of 1024 in the
  ViewPointToERP node suits one of 1024 x 512.

The panorama that went through the map is saved in `output/viewpoint`.
"""


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


def loader_nodes() -> dict[str, Node]:
    return {
        "model": Node("UNETLoader", {"unet_name": UNET, "weight_dtype": "default"}),
        "vae": Node("VAELoader", {"vae_name": VAE}),
        "clip": Node("CLIPLoader", {"clip_name": CLIP, "type": "wan"}),
    }


def prompt_nodes(prompt: str) -> dict[str, Node]:
    clip = Link("clip", "CLIP")
    return {
        "positive": Node("CLIPTextEncode", {"text": prompt, "clip": clip}, "Prompt"),
        "negative": Node("CLIPTextEncode", {"text": NEGATIVE_PROMPT, "clip": clip}, "Negative prompt"),
    }


def conditioning_node(known: dict[str, Link]) -> Node:
    prompts = {name: Link(name, "CONDITIONING") for name in ("positive", "negative")}
    sizes = {"map_size": MAP_SIZE, "length": LENGTH}
    return Node("ViewPointConditioning", {**prompts, "vae": Link("vae", "VAE"), **sizes, **known})


def sampler_node() -> Node:
    conditioned = {name: Link("conditioning", name) for name in ("positive", "negative", "latent")}
    return Node("ViewPointSampler", {"model": Link("model", "MODEL"), **conditioned})


def output_nodes(name: str) -> dict[str, Node]:
    return {
        "decode": Node("VAEDecode", {"samples": Link("sampler", "latent"), "vae": Link("vae", "VAE")}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("decode", "IMAGE")}),
        "save": Node(
            "ViewPointSave360Video", {"erp": Link("erp", "erp"), "filename_prefix": f"viewpoint/{name}", "fps": FPS}
        ),
    }


def generation_nodes(name: str, prompt: str, known: dict[str, Link]) -> dict[str, Node]:
    steps = {"conditioning": conditioning_node(known), "sampler": sampler_node()}
    return {**loader_nodes(), **prompt_nodes(prompt), **steps, **output_nodes(name)}


def place_node(view: Link, length: int) -> Node:
    return Node("ViewPointPlaceView", {"view": view, "map_size": MAP_SIZE, "length": length, "fov_deg": 90.0})


def clip_node() -> Node:
    return Node("ViewPointLoadClip", {"file": "sample_clip.mp4", "length": LENGTH, "fps": FPS})


def with_the_clips_sound(nodes: dict[str, Node]) -> dict[str, Node]:
    nodes["save"].inputs |= {"fps": Link("load", "fps"), "audio": Link("load", "audio")}
    return nodes


def known_map() -> dict[str, Link]:
    return {"viewpoint": Link("place", "viewpoint"), "mask": Link("place", "mask")}


def video_to_360() -> Graph:
    known = {"load": clip_node(), "place": place_node(Link("load", "images"), 0)}
    nodes = {**known, **generation_nodes("video_to_360", CLIP_PROMPT, known_map())}
    return Graph(with_the_clips_sound(nodes), VIDEO_NOTE)


def image_to_360() -> Graph:
    known = {
        "load": Node("LoadImage", {"image": "sample_photo.png"}),
        "place": place_node(Link("load", "IMAGE"), LENGTH),
    }
    return Graph({**known, **generation_nodes("image_to_360", CLIP_PROMPT, known_map())}, IMAGE_NOTE)


def text_to_360() -> Graph:
    return Graph(generation_nodes("text_to_360", TEXT_PROMPT, {}), TEXT_NOTE)


def tiny_graph(name: str, title: str, source: str, view: dict[str, Node], place: Node) -> Graph:
    """Video or image to 360 with the models that come with the pack: no captions, few steps."""
    prompt = Link("prompt", "conditioning")
    conditioned = {part: Link("conditioning", part) for part in ("positive", "negative", "latent")}
    sizes = {"map_size": TINY_MAP_SIZE, "length": LENGTH}
    sampling = {"seed": 0, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "shift": 0.5}
    decode = {"samples": Link("sampler", "latent"), "vae": Link("vae", "VAE")}
    nodes = {
        **view,
        "place": place,
        "model": Node("UNETLoader", {"unet_name": TINY_UNET, "weight_dtype": "default"}),
        "vae": Node("VAELoader", {"vae_name": TINY_VAE}),
        "prompt": Node("ViewPointEmptyPrompt"),
        "conditioning": Node(
            "ViewPointConditioning",
            {"positive": prompt, "negative": prompt, "vae": Link("vae", "VAE"), **sizes, **known_map()},
        ),
        "sampler": Node("ViewPointSampler", {"model": Link("model", "MODEL"), **conditioned, **sampling}),
        "decode": Node("VAEDecode", decode),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("decode", "IMAGE")}),
        "save": Node(
            "ViewPointSave360Video", {"erp": Link("erp", "erp"), "filename_prefix": f"viewpoint/{name}", "fps": FPS}
        ),
    }
    return Graph(nodes, TINY_NOTE.format(title=title, source=source))


def tiny_place(view: Link, length: int) -> Node:
    return Node("ViewPointPlaceView", {"view": view, "map_size": TINY_MAP_SIZE, "length": length, "fov_deg": 90.0})


def tiny_video_to_360() -> Graph:
    source = f"`sample_clip.mp4`: any clip longer than {SECONDS} seconds, of any frame rate."
    place = tiny_place(Link("load", "images"), 0)
    graph = tiny_graph("tiny_video", "Video to 360", source, {"load": clip_node()}, place)
    with_the_clips_sound(graph.nodes)
    return graph


def tiny_image_to_360() -> Graph:
    view = {"load": Node("LoadImage", {"image": "sample_photo.png"})}
    source = f"`sample_photo.png`: any RGB photo. It stands still in all {LENGTH} frames."
    return tiny_graph("tiny_image", "Image to 360", source, view, tiny_place(Link("load", "IMAGE"), LENGTH))


def handheld_to_360() -> Graph:
    """A clip whose camera moved: estimated, placed where it looked, and laid over the result again."""
    frames, path = Link("load", "images"), Link("camera", "camera_path")
    nodes = {
        "load": clip_node(),
        "camera": Node("ViewPointEstimateCamera", {"view": frames, "fov_deg": 90.0}),
        "place": Node("ViewPointPlaceView", {"view": frames, "map_size": MAP_SIZE, "camera_path": path}),
        **generation_nodes("handheld_to_360", CLIP_PROMPT, known_map()),
    }
    placed = Link("place", "camera_path")
    nodes["composite"] = Node("ViewPointComposite", {"erp": Link("erp", "erp"), "view": frames, "camera_path": placed})
    result = Link("composite", "erp")
    nodes["preview"] = Node("ViewPointPreview360", {"panorama": result, "fps": FPS})
    nodes["save"] = nodes.pop("save")  # the editor numbers nodes as they come
    nodes["save"].inputs["erp"] = result
    return Graph(with_the_clips_sound(nodes), HANDHELD_NOTE)


def two_photos_to_360() -> Graph:
    """Two photos that look different ways, on one map."""
    nodes: dict[str, Node] = {}
    for name, yaw_deg in (("first", 0.0), ("second", 75.0)):
        nodes[f"{name}_photo"] = Node("LoadImage", {"image": "sample_photo.png"})
        place = {"view": Link(f"{name}_photo", "IMAGE"), "map_size": MAP_SIZE, "length": 1, "yaw_deg": yaw_deg}
        nodes[f"{name}_place"] = Node("ViewPointPlaceView", place)
    maps = {
        f"{layer}{part}": Link(f"{name}_place", "mask" if part else "viewpoint")
        for layer, name in (("lower", "first"), ("upper", "second"))
        for part in ("", "_mask")
    }
    nodes["place"] = Node("ViewPointCompose", {**maps, "feather_deg": 6.0})
    nodes |= generation_nodes("two_photos_to_360", CLIP_PROMPT, known_map())
    nodes["conditioning"].inputs["length"] = 1
    nodes["save"] = Node(
        "ViewPointSave360Image", {"erp": Link("erp", "erp"), "filename_prefix": "viewpoint/two_photos_to_360"}
    )
    return Graph(nodes, PHOTOS_NOTE)


def saved_prompt_to_360() -> Graph:
    """Prompts encoded once and kept; then no text encoder is needed. Sampled by the host's own KSampler."""
    nodes = generation_nodes("saved_prompt_to_360", TEXT_PROMPT, {})
    for name, title in (("positive", "The prompt"), ("negative", "The negative prompt")):
        prefix = SAVED_PROMPTS[name].partition("_00001_")[0]
        kept = {"conditioning": Link(name, "CONDITIONING"), "filename_prefix": prefix}
        nodes[f"keep_{name}"] = Node("ViewPointSaveTextEmbedding", kept)
        nodes[f"saved_{name}"] = Node(
            "ViewPointLoadTextEmbedding", {"file": SAVED_PROMPTS[name]}, f"{title}, once it is saved"
        )
        nodes["conditioning"].inputs[name] = Link(f"saved_{name}", "conditioning")
    nodes["patched"] = Node("ViewPointPatchModel", {"model": Link("model", "MODEL")})
    nodes["shifted"] = Node("ModelSamplingSD3", {"model": Link("patched", "model"), "shift": 5.0})
    conditioned = {part: Link("conditioning", part) for part in ("positive", "negative")}
    sampling = {"steps": 30, "cfg": 5.0, "sampler_name": "uni_pc", "scheduler": "simple"}  # as ViewPointSampler's
    latent = {"latent_image": Link("conditioning", "latent")}
    nodes["sampler"] = Node("KSampler", {"model": Link("shifted", "MODEL"), **conditioned, **latent, **sampling})
    nodes["decode"].inputs["samples"] = Link("sampler", "LATENT")
    return Graph(nodes, SAVED_PROMPT_NOTE)


def erp_roundtrip() -> Graph:
    nodes = {
        "load": Node("LoadImage", {"image": "sample_erp.png"}),
        "map": Node("ViewPointFromERP", {"erp": Link("load", "IMAGE"), "map_size": MAP_SIZE}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("map", "viewpoint"), "width": 1024}),
        "save": Node("SaveImage", {"images": Link("erp", "erp"), "filename_prefix": "viewpoint/erp_roundtrip"}),
    }
    return Graph(nodes, ERP_NOTE)


GRAPHS = {
    "video_to_360": video_to_360,
    "image_to_360": image_to_360,
    "text_to_360": text_to_360,
    "erp_roundtrip": erp_roundtrip,
    "tiny_video_to_360": tiny_video_to_360,
    "tiny_image_to_360": tiny_image_to_360,
    "handheld_to_360": handheld_to_360,
    "two_photos_to_360": two_photos_to_360,
    "saved_prompt_to_360": saved_prompt_to_360,
    **TOOL_GRAPHS,
}


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
        slots = self.slots(node)
        sockets = max(sum(not slot.is_widget for slot in slots), len(self.info[node.type]["output"]))
        text = TEXT_HEIGHT if any(slot.options.get("multiline") for slot in slots) else 0
        picture = 300 if any(slot.is_upload for slot in slots) or not self.info[node.type]["output"] else 0
        return [NODE_WIDTH, 40 + 20 * sockets + 26 * len(self.widget_values(node)) + text + picture]

    def positions(self) -> dict[str, list[int]]:
        """Columns by depth, right of the note."""
        bottoms: dict[int, int] = {}
        positions = {}
        for key in self.graph.nodes:
            column = self.depth(key)
            top = bottoms.get(column, 0)
            positions[key] = [NOTE_WIDTH + 60 + COLUMN_WIDTH * column, top]
            bottoms[column] = top + self.size(key)[1] + 60
        return positions

    def editor_node(self, key: str, position: list[int], order: int) -> dict[str, Any]:
        node = self.graph.nodes[key]
        head = {"id": self.ids[key], "type": node.type, "pos": position, "size": self.size(key)}
        state = {"flags": {}, "order": order, "mode": 0}
        slots = {"inputs": self.editor_inputs(key), "outputs": self.editor_outputs(key)}
        title = {"title": node.title} if node.title else {}
        properties = {"Node name for S&R": node.type}
        return {**head, **state, **slots, **title, "properties": properties, "widgets_values": self.widget_values(node)}

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
