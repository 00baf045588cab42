"""Scores of the tiny model that ships with the pack, and of those that it is compared with, as tables.

    .venv/bin/python -m benchmarks.tiny_model --write            # into docs/tiny-model.md; without it, to the terminal
    .venv/bin/python -m scripts.train_tiny --ablation            # before it, to score also the models that are compared

On synthetic scenes whose seeds were never trained on. Known is a 90-degree view straight ahead; all else is made.
Fills are made of that view without any model. Finished scores are kept in FOLDER/scores and not measured again.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from tqdm import tqdm

from scripts.tiny_budgets import BUDGETS
from scripts.train_tiny import (
    ABLATION,
    COMPARED_SCENES,
    DIT_FILE,
    LENGTH,
    VAE_FILE,
    call,
    compared_vae,
    encode_flags,
    run_folder,
    write_scenes,
    write_turns,
)
from viewpoint_core import encode
from viewpoint_core.evaluation.fills import MEAN, MIRRORED, STRETCHED
from viewpoint_core.evaluation.scores import FLOW, REST, VIEW, panorama_scores
from viewpoint_core.evaluation.seams import EDGES, LINES, seam_ratios, seam_steps
from viewpoint_core.replacing import replace_text
from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.data.cache import CachedClips
from viewpoint_core.training.data.clips import map_to_video
from viewpoint_core.training.data.manifest import read_manifest, write_manifest
from viewpoint_core.training.data.media import read_frames
from viewpoint_core.training.layouts import VIEWPOINT, to_erp
from viewpoint_core.training.precision import fast_autocast, fast_dtype
from viewpoint_core.training.synthetic.clips import FPS
from viewpoint_core.training.wan import prepare_transformer
from viewpoint_core.training.wan_vae import decode_latent, encode_video, load_vae
from viewpoint_core.training.watch import sample_map

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "tiny-model.md"
BEGIN, END = "<!-- scores: written by benchmarks/tiny_model.py -->", "<!-- end of scores -->"
STEPS, SHIFT = 8, 1.25
COMPARED_STEPS, COMPARED_SHIFT = 8, 1.25  # of the comparison, which stays when the shipped model's sampling changes
SCENES = 64
BLURS = (2.0, 4.0, 8.0)
EACH = f"{REST}, each scene"


class Candidate(NamedTuple):
    """A model to score."""

    name: str
    file: Path
    cache: Path
    schedule: str
    layout: str
    scenes: int
    vae: Path
    steps: int
    shift: float


def scored_cache(folder: Path) -> Path:
    """A cache of the held-out clips that the shipped files are scored on, rendered and encoded if it is not there."""
    data, workers = folder / "data", BUDGETS["cpu"].workers
    scenes = write_scenes(data, workers)
    turns = write_turns(data / "turns", LENGTH, BUDGETS["cpu"].turns)
    manifest = data / "scored.jsonl"
    items = [item for file in (scenes, turns) for item in read_manifest(file)]
    write_manifest([item for item in items if item.split == "heldout"], manifest)
    cache = folder / f"cache_scored_{measured_hash((VAE_FILE,), ())}"
    call(encode.main, *encode_flags(manifest, cache, VAE_FILE, "cpu", variants=1))
    return cache


def heldout_scenes(clips: CachedClips, count: int) -> list[int]:
    """Indices of the first held-out synthetic clips of a cache."""
    found = [index for index, row in enumerate(clips.rows) if "synthetic" in row["source"]]
    if len(found) < count:
        raise ValueError(f"{clips.folder} holds {len(found)} synthetic held-out clips; expected {count}")
    return found[:count]


def true_erp(data: Path, source: str, length: int = LENGTH) -> Tensor:
    """The first frames that a cached clip was made of, (length, 3, H, 2H) in [0, 1]."""
    return read_frames(data / source, range(length), FPS).float() / 255


def generated(
    candidate: Candidate, model: nn.Module, vae: AutoencoderKLWan, clips: CachedClips, index: int, width: int
) -> Tensor:
    """The panorama (T, 3, width / 2, width) in [0, 1] that a model makes of a clip's view straight ahead."""
    config = TrainingConfig(
        sample_steps=candidate.steps, sample_cfg=1.0, shift=candidate.shift, layout=candidate.layout
    )
    with fast_autocast("cpu"):
        video = sample_map(model, vae, clips[index], clips.empty_text(), config, torch.device("cpu"), index)
    return to_erp(video.transpose(0, 1), candidate.layout, width).clamp(0, 1)


def measure(candidate: Candidate, data: Path) -> dict[str, Any]:
    """Mean scores of a model over the held-out scenes, and each one's on the rest of the sphere; steps along seams are
    pooled over them."""
    model = prepare_transformer(candidate.file, candidate.schedule).eval()
    vae = load_vae(candidate.vae, dtype=fast_dtype("cpu"))
    clips = CachedClips(candidate.cache, split="heldout")
    scores, made_steps, true_steps = [], [], []
    for index in tqdm(heldout_scenes(clips, candidate.scenes), desc=candidate.name, unit="scene"):
        true = true_erp(data, clips.rows[index]["source"])
        made = generated(candidate, model, vae, clips, index, true.shape[-1])
        scores.append(panorama_scores(made, true))
        made_steps.append(seam_steps(made))
        true_steps.append(seam_steps(true))
    result = {name: mean(score[name] for score in scores) for name in scores[0]}
    result |= {EACH: [score[REST] for score in scores]} | seam_ratios(*made_steps)
    return result | {f"{name}, truth": value for name, value in seam_ratios(*true_steps).items()}


def measure_vae(cache: Path, data: Path) -> dict[str, float]:
    """PSNR of held-out clips through the VAE, by where they come from; flow and face edges of the synthetic ones."""
    vae = load_vae(VAE_FILE, dtype=fast_dtype("cpu"))
    clips = CachedClips(cache, split="heldout")
    found: dict[str, list[float]] = {"synthetic": [], "CC0": [], FLOW: []}
    steps = []
    for index in tqdm(range(len(clips)), desc="vae", unit="clip"):
        pixels, source = clips[index]["map"], clips.rows[index]["source"]
        kind = "synthetic" if "synthetic" in source else "CC0"
        video = through_vae(vae, pixels)
        error = (video - map_to_video(pixels)).square().mean()
        found[kind].append(10 * math.log10(4 / float(error)))
        if kind == "synthetic":
            true = true_erp(data, source)
            made = to_erp((video / 2 + 0.5).transpose(0, 1), VIEWPOINT, true.shape[-1]).clamp(0, 1)
            found[FLOW].append(panorama_scores(made, true)[FLOW])
            steps.append(seam_steps(made))
    return {kind: mean(values) for kind, values in found.items()} | seam_ratios(*steps)


@torch.no_grad()
def through_vae(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """A true map uint8 (3, T, S, S), encoded and decoded: (3, T, S, S) in [-1, 1]."""
    return decode_latent(vae, encode_video(vae, map_to_video(pixels[None])))[0].float().clamp(-1, 1)


def blurred_map(pixels: Tensor, deviation: float) -> Tensor:
    """Maps (T, 3, S, S), blurred by so many pixels; the four subregions each by itself, since the map folds there."""
    parts = rearrange(pixels, "t c (a h) (b w) -> (t a b) c h w", a=2, b=2)
    size = 2 * math.ceil(3 * deviation) + 1
    blurred = gaussian_blur2d(parts, (size, size), (deviation, deviation), border_type="reflect")
    return rearrange(blurred, "(t a b) c h w -> t c (a h) (b w)", a=2, b=2)


def measure_blurred(cache: Path, data: Path) -> dict[str, float]:
    """Face edges of the first frames of the true synthetic maps, by how many pixels these are blurred.

    No seam is in them. But a map has twice as many pixels to the degree at a cube's edge as in the middle of a face, so
    what is blurred alike on the map is sharper along the edges, and the ratio rises.
    """
    clips = CachedClips(cache, split="heldout")
    steps: dict[float, list] = {deviation: [] for deviation in BLURS}
    for index in heldout_scenes(clips, SCENES):
        pixels = clips[index]["map"][:, :1].transpose(0, 1).float() / 255
        width = true_erp(data, clips.rows[index]["source"], 1).shape[-1]
        for deviation in BLURS:
            steps[deviation].append(seam_steps(to_erp(blurred_map(pixels, deviation), VIEWPOINT, width).clamp(0, 1)))
    return {f"{deviation:g}": seam_ratios(*found)[EDGES] for deviation, found in steps.items()}


def measured_hash(files: Sequence[Path], sampling: tuple[float, ...]) -> str:
    """A hash of models' content and of how they are sampled."""
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content + repr(sampling).encode()).hexdigest()[:12]


def kept(
    folder: Path,
    name: str,
    models: Sequence[Path],
    sampling: tuple[float, ...],
    measure_it: Callable[..., dict[str, Any]],
    *arguments: Any,
) -> dict[str, Any]:
    """A measurement of these models, so sampled, from its file, or made now and kept there."""
    file = folder / "scores" / f"{name.lower().replace(' ', '_')}_{measured_hash(models, sampling)}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(measure_it(*arguments), indent=1))
    return json.loads(file.read_text())


def candidates(folder: Path, cache: Path, steps: int, shift: float) -> Iterator[Candidate]:
    """The shipped model, then those that were trained to be compared."""
    yield Candidate("shipped", DIT_FILE, cache, "alternating", VIEWPOINT, SCENES, VAE_FILE, steps, shift)
    for run in ABLATION:
        file = run_folder(folder, run) / "model.safetensors"
        if file.is_file():
            cache = folder / f"cache_{run.layout}"
            own = (run.schedule, run.layout, COMPARED_SCENES, compared_vae(folder), COMPARED_STEPS, COMPARED_SHIFT)
            yield Candidate(run.name, file, cache, *own)


def best_fill(scores: Mapping[str, float]) -> str:
    """The fill that comes nearest to the truth over all scenes."""
    return max((MEAN, STRETCHED, MIRRORED), key=lambda name: scores[name])


def floors_table(vae: dict[str, float], blurred: dict[str, float], scores: dict[str, float]) -> list[str]:
    """What was asked for beside what the shipped files reach."""
    best = best_fill(scores)
    rows = [
        ("VAE, held-out synthetic clips, 256 maps", "22 dB", f"{vae['synthetic']:.2f} dB"),
        ("VAE, clips of CC0 panoramas kept out of training, 256 maps", "22 dB", f"{vae['CC0']:.2f} dB"),
        (
            "true clips through the VAE alone: flow over the truth's; face edges",
            "",
            f"{vae[FLOW]:.2f}; {vae[EDGES]:.2f}",
        ),
        (
            f"true maps, only blurred by {', '.join(blurred)} pixels: face edges",
            "",
            "; ".join(f"{ratio:.2f}" for ratio in blurred.values()),
        ),
        ("known view", "20 dB", f"{scores[VIEW]:.2f} dB"),
        (
            f"rest of the sphere, above the best fill ({best}, {scores[best]:.2f} dB)",
            "+1.5 dB",
            f"{scores[REST] - scores[best]:+.2f} dB ({scores[REST]:.2f} dB)",
        ),
        *(
            (
                f"{name} over the gradient beside it (truth: {scores[f'{name}, truth']:.2f})",
                "1.15",
                f"{scores[name]:.2f}",
            )
            for name in LINES
        ),
        ("optical flow outside the view over the truth's", "0.5 to 2", f"{scores[FLOW]:.2f}"),
    ]
    return ["| what | floor | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """Mean difference of two models' scores of the same scenes, and its standard error."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return f"{mean(differences):+.2f} ± {stdev(differences) / math.sqrt(len(differences)):.2f}"


def comparison_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The compared models side by side, the first one as what the others are compared with."""
    columns = (VIEW, REST, *LINES, FLOW)
    base_name, base = next(iter(results.items()))
    fill = best_fill(base)
    heads = ("model", VIEW, REST, f"against {base_name}", *LINES, FLOW)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, scores in results.items():
        view, rest, *others = (f"{scores[column]:.2f}" for column in columns)
        against = difference(scores[EACH], base[EACH]) if name != base_name else ""
        lines.append(f"| {' | '.join([name, view, rest, against, *others])} |")
    return [*lines, f"| best fill ({fill}) |  | {base[fill]:.2f} |" + "  |" * (len(heads) - 3)]


def report(folder: Path, steps: int, shift: float) -> tuple[str, str]:
    """Both tables, the shipped model sampled in so many steps at this shift; the second is empty unless all of its
    models are there."""
    cache = scored_cache(folder)
    vae_scores = kept(folder, "vae", (VAE_FILE,), (), measure_vae, cache, folder / "data")
    blurred = kept(folder, "blurred", (), BLURS, measure_blurred, cache, folder / "data")
    results = {}
    for candidate in candidates(folder, cache, steps, shift):
        models, sampling = (candidate.file, candidate.vae), (candidate.steps, candidate.shift)
        results[candidate.name] = kept(folder, candidate.name, models, sampling, measure, candidate, folder / "data")
    floors = floors_table(vae_scores, blurred, results.pop("shipped"))
    missing = [run.name for run in ABLATION if run.name not in results]
    if missing:
        print(f"{folder} has no {', '.join(missing)} to compare: the second table is left out", file=sys.stderr)
    return "\n".join(floors), "" if missing else "\n".join(comparison_table(results))


def with_tables(page: str, floors: str, comparison: str) -> str:
    """The page with these tables; without a second one it keeps its own."""
    before, _, rest = page.partition(BEGIN)
    old, _, after = rest.partition(END)
    comparison = comparison or old.strip().partition("\n\n")[2]
    return f"{before}{BEGIN}\n{floors}\n\n{comparison}\n{END}{after}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "tiny", help="train_tiny.py's (build/tiny)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/tiny-model.md")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the shipped model's sampling [%(default)s]")
    parser.add_argument("--shift", type=float, default=SHIFT, help="of the shipped model's sampling [%(default)s]")
    options = parser.parse_args()
    if options.write and (options.steps, options.shift) != (STEPS, SHIFT):
        parser.error(f"--write is for the sampling of the workflows: {STEPS} steps at shift {SHIFT}")
    floors, comparison = report(options.folder.resolve(), options.steps, options.shift)
    print(f"{floors}\n\n{comparison}")
    if options.write:
        replace_text(DOCS, with_tables(DOCS.read_text(encoding="utf-8"), floors, comparison))
    return 0


if __name__ == "__main__":
    sys.exit(main())
