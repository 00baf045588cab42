import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.build_workflows import GRAPHS

REPO = Path(__file__).resolve().parent.parent
WORKFLOWS = REPO / "workflows"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
NODE_ID = re.compile(r'node_id="(\w+)"')
PACK_NODES = {name for file in (REPO / "nodes").glob("*.py") for name in NODE_ID.findall(file.read_text("utf-8"))}
LOADERS = {
    "UNETLoader",
    "VAELoader",
    "CLIPLoader",
    "UpscaleModelLoader",
    "LoadVideo",
    "LoadImage",
    "ViewPointLoadClip",
    "ViewPointLoadTextEmbedding",
}
LOADED_SUFFIXES = {".safetensors", ".mp4", ".png"}
HOST_NODES = (LOADERS - PACK_NODES) | {
    "CLIPTextEncode",
    "ModelSamplingSD3",
    "KSampler",
    "VAEDecode",
    "GetVideoComponents",
    "CreateVideo",
    "SaveVideo",
    "SaveImage",
}
GENERATING = ("video_to_360", "image_to_360", "text_to_360", "handheld_to_360", "saved_prompt_to_360")
FIRST = "00001_.safetensors [output]"  # how the host numbers the first file of a prefix
NOTES = {"Note", "MarkdownNote"}
CONTROL_VALUES = {"fixed", "increment", "decrement", "randomize"}


def read_api(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def read_editor(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def link_of(name: str, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = [node for node, content in read_api(name).items() if content["class_type"] == class_type]
    return node


def graph_nodes(editor: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in editor["nodes"] if node["type"] not in NOTES]


def note_text(editor: dict[str, Any]) -> str:
    return "\n".join(node["widgets_values"][0] for node in editor["nodes"] if node["type"] in NOTES)


def widget_inputs(node: dict[str, Any]) -> dict[str, Any]:
    """The widget values by input name, without the editor's own widgets."""
    values, inputs = list(node["widgets_values"]), {}
    for slot in (slot for slot in node["inputs"] if "widget" in slot):
        assert slot["widget"]["name"] == slot["name"]
        inputs[slot["name"]] = values.pop(0)
        if slot["name"] == "seed":
            assert values.pop(0) in CONTROL_VALUES
    assert values == []
    assert not any(isinstance(value, list | dict) for value in inputs.values())
    if "upload" in inputs:
        assert inputs.pop("upload") == "image"
    return inputs


def linked_inputs(node: dict[str, Any], links: dict[int, list[Any]]) -> dict[str, Any]:
    linked = [slot for slot in node["inputs"] if slot["link"] is not None]
    return {slot["name"]: [str(links[slot["link"]][1]), links[slot["link"]][2]] for slot in linked}


def editor_as_api(editor: dict[str, Any]) -> dict[str, Any]:
    links = {link[0]: link for link in editor["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {**widget_inputs(node), **linked_inputs(node, links)},
        }
        for node in graph_nodes(editor)
    }


def loaded_files(api: dict[str, Any]) -> list[str]:
    """Files that the graph loads, without the folder that the host adds to those it wrote."""
    loaders = [node for node in api.values() if node["class_type"] in LOADERS]
    values = [value for node in loaders for value in node["inputs"].values() if isinstance(value, str)]
    names = [value.removesuffix(" [output]") for value in values]
    return [name for name in names if Path(name).suffix in LOADED_SUFFIXES]


def types_in(api: dict[str, Any]) -> list[str]:
    return [node["class_type"] for node in api.values()]


def test_every_workflow_is_there_in_both_formats() -> None:
    assert {file.stem for file in WORKFLOWS.glob("*.json")} == set(GRAPHS)
    assert {file.stem for file in (WORKFLOWS / "api").glob("*.json")} == set(GRAPHS)


def test_every_node_of_the_pack_stands_in_a_shipped_workflow() -> None:
    assert len(PACK_NODES) >= 23
    shipped = {kind for name in NAMES for kind in types_in(read_api(name))}
    assert PACK_NODES - shipped == set()


@pytest.mark.parametrize("name", NAMES)
def test_editor_file_and_api_file_describe_the_same_graph(name: str) -> None:
    api = {
        number: {"class_type": node["class_type"], "inputs": node["inputs"]} for number, node in read_api(name).items()
    }
    assert editor_as_api(read_editor(name)) == api


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_one_of_the_pack_or_of_the_host(name: str) -> None:
    assert set(types_in(read_api(name))) <= PACK_NODES | HOST_NODES


@pytest.mark.parametrize("name", NAMES)
def test_every_node_has_a_title_in_the_api_file(name: str) -> None:
    assert all(node["_meta"]["title"] for node in read_api(name).values())


@pytest.mark.parametrize("name", NAMES)
def test_links_are_named_at_both_ends_with_one_type(name: str) -> None:
    editor = read_editor(name)
    nodes = {node["id"]: node for node in editor["nodes"]}
    for link, source, output, target, slot, kind in editor["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[target]["inputs"][slot]["type"] == kind
        assert nodes[source]["outputs"][output]["type"] in kind.split(",")  # an input may take several types


@pytest.mark.parametrize("name", NAMES)
def test_no_end_names_a_link_that_is_not_there(name: str) -> None:
    editor = read_editor(name)
    inputs = [slot["link"] for node in editor["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    outputs = [link for node in editor["nodes"] for slot in node["outputs"] for link in slot["links"]]
    expected = [link[0] for link in editor["links"]]
    assert sorted(inputs) == sorted(outputs) == sorted(set(expected)) == sorted(expected)


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_order_are_unique_and_counted(name: str) -> None:
    editor = read_editor(name)
    assert editor["version"] == 0.4
    ids = [node["id"] for node in editor["nodes"]]
    assert len(set(ids)) == len(ids)
    assert editor["last_node_id"] == max(ids)
    assert editor["last_link_id"] == max(link[0] for link in editor["links"])
    assert sorted(node["order"] for node in editor["nodes"]) == list(range(len(ids)))


@pytest.mark.parametrize("name", NAMES)
def test_a_node_comes_after_those_that_it_depends_on(name: str) -> None:
    editor = read_editor(name)
    order = {node["id"]: node["order"] for node in editor["nodes"]}
    assert all(order[link[1]] < order[link[3]] for link in editor["links"])


@pytest.mark.parametrize("name", NAMES)
def test_no_two_nodes_overlap(name: str) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in read_editor(name)["nodes"]]
    for number, (x, y, width, height) in enumerate(boxes):
        for left, top, other_width, other_height in boxes[:number]:
            apart = left >= x + width or x >= left + other_width or top >= y + height or y >= top + other_height
            assert apart


@pytest.mark.parametrize("name", NAMES)
def test_a_viewer_opens_as_large_as_one_that_is_added_by_hand(name: str) -> None:
    script = (REPO / "web" / "viewpoint_preview.js").read_text(encoding="utf-8")
    (size,) = re.findall(r"NODE_SIZE = \[(\d+), (\d+)\]", script)
    viewers = [node for node in read_editor(name)["nodes"] if node["type"] == "ViewPointPreview360"]
    assert all(node["size"] == list(map(int, size)) for node in viewers)
    assert viewers or name not in ("reframe", "handheld_to_360")


def test_reframes_note_names_the_nodes_that_a_view_can_be_written_into() -> None:
    script = (REPO / "web" / "use_view.js").read_text(encoding="utf-8")
    kinds = set(
        re.findall(r"^  (ViewPoint\w+): ", script.partition("const TARGETS")[2].partition("}")[0], re.MULTILINE)
    )
    editor = read_editor("reframe")
    titles = [node["title"] for node in editor["nodes"] if node["type"] in kinds]
    assert len(titles) == 3
    assert [title for title in titles if f"*{title}*" not in note_text(editor)] == []


def test_the_note_of_saved_prompts_names_the_nodes_to_run_first() -> None:
    text = note_text(read_editor("saved_prompt_to_360"))
    locale = json.loads((REPO / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert f"*{locale['ViewPointSaveTextEmbedding']['display_name']}*" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_note_names_every_file_that_is_loaded(name: str) -> None:
    text = note_text(read_editor(name))
    files = loaded_files(read_api(name))
    assert files
    assert [file for file in files if file not in text] == []


@pytest.mark.parametrize("name", GENERATING)
def test_video_workflows_use_the_papers_size_and_rate(name: str) -> None:
    nodes = {node["class_type"]: node["inputs"] for node in read_api(name).values()}
    conditioning = nodes["ViewPointConditioning"]
    assert (conditioning["map_size"], conditioning["length"]) == (736, 49)
    clip = nodes.get("ViewPointLoadClip")
    (save,) = nodes.keys() & {"ViewPointSave360Video", "ViewPointUpscaleSave360Video"}
    assert nodes[save]["fps"] == (16 if clip is None else [link_of(name, "ViewPointLoadClip"), 2])
    assert clip is None or (clip["fps"], clip["length"]) == (16, 49)
    known = {"viewpoint", "mask"} & conditioning.keys()
    assert known == (set() if name in ("text_to_360", "saved_prompt_to_360") else {"viewpoint", "mask"})


@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_on_one_map_have_its_size_and_placed_frames_its_length(name: str) -> None:
    inputs = [node["inputs"] for node in read_api(name).values()]
    assert len({values["map_size"] for values in inputs if "map_size" in values}) <= 1
    nodes = {node["class_type"]: node["inputs"] for node in read_api(name).values()}
    if {"ViewPointConditioning", "ViewPointPlaceView"} <= nodes.keys():
        assert nodes["ViewPointPlaceView"]["length"] in (0, nodes["ViewPointConditioning"]["length"])


@pytest.mark.parametrize("prompt", ["positive", "negative"])
def test_the_saved_prompt_that_is_loaded_is_the_first_that_the_same_workflow_saves(prompt: str) -> None:
    nodes = read_api("saved_prompt_to_360")
    (conditioning,) = [node for node in nodes.values() if node["class_type"] == "ViewPointConditioning"]
    loaded = nodes[conditioning["inputs"][prompt][0]]["inputs"]["file"]
    kept = [node["inputs"] for node in nodes.values() if node["class_type"] == "ViewPointSaveTextEmbedding"]
    (source,) = [save["conditioning"][0] for save in kept if loaded == f"{save['filename_prefix']}_{FIRST}"]
    assert ("autumn forest" in nodes[source]["inputs"]["text"]) == (prompt == "positive")


def test_the_note_says_that_an_edited_prompt_is_chosen_anew() -> None:
    text = note_text(read_editor("saved_prompt_to_360"))
    assert "_00002_" in text
    assert "press R" in text


@pytest.mark.parametrize("name", GRAPHS)
def test_the_editor_is_told_where_missing_stock_files_are(name: str) -> None:
    loaders = {"VAELoader": "vae", "CLIPLoader": "text_encoders", "UpscaleModelLoader": "upscale_models"}
    for node in graph_nodes(read_editor(name)):
        if node["type"] in loaders and not (file := node["widgets_values"][0]).startswith("viewpoint_"):
            (model,) = node["properties"]["models"]
            assert (model["name"], model["directory"]) == (file, loaders[node["type"]])
            assert re.fullmatch(rf"https://\S+/{re.escape(file)}", model["url"])
            assert f"({model['url']})" in note_text(read_editor(name))


def test_every_workflow_has_a_small_square_picture_of_its_own() -> None:
    described = {file.stem for file in WORKFLOWS.glob("*.json")} | set(GRAPHS)
    pictures = list(WORKFLOWS.glob("*.jpg"))
    assert {picture.stem for picture in pictures} == described
    for picture in pictures:
        with Image.open(picture) as image:
            assert (image.format, image.size) == ("JPEG", (400, 400))
        assert picture.stat().st_size < 40_000
    assert len({picture.read_bytes() for picture in pictures}) == len(pictures)
