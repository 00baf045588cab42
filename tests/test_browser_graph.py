"""What the pack does to other nodes of the graph, in a real Chromium on the real ComfyUI."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from scripts.build_subgraphs import SUBGRAPHS
from scripts.comfy_server import ComfyServer
from scripts.tiny_models import VAE, VIEWPOINT_UNET
from tests.browser_graph import ANGLES, image, target, viewer
from tests.browser_page import ComfyPage
from tests.browser_session import browser_page, browser_server, without_errors

pytestmark = [pytest.mark.host, pytest.mark.browser]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with browser_server(tmp_path_factory.mktemp("comfy")) as running:
        yield running


@pytest.fixture(scope="module")
def opened(server: ComfyServer) -> Iterator[ComfyPage]:
    """One page for all tests."""
    with browser_page(server) as page:
        yield page


@pytest.fixture
def comfy(opened: ComfyPage) -> Iterator[ComfyPage]:
    with without_errors(opened) as page:
        yield page


@pytest.fixture(params=[False, True], ids=["classic", "new"])
def new_nodes(request: pytest.FixtureRequest, comfy: ComfyPage) -> Iterator[bool]:
    """The classic or the new rendering of nodes."""
    comfy.set_new_nodes(request.param)
    yield request.param
    comfy.set_new_nodes(False)


# Use this view


def test_use_this_view_turns_a_clip_and_leaves_its_lens_and_roll(comfy: ComfyPage) -> None:
    place = target("ViewPointPlaceView") | {"inputs": {"fov_deg": 67.0, "roll_deg": 3.0}}
    ids = comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]), place=place)
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    shown.drag(-80, 30)
    shown.press("+")
    shown.root.get_by_text("Use this view").click()
    yaw, pitch, fov = shown.view()
    assert 0 not in (yaw, pitch)
    assert fov != 90
    assert comfy.evaluate(ANGLES, ids["place"]) == {"yaw_deg": yaw, "pitch_deg": pitch, "roll_deg": 3, "fov_deg": 67}
    expect(shown.root.locator(".vp360-note")).to_contain_text("lens")


# Subgraphs

# Load the subgraph's file, give it what it needs, and save what it makes.
FEED = """async ([file, unet, vae]) => {
  await app.loadGraphData(file)
  const [subgraph] = app.graph.nodes
  const set = (node, values) => {
    for (const [name, value] of Object.entries(values)) node.widgets.find((each) => each.name === name).value = value
  }
  set(subgraph, { map_size: 128, length: 5, steps: 2, cfg: 1 })
  const feed = (type, inputs, widgets = {}) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.pos = [-420, 200 * app.graph.nodes.length - 400] // beside the subgraph
    set(node, widgets)
    for (const name of inputs) node.connect(0, subgraph, subgraph.findInputSlot(name))
    return node
  }
  feed('LoadImage', ['view'], { image: 'sample_photo.png' })
  feed('UNETLoader', ['model'], { unet_name: unet })
  feed('VAELoader', ['vae'], { vae_name: vae })
  feed('ViewPointEmptyPrompt', ['positive', 'negative'])
  const save = feed('ViewPointSave360Image', [])
  subgraph.connect(0, save, save.findInputSlot('erp'))
}"""
OUTSIDE = """app.graph.nodes.find((node) => node.subgraph).widgets
  .map((widget) => [widget.label ?? widget.name, widget.value])"""


def sampled_seeds(server: ComfyServer) -> list[int]:
    """The seeds of all samplers that ran, in order."""
    entries = sorted(server.client.get("/history").values(), key=lambda entry: entry["prompt"][0])
    nodes: list[dict[str, Any]] = [node for entry in entries for node in entry["prompt"][2].values()]
    return [node["inputs"]["seed"] for node in nodes if node["class_type"] == "ViewPointSampler"]


def test_the_subgraph_draws_a_new_seed_for_each_run_and_keeps_one_that_is_fixed(
    comfy: ComfyPage, server: ComfyServer, new_nodes: bool
) -> None:
    file = json.loads((SUBGRAPHS / "Video to 360.json").read_text(encoding="utf-8"))
    comfy.evaluate(FEED, [file, VIEWPOINT_UNET, VAE])
    before = len(sampled_seeds(server))
    comfy.run(timeout_ms=180_000)
    comfy.run(timeout_ms=180_000)
    comfy.screenshot(f"subgraph_{'new' if new_nodes else 'classic'}")
    first, second = sampled_seeds(server)[before:]
    assert (first, first != second) == (0, True)
    shown = dict(comfy.evaluate(OUTSIDE))
    assert shown["seed"] not in (first, second)
    comfy.evaluate("app.graph.nodes.find((node) => node.subgraph).widgets.at(-1).value = 'fixed'")
    comfy.evaluate("app.graph.nodes.find((node) => node.subgraph).widgets.at(-2).value = 7")
    comfy.run(timeout_ms=180_000)
    assert sampled_seeds(server)[before:] == [first, second, 7]
    assert dict(comfy.evaluate(OUTSIDE))["seed"] == 7
