"""A Chromium page with the real ComfyUI open, as the browser tests drive it."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Locator, Page, Response, Route

from scripts.comfy_server import PACK, ComfyServer

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",  # the page is composed by the CPU's own code, ten times as fast as by an emulated GPU
    "--enable-unsafe-swiftshader",  # WebGL2 in software
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
QUIET_PLACE = (700, 890)  # where nothing opens under the mouse
WINDOW = {"width": 1400, "height": 900}
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the template browser opens by itself
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.Enabled": False,
}
OWN_SCRIPTS = f"/extensions/{PACK}/"
# What ComfyUI's own page does wrong without any node pack: on its first start, and where an open subgraph goes.
HOST_ERRORS = ("/user.css", "reading 'id'", "status of 404", "event listeners for graph that was never set up")
HOST_MISSING = ("/user.css", "/userdata", "/settings/", "/templates/")
TIMEOUT_MS = 60_000
OPEN_TIMEOUT_MS = 240_000  # a busy machine takes minutes over the page's eight megabytes of scripts
# Nodes by name: {type, pos, size, inputs: {name: value, or [node, slot] for a link}}.
BUILD = """(nodes) => {
  app.graph.clear()
  app.nodeOutputs = {} // the nodes get the same ids again
  Object.assign(app.canvas.ds, { offset: [0, 0], scale: 1 })
  const made = {}
  for (const [name, { type, pos, size, inputs }] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(type)
    node.pos = pos
    app.graph.add(node)
    if (size) node.setSize(size)
    made[name] = node
    for (const [key, value] of Object.entries(inputs)) {
      if (Array.isArray(value)) made[value[0]].connect(value[1], node, node.findInputSlot(key))
      else node.widgets.find((widget) => widget.name === key).value = value
    }
  }
  return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, node.id]))
}"""
WATCH = """() => {
  window.ended = null
  const end = (event) => { window.ended = [event.type, event.detail?.exception_message ?? ''] }
  for (const name of ['execution_success', 'execution_error', 'execution_interrupted']) {
    app.api.addEventListener(name, end, { once: true })
  }
}"""


def prepare_user(base: Path) -> None:
    """The user's files that ComfyUI's page asks for on its start."""
    user = base / "user" / "default"
    for folder in ("workflows", "subgraphs"):
        (user / folder).mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    (user / "comfy.templates.json").write_text("[]")


class ComfyPage:
    """The page, and what went wrong on it."""

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", self.note_console)
        page.on("pageerror", lambda error: self.note(str(error), error.stack or ""))
        page.on("response", self.note_response)
        page.route(lambda url: not url.startswith((server.url, "blob:", "data:")), self.answer_nothing)

    @staticmethod
    def answer_nothing(route: Route) -> None:
        """No test asks a server elsewhere; ComfyUI's page looks for news of its releases."""
        route.fulfill(status=200, content_type="application/json", body="[]")

    def note(self, text: str, place: str) -> None:
        """Keep an error, unless it is one of ComfyUI's own: one that no script of the pack has part in."""
        if OWN_SCRIPTS in text + place or not any(known in text for known in HOST_ERRORS):
            self.errors.append(text)

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.note(message.text, message.location["url"])

    def note_response(self, response: Response) -> None:
        if response.status >= 400 and not any(known in response.url for known in HOST_MISSING):
            self.errors.append(f"{response.status} {response.url}")

    def take_errors(self) -> list[str]:
        """Errors since the last call."""
        errors, self.errors = self.errors, []
        return errors

    def open(self) -> None:
        """Load ComfyUI and wait until its graph can be used."""
        self.page.goto(self.server.url, wait_until="commit", timeout=OPEN_TIMEOUT_MS)
        ready = "window.app?.extensionManager && app.canvas?.graph && app.graph?.nodes"
        self.page.wait_for_function(ready, timeout=OPEN_TIMEOUT_MS)
        self.page.locator(".templates-tab-button").wait_for(timeout=OPEN_TIMEOUT_MS)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def build(self, **nodes: dict[str, Any]) -> dict[str, int]:
        """A new graph. Returns the nodes' ids by name."""
        return self.evaluate(BUILD, nodes)

    def set_new_nodes(self, enabled: bool) -> None:
        """Choose between the classic and the new rendering of nodes."""
        self.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", enabled)

    def run(self, timeout_ms: int = TIMEOUT_MS) -> None:
        """Press Run and wait for the end. Raises AssertionError unless it succeeds."""
        self.evaluate(WATCH)
        self.page.mouse.move(*QUIET_PLACE)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.wait_for_function("window.ended || document.querySelector('.p-dialog')", timeout=timeout_ms)
        assert self.messages() == []
        assert self.evaluate("window.ended") == ["execution_success", ""]

    def messages(self) -> list[str]:
        """Texts of the dialogs and error toasts on the page."""
        return self.page.locator(".p-dialog, .p-toast-message-error, .p-toast-message-warn").all_inner_texts()

    def close_dialog(self) -> None:
        """Close what a failed test left open, which would keep the next one from the page."""
        if self.page.locator(".p-dialog").count():
            self.page.locator(".p-dialog-close-button").last.click()
            self.page.locator(".p-dialog").wait_for(state="detached")

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def viewer(self, number: int = 0) -> "ViewerOnPage":
        return ViewerOnPage(self.page.locator(".vp360").nth(number))

    @contextmanager
    def without_webgl2(self) -> Iterator[None]:
        """A browser that gives no WebGL2 context to the canvases made meanwhile."""
        self.evaluate(
            """() => {
              const prototype = HTMLCanvasElement.prototype
              window.getContextBefore = prototype.getContext
              prototype.getContext = function (kind, ...rest) {
                return kind === 'webgl2' ? null : window.getContextBefore.call(this, kind, ...rest)
              }
            }"""
        )
        try:
            yield
        finally:
            self.evaluate("() => { HTMLCanvasElement.prototype.getContext = window.getContextBefore }")


class ViewerOnPage:
    """One viewer, used as a person does."""

    def __init__(self, root: Locator) -> None:
        self.root, self.page = root, root.page
        self.stage = root.locator(".vp360-stage")
        self.message = root.locator(".vp360-message")

    def wait_for_picture(self) -> None:
        self.root.locator("canvas").wait_for()
        self.message.wait_for(state="hidden")
        self.settle()

    def settle(self) -> None:
        """Let two frames pass, so that what was asked for is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def view(self) -> tuple[float, float, float]:
        """Yaw, pitch and field of view in degrees, as the compass says."""
        text = self.root.locator(".vp360-angles").inner_text()
        yaw, pitch, fov = (float(number) for number in re.findall(r"-?\d+\.\d", text))
        return yaw, pitch, fov

    def drag(self, dx: float, dy: float) -> None:
        """Drag the picture with the left button, from the middle."""
        box = self.stage.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=4)
        self.page.mouse.up()
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.root.press(key)
        self.settle()

    def pixels(self) -> np.ndarray:
        """What the screen shows of the panorama, uint8 (h, w, 3), without what lies over it."""
        hide = ".vp360-compass, .vp360-note, .vp360-labels { visibility: hidden }"
        shot = self.root.locator("canvas").screenshot(style=hide, animations="disabled")
        return np.array(Image.open(io.BytesIO(shot)).convert("RGB"))
