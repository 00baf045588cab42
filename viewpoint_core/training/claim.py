"""A run's folder belongs to one run at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = ".lock"


def take(stream: IO[str]) -> None:
    """Lock an open file until its process ends, however it does. Raises BlockingIOError or PermissionError where
    another one has it; a disk that knows no locks lets everybody pass."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run's folder, made where it is missing, for oneself. Raises OSError where another run has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as stream:
        try:
            take(stream)
        except (BlockingIOError, PermissionError) as error:
            raise OSError(f"another run writes to {folder}; wait for its end, or choose another output") from error
        yield
