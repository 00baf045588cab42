"""Ctrl-C and SIGTERM end a program where its work can be left, not in the middle of whatever it is at."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether the program was asked to stop."""

    asked = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """What SIGINT and SIGTERM ask for meanwhile; a second one ends the process at once.

    Python's own KeyboardInterrupt can come up in a callback or a finaliser, which drop it. A handler that stayed would
    hold what it refers to; one that is busy when Python ends aborts the process.
    """
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        stop.asked = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
