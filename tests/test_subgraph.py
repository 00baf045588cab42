"""The subgraphs that the pack ships: their files, and what a real ComfyUI server makes of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from scripts.build_locale import node_inputs
from scripts.build_subgraphs import INPUT_NODE, OUTPUT_NODE, SUBGRAPHS, SUBGRAPHS_BY_NAME, blueprints
from scripts.comfy_server import PACK, ComfyServer, make_base_directory
from scripts.host import ROOT, provide_host
from scripts.stock_files import VAE, VIEWPOINT_UNET
from scripts.tiny_models import write_models

ASSETS = ROOT / "workflows" / "assets"
NAMES = list(SUBGRAPHS_BY_NAME)
MAP, LENGTH = 128, 5
pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    write_models(base / "models")
    with ComfyServer(provide_host(), base) as running:
        running.client.upload_file(ASSETS / "sample_photo.png")
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.client.get("/object_info")


def read(name: str) -> dict[str, Any]:
    return json.loads((SUBGRAPHS / f"{name}.json").read_text(encoding="utf-8"))


def parts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one node of the file, and the subgraph that it stands for."""
    file = read(name)
    (instance,), (definition,) = file["nodes"], file["definitions"]["subgraphs"]
    return instance, definition


def widget_values(node: dict[str, Any]) -> dict[str, Any]:
    """A node's widget values by name, without the one that the editor puts behind a seed."""
    values, named = list(node["widgets_values"]), {}
    for slot in node["inputs"]:
        if "widget" in slot:
            named[slot["name"]] = values.pop(0)
            if slot["name"] == "seed" and values and values[0] == "randomize":
                values.pop(0)
    assert values == []
    return named


def flattened(definition: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The subgraph's nodes as the editor queues them, with values or links for what comes from outside."""
    links, api = {link["id"]: link for link in definition["links"]}, {}
    for node in definition["nodes"]:
        inputs = widget_values(node)
        for slot in node["inputs"]:
            if slot["link"] is None:
                continue
            link = links[slot["link"]]
            if link["origin_id"] == INPUT_NODE:
                inputs[slot["name"]] = given[definition["inputs"][link["origin_slot"]]["name"]]
            else:
                inputs[slot["name"]] = [str(link["origin_id"]), link["origin_slot"]]
        api[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return api


def test_the_files_are_those_of_the_descriptions(object_info: dict[str, Any]) -> None:
    built = blueprints(object_info)
    assert {file.stem for file in SUBGRAPHS.iterdir()} == set(built)
    assert {name: read(name) for name in built} == built, "run python -m scripts.build_subgraphs"


def test_the_host_lists_and_serves_every_subgraph(server: ComfyServer) -> None:
    listed = server.client.get("/global_subgraphs")
    own = {entry["name"]: key for key, entry in listed.items() if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"}
    assert set(own) == set(NAMES)
    for name, key in own.items():
        assert json.loads(server.client.get(f"/global_subgraphs/{key}")["data"]) == read(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_only_node_is_the_subgraph_with_all_its_inputs_and_outputs(name: str) -> None:
    instance, definition = parts(name)
    assert instance["type"] == definition["id"]
    assert instance["title"] == definition["name"] == name
    for side in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in instance[side]] == [
            (port["name"], port["type"]) for port in definition[side]
        ]
    promoted = [["-1", slot["name"]] for slot in instance["inputs"] if "widget" in slot]
    shown = instance["properties"]["proxyWidgets"]
    assert shown[: len(promoted)] == promoted
    assert len(instance["widgets_values"]) == len(promoted)  # the others keep theirs inside
    inner = {str(node["id"]): {slot["name"] for slot in node["inputs"]} for node in definition["nodes"]}
    for node, widget in shown[len(promoted) :]:
        assert widget in inner[node] | {"control_after_generate"}


def test_the_seed_is_the_samplers_own_and_comes_with_what_draws_the_next() -> None:
    instance, definition = parts("Video to 360")
    (sampler,) = [node for node in definition["nodes"] if node["type"] == "ViewPointSampler"]
    assert [slot["link"] for slot in sampler["inputs"] if slot["name"] == "seed"] == [None]
    shown = instance["properties"]["proxyWidgets"]
    assert [widget for node, widget in shown if node == str(sampler["id"])] == ["seed", "control_after_generate"]
    assert "seed" not in [port["name"] for port in definition["inputs"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_has_both_ends_and_one_type(name: str) -> None:
    definition = parts(name)[1]
    nodes = {node["id"]: node for node in definition["nodes"]}
    seen = []
    for link in definition["links"]:
        if link["origin_id"] == INPUT_NODE:
            start = definition["inputs"][link["origin_slot"]]
            assert link["id"] in start["linkIds"]
        else:
            start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in start["links"]
        if link["target_id"] == OUTPUT_NODE:
            end = definition["outputs"][link["target_slot"]]
            assert end["linkIds"] == [link["id"]]
        else:
            end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert end["link"] == link["id"]
        assert start["type"] == end["type"] == link["type"]
        seen.append(link["id"])
    named = [number for port in definition["inputs"] for number in port["linkIds"]]
    named += [number for node in nodes.values() for slot in node["outputs"] for number in slot["links"]]
    assert sorted(named) == sorted(seen) == list(range(1, len(seen) + 1))
    assert definition["state"]["lastLinkId"] == len(seen)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_the_hosts_inputs_and_values_within_its_limits(name: str, object_info: dict[str, Any]) -> None:
    for node in parts(name)[1]["nodes"]:
        info = object_info[node["type"]]
        options = node_inputs(info)
        assert {slot["name"] for slot in node["inputs"]} == set(options)
        assert [slot["name"] for slot in node["outputs"]] == info["output_name"]
        for widget, value in widget_values(node).items():
            limits = options[widget]
            assert limits.get("min", value) <= value <= limits.get("max", value), (node["type"], widget)
            if "options" in limits:
                assert value in limits["options"]


def test_values_outside_are_those_inside() -> None:
    instance, definition = parts("Video to 360")
    inside = flattened(definition, {port["name"]: port["name"] for port in definition["inputs"]})
    shown = widget_values(instance)
    for node in definition["nodes"]:
        for name, value in inside[str(node["id"])]["inputs"].items():
            if isinstance(value, str) and value in shown:
                assert widget_values(node)[name] == shown[value]


def test_the_outer_length_takes_its_limits_from_the_conditioning() -> None:
    definition = parts("Video to 360")[1]
    (length,) = [port for port in definition["inputs"] if port["name"] == "length"]
    first = next(link for link in definition["links"] if link["id"] == length["linkIds"][0])
    (node,) = [node for node in definition["nodes"] if node["id"] == first["target_id"]]
    assert node["type"] == "ViewPointConditioning"


def test_video_to_360_makes_a_panorama_in_the_host(server: ComfyServer) -> None:
    instance, definition = parts("Video to 360")
    outer = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "sample_photo.png"}},
        "model": {"class_type": "UNETLoader", "inputs": {"unet_name": VIEWPOINT_UNET, "weight_dtype": "default"}},
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": VAE.name}},
        "prompt": {"class_type": "ViewPointEmptyPrompt", "inputs": {}},
    }
    linked = {"view": ["load", 0], "model": ["model", 0], "vae": ["vae", 0]}
    linked |= {"positive": ["prompt", 0], "negative": ["prompt", 0]}
    small = {"map_size": MAP, "length": LENGTH, "steps": 2, "cfg": 1.0}
    inner = flattened(definition, widget_values(instance) | linked | small)
    (last,) = [link for link in definition["links"] if link["target_id"] == OUTPUT_NODE]
    saved = {"erp": [str(last["origin_id"]), last["origin_slot"]], "filename_prefix": "subgraph"}
    saved |= {"fps": 16.0, "codec": "h264", "crf": 18}
    save = {"save": {"class_type": "ViewPointSave360Video", "inputs": saved}}
    (file,) = server.client.outputs(server.client.run(outer | inner | save))
    assert frames_and_size(file) == (LENGTH, 192, 96)


def frames_and_size(file: Path) -> tuple[int, int, int]:
    """Frames, width and height of a video."""
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
    return len(frames), frames[0].width, frames[0].height
