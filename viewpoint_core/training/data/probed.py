"""What prepare found in files, kept beside its manifest, so that a run that was stopped does not decode them again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

from torch import Tensor

from .manifest import drop_torn_line, portable_path
from .media import MediaInfo, frame_files, probe
from .panorama_check import CHECK, LONGEST_SIDE, panorama_problem
from .shots import SHOTS, Shots

# To be changed with whatever changes what `probe` finds.
PROBE = "probe-2"
VERSION = f"{PROBE} {CHECK} {SHOTS}"
MAX_KEPT = 16


class Probed(NamedTuple):
    """What a file or a folder of frames holds.

    problem: why it is no panorama, "" where it is, or was not looked at. cuts: the pictures with which new shots begin.
    """

    info: MediaInfo
    looked: bool = False
    problem: str = ""
    cuts: tuple[int, ...] = ()


class Stopped(Exception):
    """The run ends before all is decoded."""


class NotKept(Exception):
    """What was found cannot be written."""


class Inspection:
    """Looks at an item's pictures while it is probed (see `media.Look`), and holds few of them, spread over it."""

    def __init__(self, stop: Event, *, look: bool) -> None:
        self.stop, self.look = stop, look
        self.shots = Shots()
        self.kept: list[Tensor] = []
        self.seen, self.step = 0, 1

    def __call__(self, time: float, draw: Callable[[int], Tensor]) -> None:
        """Take the next picture. Raises Stopped where the run is to end."""
        if self.stop.is_set():
            raise Stopped
        if not self.look:
            return
        picture = draw(LONGEST_SIDE)
        if self.kept and picture.shape != self.kept[0].shape:
            return  # `probe` refuses it
        self.shots.see(time, picture)
        if self.seen % self.step == 0:
            self.kept.append(picture)
        if len(self.kept) > MAX_KEPT:
            self.kept, self.step = self.kept[::2], 2 * self.step
        self.seen += 1

    def result(self, info: MediaInfo) -> Probed:
        """What was found. A new shot begins with the first picture of the timeline that shows it."""
        if not self.look or info.width != 2 * info.height:
            return Probed(info, self.look)
        cuts = {int(time * (info.fps or 1) + 0.5) for time in self.shots.finish()}
        return Probed(
            info,
            True,
            panorama_problem(self.kept) or "",
            tuple(sorted(cut for cut in cuts if 0 < cut < info.frames)),
        )


def state_of(path: Path) -> list[int]:
    """What changes when a file or a folder of frames does: bytes, time of the last change, number of paths."""
    stats = [file.stat() for file in (path, *(frame_files(path) if path.is_dir() else ()))]
    return [sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats), len(stats)]


class ProbedFiles:
    """Probes files, and keeps what was found in a file beside the manifest, a line each, written as it goes.

    A line counts while the file is as it was and the checks are these. What cannot be read is not kept: it is tried
    again. Safe to use by several threads; a line that a killed run left torn is cut off.
    """

    def __init__(self, manifest: Path) -> None:
        self.file = manifest.with_name(f".{manifest.stem}.probed.jsonl")  # hidden: it is no table of captions
        self.folder = manifest.parent
        self.lock = Lock()
        self.known = self.read()

    def read(self) -> dict[str, tuple[list[int], Probed]]:
        """State and findings of the lines that these checks wrote, by path; a line that makes no sense is left out."""
        known: dict[str, tuple[list[int], Probed]] = {}
        if not self.file.exists():
            return known
        drop_torn_line(self.file)
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if row["version"] == VERSION:
                    found = Probed(MediaInfo(*row["info"]), row["looked"], row["problem"], tuple(row["cuts"]))
                    known[row["path"]] = row["state"], found
            except (ValueError, KeyError, TypeError):
                continue
        return known

    def probe(self, path: Path, stop: Event, *, look: bool) -> Probed:
        """What a file or a folder holds, as kept or by decoding all of it. Raises ValueError, OSError, or Stopped."""
        name, state = portable_path(path, self.folder), state_of(path)
        kept_state, kept = self.known.get(name, (None, None))
        if kept and kept_state == state and (kept.looked or not look):
            return kept
        inspection = Inspection(stop, look=look)
        found = inspection.result(probe(path, inspection))
        self.keep({"path": name, "state": state, "version": VERSION} | found._asdict())
        return found

    def keep(self, row: dict[str, Any]) -> None:
        """Add a line, on disk before this returns. Raises NotKept where that fails: it is no fault of the file's."""
        try:
            with self.lock, self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise NotKept(f"{self.file}: {error.strerror}") from error
