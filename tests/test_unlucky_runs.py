"""What goes wrong around training, by no fault of the trainer: it says so, loses no steps, and goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.panorama_files import write_image
from tests.training_runs import REPO, encode_cache, flags_of, losses, write_cache
from viewpoint_core import export, inflate, prepare, train
from viewpoint_core.training.claim import claimed
from viewpoint_core.training.config import read_file
from viewpoint_core.training.data import probed
from viewpoint_core.training.data.manifest import read_manifest, write_manifest
from viewpoint_core.training.loop import batches
from viewpoint_core.training.state import checkpoints, newest_checkpoint


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and a cache."""
    return write_cache(tmp_path_factory.mktemp("unlucky"))


@pytest.fixture
def output(paths: dict[str, Path], tmp_path: Path) -> Path:
    """A run of three steps with a checkpoint of each."""
    assert train.main(flags_of(paths, tmp_path / "run", steps=3, save_every=1, keep=3, workers=0)) == 0
    return tmp_path / "run"


def go_on(paths: dict[str, Path], output: Path, capsys: pytest.CaptureFixture, **settings: Any) -> tuple[int, str]:
    """The trainer once more: its status, and what it says last."""
    capsys.readouterr()
    code = train.main(flags_of(paths, output, **{"steps": 4, "save_every": 1, "keep": 3, "workers": 0, **settings}))
    return code, "\n".join(capsys.readouterr())


def test_copies_of_checkpoints_under_other_names_are_neither_gone_on_from_nor_removed(
    paths: dict[str, Path], output: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = output / "checkpoints"
    for name in ("step_best", "step_00000001_good"):
        shutil.copytree(folder / "step_00000001", folder / name)
    assert newest_checkpoint(output).name == "step_00000003"
    code, said = go_on(paths, output, capsys, keep=1)
    assert (code, "step_00000003, step 3" in said) == (0, True)
    assert {entry.name for entry in folder.iterdir()} == {"step_00000004", "step_best", "step_00000001_good"}


def test_a_folder_belongs_to_one_run_at_a_time(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    script = "import sys; from pathlib import Path; from viewpoint_core.training.claim import claimed\n"
    script += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert train.main(flags_of(paths, tmp_path, steps=1)) == 2
        assert f"another run writes to {tmp_path}" in capsys.readouterr().err
        assert not (tmp_path / "config.json").exists()
        other.kill()
    with claimed(tmp_path):  # free again, however the other one ended
        pass


def test_an_old_checkpoint_that_cannot_be_removed_stays_and_training_goes_on(
    paths: dict[str, Path], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = output / "checkpoints" / "step_00000001"
    shutil.move(old, tmp_path / "elsewhere")
    old.symlink_to(tmp_path / "elsewhere")
    assert go_on(paths, output, capsys)[0] == 0
    assert not old.is_symlink()
    assert (tmp_path / "elsewhere" / "state.json").exists()
    rmtree = shutil.rmtree

    def kept(folder: Path, **options: Any) -> None:
        if "step_00000002" in str(folder):
            raise PermissionError(1, "Operation not permitted", str(folder))
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", kept)
    for steps in (5, 6):
        assert go_on(paths, output, capsys, steps=steps)[0] == 0
    assert [folder.name for folder in checkpoints(output)] == [f"step_{step:08}" for step in (4, 5, 6)]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", b""),
        ("state.json", b"[1]"),
        ("state.json", b"{}"),
        ("shard", b""),
        ("shard", b"\0" * 999),
        ("shard", None),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_way_on(
    paths: dict[str, Path], output: Path, capsys: pytest.CaptureFixture, file: str, content: bytes | None
) -> None:
    newest = newest_checkpoint(output)
    damaged = next(newest.glob(f"{file}*"))
    damaged.unlink() if content is None else damaged.write_bytes(content)
    code, said = go_on(paths, output, capsys)
    assert code == 2
    assert f"{newest} is damaged" in said
    assert "remove that folder, and the same command goes on from the one before" in said
    shutil.rmtree(newest)
    code, said = go_on(paths, output, capsys)
    assert (code, "step_00000002, step 2" in said) == (0, True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_breaks_on_the_way_is_named_and_costs_no_step(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, workers: int
) -> None:
    cache = shutil.copytree(paths["cache"], tmp_path / "cache")
    broken = sorted((cache / "clips").glob("*.safetensors"))
    for file in broken[1:]:  # the first one alone stays whole: a step or more is made before another is drawn
        file.write_bytes(file.read_bytes()[:500])
    own, output = {**paths, "cache": cache}, tmp_path / "run"
    code, said = 0, ""
    for seed in range(8):
        shutil.rmtree(output, ignore_errors=True)
        code, said = go_on(
            own, output, capsys, steps=50, save_every=100, batch_size=1, workers=workers, seed=seed, log_every=1
        )
        if (output / "log.jsonl").exists():
            break
    assert code == 2
    assert "is damaged or missing; run python -m viewpoint_core.encode again" in said
    assert "Traceback" not in said
    assert newest_checkpoint(output).name == f"step_{max(losses(output)):08}"


def test_a_worker_that_is_killed_is_told_of_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def loader(*_: Any, **__: Any) -> Iterator[Any]:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        yield

    monkeypatch.setattr("viewpoint_core.training.loop.DataLoader", loader)
    monkeypatch.setattr("viewpoint_core.training.loop.batches_from", lambda *_: iter([[0]]))
    config = type("Config", (), {"batch_size": 1, "seed": 0, "image_share": 0, "workers": 1})()
    with pytest.raises(OSError, match=r"a worker that reads clips was killed; .* fewer workers"):
        next(batches([], {}, config, 0, 0, 1))


def test_a_log_that_was_cut_within_a_line_goes_on_with_a_line_of_its_own(
    paths: dict[str, Path], output: Path, capsys: pytest.CaptureFixture
) -> None:
    log = output / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    assert go_on(paths, output, capsys, log_every=1)[0] == 0
    assert max(losses(output)) == 4


@pytest.mark.parametrize("command", ["train", "export", "inflate"])
def test_ctrl_c_outside_the_steps_is_told_in_a_line(
    command: str, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "start_run", interrupted)
    monkeypatch.setattr(export, "start", interrupted)
    monkeypatch.setattr(inflate, "inflate_checkpoint", interrupted)
    target = tmp_path / "out.safetensors"
    code = {
        "train": lambda: train.main(flags_of(paths, tmp_path / "run")),
        "export": lambda: export.main(["checkpoint", str(tmp_path), str(target)]),
        "inflate": lambda: inflate.main([str(paths["model"]), str(target)]),
    }[command]()
    said = capsys.readouterr().err.splitlines()[-1]
    assert (code, said.startswith(f"{command}: stopped")) == (130, True)


def test_an_export_into_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export.main(["checkpoint", str(tmp_path), str(tmp_path / "no" / "a.safetensors")]) == 2
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def test_a_second_manifest_in_a_cache_says_what_it_drops(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    manifest = paths["cache"].parent / "manifest.jsonl"
    cache = shutil.copytree(paths["cache"], tmp_path / "cache")
    items = read_manifest(manifest)
    fewer = manifest.with_name("fewer.jsonl")
    write_manifest(items[:2], fewer)
    capsys.readouterr()
    encode_cache({"vae": paths["vae"], "manifest": manifest}, cache)
    assert "not in this manifest" not in capsys.readouterr().err
    encode_cache({"vae": paths["vae"], "manifest": fewer}, cache)
    assert f"encode: {len(items) - 2} clips that {cache} held are not in this manifest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"steps: 3\nlr: 1\nsteps: 1\n", "'steps' comes twice"),
        ("steps: 3\n".encode("utf-16"), "is not YAML in UTF-8"),
        (b"output: caf\xe9\n", "is not YAML in UTF-8"),
    ],
)
def test_settings_that_say_two_things_or_are_no_utf8_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_file(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(error.value)


# prepare


def panoramas(folder: Path, count: int = 3) -> Path:
    """Panoramas in a folder."""
    for number in range(count):
        write_image(folder / f"{number}.png", number + 3, 128, 64)
    return folder


def prepared(folder: Path, out: Path) -> int:
    """`prepare` on a folder."""
    return prepare.main(["--folder", str(folder), "--out", str(out), "--no-check", "--heldout", "0"])


def test_a_full_disk_ends_prepare_at_once_and_blames_no_panorama(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probed.os, "fsync", full)
    assert prepared(panoramas(tmp_path / "in"), tmp_path / "m.jsonl") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith(".m.probed.jsonl: No space left on device")
    assert not any(".png" in line for line in said)
    assert not (tmp_path / "m.jsonl").exists()


def test_linked_folders_are_read_once_also_in_a_ring(tmp_path: Path) -> None:
    root = panoramas(tmp_path / "in" / "own", 1).parent
    (root / "far").symlink_to(panoramas(tmp_path / "far", 2))
    (root / "again").symlink_to(tmp_path / "far")
    (root / "own" / "ring").symlink_to(root)
    assert prepared(root, tmp_path / "m.jsonl") == 0
    assert len(read_manifest(tmp_path / "m.jsonl")) == 3


def test_a_file_whose_name_is_no_utf8_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = panoramas(tmp_path / "in", 2)
    shutil.copy(folder / "0.png", os.fsencode(folder) + b"/caf\xe9.png")
    assert prepared(folder, tmp_path / "m.jsonl") == 0
    assert "caf\ufffd.png: its name is not UTF-8" in capsys.readouterr().err
    assert len(read_manifest(tmp_path / "m.jsonl")) == 2
