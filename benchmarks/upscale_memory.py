"""Peak memory of a real ComfyUI process that upscales a map video into a 4K or 8K file, and the time it takes.

.venv/bin/python -m benchmarks.upscale_memory [--frames 49] [--width 4096] [--scale 4] [--passes 1] [--codec h264] \\
    >> benchmarks/upscale_memory.jsonl

The floor is 8 GB for 49 frames at 4096 x 2048. The map is a still repeated; the memory does not depend on its values.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import torch

from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from scripts.tiny_upscaler import write_upscaler

ROOT = Path(__file__).resolve().parent.parent
GB = 1e9
PANORAMA = ROOT / "workflows" / "assets" / "sample_erp.png"
MODEL = "upscaler.safetensors"


def workflow(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A panorama to a map, repeated, upscaled and saved."""
    save = {
        "erp_width": options.width,
        "passes": options.passes,
        "tile_size": options.tile,
        "filename_prefix": "upscaled",
        "fps": 16.0,
        "codec": options.codec,
        "crf": 18,
    }
    nodes = {
        "load": ("LoadImage", {"image": PANORAMA.name}),
        "map": ("ViewPointFromERP", {"erp": ["load", 0], "map_size": options.map_size, "interpolation": "bicubic"}),
        "repeat": ("RepeatImageBatch", {"image": ["map", 0], "amount": options.frames}),
        "model": ("UpscaleModelLoader", {"model_name": MODEL}),
        "save": ("ViewPointUpscaleSave360Video", {"viewpoint": ["repeat", 0], **save}),
    }
    if options.scale:
        nodes["save"][1]["upscale_model"] = ["model", 0]
    else:
        del nodes["model"]
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def peak_gb(process: int) -> float:
    """The largest resident size that a process of this machine ever had (Linux)."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / GB


def main() -> int:
    """Command line; prints one line of JSON. Exit status 1 beyond --limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--width", type=int, default=4096, help="of the panorama")
    parser.add_argument("--map-size", type=int, default=736)
    parser.add_argument("--scale", type=int, default=4, help="of the upscale model; 0: none")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--features", type=int, default=5, help="64 makes a network as large as realesr-general-x4v3")
    parser.add_argument("--layers", type=int, default=2, help="32 likewise")
    parser.add_argument("--codec", choices=("h264", "h265"), default="h264")
    parser.add_argument("--limit", type=float, default=8.0, help="of the peak, in GB")
    parser.add_argument("--gpu", action="store_true", help="run on the GPU; the peak is still that of the RAM")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_directory(Path(folder))
        if options.scale:
            write_upscaler(
                base / "models" / "upscale_models" / MODEL,
                options.scale,
                features=options.features,
                layers=options.layers,
            )
        (base / "input" / PANORAMA.name).write_bytes(PANORAMA.read_bytes())
        with ComfyServer(provide_host(), base, flags=() if options.gpu else ("--cpu",)) as server:
            assert server.process is not None
            before, start = peak_gb(server.process.pid), time.perf_counter()
            (file,) = server.client.outputs(server.client.run(workflow(options), timeout=24 * 3600))
            seconds, peak = time.perf_counter() - start, peak_gb(server.process.pid)
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            facts = {"file": f"{stream.frames} x {stream.width} x {stream.height} {stream.codec_context.name}"}
        megabytes = file.stat().st_size / 1e6
    measured = {"seconds": round(seconds, 1), "file_mb": round(megabytes, 1)}
    memory = {"idle_gb": round(before, 2), "peak_gb": round(peak, 2)}
    print(json.dumps({**vars(options), **facts, **measured, **memory, "torch": torch.__version__}))
    return int(peak > options.limit)


if __name__ == "__main__":
    sys.exit(main())
