"""Buttons, keys and screens that are used less often, in the viewer in a real Chromium on the real ComfyUI."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser_graph import image, target, viewer
from tests.browser_inputs import CLIP_FPS, CLIP_FRAMES
from tests.browser_page import ComfyPage, ViewerOnPage
from tests.browser_pictures import assert_shows_the_view

pytestmark = [pytest.mark.host, pytest.mark.browser]

CLIP = {"type": "LoadVideo", "pos": [60, 100], "inputs": {"file": "clip.mp4"}}
# As many others as may hold a context take theirs: the viewer loses its own.
TAKE_ALL = """async () => {
  const { use } = await import('/extensions/viewpoint/context_pool.js')
  window.others = Array.from({ length: 8 }, () => ({ parkContext() {} }))
  window.others.forEach(use)
}"""
GIVE_BACK = """async () => {
  const { drop } = await import('/extensions/viewpoint/context_pool.js')
  window.others.forEach(drop)
}"""
TYPES = "app.graph.nodes.map((node) => node.type).sort()"


def shown_picture(comfy: ComfyPage, **others: dict) -> ViewerOnPage:
    """A viewer with the picture whose colours say where they lie."""
    comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]), **others)
    comfy.run()
    comfy.viewer().wait_for_picture()
    return comfy.viewer()


TITLE = """(id) => {
  const node = app.graph.getNodeById(id)
  const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 120, node.pos[1] - 12])
  const { left, top } = app.canvas.canvas.getBoundingClientRect()
  return [left + x, top + y]
}"""
SELECTED = "[...app.canvas.selectedItems].map((item) => item.id)"
PLACE = "(id) => [...app.graph.getNodeById(id).pos]"
OFFSET = "[...app.canvas.ds.offset]"
FOCUSED = "document.querySelector('.vp360') === document.activeElement"


def click_title(comfy: ComfyPage, node: int) -> None:
    """Select a node as users do."""
    comfy.page.mouse.click(*comfy.evaluate(TITLE, node))
    assert comfy.evaluate(SELECTED) == [node]


def test_what_is_done_in_the_viewer_moves_no_node_and_leaves_the_selection(comfy: ComfyPage, new_nodes: bool) -> None:
    look, place = target("ViewPointRenderView"), target("ViewPointPlaceView", pos=[920, 420])
    ids = comfy.build(load=image("colours_erp.png"), view=viewer(["load", 0]), look=look, place=place)
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    before = comfy.evaluate(PLACE, ids["view"])
    click_title(comfy, ids["place"])
    shown.drag(-80, 30)
    assert shown.view()[0] > 10
    assert comfy.evaluate(PLACE, ids["view"]) == before
    assert comfy.evaluate(SELECTED) == [ids["place"]]
    shown.root.get_by_text("Use this view").click()
    expect(shown.root.locator(".vp360-note")).to_contain_text(f"#{ids['place']}")
    assert comfy.evaluate(SELECTED) == [ids["place"]]
    comfy.screenshot(f"selection_kept_{'new' if new_nodes else 'classic'}")


@pytest.mark.parametrize("way", ["choose", "close"])
def test_keys_stay_in_the_viewer_when_its_menu_goes(comfy: ComfyPage, way: str) -> None:
    look, place = target("ViewPointRenderView"), target("ViewPointPlaceView", pos=[920, 420])
    shown = shown_picture(comfy, look=look, place=place)
    types = comfy.evaluate(TYPES)
    shown.root.get_by_text("Use this view").click()
    items = shown.root.locator(".vp360-item")
    expect(items).to_have_count(2)
    if way == "choose":
        items.first.click()
    else:
        comfy.page.keyboard.press("Escape")
    expect(items).to_have_count(0)
    assert comfy.evaluate(FOCUSED)
    comfy.evaluate("app.canvas.selectItems([...app.graph.nodes])")
    comfy.page.keyboard.press("Delete")
    assert comfy.evaluate(TYPES) == types


def test_the_middle_button_moves_the_graph_also_where_the_viewer_has_the_focus(
    comfy: ComfyPage, new_nodes: bool
) -> None:
    shown, mouse = shown_picture(comfy), comfy.page.mouse
    shown.stage.click()
    view, offset = shown.view(), comfy.evaluate(OFFSET)
    box = shown.stage.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down(button="middle")
    mouse.move(x + 60, y + 40, steps=4)
    mouse.up(button="middle")
    moved = [now - before for now, before in zip(comfy.evaluate(OFFSET), offset, strict=True)]
    assert moved == pytest.approx([60, 40], abs=1), new_nodes
    assert shown.view() == view
    comfy.page.wait_for_function(
        "((root) => root.dataset.captureWheel === String(root.contains(document.activeElement)))"
        "(document.querySelector('.vp360'))"
    )


def test_copies_of_a_viewers_node_that_are_not_placed_leave_nothing_behind(comfy: ComfyPage) -> None:
    shown_picture(comfy)
    listening = """() => {
      let count = 0
      const add = window.addEventListener
      window.addEventListener = (name, ...rest) => {
        count += name.startsWith('touch')
        add.call(window, name, ...rest)
      }
      const node = app.graph.nodes.find((each) => each.type === 'ViewPointPreview360')
      for (let copy = 0; copy < 5; copy++) node.clone()
      const before = count
      app.graph.add(node.clone())
      window.addEventListener = add
      return [before, count]
    }"""
    assert comfy.evaluate(listening) == [0, 4]


def test_notes_and_the_grids_state_are_told_to_screen_readers(comfy: ComfyPage) -> None:
    shown = shown_picture(comfy, look=target("ViewPointRenderView"))
    shown.root.get_by_text("Use this view").click()
    expect(shown.root.get_by_role("status").filter(has_text="View written")).to_have_count(1)
    for pressed in (True, False):
        shown.press("g")
        expect(shown.root.get_by_role("button", name="Grid", pressed=pressed)).to_have_count(1)


@pytest.fixture
def fine_screen(comfy: ComfyPage) -> Iterator[None]:
    """A screen of so many pixels that the drawing reaches its largest size in both directions."""
    comfy.evaluate("Object.defineProperty(window, 'devicePixelRatio', { value: 14, configurable: true })")
    yield
    comfy.evaluate("delete window.devicePixelRatio")


@pytest.mark.usefixtures("fine_screen")
def test_the_picture_keeps_its_proportions_on_a_screen_finer_than_the_drawing_may_be(comfy: ComfyPage) -> None:
    shown = shown_picture(comfy)
    width, height = comfy.evaluate("(({ width, height }) => [width, height])(document.querySelector('.vp360 canvas'))")
    box = shown.stage.bounding_box()
    assert box
    assert max(width, height) == 4096
    assert width / height == pytest.approx(box["width"] / box["height"], rel=0.01)
    assert_shows_the_view(shown)


def test_a_drag_ends_with_its_buttons_whichever_goes_last(comfy: ComfyPage) -> None:
    shown, mouse = shown_picture(comfy), comfy.page.mouse
    box = shown.stage.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    for act in (mouse.down, mouse.up):
        for button in ("left", "middle"):
            act(button=button)
    shown.settle()
    before = shown.view()
    mouse.move(x + 60, y + 20, steps=3)
    shown.settle()
    assert shown.view() == before


@pytest.mark.parametrize("key", ["Delete", "Backspace"])
def test_keys_in_the_viewer_delete_nothing_of_the_graph(comfy: ComfyPage, new_nodes: bool, key: str) -> None:
    shown = shown_picture(comfy, look=target("ViewPointRenderView"))
    comfy.evaluate("app.canvas.selectNode(app.graph.nodes.find((node) => node.type === 'ViewPointRenderView'))")
    before = comfy.evaluate(TYPES)
    shown.stage.click()
    comfy.page.keyboard.press(key)
    shown.settle()
    assert comfy.evaluate(TYPES) == before


def test_a_clip_that_waited_for_a_click_goes_on_with_it(comfy: ComfyPage) -> None:
    comfy.build(load=CLIP, view=viewer(["load", 0]))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    button = shown.root.locator(".vp360-play")
    for click in (shown.stage.click, button.click):
        expect(button).to_have_attribute("data-icon", "pause")  # it plays
        comfy.evaluate(TAKE_ALL)
        expect(shown.message).to_contain_text("Click to go on")
        expect(button).to_have_attribute("data-icon", "play")
        comfy.evaluate(GIVE_BACK)
        click()
        shown.wait_for_picture()
    expect(button).to_have_attribute("data-icon", "pause")
    button.click()
    comfy.evaluate(TAKE_ALL)
    comfy.evaluate(GIVE_BACK)
    shown.stage.click()
    shown.wait_for_picture()
    expect(button).to_have_attribute("data-icon", "play")  # what the user stopped stays so


def test_the_arrow_keys_move_a_clips_time_by_steps_that_can_be_seen(comfy: ComfyPage) -> None:
    comfy.build(load=CLIP, view=viewer(["load", 0]))
    comfy.run()
    shown = comfy.viewer()
    shown.wait_for_picture()
    shown.press(" ")
    scrub = shown.root.locator(".vp360-scrub")
    scrub.fill("0.5")
    for _ in range(10):
        scrub.press("ArrowRight")
    expected = pytest.approx(0.5 + 10 * CLIP_FRAMES / CLIP_FPS / 100, abs=0.1)
    for _ in range(30):  # it is told once the clip is there
        time = float(shown.root.locator(".vp360-time").inner_text().split("/")[0])
        if time == expected:
            break
        comfy.page.wait_for_timeout(100)
    assert time == expected
