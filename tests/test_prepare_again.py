"""A run of prepare that was stopped goes on: what was decoded is not decoded again, and Ctrl-C ends it plainly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from tests.panorama_files import cut_short, write_frames, write_image, write_video
from viewpoint_core import prepare
from viewpoint_core.training.data import probed
from viewpoint_core.training.data.manifest import read_manifest
from viewpoint_core.training.data.probed import MAX_KEPT, Inspection, ProbedFiles, Stopped

REPO = Path(__file__).parents[1]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is decoded, as it is."""
    names: list[str] = []
    real = probed.probe

    def probe(path: Path, look: probed.Inspection) -> probed.MediaInfo:
        names.append(path.name)
        return real(path, look)

    monkeypatch.setattr(probed, "probe", probe)
    return names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An image, a video, and a file that is broken."""
    write_image(tmp_path / "data" / "a.png", 1)
    write_video(tmp_path / "data" / "b.mp4", 64)
    cut_short(write_image(tmp_path / "data" / "c.png", 0, 256, 128), 0.4)
    return tmp_path / "data"


def run(data: Path, *options: str) -> int:
    return prepare.main(["--folder", str(data), "--out", str(data.parent / "m.jsonl"), "--workers", "1", *options])


def kept(data: Path) -> Path:
    return data.parent / ".m.probed.jsonl"


def test_a_second_run_decodes_what_changed_or_was_broken_alone(data: Path, decoded: list[str]) -> None:
    assert run(data) == 0
    first = read_manifest(data.parent / "m.jsonl")
    assert decoded == ["a.png", "b.mp4", "c.png"]
    decoded.clear()
    assert run(data) == 0
    assert decoded == ["c.png"]
    assert read_manifest(data.parent / "m.jsonl") == first
    decoded.clear()
    os.utime(data / "a.png", (1, 1))
    write_video(data / "b.mp4", 80)
    assert run(data) == 0
    assert decoded == ["a.png", "b.mp4", "c.png"]
    assert [item.frames for item in read_manifest(data.parent / "m.jsonl")] == [1, 80]


def test_options_apply_to_what_is_kept(data: Path, decoded: list[str]) -> None:
    assert run(data) == 0
    decoded.clear()
    assert run(data, "--min-seconds", "5") == 0
    assert [item.path.name for item in read_manifest(data.parent / "m.jsonl")] == ["a.png"]
    assert run(data, "--no-check", "--span", "0") == 0
    assert set(decoded) == {"c.png"}


def test_what_was_not_looked_at_is_decoded_once_it_is_to_be(data: Path, decoded: list[str]) -> None:
    assert run(data, "--no-check") == 0
    decoded.clear()
    assert run(data) == 0
    assert decoded == ["a.png", "b.mp4", "c.png"]


def test_other_checks_decode_again(data: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(data) == 0
    decoded.clear()
    monkeypatch.setattr(probed, "VERSION", "newer")
    assert run(data) == 0
    assert decoded == ["a.png", "b.mp4", "c.png"]


def test_a_torn_line_and_a_senseless_one_are_passed_over(data: Path, decoded: list[str]) -> None:
    assert run(data) == 0
    lines = kept(data).read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["data/a.png", "data/b.mp4"]
    kept(data).write_text("\n".join([lines[0], "{}", "[]", "nonsense", lines[1][:40]]))
    decoded.clear()
    assert run(data) == 0
    assert decoded == ["b.mp4", "c.png"]
    assert json.loads(kept(data).read_text().splitlines()[-1])["path"] == "data/b.mp4"


def test_a_folder_of_frames_counts_as_changed_when_a_frame_does(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "walk", 8)
    state = probed.state_of(folder)
    assert probed.state_of(folder) == state
    os.utime(folder / "00003.png", (1 << 31, 1 << 31))
    assert probed.state_of(folder) != state
    state = probed.state_of(folder)
    write_image(folder / "00008.png", 8)
    assert probed.state_of(folder) != state


def test_the_kept_file_may_lie_in_the_dataset(data: Path) -> None:
    out = ["--folder", str(data), "--out", str(data / "m.jsonl"), "--report", str(data.parent / "report.txt")]
    for _ in range(2):
        assert prepare.main(out) == 0
        report = (data.parent / "report.txt").read_text().splitlines()
        assert [Path(line.split(": ")[0]).name for line in report] == ["c.png"]


def test_an_inspection_ends_when_it_is_told_to_and_holds_few_pictures(tmp_path: Path) -> None:
    file, stop = write_video(tmp_path / "a.mp4", 200), Event()
    inspection = Inspection(stop, look=True)
    probed.probe(file, inspection)
    assert MAX_KEPT // 2 <= len(inspection.kept) <= MAX_KEPT
    stop.set()
    with pytest.raises(Stopped):
        ProbedFiles(tmp_path / "m.jsonl").probe(file, stop, look=False)


def test_ctrl_c_ends_it_at_once_with_a_plain_line_and_it_goes_on(tmp_path: Path) -> None:
    short, long = write_frames(tmp_path / "data" / "a", 80), tmp_path / "data" / "b"
    first = write_image(long / "00000.png", 1, 1024, 512)
    for number in range(1, 2000):
        (long / f"{number:05d}.png").hardlink_to(first)
    command = [sys.executable, "-m", "viewpoint_core.prepare", "--frames", str(tmp_path / "data"), "--fps", "16"]
    command += ["--out", str(tmp_path / "m.jsonl"), "--workers", "1"]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not kept(short.parent).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "prepare: stopped; start it again to go on"
    assert "Traceback" not in errors
    assert [json.loads(line)["path"] for line in kept(short.parent).read_text().splitlines()] == ["data/a"]
    assert not (tmp_path / "m.jsonl").exists()
