"""What becomes of a dataset's candidate: spans of it that training may use, or the reasons why it may not."""

from collections.abc import Sequence
from threading import Event
from typing import NamedTuple

from .adapters import Candidate
from .manifest import Item, Problem, size_problem, split_of
from .media import MediaInfo
from .probed import Probed, ProbedFiles

MAX_TIMES = 5
Part = tuple[int, int]


class Rules(NamedTuple):
    """What makes an item.

    seconds: at least. span_seconds: about so long, 0: whole. fps: of folders of frames. train_fps: below it pictures
    repeat in training. check: it must look like a panorama, and is divided at hard cuts.
    """

    seconds: float
    span_seconds: float
    fps: float
    heldout: float
    train_fps: float
    check: bool


def group_of(dataset: str, candidate: Candidate) -> str:
    """What decides a candidate's split."""
    return f"{dataset}/{candidate.group}"


def check_candidate(
    entry: tuple[str, Candidate], rules: Rules, files: ProbedFiles, stop: Event
) -> tuple[list[Item], list[Problem]]:
    """One candidate of a dataset, decoded unless that is known: its items, and what is wrong with it."""
    dataset, candidate = entry
    name = str(candidate.path)
    try:
        found = files.probe(candidate.path, stop, look=rules.check)
    except (ValueError, OSError) as error:
        return [], [Problem(name, str(error).removeprefix(f"{name}: "))]
    still = found.info.frames == 1 and found.info.fps == 0 and not candidate.path.is_dir()
    info = found.info if still or found.info.fps else found.info._replace(fps=rules.fps)
    parts, reasons = usable_parts(found._replace(info=info), rules, still)
    if info.missing:
        reasons = [f"it ends early: {info.missing} frames of those declared do not decode", *reasons]
    split = split_of(group_of(dataset, candidate), rules.heldout)
    about = (info.fps, info.width, info.height, candidate.caption, candidate.licence, split)
    divided = [span for part in parts for span in spans(part, info.fps, rules.span_seconds)]
    items = [Item(candidate.path, start, frames, *about) for start, frames in divided]
    return items, [Problem(name, reason) for reason in reasons]


def usable_parts(found: Probed, rules: Rules, still: bool) -> tuple[list[Part], list[str]]:
    """(start, frames) of what training may use of a file: of an image, or of a video's shots; and what is wrong."""
    info = found.info
    wrong = size_problem(info.width, info.height) or (None if still else length_problem(info, rules.seconds))
    if not wrong and rules.check and found.problem:
        wrong = f"{found.problem} (--no-check takes it anyway)"
    if wrong or still:
        return ([], [wrong]) if wrong else ([(0, 1)], [])
    parts = shots(info, found.cuts if rules.check else ())
    long = [part for part in parts if not length_problem(info._replace(frames=part[1]), rules.seconds)]
    return long, [reason for reason in (cut_problem(info, parts, len(long)), rate_problem(info, rules)) if reason]


def length_problem(info: MediaInfo, seconds: float) -> str | None:
    """Why a video is too short; None where it is not. The last picture counts for no time."""
    lasts = (info.frames - 1) / info.fps
    if lasts >= seconds - 1e-6:
        return None
    return f"it is too short: {info.frames} frames at {info.fps:.6g} fps last {lasts:.3g} s; expected {seconds:g} s"


def cut_problem(info: MediaInfo, parts: Sequence[Part], kept: int) -> str | None:
    """Where a video is divided; None where it is one shot."""
    if len(parts) == 1:
        return None
    times = [f"{start / info.fps:.2f}" for start, _ in parts[1:]]
    more = f" and {len(times) - MAX_TIMES} more" if len(times) > MAX_TIMES else ""
    short = f"; {len(parts) - kept} of its {len(parts)} shots are too short and left out" if kept < len(parts) else ""
    return f"it has hard cuts, at {', '.join(times[:MAX_TIMES])} s{more}, and is divided there{short}"


def rate_problem(info: MediaInfo, rules: Rules) -> str | None:
    """What a rate below that of training does; None where it is not below."""
    if info.fps > 0.99 * rules.train_fps:
        return None
    return (
        f"its {info.fps:.4g} fps are fewer than the {rules.train_fps:g} of training, so pictures will repeat; it is "
        "kept: encode it at its own rate, or leave it out"
    )


def shots(info: MediaInfo, cuts: Sequence[int]) -> list[Part]:
    """(start, frames) of the parts between the cuts."""
    edges = [0, *cuts, info.frames]
    return [(start, end - start) for start, end in zip(edges, edges[1:], strict=False)]


def spans(part: Part, fps: float, seconds: float) -> list[Part]:
    """(start, frames) of equal divisions of about this many seconds; one for an image and where seconds is 0."""
    start, frames = part
    count = max(1, round(frames / fps / seconds)) if fps and seconds else 1
    edges = [start + frames * number // count for number in range(count + 1)]
    return [(begin, end - begin) for begin, end in zip(edges, edges[1:], strict=False)]
