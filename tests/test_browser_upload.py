"""Clips that are given to "load clip" in a real Chromium, on the real ComfyUI: by its button and by dropping them."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import FileChooser

from tests.browser_inputs import ASSETS, write_start
from tests.browser_page import ComfyPage
from viewpoint_core.video import VIDEO_SUFFIXES

pytestmark = [pytest.mark.host, pytest.mark.browser]

# Where on the page the middle of the node's upload button is.
BUTTON = """(id) => {
  const node = app.graph.getNodeById(id)
  const button = node.widgets.find((widget) => widget.name === 'upload')
  const { left, top } = app.canvas.canvas.getBoundingClientRect()
  const { offset, scale } = app.canvas.ds
  const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + button.last_y + 10]
  return [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale]
}"""
# Wait until it lies still: the node grows when its picture has come.
STILL = f"""async (id) => {{
  let before = ''
  for (let same = 0; same < 20; ) {{
    await new Promise(requestAnimationFrame)
    const now = ({BUTTON})(id).join()
    same = now === before && !now.includes('NaN') ? same + 1 : 0
    before = now
  }}
}}"""
FILE = "(id) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'file').value"
CHOICES = "(id) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'file').options.values"
# Drop a file on a node, of a type that the browser does not know. Whether the node took it.
DROP = """async ([id, url, name]) => {
  const data = new DataTransfer()
  data.items.add(new File([await (await fetch(url)).blob()], name, { type: '' }))
  return app.graph.getNodeById(id).onDragDrop(new DragEvent('drop', { dataTransfer: data }))
}"""


@pytest.fixture
def node(comfy: ComfyPage) -> int:
    """The id of a node that loads a clip, whose picture is saved."""
    load = {"type": "ViewPointLoadClip", "pos": [60, 100], "inputs": {"file": "clip.mp4", "length": 1}}
    save = {"type": "SaveImage", "pos": [500, 100], "inputs": {"images": ["load", 0]}}
    return comfy.build(load=load, save=save)["load"]


def press_upload(comfy: ComfyPage, node: int) -> FileChooser:
    """The browser's window for choosing a file."""
    comfy.evaluate(STILL, node)
    with comfy.page.expect_file_chooser() as chosen:
        comfy.page.mouse.click(*comfy.evaluate(BUTTON, node))
    return chosen.value


def wait_until_chosen(comfy: ComfyPage, node: int, name: str) -> None:
    comfy.page.wait_for_function(f"({FILE})({node}) === '{name}'")
    assert name in comfy.evaluate(CHOICES, node)


@pytest.mark.parametrize("name", ["IMG_0001.MOV", "obs.mkv", "camera.m4v", "old.avi", "plain.mp4"])
def test_the_upload_button_takes_every_kind_of_video_that_the_node_reads(
    comfy: ComfyPage, node: int, tmp_path: Path, name: str
) -> None:
    write_start(ASSETS / "sample_clip.mp4", tmp_path / name)
    chooser = press_upload(comfy, node)
    offered = chooser.element.get_attribute("accept").split(",")
    assert set(offered) == {"video/*", *VIDEO_SUFFIXES}
    assert not chooser.is_multiple()
    chooser.set_files(tmp_path / name)
    wait_until_chosen(comfy, node, name)
    assert (comfy.server.base / "input" / name).read_bytes() == (tmp_path / name).read_bytes()
    comfy.run()


def test_the_clip_that_was_uploaded_is_shown_and_can_be_chosen_anew(
    comfy: ComfyPage, node: int, tmp_path: Path
) -> None:
    file = tmp_path / "IMG_0002.MOV"
    write_start(ASSETS / "sample_clip.mp4", file)
    press_upload(comfy, node).set_files(file)
    wait_until_chosen(comfy, node, file.name)
    comfy.page.locator(f"video[src*='{file.name}']").wait_for()
    comfy.screenshot("uploaded_clip")
    shutil.copy(ASSETS / "sample_clip.mp4", file)  # the same name, another file
    press_upload(comfy, node).set_files(file)
    comfy.page.wait_for_function(f"({FILE})({node}) !== '{file.name}'")
    again = comfy.server.base / "input" / comfy.evaluate(FILE, node)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["dropped.MOV", "dropped.mkv", "dropped.avi"])
def test_a_clip_that_is_dropped_on_the_node_is_taken_where_the_browser_does_not_know_its_type(
    comfy: ComfyPage, node: int, new_nodes: bool, name: str
) -> None:
    name = f"{'new' if new_nodes else 'classic'}_{name}"
    assert comfy.evaluate(DROP, [node, "/view?filename=clip.mp4&type=input", name])
    wait_until_chosen(comfy, node, name)
    given = (comfy.server.base / "input" / "clip.mp4").read_bytes()
    assert (comfy.server.base / "input" / name).read_bytes() == given
    comfy.run()


def test_what_is_no_video_is_left_to_the_page(comfy: ComfyPage, node: int) -> None:
    assert not comfy.evaluate(DROP, [node, "/view?filename=clip.mp4&type=input", "notes.txt"])
    assert comfy.evaluate(FILE, node) == "clip.mp4"
