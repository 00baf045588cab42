"""What the pack does to other nodes of the graph, in a real Chromium on the real ComfyUI."""

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from scripts.build_subgraphs import SUBGRAPHS
from scripts.comfy_server import ComfyServer
from scripts.stock_files import VAE, VIEWPOINT_UNET
from tests.browser_graph import ANGLES, KEPT, SET_FPS, image, target, viewer
from tests.browser_page import ComfyPage
from tests.browser_pictures import assert_shows_the_view, shows_the_view, wait_for_the_view

pytestmark = [pytest.mark.host, pytest.mark.browser]


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
    comfy: ComfyPage, new_nodes: bool
) -> None:
    file = json.loads((SUBGRAPHS / "Video to 360.json").read_text(encoding="utf-8"))
    comfy.evaluate(FEED, [file, VIEWPOINT_UNET, VAE.name])
    before = len(sampled_seeds(comfy.server))
    comfy.run(timeout_ms=180_000)
    comfy.run(timeout_ms=180_000)
    comfy.screenshot(f"subgraph_{'new' if new_nodes else 'classic'}")
    first, second = sampled_seeds(comfy.server)[before:]
    assert (first, first != second) == (0, True)
    shown = dict(comfy.evaluate(OUTSIDE))
    assert shown["seed"] not in (first, second)
    comfy.evaluate("app.graph.nodes.find((node) => node.subgraph).widgets.at(-1).value = 'fixed'")
    comfy.evaluate("app.graph.nodes.find((node) => node.subgraph).widgets.at(-2).value = 7")
    comfy.run(timeout_ms=180_000)
    assert sampled_seeds(comfy.server)[before:] == [first, second, 7]
    assert dict(comfy.evaluate(OUTSIDE))["seed"] == 7


# Make all nodes one subgraph, and look into it.
ENCLOSE = """() => {
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(app.graph.nodes))
  app.canvas.openSubgraph(subgraph, node)
}"""
MOVE = """() => {
  app.graph.nodes[0].pos = [10, 10]
  app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()
}"""
EMPTY = """app.loadGraphData(
  { version: 0.4, nodes: [], links: [], last_node_id: 0, last_link_id: 0 },
  true, true, app.extensionManager.workflow.activeWorkflow)"""
LOOK_INSIDE = """() => {
  const node = app.graph.nodes.find((each) => each.subgraph)
  app.canvas.openSubgraph(node.subgraph, node)
}"""


def test_a_viewer_in_a_subgraph_has_its_picture_after_undo_and_redo(comfy: ComfyPage, new_nodes: bool) -> None:
    comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]))
    comfy.evaluate(ENCLOSE)
    for number in range(25):  # the page keeps no result that comes before it has heard of its prompt
        comfy.evaluate(SET_FPS, 20 + number)
        comfy.run()
        if comfy.evaluate(KEPT):
            break
    comfy.viewer().wait_for_picture()
    assert_shows_the_view(comfy.viewer())
    comfy.evaluate(MOVE)
    for step in ("undo", "redo", "undo"):
        comfy.evaluate(f"app.extensionManager.workflow.activeWorkflow.changeTracker.{step}()")
        comfy.evaluate(LOOK_INSIDE)
        expect(comfy.page.locator(".vp360")).to_have_count(1)
        comfy.viewer().wait_for_picture()
        wait_for_the_view(comfy.viewer())
    comfy.evaluate(EMPTY)
    expect(comfy.page.locator(".vp360")).to_have_count(0)


# Lists


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Any node."""
    return {"type": kind, "pos": [60, 500], "inputs": inputs}


def test_of_a_list_of_panoramas_each_can_be_looked_at(comfy: ComfyPage, new_nodes: bool) -> None:
    batch = node("ImageBatch", image1=["load", 0], image2=["other", 0])
    whole = node("ImageBatch", image1=["batch", 0], image2=["load", 0])
    divided = node("RebatchImages", images=["whole", 0])
    comfy.build(
        load=image("colours_erp.png"),
        other=image("sample_erp.png"),
        batch=batch,
        whole=whole,
        divided=divided,
        view=viewer(["divided", 0]),
    )
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    place = shown.root.get_by_role("status").filter(has_text=" of ")
    following = shown.root.get_by_role("button", name="Next panorama (N)")
    for number, act in enumerate(
        (
            lambda: None,
            following.click,
            lambda: following.press("Enter"),
            lambda: shown.press("n"),
            lambda: shown.press("p"),
            shown.root.get_by_role("button", name="Previous panorama (P)").click,
        )
    ):
        act()
        which = (0, 1, 2, 0, 2, 1)[number]
        expect(place).to_have_text(f"{which + 1} of 3")
        shown.wait_for_picture()
        assert shows_the_view(shown) == (which != 1)
    comfy.screenshot(f"list_{'new' if new_nodes else 'classic'}")
    comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]))
    comfy.run()
    shown.wait_for_picture()
    expect(following).to_be_hidden()


# Names of saved files


def test_dates_and_other_nodes_values_are_filled_into_the_names_of_files(comfy: ComfyPage) -> None:
    prefix = "named/%date:yyyy%_%LoadImage.image%_%year%_%width%"
    save = node("ViewPointSave360Image", erp=["load", 0], filename_prefix=prefix)
    text = node("ViewPointSaveTextEmbedding", conditioning=["prompt", 0], filename_prefix="named/%date:dd%_%day%")
    comfy.build(load=image("colours_erp.png"), prompt=node("ViewPointEmptyPrompt"), save=save, text=text)
    comfy.run()
    names = sorted(file.name for file in (comfy.server.base / "output" / "named").iterdir())
    parts = [name.removesuffix("_00001_.png").removesuffix("_00001_.safetensors").split("_") for name in names]
    (day, same_day), (year, *loaded, same_year, width) = sorted(parts, key=len)
    assert (day, year) == (same_day, same_year)
    assert (len(day), len(year), "_".join(loaded), width) == (2, 4, "colours_erp.png", "512")
    assert prefix in json.dumps(comfy.evaluate("app.graph.serialize()"))  # the workflow keeps what was typed
