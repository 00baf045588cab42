"""Files in the host's input, output and temp folders. Imported only once the host runs."""

import dataclasses
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import folder_paths

from ..viewpoint_core.replacing import partial_beside, take_first_free

OUTPUT_MARK = " [output]"


def folder(kind: str) -> Path:
    """The host's "input", "output" or "temp" folder."""
    directories = {
        "input": folder_paths.get_input_directory,
        "output": folder_paths.get_output_directory,
        "temp": folder_paths.get_temp_directory,
    }
    return Path(directories[kind]())


def offer_models(folder_with_kinds: Path) -> None:
    """Have the host's loaders list what lies in a folder's subfolders, each named as a kind of model of the host."""
    for kind in sorted(path for path in folder_with_kinds.glob("*") if path.is_dir()):
        folder_paths.add_model_folder_path(kind.name, str(kind))


def listed_files(kind: str, suffixes: Collection[str]) -> list[str]:
    """Files directly in one of the host's folders that end so, in order."""
    return sorted(file.name for file in folder(kind).glob("*") if file.suffix.lower() in suffixes and is_file(file))


def is_file(path: Path) -> bool:
    """Whether a path leads to a file. Unlike Path.is_file it does not raise for links that may not be followed: the
    host would drop the pack."""
    return os.path.isfile(path)


def chosen_file(name: str, suffixes: Collection[str]) -> Path:
    """A file name from a workflow to its path; it may end in [input], [output] or [temp], as the host writes names.
    Raises ValueError if it leaves the host's folders or does not exist."""
    bare, marked = folder_paths.annotated_filepath(name)
    # links in the folder may lead out of it, as the host's own loaders let them: the user put them there
    base = Path(os.path.abspath(marked or folder("input")))
    path = Path(os.path.abspath(base / bare))
    if not path.is_relative_to(base) or path.suffix.lower() not in suffixes:
        expected = ", ".join(sorted(suffixes))
        raise ValueError(f"file is {name!r}; expected a {expected} file inside ComfyUI's input, output or temp folder")
    if not is_file(path):
        raise ValueError(f"file {name!r} is not in ComfyUI's {base.name} folder")
    return path


def file_change(name: str | None, suffixes: Collection[str]) -> float:
    """What differs once a chosen file changed. A linked name is not known yet (None): nan, which never equals."""
    # a new nan each time: tuples and dicts, as the host's cache keys are, take the very same object for equal
    return float("nan") if name is None else chosen_file(name, suffixes).stat().st_mtime


def free_names(
    prefix: str, suffix: str, width: int = 0, height: int = 0, *, kind: str = "output"
) -> tuple[Iterator[Path], str]:
    """New file names in one of the host's folders, counted like the host's own, and their subfolder there.

    The host puts the picture's size in for %width% and %height% in the prefix.
    """
    base = str(folder(kind))
    directory, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, base, width, height)
    paths = (Path(directory) / f"{name}_{number:05}_{suffix}" for number in count(counter))
    return (path for path in paths if not path.exists()), subfolder


def check_name(path: Path) -> None:
    """Raise OSError for a name under which no file can be, before the work that would be lost."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:  # another ComfyUI has just taken it, so it can be
        return
    path.unlink()


@dataclasses.dataclass
class NewFile:
    """A file of the output folder while it is written to `partial`; once it is whole, `path` says where it is."""

    partial: Path
    path: Path
    subfolder: str


@contextmanager
def new_file(prefix: str, suffix: str, width: int = 0, height: int = 0) -> Iterator[NewFile]:
    """A file for the output folder that is written to a temporary path, and at the end has the first number that is
    free then: another ComfyUI may have taken the one that was free when it was begun."""
    names, subfolder = free_names(prefix, suffix, width, height)
    first = next(names)
    check_name(first)
    with partial_beside(first) as partial:
        file = NewFile(partial, first, subfolder)
        yield file
        file.path = take_first_free(partial, chain([first], names))
