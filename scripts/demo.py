"""Runs the tiny model's shipped workflows in a real ComfyUI server, on the CPU: clip and photo become 360 videos.

The models come with the pack, so everything is what a user's ComfyUI does. FOLDER/pictures gets the input, the map, the
panorama and its six faces as pictures. The last line on stdout is the path of the clip's 360-degree video.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from PIL import Image
from torch import Tensor

from scripts.comfy_client import ComfyClient, ComfyError, Workflow
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import HostError, provide_host
from scripts.make_sample_clip import read_image, to_pixels
from scripts.workflow_edit import nodes_of, read_workflow, with_inputs
from viewpoint_core.training.watch import six_faces

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "workflows" / "api"
ASSETS = ROOT / "workflows" / "assets"
TIMEOUT = 1800
MAP_FRAMES = "map_frames"


class DemoError(Exception):
    """What went wrong, for the user."""


class Example(NamedTuple):
    """A workflow, its input file, and which frame is shown."""

    workflow: str
    source: str
    shown: int


EXAMPLES = (
    Example("tiny_video_to_360", "sample_clip.mp4", 24),
    Example("tiny_image_to_360", "sample_photo.png", 24),
)


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
        elif kind == "progress" and node and node["class_type"] == "ViewPointSampler":
            say(f"[{time.monotonic() - self.start:5.1f} s]   {data['value']} of {data['max']}")


def demo_workflow(example: Example, seed: int | None = None) -> Workflow:
    """The shipped workflow, with another seed or its own; besides, the map's frames are saved."""
    workflow = read_workflow(API / f"{example.workflow}.json")
    if seed is not None:
        workflow = with_inputs(workflow, {"ViewPointSampler": {"seed": seed}})
    (decode,) = nodes_of(workflow, "VAEDecode")
    save = {"images": [decode, 0], "filename_prefix": f"maps/{example.workflow}"}
    return {**workflow, MAP_FRAMES: {"class_type": "SaveImage", "inputs": save}}


def read_frame(file: Path, number: int) -> Tensor:
    """A picture, or one frame of a video, (3, H, W) in [0, 1]."""
    if file.suffix == ".png":
        return read_image(file)
    with av.open(str(file)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return torch.from_numpy(frame.to_ndarray(format="rgb24")).movedim(-1, 0) / 255
    raise DemoError(f"{file} has no frame {number}")


def write_pictures(folder: Path, example: Example, video: Path, maps: list[Path]) -> None:
    """Input, map, panorama and faces of the shown frame, as JPEG."""
    erp = read_frame(video, example.shown)
    shown = {
        "input": read_frame(ASSETS / example.source, example.shown),
        "map": read_image(maps[example.shown]),
        "panorama": erp,
        "faces": six_faces(erp[None])[0],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in shown.items():
        Image.fromarray(to_pixels(picture)).save(folder / f"{example.workflow}_{name}.jpg", quality=92)


def describe_video(file: Path) -> str:
    """Size, length and rate of a video. Raises DemoError unless it is a 2:1 video."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        width, height, rate = stream.width, stream.height, float(stream.average_rate or 0)
    if width != 2 * height:
        raise DemoError(f"{file} is {width} x {height}; expected 2:1")
    return f"{width} x {height}, {frames} frames, {rate:g} frames per second"


def run_example(client: ComfyClient, example: Example, options: argparse.Namespace) -> Path:
    """Upload, queue, follow, draw pictures. Returns the video's path."""
    workflow = demo_workflow(example, options.seed)
    client.upload_file(ASSETS / example.source)
    say(f"Queueing workflows/api/{example.workflow}.json on {example.source} ...")
    prompt_id = client.run(workflow, Progress(workflow), timeout=TIMEOUT)
    (save,) = nodes_of(workflow, "ViewPointSave360Video")
    (video,) = client.outputs(prompt_id, save)
    write_pictures(options.folder / "pictures", example, video, client.outputs(prompt_id, MAP_FRAMES))
    say(f"{video}: {describe_video(video)}")
    return video


def run_demo(options: argparse.Namespace) -> Path:
    """The whole demo. Returns the clip's video."""
    host = provide_host()
    server = ComfyServer(host, make_base_directory(options.folder / "comfyui"))
    say(f"Starting ComfyUI from {host} (log: {server.log_file}) ...")
    with server:
        say(f"ComfyUI {server.version} answers at {server.url}")
        try:
            videos = [run_example(server.client, example, options) for example in EXAMPLES]
        except ComfyError as error:
            raise DemoError(f"{error}\nComfyUI's log ends:\n{server.log_tail()}") from error
    say(f"Server stopped. Pictures: {options.folder / 'pictures'}")
    return videos[0]


def stop_on_signal(number: int, frame: Any) -> None:
    """Let SIGTERM unwind the stack, so that the server is stopped."""
    sys.exit(128 + number)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo-output", help="where to write (demo-output)")
    parser.add_argument("--seed", type=int, help="of the noise (the workflows' own)")
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
