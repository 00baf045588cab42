"""Makes workflows/assets/sample_clip.mp4 and sample_photo.png from sample_erp.png there.

python -m scripts.make_sample_clip [--folder FOLDER]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from viewpoint_core.pixels import to_uint8
from viewpoint_core.smoothstep import smoothstep
from viewpoint_core.views import render_view

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "workflows" / "assets"
FRAMES, FPS, SIZE = 49, 16, 512
TURN_DEG = 20.0


def read_image(file: Path) -> Tensor:
    """An RGB picture, (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()).movedim(-1, 0) / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    return to_uint8(image).movedim(0, -1).contiguous().numpy()


def turning_views(erp: Tensor) -> Iterator[np.ndarray]:
    """Views of a camera that starts and stops softly and turns TURN_DEG to the right around straight ahead."""
    for frame in range(FRAMES):
        time = torch.tensor(frame / (FRAMES - 1), dtype=torch.float64)
        yaw_deg = TURN_DEG * (float(smoothstep(time)) - 0.5)
        yield to_pixels(render_view(erp, SIZE, SIZE, yaw_deg=yaw_deg, fov_deg=90))


def write_clip(frames: Iterator[np.ndarray], file: Path) -> None:
    """Encode frames as H.264, 4:2:0."""
    with av.open(str(file), mode="w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.options = {"crf": "20", "preset": "slow", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ASSETS, help="where to write (default: workflows/assets)")
    folder = parser.parse_args().folder
    erp = read_image(ASSETS / "sample_erp.png")
    write_clip(turning_views(erp), folder / "sample_clip.mp4")
    Image.fromarray(to_pixels(render_view(erp, SIZE, SIZE, fov_deg=90))).save(
        folder / "sample_photo.png", optimize=True
    )
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
