"""Ctrl-C and SIGTERM end a program where its work can be left, not in the middle of whatever it is at."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ONCE = 3.0  # seconds: launchers pass a signal on to processes that had it themselves


class Stop:
    """Whether the program was asked to stop."""

    asked = False
    at = 0.0

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """What SIGINT and SIGTERM ask for meanwhile; another one, ONCE later or more, ends the process at once.

    Python's own KeyboardInterrupt can come up in a callback or a finaliser, which drop it. A handler that stayed would
    hold what it refers to; one that is busy when Python ends aborts the process.
    """
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        now = time.monotonic()
        if not stop.asked:
            stop.asked, stop.at = True, now
        elif now - stop.at > ONCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
