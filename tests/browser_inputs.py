"""What the browser tests give to the server: models, pictures whose pixels are known, clips, damaged files."""

import itertools
import shutil
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scripts.tiny_models import write_models
from tests.saved_prompts import write_text_embedding
from viewpoint_core.sphere import erp_directions
from viewpoint_core.viewpoint_map import erp_to_viewpoint

ASSETS = Path(__file__).parents[1] / "workflows" / "assets"
MAP = 256
CLIP_FRAMES, CLIP_FPS = 24, 8
LENGTH = 5  # frames that the shrunken workflows make
EMBEDDINGS = ("positive.safetensors", "negative.safetensors")


def colours(direction: Tensor) -> Tensor:
    """A colour in [0.1, 0.9] that says which way a direction (..., 3) points: red right, green down, blue ahead."""
    unit = direction / direction.norm(dim=-1, keepdim=True)
    return 0.5 + 0.4 * unit


def save(picture: Tensor, file: Path) -> None:
    """An image (h, w, 3) in [0, 1] as PNG."""
    Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy()).save(file)


def erp_to_map(erp: Tensor) -> Tensor:
    """(h, w, 3) -> (s, s, 3)."""
    return erp_to_viewpoint(erp.movedim(-1, 0), MAP).movedim(0, -1)


def write_clip(file: Path) -> None:
    """A panorama that goes from dark to bright, with a tone."""
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=CLIP_FPS)
        video.width, video.height, video.pix_fmt = 128, 64, "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for number in range(CLIP_FRAMES):
            pixels = np.full((64, 128, 3), 10 + 9 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        tone = np.sin(np.arange(44100 * CLIP_FRAMES // CLIP_FPS) * 0.06).astype(np.float32)[None] / 4
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*video.encode(None), *sound.encode(frame), *sound.encode(None)])


def write_start(clip: Path, file: Path) -> None:
    """The first frames of a clip, as many as the shrunken workflows make."""
    with av.open(str(clip)) as source, av.open(str(file), "w") as container:
        (given,) = source.streams.video
        video = container.add_stream("libx264", rate=given.average_rate)
        video.width, video.height, video.pix_fmt = given.width, given.height, "yuv420p"
        for frame in itertools.islice(source.decode(video=0), LENGTH):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
        container.mux(video.encode(None))


def write_inputs(base: Path) -> None:
    """Pictures whose pixels are known, files that are damaged, and what the shipped workflows load."""
    write_models(base / "models")
    for seed, name in enumerate(EMBEDDINGS):
        write_text_embedding(base / "input" / name, seed=seed)
    saved = base / "output" / "text_embeddings"
    saved.mkdir(parents=True)
    for seed, name in enumerate(("autumn_forest", "negative"), start=len(EMBEDDINGS)):
        write_text_embedding(saved / f"{name}_00001_.safetensors", seed=seed)
    for asset in ("sample_photo.png", "sample_erp.png"):
        shutil.copy(ASSETS / asset, base / "input" / asset)
    write_start(ASSETS / "sample_clip.mp4", base / "input" / "sample_clip.mp4")
    erp = colours(erp_directions(256, 512)).float()
    save(erp, base / "input" / "colours_erp.png")
    save(erp_to_map(erp), base / "input" / "colours_map.png")
    save(erp_to_map(sample_erp()), base / "input" / "sample_map.png")
    save(four_greys(), base / "input" / "greys_map.png")
    write_clip(base / "input" / "clip.mp4")


def four_greys() -> Tensor:
    """A map (s, s, 3) whose subregions differ, so that it shows how what two of them see is blended."""
    greys = torch.tensor([[0.1, 0.9], [0.6, 0.3]])
    return greys.repeat_interleave(MAP // 2, 0).repeat_interleave(MAP // 2, 1)[..., None].expand(-1, -1, 3)


def sample_erp() -> Tensor:
    """The shipped panorama (h, w, 3) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(ASSETS / "sample_erp.png").convert("RGB"))) / 255


def write_damaged(base: Path) -> None:
    """Files for the viewer that end after their first bytes."""
    (base / "temp").mkdir(exist_ok=True)
    for name, source in (("damaged.png", "sample_erp.png"), ("damaged.mp4", "clip.mp4")):
        (base / "temp" / name).write_bytes((base / "input" / source).read_bytes()[:60])
