"""Files that appear under their name only once they are whole."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def partial_beside(target: Path, *, same_name: bool = False) -> Iterator[Path]:
    """A temporary path beside `target`, removed at the end if it is still there. It ends in .partial, so that no list
    of models or clips shows it, and is short however long the target's name is.

    With same_name it is always the same, so that the next run writes over what a killed one has left: for files that no
    two processes write at a time.
    """
    name = hashlib.blake2s(os.fsencode(target.name), digest_size=8).hexdigest() if same_name else uuid4().hex[:16]
    partial = target.with_name(f".{name}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def flush(file: Path) -> None:
    """Have a file on the disk."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def replacing(target: Path, *, same_name: bool = False) -> Iterator[Path]:
    """A temporary path, as `partial_beside` makes it, that takes the target's place at the end."""
    with partial_beside(target, same_name=same_name) as partial:
        yield partial
        flush(partial)
        partial.replace(target)


def take_first_free(partial: Path, names: Iterable[Path]) -> Path:
    """Give a whole file the first of these names that no other file has, and that name."""
    flush(partial)
    for name in names:
        try:
            give_new_name(partial, name)
        except FileExistsError:
            continue
        return name
    raise FileExistsError(f"no name was free for {partial}")


def give_new_name(file: Path, name: Path) -> None:
    """Rename a file. Raises FileExistsError where the name is taken, also by another process at this moment."""
    try:
        os.link(file, name)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        name.touch(exist_ok=False)  # nobody else has it from here on
        try:
            file.replace(name)
        except OSError:
            name.unlink(missing_ok=True)
            raise


def replace_bytes(target: Path, data: bytes, *, same_name: bool = False) -> None:
    """Write a whole file."""
    with replacing(target, same_name=same_name) as partial:
        partial.write_bytes(data)


def replace_text(target: Path, text: str) -> None:
    """Write a whole text file, in UTF-8."""
    replace_bytes(target, text.encode())
