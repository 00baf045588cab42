"""Runs the shipped video-to-360 workflow on the sample clip in a real ComfyUI server, on the CPU.

Until trained weights ship it makes tiny untrained models in the stock file formats, so the picture is noise; everything
else is what a user's ComfyUI does. The last line on stdout is the path of the 360-degree video.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

import av

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from scripts.comfy_client import ComfyClient, ComfyError, Workflow  # noqa: E402
from scripts.comfy_server import ComfyServer, make_base_directory  # noqa: E402
from scripts.host import HostError, provide_host  # noqa: E402
from scripts.tiny_models import write_models, write_text_embedding  # noqa: E402
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs, with_map_size, with_saved_embeddings  # noqa: E402

WORKFLOW = ROOT / "workflows" / "api" / "video_to_360.json"
CLIP = ROOT / "workflows" / "assets" / "sample_clip.mp4"
TIMEOUT = 1800
UNTRAINED = (
    "No trained ViewPoint weights ship yet: this demo makes tiny UNTRAINED models (random weights) in the stock file "
    "formats. The video shows that everything runs; its picture is noise."
)


class DemoError(Exception):
    """What went wrong, for the user."""


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


class Progress:
    """Prints which node runs and each sampling step."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.start = time.monotonic()

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Take one message of the server."""
        node = self.workflow.get(str(data.get("node")), {})
        if kind == "executing" and node:
            say(f"[{time.monotonic() - self.start:5.1f} s] {node['class_type']}")
        elif kind == "progress" and node:
            say(f"[{time.monotonic() - self.start:5.1f} s]   {data['value']} of {data['max']}")


def upload_inputs(client: ComfyClient, folder: Path) -> list[str]:
    """Upload the clip and two saved prompts. Returns their names on the server."""
    prompts = [folder / "demo_positive.safetensors", folder / "demo_negative.safetensors"]
    for seed, file in enumerate(prompts):
        write_text_embedding(file, seed=seed)
    return [client.upload_file(file) for file in (CLIP, *prompts)]


def demo_workflow(names: list[str], options: argparse.Namespace) -> Workflow:
    """The shipped workflow with the uploaded files, and small enough for a CPU."""
    clip, positive, negative = names
    workflow = with_saved_embeddings(read_workflow(WORKFLOW), positive, negative)
    workflow = with_map_size(workflow, options.map_size)
    return with_inputs(workflow, {"LoadVideo": {"file": clip}, "ViewPointSampler": {"steps": options.steps}})


def describe_video(file: Path) -> str:
    """Size, length and rate of a video. Raises DemoError unless it is a 2:1 video as long as the clip."""
    facts = []
    for path in (CLIP, file):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            facts.append((stream.width, stream.height, frames, float(stream.average_rate or 0)))
    (_, _, expected, _), (width, height, frames, rate) = facts
    if width != 2 * height or frames != expected:
        raise DemoError(f"{file} is {width} x {height} with {frames} frames; expected 2:1 and {expected} frames")
    return f"{width} x {height}, {frames} frames, {rate:g} frames per second"


def run_workflow(client: ComfyClient, options: argparse.Namespace) -> Path:
    """Upload, queue, follow. Returns the video's path."""
    workflow = demo_workflow(upload_inputs(client, options.folder), options)
    say(f"Queueing {WORKFLOW.relative_to(ROOT)} (map {options.map_size}, {options.steps} steps) ...")
    prompt_id = client.run(workflow, Progress(workflow), timeout=TIMEOUT)
    saved = [path for node in nodes_of(workflow, "SaveVideo") for path in client.outputs(prompt_id, node)]
    if len(saved) != 1 or not saved[0].is_file():
        raise DemoError(f"expected one saved video, got {[str(path) for path in saved]}")
    return saved[0]


def run_demo(options: argparse.Namespace) -> Path:
    """The whole demo. Returns the video's path."""
    host = provide_host()
    base = make_base_directory(options.folder / "comfyui")
    say(UNTRAINED)
    write_models(base / "models")
    server = ComfyServer(host, base)
    say(f"Starting ComfyUI from {host} (log: {server.log_file}) ...")
    with server:
        say(f"ComfyUI {server.version} answers at {server.url}")
        try:
            video = run_workflow(server.client, options)
        except ComfyError as error:
            raise DemoError(f"{error}\nComfyUI's log ends:\n{server.log_tail()}") from error
    say(f"Server stopped. The video: {describe_video(video)}")
    return video


def stop_on_signal(number: int, frame: Any) -> None:
    """Let SIGTERM unwind the stack, so that the server is stopped."""
    sys.exit(128 + number)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo-output", help="where to write (demo-output)")
    parser.add_argument("--map-size", type=int, default=256, help="side of the ViewPoint map in pixels (256)")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps (4)")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    signal.signal(signal.SIGTERM, stop_on_signal)
    try:
        video = run_demo(options)
    except (HostError, ComfyError, DemoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped", file=sys.stderr)
        return 130
    say(str(video))
    return 0


if __name__ == "__main__":
    sys.exit(main())
