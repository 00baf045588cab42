"""Datasets as they lie on disk: each adapter lists a folder's panoramas with their captions, not yet decoded."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from .manifest import Problem, caption_problem, read_lines
from .media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, frame_files, is_hidden, natural_key

PATH_COLUMNS = ("path", "file", "file_name", "filename", "video", "image", "videoid", "name")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
TRIMMED_360X = "360_panoramic_trim"
RELEASED_360X = "panoramic"


@dataclass(frozen=True)
class Candidate:
    """A file or a folder of frames that may become items; cuts of one recording share a `group`, and so their split."""

    path: Path
    group: str
    licence: str
    caption: str = ""


class Found(NamedTuple):
    """What an adapter found, and what it could not use."""

    candidates: list[Candidate]
    problems: list[Problem]


Captions = dict[Path, str]
Row = tuple[str, str, str]


def sorted_paths(paths: Iterator[Path]) -> list[Path]:
    """Paths in natural order, without dot files."""
    return sorted((path for path in paths if not is_hidden(path)), key=lambda path: natural_key(path.as_posix()))


def everything(root: Path, name: str | None = None) -> Iterator[Path]:
    """All below a folder, or what has this name there, also behind links to folders; none of them twice."""
    seen = {root.resolve()}
    for place, folders, files in os.walk(root, followlinks=True):
        here = Path(place)
        new = {folder: (here / folder).resolve() for folder in folders}
        folders[:] = [folder for folder in folders if not (new[folder] in seen or seen.add(new[folder]))]
        yield from (here / entry for entry in (*folders, *files) if name is None or fnmatch(entry, name))


def media_files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Files of these kinds anywhere below a folder."""
    return sorted_paths(path for path in everything(folder) if path.suffix.lower() in suffixes and path.is_file())


def below(root: Path, path: Path) -> str:
    """A path relative to the dataset's folder."""
    return path.relative_to(root).as_posix()


def is_low_resolution(root: Path, path: Path) -> bool:
    """True below a folder named LR, LR_X4 or the like: the super-resolution sets' degraded copies."""
    return any(part.upper() == "LR" or part.upper().startswith("LR_") for part in path.relative_to(root).parts)


# Datasets


def flickr360(root: Path) -> Found:
    """Flickr360: panorama images in folders named HR; their LR copies are left alone. No captions."""
    folders = [root] if root.name == "HR" else sorted_paths(path for path in everything(root, "HR") if path.is_dir())
    files = [file for folder in folders for file in frame_files(folder)]
    problems = [] if files else [Problem(str(root), "expected images in a folder named HR")]
    return Found([Candidate(file, below(root, file), "mixed, non-commercial") for file in files], problems)


def odv360(root: Path) -> Found:
    """ODV360: one folder of frames for each clip; folders named LR are left alone. No captions."""
    found = frame_folders(root)
    return Found([replace(clip, licence="academic") for clip in found.candidates], found.problems)


def web360(root: Path) -> Found:
    """WEB360: videos_512x1024x100/{videoid}.mp4, and captions in WEB360_360TF_train.csv (videoid, name)."""
    videos = [file for folder in sorted_paths(everything(root, "videos_512x1024x100")) for file in videos_in(folder)]
    tables = sorted_paths(everything(root, "WEB360*.csv"))
    problems = [] if videos else [Problem(str(root), "expected videos in a folder named videos_512x1024x100")]
    if not tables:
        problems.append(Problem(str(root), "expected a table of captions, WEB360_360TF_train.csv"))
    by_id = {file.stem: file for file in videos}
    captions: Captions = {}
    for table in tables:
        rows, wrong = read_csv(table, ("videoid",), ("name",))
        problems += wrong + add_captions(captions, rows, by_id.get)
    items = [Candidate(file, below(root, file), "none stated", captions.get(file, "")) for file in videos]
    return Found(items, problems)


def videos_in(folder: Path) -> list[Path]:
    """The videos directly in a folder."""
    return sorted_paths(path for path in folder.iterdir() if is_video(path))


def x360(root: Path) -> Found:
    """360+x: 360_panoramic_trim/*/*.mp4, or panoramic/*.mp4 with index.json beside it. No captions."""
    licence = "CC BY-NC-SA"
    trims = [file for folder in folders_named(root, TRIMMED_360X) for file in media_files(folder, {".mp4"})]
    released = folders_named(root, RELEASED_360X)
    whole = [file for folder in released for file in media_files(folder, {".mp4"})]
    problems = [problem for folder in released for problem in check_360x_index(folder)]
    if not trims and not whole:
        problems.append(Problem(str(root), f"expected videos in folders named {TRIMMED_360X} or {RELEASED_360X}"))
    items = [Candidate(file, recording_360x(root, file), licence) for file in trims]
    return Found(items + [Candidate(file, below(root, file), licence) for file in whole], problems)


def folders_named(root: Path, name: str) -> list[Path]:
    """The folder itself if it has this name, else all below it that have."""
    return [root] if root.name == name else sorted_paths(path for path in everything(root, name) if path.is_dir())


def recording_360x(root: Path, cut: Path) -> str:
    """The recording that a cut of 360+x belongs to: the folder that holds its 360_trim, else the cut's own folder."""
    parts = cut.relative_to(root).parts
    above = parts[: parts.index(TRIMMED_360X)] if TRIMMED_360X in parts else ()
    above = above[:-1] if above and above[-1] == "360_trim" else above
    return "/".join(above) or below(root, cut.parent)


def check_360x_index(folder: Path) -> list[Problem]:
    """Recordings that index.json beside panoramic/ lists and that are not there."""
    index = folder.parent / "index.json"
    if not index.is_file():
        return []
    try:
        rows = json.loads("\n".join(read_lines(index)))
    except ValueError as error:
        return [Problem(str(index), f"cannot be read as JSON ({error})")]
    rows = rows if isinstance(rows, list) else []
    listed = [str(row["uuid"]) for row in rows if isinstance(row, dict) and "uuid" in row]
    there = {file.stem for file in media_files(folder, {".mp4"})}
    gone = [folder / f"{name}.mp4" for name in listed if name not in there]
    return [Problem(str(file), "index.json lists it, and it is not there") for file in gone]


def frame_folders(root: Path) -> Found:
    """Folders of frames: each folder below `root` that holds images is a clip. Captions as in `folder`."""
    folders = [root, *sorted_paths(path for path in everything(root) if path.is_dir())]
    folders = [path for path in folders if not is_low_resolution(root, path)]
    clips = [path for path in folders if frame_files(path)]
    parents = {path.parent for path in folders}
    bare = [path for path in folders if path not in parents and path not in clips]
    problems = [Problem(str(path), "the folder holds no image") for path in bare]
    if not clips and not problems:
        problems.append(Problem(str(root), "expected folders of frames"))
    captions, wrong = folder_captions(root, clips)
    return Found(with_captions(root, clips, captions), problems + wrong)


def folder(root: Path) -> Found:
    """Any folder of panorama images and videos, at any depth. A folder that a caption names is a folder of frames.

    Captions: NAME.txt beside NAME.mp4 (or beside a folder NAME); or tables, .csv with a header or .jsonl, whose path is
    relative to the table, with or without its suffix (columns: PATH_COLUMNS, CAPTION_COLUMNS). An image beside a video
    of its name is the video's thumbnail, and left out, unless a table names it with its suffix.
    """
    files = media_files(root, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    parents = sorted_paths(iter({file.parent for file in files if file.suffix.lower() in IMAGE_SUFFIXES}))
    captions, problems = folder_captions(root, files + [path for path in parents if path != root])
    clips = {path for path in captions if path.is_dir()}
    videos = {file.with_suffix("") for file in files if is_video(file)}
    kept = [file for file in files if file.parent not in clips]
    thumbnails = {file for file in kept if is_thumbnail(file, videos) and file not in captions}
    reason = "left out: beside a video of its name it is taken for the thumbnail; under another name it is kept"
    problems += [Problem(str(file), reason) for file in sorted_paths(iter(thumbnails))]
    kept = [file for file in kept if file not in thumbnails]
    if not files:
        problems.append(Problem(str(root), "the folder holds no image and no video"))
    return Found(with_captions(root, sorted_paths(iter([*kept, *clips])), captions), problems)


def is_video(file: Path) -> bool:
    """Whether a file's suffix is a video's."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def is_thumbnail(file: Path, videos: set[Path]) -> bool:
    """Whether an image lies beside a video of its name. videos: paths without suffix."""
    return not is_video(file) and file.with_suffix("") in videos


def with_captions(root: Path, paths: list[Path], captions: Captions) -> list[Candidate]:
    """Candidates of unknown licence with the captions that were found."""
    return [Candidate(path, below(root, path), "unknown", captions.get(path, "")) for path in paths]


ADAPTERS: dict[str, Callable[[Path], Found]] = {
    "flickr360": flickr360,
    "web360": web360,
    "odv360": odv360,
    "360x": x360,
    "folder": folder,
    "frames": frame_folders,
}


# Captions


def folder_captions(root: Path, media: list[Path]) -> tuple[Captions, list[Problem]]:
    """Captions of the given files and folders from .txt files beside them and from tables anywhere below `root`. What
    names several files, being without a suffix, names the video among them."""
    files = sorted((path for path in media if not path.is_dir()), key=is_video)
    by_name = {path.with_suffix(""): path for path in files} | {path: path for path in media}
    captions: Captions = {}
    problems: list[Problem] = []
    for file in media_files(root, {".txt", ".csv", ".jsonl"}):
        if is_own_file(file):
            continue
        if file.suffix.lower() == ".txt":
            rows, wrong = read_txt(file, by_name)
        else:
            reader = read_csv if file.suffix.lower() == ".csv" else read_jsonl
            rows, wrong = reader(file, PATH_COLUMNS, CAPTION_COLUMNS)
        parent = file.parent
        problems += wrong + add_captions(captions, rows, lambda name, parent=parent: by_name.get(parent / name))
    return captions, problems


def is_own_file(file: Path) -> bool:
    """True for a manifest, and for its captions: they may lie in the dataset's folder, and are none of its tables."""
    if file.suffix.lower() != ".jsonl":
        return False
    with file.open("rb") as stream:
        head = stream.readline(1 << 16)
    return all(f'"{key}":'.encode() in head for key in ("path", "start", "frames", "caption"))


def read_txt(file: Path, by_name: dict[Path, Path]) -> tuple[list[Row], list[Problem]]:
    """The caption in a .txt file beside a panorama; a text with no panorama beside it is none (a README, a list)."""
    media = by_name.get(file.with_suffix(""))
    if media is None:
        return [], []
    try:
        return [(str(file), media.name, "\n".join(read_lines(file)))], []
    except ValueError as error:
        return [], [Problem(str(file), str(error))]


def read_csv(file: Path, paths: tuple[str, ...], captions: tuple[str, ...]) -> tuple[list[Row], list[Problem]]:
    """(where, path, caption) of every row of a .csv file with a header."""
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        reader = csv.DictReader(line + "\n" for line in read_lines(file))
        columns = pick_columns(reader.fieldnames or (), paths, captions)
    except (ValueError, csv.Error) as error:
        return [], [Problem(str(file), str(error))]
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return rows, problems
        except csv.Error as error:  # a field beyond csv's limit, say; the reader goes on with the next line
            problems.append(Problem(f"{file}:{reader.reader.line_num}", str(error)))
            continue
        if row[columns[0]]:
            rows.append((f"{file}:{reader.line_num}", row[columns[0]].strip(), row[columns[1]] or ""))


def pick_columns(found: tuple[str, ...] | list[str], *wanted: tuple[str, ...]) -> list[str]:
    """The first name of each wanted kind that a table has. Raises ValueError."""
    picked = [next((name for name in names if name in found), None) for names in wanted]
    if None in picked:
        kinds = " and ".join(f"one of {', '.join(names)}" for names in wanted)
        raise ValueError(f"the table has {', '.join(map(str, found)) or 'no columns'}; expected {kinds}")
    return [name for name in picked if name]


def read_jsonl(file: Path, paths: tuple[str, ...], captions: tuple[str, ...]) -> tuple[list[Row], list[Problem]]:
    """(where, path, caption) of every line of a .jsonl file."""
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        lines = read_lines(file)
    except ValueError as error:
        return [], [Problem(str(file), str(error))]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected a JSON object, got {type(row).__name__}")
            path, caption = (row[name] for name in pick_columns(list(row), paths, captions))
            if not isinstance(path, str) or not isinstance(caption, str):
                raise ValueError(f"expected texts, got {path!r} and {caption!r}")
            rows.append((f"{file}:{number}", path, caption))
        except ValueError as error:
            problems.append(Problem(f"{file}:{number}", str(error)))
    return rows, problems


def add_captions(captions: Captions, rows: list[Row], find: Callable[[str], Path | None]) -> list[Problem]:
    """Add each row's caption to the panorama that `find` gives for its path; the first one of a panorama holds."""
    problems = []
    for where, name, text in rows:
        path, caption = find(name), " ".join(text.split())
        reason = caption_problem(caption)
        if path is None:
            problems.append(Problem(where, f"{name}: there is no such panorama"))
        elif reason:
            problems.append(Problem(where, f"{name}: {reason}; kept without it"))
        elif captions.setdefault(path, caption) != caption:
            problems.append(Problem(where, f"{name}: it has another caption already; the first is kept"))
    return problems
