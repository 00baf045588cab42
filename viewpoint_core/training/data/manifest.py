"""The manifest: one JSON line for every panorama image or span of panorama video that training may use."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...choices import check_choice
from ...replacing import replace_text

SPLITS = ("train", "heldout")
# Wan reads 512 text tokens, about 2000 letters of English; what is far longer is no caption but a mistake.
MAX_CAPTION = 4000
MAX_REPORTED = 10
# From so many groups on one is held out even where the part asked for is less than one.
MIN_GROUPS_TO_HOLD_OUT = 5

Key = tuple[str, int, int]


class Problem(NamedTuple):
    """What is wrong with an item, by name."""

    name: str
    reason: str


@dataclass(frozen=True)
class Item:
    """A panorama image, or a span of a panorama video or of a folder of frames.

    path: absolute once read; an image file, a video file or a folder of frames. start, frames: the span's first
    picture and their number, counted at `fps` (see `media`); fps is 0 for an image. width, height: pixels, 2:1.
    caption: "" where there is none. split: "train" or "heldout".
    """

    path: Path
    start: int
    frames: int
    fps: float
    width: int
    height: int
    caption: str = ""
    licence: str = "unknown"
    split: str = "train"


FIELDS = {field.name: field.type for field in fields(Item)}
JSON_TYPES = {Path: str, str: str, int: int, float: (int, float)}


def size_problem(width: int, height: int) -> str | None:
    """Why a picture of this size is no panorama that can be used; None where it is one."""
    if width != 2 * height:
        return f"it is {width} x {height}; an equirectangular panorama is 2:1"
    return f"it is {width} x {height}; expected an even height" if height % 2 else None


def caption_problem(caption: str) -> str | None:
    """Why a caption cannot be used; None where it can."""
    if not caption.strip():
        return "the caption is empty"
    if len(caption) > MAX_CAPTION:
        return f"the caption has {len(caption)} characters; expected at most {MAX_CAPTION}"
    return None


def split_of(key: str, heldout: float) -> str:
    """The split of a key, by its hash: `heldout` in [0, 1] is the part held out, whatever else there is."""
    return "heldout" if share_of(key) < heldout else "train"


def share_of(key: str) -> float:
    """A key's hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def hold_out_one(items: Sequence[Item], groups: Mapping[Path, str]) -> list[Item]:
    """Items, where none is held out and there are enough groups those of one group held out: the one that a growing
    part held out reaches first. groups: each path's group, as `split_of` takes it."""
    names = {groups[item.path] for item in items}
    if len(names) < MIN_GROUPS_TO_HOLD_OUT or any(item.split == "heldout" for item in items):
        return list(items)
    first = min(names, key=share_of)
    return [replace(item, split="heldout") if groups[item.path] == first else item for item in items]


def portable_path(path: Path, folder: Path) -> str:
    """A path as the manifest in `folder` writes it: relative where it lies below that folder, else absolute."""
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def write_manifest(items: Iterable[Item], file: Path) -> None:
    """Write items to a JSONL manifest, whole or not at all."""
    rows = ({**asdict(item), "path": portable_path(item.path, file.parent)} for item in items)
    replace_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def check_row(row: Any) -> None:
    """Raise ValueError unless a manifest line's JSON has an item's keys and types."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    for name in row.keys() ^ FIELDS.keys():
        raise ValueError(f"unknown key {name!r}" if name in row else f"the key {name!r} is missing")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, JSON_TYPES[FIELDS[name]]):
            raise ValueError(f"{name} is {value!r}; expected {JSON_TYPES[FIELDS[name]]}")


def check_item(item: Item) -> None:
    """Raise ValueError for a span, size, rate, split or caption that cannot be."""
    if item.start < 0 or item.frames < 1:
        raise ValueError(f"start is {item.start} and frames {item.frames}; expected start >= 0 and frames >= 1")
    if not (math.isfinite(item.fps) and item.fps >= 0) or (item.frames > 1 and item.fps == 0):
        raise ValueError(f"fps is {item.fps} for {item.frames} frames; expected a rate above 0, or 0 for an image")
    check_choice(item.split, SPLITS, "split")
    reason = size_problem(item.width, item.height) or (item.caption and caption_problem(item.caption))
    if reason:
        raise ValueError(reason)


def read_lines(file: Path) -> list[str]:
    """A UTF-8 text file's lines. Raises ValueError for bytes that are no UTF-8."""
    try:
        return file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected UTF-8 text ({error})") from error


def parse_line(line: str, folder: Path) -> Item:
    """The item of a manifest line. Raises ValueError, also where its path points nowhere."""
    row = json.loads(line)
    check_row(row)
    item = Item(**row | {"path": folder / row["path"], "fps": float(row["fps"])})
    check_item(item)
    if not item.path.exists():
        raise ValueError(f"{item.path} does not exist")
    return item


def read_manifest(file: Path) -> list[Item]:
    """The items of a JSONL manifest, paths absolute; blank lines are skipped.

    Raises ValueError that names file:line for everything wrong (the first ten): no JSON, a missing or unknown key, a
    wrong type, a path that points nowhere, a huge caption, a repeated span.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such manifest")
    folder = file.absolute().parent
    items: list[Item] = []
    wrong: list[str] = []
    seen: dict[tuple[Path, int], int] = {}
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            item = parse_line(line, folder)
            first = seen.setdefault((item.path, item.start), number)
            if first != number:
                raise ValueError(f"repeats line {first}")
            items.append(item)
        except ValueError as error:
            wrong.append(f"{file}:{number}: {error}")
    if wrong:
        more = f"\n... and {len(wrong) - MAX_REPORTED} more" if len(wrong) > MAX_REPORTED else ""
        raise ValueError("\n".join(wrong[:MAX_REPORTED]) + more)
    if not items:
        raise ValueError(f"{file}: the manifest is empty")
    return items


# The side file of captions, beside a manifest


def item_key(item: Item, folder: Path) -> Key:
    """What names an item's span in the side file."""
    return portable_path(item.path, folder), item.start, item.frames


def drop_torn_line(file: Path) -> None:
    """Cut off a last line without an end, which a killed run leaves."""
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)


def read_captions(file: Path) -> dict[Key, str]:
    """The captions of a side file; none where it does not exist. Raises ValueError naming file:line."""
    captions: dict[Key, str] = {}
    if not file.exists():
        return captions
    drop_torn_line(file)
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[row["path"], row["start"], row["frames"]] = row["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}:{number}: expected path, start, frames and caption ({error})") from error
    return captions


def append_caption(file: Path, key: Key, caption: str) -> None:
    """Add one caption to a side file, on disk before this returns."""
    row = {"path": key[0], "start": key[1], "frames": key[2], "caption": caption}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def with_stored_captions(items: Sequence[Item], file: Path) -> list[Item]:
    """Items, those without a caption with the side file's. A side file's paths are relative to its folder."""
    stored = read_captions(file)
    return [
        item if item.caption else replace(item, caption=stored.get(item_key(item, file.parent), "")) for item in items
    ]
