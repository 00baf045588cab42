"""Files that appear under their name only once they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path, *, same_name: bool = False) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place at the end, once it is on the disk, and is removed if the
    block raises. It ends in .partial, so that no list of models or clips shows it.

    With same_name the temporary name is always the same, so that the next run writes over what a killed one has left:
    for files that no two processes write at a time.
    """
    process = "" if same_name else f".{os.getpid()}"
    partial = target.with_name(f".{target.name}{process}.partial")
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def replace_bytes(target: Path, data: bytes, *, same_name: bool = False) -> None:
    """Write a whole file."""
    with replacing(target, same_name=same_name) as partial:
        partial.write_bytes(data)


def replace_text(target: Path, text: str) -> None:
    """Write a whole text file, in UTF-8."""
    replace_bytes(target, text.encode())
