"""The server and the page that the browser tests of a file share."""

from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import expect, sync_playwright

from scripts.browser import provide_browser
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from tests.browser_inputs import write_damaged, write_inputs
from tests.browser_page import FLAGS, TIMEOUT_MS, WINDOW, ComfyPage, prepare_user


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every run of a test that draws some without a seed of its own."""
    torch.manual_seed(0)


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Let accelerate take another precision than the runs before and after, which it refuses within a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="module")
def browser_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with tiny models and inputs."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    prepare_user(base)
    write_inputs(base)
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        write_damaged(base)  # now, since the host empties its temp folder on its start
        yield running


@pytest.fixture(scope="module")
def opened(browser_host: ComfyServer) -> Iterator[ComfyPage]:
    """Its page in Chromium."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=provide_browser(), args=FLAGS)
        page = ComfyPage(browser.new_page(viewport=WINDOW), browser_host)
        page.open()
        yield page
        browser.close()


@pytest.fixture
def comfy(opened: ComfyPage) -> Iterator[ComfyPage]:
    """The page, which must not report an error meanwhile; empty at the end."""
    yield opened
    opened.close_dialog()
    opened.evaluate("app.canvas.graph === app.graph || app.canvas.setGraph(app.graph)")  # a subgraph may be open
    opened.evaluate("app.graph.clear()")
    errors = opened.take_errors()
    assert errors == [], errors


@pytest.fixture(params=[False, True], ids=["classic", "new"])
def new_nodes(request: pytest.FixtureRequest, comfy: ComfyPage) -> Iterator[bool]:
    """The classic or the new rendering of nodes."""
    comfy.set_new_nodes(request.param)
    yield request.param
    comfy.set_new_nodes(False)
