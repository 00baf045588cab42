"""The server and the page that the browser tests of one file share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from scripts.browser import provide_browser
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from tests.browser_inputs import write_damaged, write_inputs
from tests.browser_page import FLAGS, TIMEOUT_MS, WINDOW, ComfyPage, prepare_user

OUTSIDE = re.compile(r"^https?://(?!127\.0\.0\.1[:/]|localhost[:/])")


@contextmanager
def browser_server(folder: Path) -> Iterator[ComfyServer]:
    """A server with tiny models and inputs."""
    base = make_base_directory(folder)
    prepare_user(base)
    write_inputs(base)
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        write_damaged(base)  # now, since the host empties its temp folder on its start
        yield running


@contextmanager
def browser_page(server: ComfyServer) -> Iterator[ComfyPage]:
    """Its page in Chromium, which reaches nothing else: the editor asks how large a missing model file would be."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=provide_browser(), args=FLAGS)
        inner = browser.new_page(viewport=WINDOW)
        inner.route(OUTSIDE, lambda route: route.fulfill(status=200))
        page = ComfyPage(inner, server)
        page.open()
        yield page
        browser.close()


@contextmanager
def without_errors(page: ComfyPage) -> Iterator[ComfyPage]:
    """The page, which must not report an error meanwhile; empty at the end."""
    yield page
    page.close_dialog()
    page.evaluate("app.canvas.graph === app.graph || app.canvas.setGraph(app.graph)")  # a subgraph may be open
    page.evaluate("app.graph.clear()")
    errors = page.take_errors()
    assert errors == [], errors
