"""A real Chromium on the real ComfyUI with the pack: shipped workflows, and what people do with the viewer."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Response, expect

from scripts.comfy_server import ComfyServer
from tests.browser_graph import (
    ANGLES,
    HOLDERS,
    KEPT,
    LOST,
    RESULT,
    SET_FPS,
    SHRINK,
    UNKNOWN,
    image,
    target,
    viewer,
    viewer_alone,
)
from tests.browser_inputs import (
    CLIP_FPS,
    CLIP_FRAMES,
    EMBEDDINGS,
    LENGTH,
    MAP,
    four_greys,
    sample_erp,
)
from tests.browser_page import OWN_SCRIPTS, WINDOW, ComfyPage, ViewerOnPage
from tests.browser_pictures import assert_shows_the_view
from viewpoint_core.viewpoint_map import erp_to_viewpoint, viewpoint_to_erp
from viewpoint_core.views import render_view

pytestmark = [pytest.mark.host, pytest.mark.browser]
REPO = Path(__file__).parents[1]
WORKFLOWS = sorted(path.stem for path in (REPO / "workflows").glob("*.json"))


ONE_ROW_MORE = """() => {
  const node = app.graph._nodes.find((each) => each.type === 'ViewPointPreview360')
  node.setSize([node.size[0], node.size[1] + 1])
  app.canvas.setDirty(true, true)
}"""


def show(comfy: ComfyPage, name: str, projection: str = "erp", **others: dict[str, Any]) -> ViewerOnPage:
    """Run a graph that shows a picture; its viewer."""
    comfy.build(load=image(name), view=viewer(["load", 0], projection), **others)
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    return shown


# The page and the shipped workflows


def test_the_page_opens_without_an_error_and_knows_the_viewer(comfy: ComfyPage) -> None:
    assert comfy.evaluate("!!LiteGraph.registered_node_types.ViewPointPreview360")
    assert comfy.evaluate("app.extensions.some((extension) => extension.name === 'ViewPoint.Preview360')")
    comfy.screenshot("page")


def missing_files(server: ComfyServer, name: str) -> list[dict[str, str]]:
    """The published model files of a shipped workflow that this ComfyUI lacks."""
    nodes = json.loads((REPO / "workflows" / f"{name}.json").read_text("utf-8"))["nodes"]
    files = [file for node in nodes for file in node["properties"].get("models", [])]
    return [file for file in files if not (server.base / "models" / file["directory"] / file["name"]).exists()]


def open_template(comfy: ComfyPage, name: str) -> None:
    """Choose a shipped workflow in the template browser, and close what offers its missing files."""
    page = comfy.page
    page.locator(".templates-tab-button").click()
    page.get_by_text("viewpoint", exact=True).last.click()
    page.get_by_test_id(f"template-workflow-{name}").click()
    page.wait_for_function("app.graph.nodes.some((node) => node.type.startsWith('ViewPoint'))")
    if missing := missing_files(comfy.server, name):
        offer = page.locator(".p-dialog").filter(has_text="Missing Models")
        expect(offer.get_by_text(".safetensors")).to_have_text(
            [f"{file['directory']} / {file['name']}" for file in missing]
        )
        expect(offer.get_by_role("button", name="Download")).to_have_count(len(missing))
        page.keyboard.press("Escape")
    page.locator(".p-dialog").wait_for(state="detached")


def written(server: ComfyServer) -> set[Path]:
    """What the server's user has to keep."""
    return {file for file in (server.base / "output").rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_shipped_workflow_opens_from_the_template_browser_and_runs(comfy: ComfyPage, name: str) -> None:
    open_template(comfy, name)
    nodes = len(json.loads((REPO / "workflows" / f"{name}.json").read_text("utf-8"))["nodes"])
    comfy.page.wait_for_function(f"app.graph.nodes.length === {nodes}")
    assert comfy.evaluate(UNKNOWN) == []
    assert comfy.messages() == []
    comfy.screenshot(f"workflow_{name}")
    comfy.evaluate(SHRINK, [*EMBEDDINGS, LENGTH])
    assert comfy.messages() == []
    before = written(comfy.server)
    comfy.run(timeout_ms=180_000)
    made = written(comfy.server) - before
    assert {file.suffix for file in made} & {".mp4", ".png", ".jpg"}
    comfy.screenshot(f"workflow_{name}_ran")


# Looking around


@pytest.mark.parametrize("projection", ["erp", "viewpoint"])
def test_dragging_turns_the_view_as_it_should(comfy: ComfyPage, new_nodes: bool, projection: str) -> None:
    shown = show(comfy, "colours_erp.png" if projection == "erp" else "colours_map.png", projection)
    assert shown.view() == (0, 0, 90)
    assert_shows_the_view(shown)
    shown.drag(-90, 60)  # what lies to the right and above comes into view
    yaw, pitch, _ = shown.view()
    assert yaw == pytest.approx(25, abs=2)
    assert pitch == pytest.approx(16.5, abs=2)
    assert_shows_the_view(shown)
    comfy.screenshot(f"dragged_{projection}_{'new' if new_nodes else 'classic'}")


@pytest.mark.parametrize("projection", ["erp", "viewpoint"])
def test_no_seam_at_the_back_and_at_the_poles(comfy: ComfyPage, projection: str) -> None:
    shown = show(comfy, "colours_erp.png" if projection == "erp" else "colours_map.png", projection)
    for _ in range(24):
        shown.root.press("ArrowRight")
    shown.settle()
    assert shown.view() == (-180, 0, 90)
    assert_shows_the_view(shown)
    for pitch, key in ((90, "ArrowUp"), (-90, "ArrowDown")):
        for _ in range(26):
            shown.root.press(key)
        shown.settle()
        assert shown.view()[1] == pitch
        assert_shows_the_view(shown)
    shown.press("r", "+", "+", "+", "+", "+", "+")
    assert shown.view()[2] < 50
    assert_shows_the_view(shown)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b.astype(float)) ** 2).mean()))


def test_a_photographic_panorama_and_map_look_as_the_core_renders_them(comfy: ComfyPage) -> None:
    erp = sample_erp().movedim(-1, 0)
    folded = erp_to_viewpoint(erp, MAP)
    sources = {
        ("sample_erp.png", "erp"): erp,
        ("sample_map.png", "viewpoint"): viewpoint_to_erp(folded, 1024, interpolation="bilinear"),
    }
    for (name, projection), panorama in sources.items():
        shown = show(comfy, name, projection)
        for keys in ([], ["ArrowUp"] * 8, ["ArrowDown"] * 14 + ["ArrowLeft"] * 5):
            shown.press("r", *keys)
            pixels = shown.pixels()
            yaw, pitch, fov = shown.view()
            view = render_view(
                panorama, *pixels.shape[:2], yaw_deg=yaw, pitch_deg=pitch, fov_deg=fov, interpolation="bilinear"
            )
            assert psnr(pixels, view.movedim(0, -1).clamp(0, 1).numpy() * 255) > 33, (projection, yaw, pitch)


def test_a_map_is_blended_overhead_as_the_core_blends_it(comfy: ComfyPage) -> None:
    panorama = viewpoint_to_erp(four_greys().movedim(-1, 0), 1024, interpolation="bilinear")
    shown = show(comfy, "greys_map.png", "viewpoint")
    shown.press("r", *["ArrowUp"] * 26)
    pixels = shown.pixels()
    yaw, pitch, fov = shown.view()
    assert pitch == 90
    view = render_view(panorama, *pixels.shape[:2], yaw_deg=yaw, pitch_deg=pitch, fov_deg=fov, interpolation="bilinear")
    difference = np.abs(pixels - view.movedim(0, -1).numpy() * 255)
    assert np.percentile(difference, 99) < 3


@pytest.mark.parametrize("projection", ["erp", "viewpoint"])
def test_a_row_of_pixels_on_the_horizon_shows_the_horizon(comfy: ComfyPage, projection: str) -> None:
    """There a direction's y is zero or minus zero, of which software rendering took the arc tangent for half a turn."""
    shown = show(comfy, f"colours_{'erp' if projection == 'erp' else 'map'}.png", projection)
    for _ in range(2):  # one of the two has a row in the middle
        rows = comfy.evaluate("document.querySelector('.vp360 canvas').height")
        comfy.evaluate(ONE_ROW_MORE)
        comfy.page.wait_for_function(f"document.querySelector('.vp360 canvas').height === {rows + 1}")
        shown.settle()
        assert shown.pixels().shape[0] == rows + 1
        assert_shows_the_view(shown)


def test_the_wheel_zooms_only_a_viewer_that_has_the_focus(comfy: ComfyPage, new_nodes: bool) -> None:
    shown = show(comfy, "colours_erp.png")
    scale = "app.canvas.ds.scale"
    before = comfy.evaluate(scale)
    shown.drag(0, 0)
    for _ in range(3):
        comfy.page.mouse.wheel(0, -100)
    comfy.page.wait_for_function("parseFloat(document.querySelector('.vp360-fov-text').textContent) < 75")
    assert comfy.evaluate(scale) == before
    assert_shows_the_view(shown)
    fov = shown.view()[2]
    comfy.page.keyboard.press("Escape")
    comfy.page.mouse.wheel(0, -100)
    comfy.page.wait_for_function(f"{scale} > {before}")
    assert shown.view()[2] == fov


def test_two_fingers_zoom_and_one_turns(comfy: ComfyPage) -> None:
    shown = show(comfy, "colours_erp.png")
    box = shown.stage.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = comfy.page.context.new_cdp_session(comfy.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": px, "y": py, "id": index} for index, (px, py) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    send("touchStart", (x, y))
    send("touchMove", (x - 40, y))
    send("touchEnd")
    shown.settle()
    assert shown.view()[0] == pytest.approx(11, abs=2)
    send("touchStart", (x - 40, y), (x + 40, y))
    send("touchMove", (x - 80, y), (x + 80, y))
    send("touchEnd")
    shown.settle()
    assert shown.view()[2] == pytest.approx(53.1, abs=0.5)  # twice as large
    assert_shows_the_view(shown)


def test_the_grid_shows_the_faces_and_the_view_fills_the_screen(comfy: ComfyPage) -> None:
    shown = show(comfy, "sample_erp.png")
    plain = shown.pixels()
    shown.press("g", "ArrowRight", "ArrowUp")
    comfy.screenshot("grid")
    shown.press("r")
    drawn = shown.pixels().astype(int)
    changed = np.abs(drawn - plain.astype(int)).sum(-1) > 30
    orange = (drawn[..., 0] > 180) & (drawn[..., 2] < 100) & (drawn[..., 0] - drawn[..., 2] > 100)
    assert 0.005 < changed.mean() < 0.2
    assert orange[:, :4].any(axis=1).mean() > 0.8  # at 90 degrees the front face's edges lie on the screen's
    shown.press("f")
    comfy.page.wait_for_function("document.fullscreenElement?.classList.contains('vp360')")
    comfy.page.wait_for_function(f"document.querySelector('.vp360 canvas').width >= {WINDOW['width']}")
    comfy.screenshot("fullscreen")
    comfy.evaluate("document.exitFullscreen()")
    comfy.page.wait_for_function("!document.fullscreenElement")


# Videos


def clip_time(comfy: ComfyPage, number: int = 0) -> float:
    """Where a viewer's clip is, as its toolbar says, in seconds."""
    return float(comfy.page.locator(".vp360-time").nth(number).inner_text().split("/")[0])


def at_rest(comfy: ComfyPage) -> tuple[float, np.ndarray]:
    """Where a paused clip is and what it shows, once two looks see the same; else as it is after some seconds."""
    before, seen = math.nan, np.empty(0)
    for _ in range(20):
        now, shown = clip_time(comfy), comfy.viewer().pixels()
        if now == before and np.array_equal(seen, shown):
            break
        before, seen = now, shown
        comfy.page.wait_for_timeout(200)
    return now, shown


def settled_brightness(shown: ViewerOnPage, expected: float, within: float) -> float:
    """The picture's mean, once it is so near to what is expected; else as it is after some seconds."""
    for _ in range(50):
        mean = float(shown.pixels().mean())
        if abs(mean - expected) < within:
            break
        shown.page.wait_for_timeout(100)
    return mean


def test_a_video_plays_stops_and_is_scrubbed(comfy: ComfyPage) -> None:
    video = {"type": "LoadVideo", "pos": [60, 100], "inputs": {"file": "clip.mp4"}}
    comfy.build(load=video, view=viewer(["load", 0]))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    moments = []
    for _ in range(8):
        moments.append((clip_time(comfy), shown.pixels().mean()))
        comfy.page.wait_for_timeout(200)
    for passed in zip(*moments, strict=True):
        assert len(set(passed)) >= 3  # times and pictures
    shown.press(" ")
    expect(shown.root.locator(".vp360-play")).to_have_attribute("data-icon", "play")
    stopped, still = at_rest(comfy)
    comfy.page.wait_for_timeout(400)
    assert clip_time(comfy) == stopped
    np.testing.assert_array_equal(shown.pixels(), still)
    for seconds in (0.1, 2.6):
        shown.root.locator(".vp360-scrub").fill(str(seconds))
        comfy.page.wait_for_function(f"parseFloat(document.querySelector('.vp360-time').textContent) === {seconds}")
        expected = 10 + 9 * int(seconds * CLIP_FPS)
        assert settled_brightness(shown, expected, within=6) == pytest.approx(expected, abs=6)
    expect(shown.root.locator(".vp360-muted")).to_be_visible()  # the clip has sound
    comfy.screenshot("video")


def test_frames_play_at_their_rate_and_are_streamed_by_ranges(comfy: ComfyPage) -> None:
    video = {"type": "LoadVideo", "pos": [60, 100], "inputs": {"file": "clip.mp4"}}
    parts = {"type": "GetVideoComponents", "pos": [60, 300], "inputs": {"video": ["load", 0]}}
    view = viewer(["parts", 0])
    view["inputs"]["fps"] = 4.0
    statuses: list[int] = []

    def note_status(answer: Response) -> None:
        if "/view?" in answer.url:
            statuses.append(answer.status)

    comfy.page.on("response", note_status)
    comfy.build(load=video, parts=parts, view=view)
    comfy.run()
    comfy.viewer().wait_for_picture()
    total = comfy.viewer().root.locator(".vp360-time")
    expect(total).to_contain_text(f"/ {CLIP_FRAMES / 4:.1f} s")
    expect(comfy.viewer().root.locator(".vp360-muted")).to_be_hidden()
    comfy.page.remove_listener("response", note_status)
    assert 206 in statuses


# What counts as an error


THROW = """([text, place]) => {
  const error = new TypeError(text)
  error.stack = `TypeError: ${text}\n    at draw (${window.location.origin}${place}:1:1)`
  setTimeout(() => { throw error })
}"""


def test_an_error_in_the_packs_scripts_is_told_where_comfyuis_own_is_known(comfy: ComfyPage) -> None:
    known = "Cannot read properties of undefined (reading 'id')"
    for place in ("/assets/index.js", f"{OWN_SCRIPTS}viewer.js"):
        with comfy.page.expect_event("pageerror"):
            comfy.evaluate(THROW, [known, place])
        assert comfy.take_errors() == ([known] if place.startswith(OWN_SCRIPTS) else [])


# Several viewers, and their end


def four_viewers() -> dict[str, dict[str, Any]]:
    """Two pictures, a map and a clip."""
    size = {"size": [320, 400]}
    return {
        "load": image("sample_erp.png"),
        "map": image("sample_map.png", pos=[60, 480]),
        "clip": {"type": "LoadVideo", "pos": [60, 800], "inputs": {"file": "clip.mp4"}},
        "one": viewer(["load", 0], pos=[420, 60], **size),
        "two": viewer(["map", 0], "viewpoint", pos=[780, 60], **size),
        "three": viewer(["load", 0], pos=[420, 480], **size),
        "four": viewer(["clip", 0], pos=[780, 480], **size),
    }


def test_four_viewers_work_at_once_and_leave_nothing_when_deleted(comfy: ComfyPage) -> None:
    comfy.build(**four_viewers())
    comfy.run()
    for number in range(4):
        comfy.viewer(number).wait_for_picture()
    comfy.viewer(0).drag(-50, 0)
    assert [comfy.viewer(number).view()[0] > 0 for number in range(4)] == [True, False, False, False]
    comfy.screenshot("four_viewers")
    comfy.evaluate("() => { window.canvases = [...document.querySelectorAll('.vp360 canvas')] }")
    assert comfy.evaluate(LOST) == [False] * 4
    assert comfy.evaluate(HOLDERS) == 4
    comfy.page.locator("#graph-canvas").focus()
    comfy.evaluate("app.canvas.selectNodes(app.graph.nodes.filter((node) => node.type === 'ViewPointPreview360'))")
    comfy.page.keyboard.press("Delete")
    comfy.page.wait_for_function("!document.querySelector('.vp360')")
    assert comfy.evaluate(LOST) == [True] * 4
    assert comfy.evaluate(HOLDERS) == 0


def wait_for_contexts(comfy: ComfyPage, count: int) -> None:
    """Wait until the viewers hold that many GL contexts."""
    for _ in range(100):
        if comfy.evaluate(HOLDERS) == count:
            return
        comfy.page.wait_for_timeout(100)
    raise AssertionError(f"the viewers hold {comfy.evaluate(HOLDERS)} contexts, not {count}")


def test_a_viewer_out_of_sight_gives_its_context_back_and_takes_one_again(comfy: ComfyPage) -> None:
    shown = show(comfy, "colours_erp.png")
    assert comfy.evaluate(HOLDERS) == 1
    comfy.evaluate("() => { app.canvas.ds.offset = [-5000, 0]; app.canvas.setDirty(true, true) }")
    comfy.evaluate("() => { window.canvases = [...document.querySelectorAll('.vp360 canvas')] }")
    wait_for_contexts(comfy, 0)
    assert comfy.evaluate(LOST) == [True]
    comfy.evaluate("() => { app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true) }")
    shown.wait_for_picture()
    wait_for_contexts(comfy, 1)
    shown.settle()
    assert_shows_the_view(shown)


def test_past_the_limit_the_viewer_used_longest_ago_waits_for_a_click(comfy: ComfyPage) -> None:
    views = {
        f"view{number}": viewer(["load", 0], pos=[340 + 350 * (number % 3), 60 + 420 * (number // 3)], size=[330, 400])
        for number in range(9)
    }
    comfy.build(load=image("colours_erp.png"), **views)
    comfy.evaluate("() => { app.canvas.ds.scale = 0.62; app.canvas.setDirty(true, true) }")
    comfy.run()
    waiting = comfy.page.locator(".vp360-message", has_text="Click to go on")
    expect(waiting).to_have_count(1)
    assert comfy.evaluate(HOLDERS) == 8
    comfy.screenshot("nine_viewers")
    texts = comfy.page.locator(".vp360-message").all_text_contents()
    parked = comfy.viewer(next(number for number, text in enumerate(texts) if "Click to go on" in text))
    parked.stage.click()
    parked.wait_for_picture()
    expect(waiting).to_have_count(1)  # another one by now


LOSE = (
    "() => { window.loss = document.querySelector('.vp360 canvas').getContext('webgl2')"
    ".getExtension('WEBGL_lose_context'); loss.loseContext() }"
)


def test_a_lost_context_comes_back_with_its_picture(comfy: ComfyPage) -> None:
    shown = show(comfy, "colours_erp.png")
    comfy.evaluate(LOSE)
    expect(shown.message).to_contain_text("graphics driver")
    comfy.evaluate("loss.restoreContext()")
    shown.wait_for_picture()
    assert_shows_the_view(shown)


def test_a_lost_context_is_said_for_as_long_as_it_lasts_while_a_clip_plays(comfy: ComfyPage) -> None:
    comfy.build(load={"type": "LoadVideo", "pos": [60, 100], "inputs": {"file": "clip.mp4"}}, view=viewer(["load", 0]))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    comfy.evaluate(LOSE)
    expect(shown.message).to_contain_text("graphics driver")
    before = clip_time(comfy)
    comfy.page.wait_for_timeout(600)  # some frames of the clip
    assert clip_time(comfy) != before
    expect(shown.message).to_contain_text("graphics driver")
    comfy.evaluate("loss.restoreContext()")
    shown.wait_for_picture()


def test_another_run_shows_the_new_picture_in_the_same_viewer(comfy: ComfyPage) -> None:
    shown = show(comfy, "sample_erp.png")
    comfy.evaluate("() => { window.canvases = [...document.querySelectorAll('.vp360 canvas')] }")
    comfy.evaluate("app.graph.nodes.find((node) => node.type === 'LoadImage').widgets[0].value = 'colours_erp.png'")
    comfy.run()
    comfy.page.wait_for_function("canvases[0] !== document.querySelector('.vp360 canvas')")
    shown.wait_for_picture()
    assert_shows_the_view(shown)
    assert comfy.evaluate(LOST) == [True]


def show_and_keep(comfy: ComfyPage, name: str, tries: int = 25) -> None:
    """Show a picture that ComfyUI's page keeps with the workflow: only results whose prompt it has heard of before they
    come. What the server has in its cache comes faster than that, so each try asks for something else."""
    for number in range(tries):
        show(comfy, name)
        comfy.evaluate(SET_FPS, 20 + number)
        comfy.run()
        if comfy.evaluate(KEPT):
            return comfy.viewer().wait_for_picture()
    raise AssertionError(f"the page did not keep the result of {name} in {tries} runs")


def test_the_picture_is_back_after_undo_and_when_the_workflows_tab_is_chosen_again(comfy: ComfyPage) -> None:
    show_and_keep(comfy, "colours_erp.png")
    comfy.evaluate(
        "app.loadGraphData(app.graph.serialize(), false, false, app.extensionManager.workflow.activeWorkflow)"
    )
    comfy.viewer().wait_for_picture()
    assert_shows_the_view(comfy.viewer())
    tab = comfy.page.locator(".workflow-tab").nth(comfy.page.locator(".workflow-tab").count() - 1)
    comfy.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    comfy.page.wait_for_function("!document.querySelector('.vp360')")
    tab.click()
    comfy.viewer().wait_for_picture()
    assert_shows_the_view(comfy.viewer())


def test_the_workflow_that_is_saved_holds_nothing_of_the_viewer(comfy: ComfyPage) -> None:
    show(comfy, "sample_erp.png")
    saved = comfy.evaluate("app.graph.serialize().nodes.find((node) => node.type === 'ViewPointPreview360')")
    assert saved["widgets_values"] == ["erp", 16]


# Use this view


def press_use(shown: ViewerOnPage) -> None:
    shown.root.get_by_text("Use this view").click()


def test_use_this_view_writes_into_the_only_node(comfy: ComfyPage) -> None:
    load, view = image("colours_erp.png"), viewer(["load", 0])
    ids = comfy.build(load=load, view=view, look=target("ViewPointRenderView"))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    shown.drag(-80, 30)
    press_use(shown)
    yaw, pitch, fov = shown.view()
    assert comfy.evaluate(ANGLES, ids["look"]) == {"yaw_deg": yaw, "pitch_deg": pitch, "roll_deg": 0, "fov_deg": fov}
    expect(shown.root.locator(".vp360-note")).to_contain_text("View written")
    comfy.screenshot("use_this_view")


def test_use_this_view_asks_which_of_several_and_takes_the_selected(comfy: ComfyPage) -> None:
    look, place = target("ViewPointRenderView"), target("ViewPointPlaceView", pos=[920, 420])
    ids = comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]), look=look, place=place)
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    shown.press("ArrowRight")
    press_use(shown)
    comfy.screenshot("which_node")
    shown.root.locator(".vp360-item", has_text=f"#{ids['place']}").click()
    assert comfy.evaluate(ANGLES, ids["place"])["yaw_deg"] == 7.5
    assert comfy.evaluate(ANGLES, ids["look"])["yaw_deg"] == 0
    comfy.evaluate("(id) => app.canvas.selectNode(app.graph.getNodeById(id))", ids["look"])
    shown.press("ArrowRight")
    press_use(shown)
    assert comfy.evaluate(ANGLES, ids["look"])["yaw_deg"] == 15
    assert comfy.evaluate(ANGLES, ids["place"])["yaw_deg"] == 7.5


def test_use_this_view_makes_it_a_panoramas_front_and_leaves_the_horizon(comfy: ComfyPage) -> None:
    ids = comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]), turn=target("ViewPointReorient"))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    shown.drag(-80, 30)
    press_use(shown)
    yaw, pitch, _ = shown.view()
    assert 0 not in (yaw, pitch)
    assert comfy.evaluate(ANGLES, ids["turn"]) == {"yaw_deg": yaw, "pitch_deg": 0, "roll_deg": 0}


def test_use_this_view_says_when_there_is_no_node(comfy: ComfyPage) -> None:
    shown = show(comfy, "colours_erp.png")
    press_use(shown)
    expect(shown.root.locator(".vp360-note")).to_contain_text("No node to write to")


# What cannot be shown


@pytest.mark.parametrize(
    ("name", "media", "message"),
    [
        ("damaged.png", "image", "damaged"),
        ("damaged.mp4", "video", "damaged"),
        ("missing.png", "image", "gone"),
        ("missing.mp4", "video", "gone"),
    ],
)
def test_a_file_that_cannot_be_shown_is_named_plainly(comfy: ComfyPage, name: str, media: str, message: str) -> None:
    comfy.build(view=viewer_alone())
    comfy.evaluate(RESULT, [name, media])
    expect(comfy.viewer().message).to_contain_text(message)
    comfy.screenshot(f"cannot_show_{name.replace('.', '_')}")
    missing = [error for error in comfy.take_errors() if "404" in error]  # the browser itself reports the answer
    assert bool(missing) == name.startswith("missing")


@pytest.mark.parametrize("source", ["picture", "video"])
def test_without_webgl2_the_picture_is_flat_and_says_so(comfy: ComfyPage, source: str) -> None:
    video = {"type": "LoadVideo", "pos": [60, 100], "inputs": {"file": "clip.mp4"}}
    with comfy.without_webgl2():
        comfy.build(load=image("sample_erp.png") if source == "picture" else video, view=viewer(["load", 0]))
        comfy.run()
        shown = comfy.viewer()
        expect(shown.message).to_contain_text("no WebGL2")
        expect(shown.root.locator("img" if source == "picture" else "video")).to_be_visible()
        comfy.page.wait_for_timeout(300)
        comfy.screenshot(f"no_webgl2_{source}")


def test_a_picture_larger_than_a_texture_is_made_smaller(comfy: ComfyPage) -> None:
    limited = """(side) => {
      const prototype = WebGL2RenderingContext.prototype
      window.getParameterBefore = prototype.getParameter
      prototype.getParameter = function (name) {
        return name === 0x0d33 ? side : window.getParameterBefore.call(this, name)
      }
    }"""
    comfy.evaluate(limited, 200)
    try:
        shown = show(comfy, "colours_erp.png")
        assert_shows_the_view(shown)
    finally:
        comfy.evaluate("() => { WebGL2RenderingContext.prototype.getParameter = window.getParameterBefore }")
