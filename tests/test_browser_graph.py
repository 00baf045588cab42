"""What the pack does to other nodes of the graph, in a real Chromium on the real ComfyUI."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from scripts.comfy_server import ComfyServer
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
