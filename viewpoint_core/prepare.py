"""Make a training manifest from folders of panoramas: python -m viewpoint_core.prepare --folder DIR --out FILE."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from tqdm import tqdm

from .replacing import replace_text
from .training.adapters import ADAPTERS, Candidate
from .training.manifest import (
    Item,
    Problem,
    read_manifest,
    size_problem,
    split_of,
    with_stored_captions,
    write_manifest,
)
from .training.media import MediaInfo, probe

EPILOG = """\
Layouts:
  --flickr360  HR/*.png                                       images, no captions
  --web360     WEB360_360TF_train.csv, videos_512x1024x100/   videos with captions
  --odv360     a folder of frames for each clip               no captions
  --360x       360_panoramic_trim/*/*.mp4 or panoramic/*.mp4  no captions
  --folder     images and videos at any depth; captions in NAME.txt beside NAME.mp4, or in .csv or .jsonl
               tables (path, caption); a folder that a caption names is a folder of frames
  --frames     every folder that holds images is a clip; captions as for --folder

Every item is decoded once. What is broken, short or not 2:1 is reported by name and left out. Exit status: 0 if
at least one item is good, 1 if none is, 2 for bad options.
"""


class Rules(NamedTuple):
    """What makes an item: `seconds` at least, spans of about `span_seconds` (0: whole), `fps` of folders of frames."""

    seconds: float
    span_seconds: float
    fps: float
    heldout: float


def check_candidate(entry: tuple[str, Candidate], rules: Rules) -> tuple[list[Item], list[Problem]]:
    """Decode one candidate of a dataset: its items, or why there are none."""
    dataset, candidate = entry
    name = str(candidate.path)
    try:
        info = probe(candidate.path)
    except (ValueError, OSError) as error:
        return [], [Problem(name, str(error).removeprefix(f"{name}: "))]
    still = info.frames == 1 and info.fps == 0 and not candidate.path.is_dir()
    info = info if still or info.fps else info._replace(fps=rules.fps)
    early = (
        [Problem(name, f"it ends early: {info.missing} frames of those declared do not decode")] if info.missing else []
    )
    reason = size_problem(info.width, info.height) or (None if still else length_problem(info, rules.seconds))
    if reason:
        return [], [*early, Problem(name, reason)]
    split = split_of(f"{dataset}/{candidate.group}", rules.heldout)
    items = [
        Item(
            candidate.path,
            start,
            frames,
            info.fps,
            info.width,
            info.height,
            candidate.caption,
            candidate.licence,
            split,
        )
        for start, frames in spans(info, rules.span_seconds)
    ]
    return items, early


def length_problem(info: MediaInfo, seconds: float) -> str | None:
    """Why a video is too short; None where it is not. The last picture counts for no time."""
    lasts = (info.frames - 1) / info.fps
    if lasts >= seconds - 1e-6:
        return None
    return f"it is too short: {info.frames} frames at {info.fps:.6g} fps last {lasts:.3g} s; expected {seconds:g} s"


def spans(info: MediaInfo, seconds: float) -> list[tuple[int, int]]:
    """(start, frames) of equal parts of about this many seconds; one part for an image and where seconds is 0."""
    parts = max(1, round(info.frames / info.fps / seconds)) if info.fps and seconds else 1
    edges = [info.frames * part // parts for part in range(parts + 1)]
    return [(start, end - start) for start, end in zip(edges, edges[1:], strict=False)]


def find_candidates(
    sources: Iterable[tuple[str, Path]], licence: str
) -> tuple[list[tuple[str, Candidate]], list[Problem]]:
    """All datasets' candidates, each file once. Raises ValueError for a folder that is not there."""
    entries: dict[Path, tuple[str, Candidate]] = {}
    problems: list[Problem] = []
    for dataset, root in sources:
        if not root.is_dir():
            raise ValueError(f"--{dataset} {root}: there is no such folder")
        found = ADAPTERS[dataset](root)
        problems += found.problems
        for candidate in found.candidates:
            if candidate.licence == "unknown":
                candidate = Candidate(candidate.path, candidate.group, licence, candidate.caption)
            if entries.setdefault(candidate.path.resolve(), (dataset, candidate))[1] is not candidate:
                problems.append(Problem(str(candidate.path), "found twice; kept once"))
    return list(entries.values()), problems


def scan(
    sources: Iterable[tuple[str, Path]], rules: Rules, licence: str, workers: int
) -> tuple[list[Item], list[Problem]]:
    """Find and decode everything in the datasets' folders; items in the adapters' order."""
    entries, problems = find_candidates(sources, licence)
    items: list[Item] = []
    pool = ThreadPoolExecutor(workers)
    try:
        results = pool.map(partial(check_candidate, rules=rules), entries)
        for good, wrong in tqdm(results, total=len(entries), desc="check", unit="item"):
            items += good
            problems += wrong
    finally:
        pool.shutdown(cancel_futures=True)
    return items, problems


def captioning() -> ModuleType:
    """The module that captions; transformers is imported only where it is asked for."""
    try:
        return import_module(".training.captioning", __package__)
    except ImportError as error:
        raise ValueError(f'--caption needs the extra "caption" of this package ({error})') from error


def report(problems: Sequence[Problem], file: Path | None) -> None:
    """Name every problem on stderr, and in a file if one is given."""
    lines = [f"{problem.name}: {problem.reason}" for problem in problems]
    for line in lines:
        print(f"prepare: {line}", file=sys.stderr)
    if file:
        replace_text(file, "".join(line + "\n" for line in lines))


def summary(items: Sequence[Item], problems: Sequence[Problem]) -> str:
    """One line on what the manifest holds."""
    images = sum(item.fps == 0 for item in items)
    heldout = sum(item.split == "heldout" for item in items)
    bare = sum(not item.caption for item in items)
    return (
        f"{images} images and {len(items) - images} spans of video ({heldout} held out, {bare} without a caption); "
        f"{len(problems)} problems reported"
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m viewpoint_core.prepare",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for dataset in ADAPTERS:
        parser.add_argument(
            f"--{dataset}", type=Path, action="append", default=[], metavar="DIR", help="may be repeated"
        )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="manifest to write, .jsonl")
    parser.add_argument("--report", type=Path, metavar="FILE", help="file for the problems, a line each")
    parser.add_argument(
        "--heldout", type=float, default=0.02, help="part held out, chosen by a hash of the path [0.02]"
    )
    parser.add_argument(
        "--min-seconds", type=float, default=3.0, help="shorter videos are left out [3: 49 frames at 16 fps]"
    )
    parser.add_argument(
        "--span", type=float, default=10.0, help="seconds into which long videos are divided; 0: not [10]"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="rate of folders of frames, which do not state it [30]")
    parser.add_argument("--licence", default="unknown", help="licence of what --folder and --frames find [unknown]")
    parser.add_argument("--workers", type=int, default=4, help="items decoded at the same time [4]")
    parser.add_argument(
        "--caption",
        type=Path,
        metavar="MODEL_DIR",
        help="local Qwen2.5-VL that captions what has no caption; with no dataset given, in the manifest that is there",
    )
    parser.add_argument("--caption-frames", type=int, default=3, help="pictures of a video it sees [3]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where it runs")
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace, sources: Sequence[tuple[str, Path]]) -> None:
    """Raise ValueError for options that cannot be, before anything is decoded."""
    if not sources and not options.caption:
        raise ValueError(f"name at least one dataset: {' '.join(f'--{name}' for name in ADAPTERS)}")
    if options.caption:
        captioning().check_model_dir(options.caption)
    for file in filter(None, (options.out, options.report)):
        if not file.parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.parent}")
    if not 0 <= options.heldout < 1:
        raise ValueError(f"--heldout is {options.heldout}; expected a part in [0, 1)")
    if not options.fps > 0 or not options.min_seconds >= 0 or options.workers < 1 or options.caption_frames < 1:
        raise ValueError("expected --fps above 0, --min-seconds from 0, --workers and --caption-frames from 1")
    if options.span != 0 and not options.span >= 1.5 * options.min_seconds:
        raise ValueError(
            f"--span is {options.span:g}; expected 0, or 1.5 times --min-seconds ({options.min_seconds:g})"
        )


def prepare(options: argparse.Namespace) -> int:
    """Write the manifest, then caption; the exit status."""
    sources = [(name, root) for name in ADAPTERS for root in vars(options)[name]]
    check_options(options, sources)
    side_file = options.out.with_name(f"{options.out.stem}.captions.jsonl")
    rules = Rules(options.min_seconds, options.span, options.fps, options.heldout)
    if sources:
        items, problems = scan(sources, rules, options.licence, options.workers)
    else:
        items, problems = read_manifest(options.out), []
    if items:
        items = with_stored_captions(items, side_file)
        write_manifest(items, options.out)
        if options.caption:
            items, wrong = captioning().caption_items(
                items, options.caption, side_file, device=options.device, frames_per_view=options.caption_frames
            )
            problems += wrong
            write_manifest(items, options.out)
    report(problems, options.report)
    if not items:
        print(f"prepare: no item is good, so {options.out} is not written", file=sys.stderr)
        return 1
    print(f"{options.out}: {summary(items, problems)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 1 if no item is good, or 2 with a message on bad input."""
    options = parse_arguments(arguments)
    try:
        return prepare(options)
    except (ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
