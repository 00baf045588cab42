"""A client of a running ComfyUI server: HTTP for files and the queue, the websocket for progress."""

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import websocket

Workflow = dict[str, dict[str, Any]]
OnEvent = Callable[[str, dict[str, Any]], None]
HTTP_TIMEOUT = 60
SOCKET_STEP = 1.0
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


class ComfyError(Exception):
    """The server refused a request, failed at a prompt, or went away."""


class PromptRefused(ComfyError):
    """A workflow that did not pass the server's validation. `answer` is the server's whole answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        lines = [answer.get("error", {}).get("message", "prompt refused")]
        for node, errors in (answer.get("node_errors") or {}).items():
            texts = [f"{error['message']}: {error['details']}" for error in errors["errors"]]
            lines += [f"node {node} ({errors['class_type']}): {text}" for text in texts]
        super().__init__("\n".join(lines))


class PromptFailed(ComfyError):
    """A node that raised. `error` is the server's description: node_id, node_type, exception_message, traceback ..."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error
        where = f"node {error.get('node_id')} ({error.get('node_type')})"
        super().__init__(f"{where}: {str(error.get('exception_message', 'failed')).strip()}")


class PromptInterrupted(ComfyError):
    """A prompt that was cancelled."""


def checked(response: requests.Response) -> Any:
    """The JSON of an answer. Raises ComfyError for an error status."""
    if not response.ok:
        raise ComfyError(f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}")
    return response.json()


def ending(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """How a prompt in the history ended: the last of its messages that says so."""
    messages = entry.get("status", {}).get("messages", [])
    found = [(kind, data) for kind, data in messages if kind in ENDINGS]
    return found[-1] if found else ("", {})


class ComfyClient:
    """Connected to one server; `base_directory` is the server's, so that outputs can be named by path."""

    def __init__(self, url: str, base_directory: Path) -> None:
        self.url = url
        self.base_directory = base_directory
        self.client_id = uuid.uuid4().hex
        self.http = requests.Session()
        self.http.trust_env = False  # the server is on this machine; no proxy
        address = f"{url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        self.socket = websocket.create_connection(address, timeout=HTTP_TIMEOUT, http_no_proxy=["*"])

    def close(self) -> None:
        """Close both connections."""
        self.socket.close()
        self.http.close()

    def request(self, method: str, path: str, **content: Any) -> requests.Response:
        """One HTTP request. Raises ComfyError if the server cannot be reached."""
        try:
            return self.http.request(method, self.url + path, timeout=HTTP_TIMEOUT, **content)
        except requests.RequestException as error:
            raise ComfyError(f"{method} {self.url}{path}: {error}") from error

    def get(self, path: str) -> Any:
        """GET, as JSON."""
        return checked(self.request("GET", path))

    def upload_file(self, file: Path, *, subfolder: str = "") -> str:
        """Put a file (a picture, clip or saved embedding) in the input folder. Returns the name for a workflow."""
        data = {"type": "input", "overwrite": "true", "subfolder": subfolder}
        with file.open("rb") as stream:
            answer = checked(self.request("POST", "/upload/image", data=data, files={"image": (file.name, stream)}))
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else answer["name"]

    def queue(self, workflow: Workflow) -> str:
        """Queue an API workflow. Returns its prompt id; raises PromptRefused if it does not validate."""
        response = self.request("POST", "/prompt", json={"prompt": workflow, "client_id": self.client_id})
        if response.status_code == 400:
            raise PromptRefused(response.json())
        return checked(response)["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """A finished prompt's history entry; None while it waits or runs."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def next_event(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """The next websocket message as (type, data), a preview as ("preview", {"content": bytes}); None if
        none came."""
        self.socket.settimeout(seconds)
        try:
            message = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (websocket.WebSocketException, OSError) as error:
            raise ComfyError(f"the connection to the server broke: {error}") from error
        if isinstance(message, bytes):
            return "preview", {"content": message}
        event = json.loads(message) if message else {}
        return event.get("type", ""), event.get("data", {})

    def wait(self, prompt_id: str, on_event: OnEvent | None = None, *, timeout: float = 600) -> dict[str, Any]:
        """Follow a prompt to its end. Returns its history entry.

        `on_event` gets each message of this prompt, such as ("progress", {"value": 3, "max": 8, "node": "5"}).
        Raises PromptFailed, PromptInterrupted, or ComfyError once `timeout` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            kind, data = self.next_event(SOCKET_STEP) or ("", {})
            if kind and on_event is not None and data.get("prompt_id", prompt_id) == prompt_id:
                on_event(kind, data)
            if kind in ENDINGS and data.get("prompt_id") == prompt_id:
                return self.finished(self.wait_for_history(prompt_id))
            # A wait for a later prompt may have taken this one's messages.
            entry = None if kind else self.history(prompt_id)
            if entry is not None:
                return self.finished(entry)
        raise ComfyError(f"prompt {prompt_id} did not end within {timeout:.0f} seconds")

    def wait_for_history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry, which the server writes just after its last message."""
        for _ in range(200):
            entry = self.history(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.05)
        raise ComfyError(f"prompt {prompt_id} ended, but the server has no history of it")

    def finished(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry of a prompt that succeeded. Raises PromptFailed or PromptInterrupted for the others."""
        kind, data = ending(entry)
        if kind == "execution_interrupted":
            raise PromptInterrupted(f"interrupted at node {data.get('node_id')} ({data.get('node_type')})")
        if kind == "execution_error":
            raise PromptFailed(data)
        return entry

    def run(self, workflow: Workflow, on_event: OnEvent | None = None, *, timeout: float = 600) -> str:
        """Queue and wait. Returns the prompt id."""
        prompt_id = self.queue(workflow)
        self.wait(prompt_id, on_event, timeout=timeout)
        return prompt_id

    def outputs(self, prompt_id: str, node: str | None = None) -> list[Path]:
        """Paths of the files that a finished prompt wrote, of one node or of all."""
        entry = self.history(prompt_id)
        if entry is None:
            raise ComfyError(f"prompt {prompt_id} has not ended")
        shown = [ui for key, ui in entry["outputs"].items() if node is None or key == node]
        items = [item for ui in shown for items in ui.values() if isinstance(items, list) for item in items]
        files = [item for item in items if isinstance(item, dict) and "filename" in item]
        return [self.base_directory / item["type"] / item.get("subfolder", "") / item["filename"] for item in files]
