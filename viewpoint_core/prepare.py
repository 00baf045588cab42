"""Make a training manifest from folders of panoramas: python -m viewpoint_core.prepare --folder DIR --out FILE."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event
from types import ModuleType

import torch
from tqdm import tqdm

from .replacing import replace_text
from .training.data.adapters import ADAPTERS, Candidate, media_files
from .training.data.candidate_items import Rules, check_candidate, group_of
from .training.data.manifest import (
    MIN_GROUPS_TO_HOLD_OUT,
    Item,
    Problem,
    hold_out_one,
    read_manifest,
    with_stored_captions,
    write_manifest,
)
from .training.data.probed import NotKept, ProbedFiles

EPILOG = """\
Layouts:
  --flickr360  HR/*.png                                       images, no captions
  --web360     WEB360_360TF_train.csv, videos_512x1024x100/   videos with captions
  --odv360     a folder of frames for each clip               no captions
  --360x       360_panoramic_trim/*/*.mp4 or panoramic/*.mp4  no captions
  --folder     images and videos at any depth; captions in NAME.txt beside NAME.mp4, or in .csv or .jsonl
               tables (path, caption); a folder that a caption names is a folder of frames
  --frames     every folder that holds images is a clip; captions as for --folder

Every item is decoded once. What is broken, short, not 2:1, or 2:1 and no panorama (a flat film, VR180, dual fisheye,
black bars, all black) is reported by name and left out; videos are divided at hard cuts. --no-check takes what is 2:1
as it is.

Run it again to go on after a stop: what was found in files that have not changed stands in .NAME.probed.jsonl beside
NAME.jsonl. Exit status: 0 if at least one item is good, 1 if none is, 2 for bad options, 130 when stopped by Ctrl-C.
"""
# Video that is not read, and what to do with it.
UNREAD_SUFFIXES = {suffix: "stitch it in the camera's program and export .mp4" for suffix in (".insv", ".360")} | {
    suffix: "convert it to .mp4" for suffix in (".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv")
}


def unread_videos(root: Path) -> list[Problem]:
    """Videos below a folder of kinds that are not read."""
    return [
        Problem(str(file), f"{file.suffix} is not read; {UNREAD_SUFFIXES[file.suffix.lower()]}")
        for file in media_files(root, set(UNREAD_SUFFIXES))
    ]


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
        problems += [*found.problems, *unread_videos(root)]
        for candidate in found.candidates:
            if not is_utf8(candidate.path):
                shown = os.fsencode(candidate.path).decode("utf-8", "replace")
                problems.append(Problem(shown, "its name is not UTF-8, as manifests are; rename it"))
                continue
            if candidate.licence == "unknown":
                candidate = replace(candidate, licence=licence)
            if entries.setdefault(candidate.path.resolve(), (dataset, candidate))[1] is not candidate:
                problems.append(Problem(str(candidate.path), "found twice; kept once"))
    return list(entries.values()), problems


def is_utf8(path: Path) -> bool:
    """Whether a path can be written into a manifest."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def scan(
    sources: Iterable[tuple[str, Path]], rules: Rules, licence: str, workers: int, files: ProbedFiles
) -> tuple[list[Item], list[Problem]]:
    """Find and decode everything in the datasets' folders; items in the adapters' order."""
    entries, problems = find_candidates(sources, licence)
    items: list[Item] = []
    pool, stop = ThreadPoolExecutor(workers), Event()
    try:
        results = pool.map(partial(check_candidate, rules=rules, files=files, stop=stop), entries)
        for good, wrong in tqdm(results, total=len(entries), desc="check", unit="item"):
            items += good
            problems += wrong
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if rules.heldout:
        items = hold_out_one(items, {entry[1].path: group_of(*entry) for entry in entries})
    return items, problems


def captioning() -> ModuleType:
    """The module that captions; transformers is imported only where it is asked for."""
    try:
        return import_module(".training.data.captioning", __package__)
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


def held_out_note(items: Sequence[Item], heldout: float) -> str | None:
    """What it means that nothing is held out; None where something is, or nothing was to be."""
    if not heldout or any(item.split == "heldout" for item in items):
        return None
    return (
        f"nothing is held out, so training will show neither held-out losses nor samples: with fewer than "
        f"{MIN_GROUPS_TO_HOLD_OUT} recordings that takes a larger --heldout than {heldout:g}"
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
        "--heldout",
        type=float,
        default=0.02,
        help="part held out, chosen by a hash of the path; of 5 recordings or more at least one, unless it is 0 [0.02]",
    )
    parser.add_argument(
        "--min-seconds", type=float, default=3.0, help="shorter videos are left out [3: 49 frames at 16 fps]"
    )
    parser.add_argument(
        "--span", type=float, default=10.0, help="seconds into which long videos are divided; 0: not [10]"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="rate of folders of frames, which do not state it [30]")
    parser.add_argument("--train-fps", type=float, default=16.0, help="a video of a lower rate is named, and kept [16]")
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="take what is 2:1 and looks like no panorama, and do not divide at hard cuts",
    )
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
    if not options.train_fps >= 0:
        raise ValueError(f"--train-fps is {options.train_fps}; expected 0 or more")
    if options.span != 0 and not options.span >= 1.5 * options.min_seconds:
        raise ValueError(
            f"--span is {options.span:g}; expected 0, or 1.5 times --min-seconds ({options.min_seconds:g})"
        )


def prepare(options: argparse.Namespace) -> int:
    """Write the manifest, then caption; the exit status."""
    sources = [(name, root) for name in ADAPTERS for root in vars(options)[name]]
    check_options(options, sources)
    side_file = options.out.with_name(f"{options.out.stem}.captions.jsonl")
    rules = Rules(
        options.min_seconds, options.span, options.fps, options.heldout, options.train_fps, check=options.check
    )
    if sources:
        items, problems = scan(sources, rules, options.licence, options.workers, ProbedFiles(options.out))
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
    note = held_out_note(items, options.heldout) if sources else None
    if note:
        print(f"prepare: {note}", file=sys.stderr)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 1 if no item is good, 2 with a message on bad input, 130 where it is stopped."""
    options = parse_arguments(arguments)
    try:
        return prepare(options)
    except (ValueError, OSError, NotKept) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: stopped; start it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
