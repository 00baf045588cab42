"""Starts and stops a real ComfyUI server that has this node pack, in a base directory of its own."""

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from scripts.comfy_client import ComfyClient, ComfyError

ROOT = Path(__file__).resolve().parent.parent
PACK = "viewpoint"
FOLDERS = ("models", "input", "output", "temp", "user", "custom_nodes")
START_TIMEOUT = 180
STOP_TIMEOUT = 15
TAIL_LINES = 40


class ServerError(ComfyError):
    """The server did not start, or died."""


def make_base_directory(base: Path) -> Path:
    """The folders that ComfyUI wants below --base-directory, with this pack linked into custom_nodes."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK
    if link.is_symlink() and link.readlink() != ROOT:  # of a checkout that was moved or copied
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    return base.resolve()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def supports(host: Path, flag: str) -> bool:
    """Whether a ComfyUI knows a command-line flag."""
    return f'"{flag}"' in (host / "comfy" / "cli_args.py").read_text(encoding="utf-8")


def server_command(host: Path, base: Path, port: int, flags: tuple[str, ...]) -> list[str]:
    """The command that starts the server."""
    python = os.environ.get("COMFYUI_PYTHON") or sys.executable  # a ComfyUI of the user's may need packages of its own
    command = [python, str(host / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--disable-auto-launch", *flags]
    if supports(host, "--database-url"):
        command += ["--database-url", f"sqlite:///{(base / 'comfyui.db').as_posix()}"]
    return command


class ComfyServer:
    """A ComfyUI server as a context manager: started on entry, stopped on exit and when Python ends.

        with ComfyServer(provide_host(), make_base_directory(folder)) as server:
            prompt_id = server.client.run(workflow)

    `flags` go to ComfyUI's main.py: ("--cpu",), ("--cpu", "--lowvram"), () for a GPU.
    """

    def __init__(self, host: Path, base: Path, *, flags: tuple[str, ...] = ("--cpu",)) -> None:
        self.host = host
        self.base = base
        self.flags = flags
        self.log_file = base / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.stats: dict[str, Any] = {}
        self.connection: ComfyClient | None = None

    def __enter__(self) -> "ComfyServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def client(self) -> ComfyClient:
        """A client, connected on first use and closed with the server."""
        if self.connection is None:
            self.connection = ComfyClient(self.url, self.base)
        return self.connection

    @property
    def version(self) -> str:
        """The server's own word on its version."""
        return self.stats.get("system", {}).get("comfyui_version", "unknown")

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start, and return once it answers. Raises ServerError with the end of its log if it does not."""
        command = server_command(self.host, self.base, self.port, self.flags)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        atexit.register(self.stop)
        try:
            self.wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self, timeout: float) -> None:
        """Poll until the server answers, has ended, or `timeout` seconds have passed."""
        deadline = time.monotonic() + timeout
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < deadline:
                self.check_alive()
                try:
                    self.stats = session.get(f"{self.url}/system_stats", timeout=5).json()
                    return
                except (requests.RequestException, ValueError):
                    time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {timeout:.0f} seconds; its log ends:\n{self.log_tail()}")

    def check_alive(self) -> None:
        """Raises ServerError, with the end of the log, if the process has ended."""
        status = self.process.poll() if self.process else None
        if status is not None:
            raise ServerError(f"ComfyUI ended with exit status {status}; its log ends:\n{self.log_tail()}")

    def log_text(self) -> str:
        """All that the server wrote so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def log_tail(self) -> str:
        """The end of the log."""
        return "\n".join(self.log_text().splitlines()[-TAIL_LINES:])

    def stop(self) -> None:
        """End the process: politely, then by force. Does nothing the second time."""
        atexit.unregister(self.stop)
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
