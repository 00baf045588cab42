"""The trainer as its users run it, on tiny models: it learns, repeats itself, and goes on exactly where it stopped."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.train_tiny import StepError, call_together
from tests import training_runs
from tests.training_runs import MAP, REPO, encode_cache, environment, flags_of, losses, run, started, write_cache
from viewpoint_core import train
from viewpoint_core.export import main as export
from viewpoint_core.train import main, train_step
from viewpoint_core.training.data.cache import CachedClips
from viewpoint_core.training.loop import Batch, Draws
from viewpoint_core.training.new_model import new_transformer
from viewpoint_core.training.run import Run, save
from viewpoint_core.training.state import (
    OPTIMIZER,
    checkpoints,
    gather_tensors,
    gather_weights,
    newest_checkpoint,
    stored_tensors,
)
from viewpoint_core.training.wan import compile_blocks

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and a cache of three clips, an image, and a held-out clip."""
    return write_cache(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def whole(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of eight steps with averaged weights, in a process of its own."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run(flags_of(paths, output, steps=8, ema=0.9, accumulation=2))
    return output


def sources_of(paths: dict[str, Path]) -> dict[str, Path]:
    """What the module's cache was made of."""
    return {"vae": paths["vae"], "manifest": paths["cache"].parent / "manifest.jsonl"}


def assert_same_weights(one: Path, other: Path, **average: bool) -> None:
    """Both checkpoints hold the same weights, bit for bit."""
    left, right = gather_weights(one, **average), gather_weights(other, **average)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_overfits_one_real_panorama_clip_to_5_percent(tmp_path: Path) -> None:
    paths = write_cache(tmp_path / "one", clips=1)
    settings = {"steps": 200, "batch_size": 6, "lr": 2e-3, "warmup": 10, "decay": "cosine", "save_every": 200}
    assert main(flags_of(paths, tmp_path / "run", **settings)) == 0
    found = list(losses(tmp_path / "run").values())
    assert np.mean(found[-10:]) < 0.05 * found[0]


def test_same_seed_same_losses_and_another_seed_others(paths: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    run(flags_of(paths, tmp_path / "again", steps=8, ema=0.9, accumulation=2))
    assert losses(tmp_path / "again") == losses(whole)
    assert_same_weights(newest_checkpoint(tmp_path / "again"), newest_checkpoint(whole), average=True)
    assert main(flags_of(paths, tmp_path / "other", steps=1, ema=0.9, accumulation=2, seed=1)) == 0
    assert losses(tmp_path / "other")[1] != pytest.approx(losses(whole)[1], rel=1e-4)


def test_killed_at_a_random_moment_and_resumed_it_is_the_uninterrupted_run(
    paths: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    flags = flags_of(paths, output, steps=8, ema=0.9, accumulation=2, workers=2)
    seed = int(os.environ.get("KILL_SEED", time.time_ns()))
    print(f"KILL_SEED={seed}")
    step = random.Random(seed).randint(1, 5)
    deadline = time.monotonic() + 200
    with started(flags) as process:
        while process.poll() is None and time.monotonic() < deadline:
            if (output / "log.jsonl").exists() and len(losses(output)) >= step:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert losses(output).keys() < losses(whole).keys(), "the run ended before it was killed"
    run(flags)
    assert losses(output) == losses(whole), f"killed after step {step}"
    for average in (False, True):
        assert_same_weights(newest_checkpoint(output), newest_checkpoint(whole), average=average)


def test_with_muon_it_goes_on_as_the_uninterrupted_run(paths: dict[str, Path], tmp_path: Path) -> None:
    settings = {"optimizer": "muon", "lr": 1e-3, "save_every": 100}
    assert main(flags_of(paths, tmp_path / "whole", steps=6, **settings)) == 0
    for steps in (3, 6):
        assert main(flags_of(paths, tmp_path / "parts", steps=steps, **settings)) == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same_weights(newest_checkpoint(tmp_path / "parts"), newest_checkpoint(tmp_path / "whole"))
    assert main(flags_of(paths, tmp_path / "adamw", steps=6, lr=1e-3)) == 0
    assert losses(tmp_path / "adamw")[6] != losses(tmp_path / "whole")[6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_with_its_workers_it_ends_with_a_checkpoint_and_goes_on(
    paths: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "run"
    with started(flags_of(paths, output, steps=5000, save_every=5000, workers=2)) as process:
        while not (output / "log.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
        _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    (checkpoint,) = checkpoints(output)
    step = max(losses(output))
    assert checkpoint.name == f"step_{step:08}"
    assert f"train: stopped at step {step} of 5000; the same command goes on" in said
    assert f"step {step}" in run(flags_of(paths, output, steps=step + 1, save_every=5000))


STOPS = """
import sys
from pathlib import Path
from scripts import train_tiny
from viewpoint_core import train
folder, processes, *flags = sys.argv[1:]
train_tiny.STEPS["train"] = lambda folder, budget: train_tiny.call_together(train.main, int(processes), *flags)
train_tiny.STEPS["export"] = lambda folder, budget: (folder / "exported").touch()
for name in ("data", "vae"):
    del train_tiny.STEPS[name]
sys.exit(train_tiny.main(["--folder", folder]))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_the_tiny_models_script_stops_with_its_training_and_exports_nothing(
    paths: dict[str, Path], tmp_path: Path, processes: int
) -> None:
    script, output = tmp_path / "script.py", tmp_path / "run"
    script.write_text(STOPS)
    flags = [str(tmp_path), str(processes), *flags_of(paths, output, steps=5000, save_every=5000)]
    with started(flags, script=script) as process:
        while not (output / "log.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=100)
        with pytest.raises(ProcessLookupError):  # nothing of it goes on without the script
            os.killpg(process.pid, 0)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert said.endswith("stopped; the same command goes on\n")
    assert [folder.name[:5] for folder in (output / "checkpoints").iterdir()] == ["step_"]
    assert not (tmp_path / "exported").exists()


def test_an_error_ends_the_run_with_its_workers(paths: dict[str, Path], tmp_path: Path) -> None:
    """One that the trainer does not expect, whose traceback keeps everything alive until the process ends."""
    script = """
import sys
from viewpoint_core import train
def fail(run, parts):
    raise RuntimeError("out of memory")
train.train_step = fail
train.main(sys.argv[1:])
"""
    flags = flags_of(paths, tmp_path / "run", workers=2)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *flags], cwd=REPO, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "RuntimeError: out of memory" in said


def test_known_views_from_the_cache_train_as_those_encoded_in_the_step(paths: dict[str, Path], tmp_path: Path) -> None:
    """Views of four faces, and some samples of which nothing is known; clips and images."""
    ready = encode_cache(sources_of(paths), tmp_path / "cache", known="LFRB")
    settings = {"steps": 8, "batch_size": 2, "condition_dropout": 0.3}
    assert main(flags_of(paths, tmp_path / "encoded", **settings)) == 0
    assert main(flags_of(paths | {"cache": ready}, tmp_path / "cached", **settings)) == 0
    found = losses(tmp_path / "cached")
    assert len(found) == 8
    for step, loss in losses(tmp_path / "encoded").items():
        assert found[step] == pytest.approx(loss, rel=1e-5)


def test_with_cached_known_views_no_map_is_read(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = encode_cache(sources_of(paths), tmp_path / "cache", known="FR")
    train = [row["key"] for row in CachedClips(ready).rows]
    for key in train:
        (ready / "clips" / f"{key}.mkv").write_bytes(b"")
    settings = {"steps": 2, "heldout_every": 0, "sample_every": 0}
    assert main(flags_of(paths | {"cache": ready}, tmp_path / "two", faces="FR", **settings)) == 0
    assert len(losses(tmp_path / "two")) == 2
    assert main(flags_of(paths | {"cache": ready}, tmp_path / "four", faces="FRBL", **settings)) == 2
    assert "damaged or missing" in capsys.readouterr().err


def test_two_processes_train_as_one_does_with_the_joint_batch(paths: dict[str, Path], tmp_path: Path) -> None:
    settings = {"steps": 3, "ema": 0.9, "save_every": 1}
    run(flags_of(paths, tmp_path / "one", batch_size=2, **settings))
    run(flags_of(paths, tmp_path / "two", batch_size=1, **settings), processes=2)
    for step, loss in losses(tmp_path / "one").items():
        assert losses(tmp_path / "two")[step] == pytest.approx(loss, rel=1e-5)
    one, two = (gather_tensors(tmp_path / name / "checkpoints" / "step_00000001", OPTIMIZER) for name in ("one", "two"))
    gradients = [name for name in one if name.endswith(".exp_avg")]  # after one step: a tenth of the gradient
    assert len(gradients) > 50
    for name in gradients:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6 * float(one[name].abs().max() + 1e-3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_learn_the_same_in_two_processes_and_keep_their_names(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    """Clips and stills, held-out losses in between; and a run that began compiled goes on without."""
    settings = {"batch_size": 1, "heldout_every": 2, "optimizer": "muon"}
    run(flags_of(paths, tmp_path / "plain", steps=5, **settings), processes=2)
    run(flags_of(paths, tmp_path / "compiled", steps=4, compile=True, **settings), processes=2)
    run(flags_of(paths, tmp_path / "compiled", steps=5, **settings), processes=2)
    for step, loss in losses(tmp_path / "plain").items():
        assert losses(tmp_path / "compiled")[step] == pytest.approx(loss, rel=1e-3)
    one, two = (gather_weights(newest_checkpoint(tmp_path / name)) for name in ("plain", "compiled"))
    assert one.keys() == two.keys()


def test_blocks_are_not_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        compile_blocks(new_transformer(1, 1, 64, seed=0))


ENDS_ALONE = """
import sys
from pathlib import Path
from viewpoint_core.train import main
code = main(sys.argv[1:])
names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
sys.exit(code or ", ".join(name for name in names if "gloo" in name) or 0)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed in /proc")
def test_no_thread_of_a_process_group_outlives_training(paths: dict[str, Path], tmp_path: Path) -> None:
    """One that is busy when Python ends aborts the process: "terminate called without an active exception"."""
    script = tmp_path / "script.py"
    script.write_text(ENDS_ALONE)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(flags_of(paths, tmp_path / "run", steps=1, batch_size=1), processes=2, script=script)
    assert main(flags_of(paths, tmp_path / "run", steps=2, batch_size=2)) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_tiny_models_script_trains_in_two_processes(paths: dict[str, Path], tmp_path: Path) -> None:
    call_together(main, 2, *flags_of(paths, tmp_path / "run", steps=3))
    facts = json.loads((newest_checkpoint(tmp_path / "run") / "state.json").read_text())
    assert (facts["step"], facts["samples"], facts["joint_batch"]) == (3, 6, 2)
    with pytest.raises(StepError, match="train ended with status"):
        call_together(main, 2, *flags_of(paths, tmp_path / "run", faces="X"))


SMALL_FILES = """
import sys
from viewpoint_core.train import main
from viewpoint_core.training import state
state.FILE_BYTES = 1 << 20
sys.exit(main(sys.argv[1:]))
"""


def test_sharded_over_two_processes_it_saves_resumes_and_gathers_the_same_weights(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    """The sharded checkpoints in many small files from each process, the others in one from each."""
    script = tmp_path / "script.py"
    script.write_text(SMALL_FILES)
    settings = {"batch_size": 1, "ema": 0.9, "sharding": "fsdp2", "heldout_every": 1, "accumulation": 2}
    settings["keep_every"] = 4
    run(flags_of(paths, tmp_path / "plain", steps=4, **{**settings, "sharding": "none"}), processes=2)
    run(flags_of(paths, tmp_path / "sharded", steps=2, **settings), processes=2, script=script)
    assert len(list(newest_checkpoint(tmp_path / "plain").glob("*.safetensors"))) == 2
    assert len(list(newest_checkpoint(tmp_path / "sharded").glob("*.safetensors"))) > 8
    assert "step 2" in run(flags_of(paths, tmp_path / "sharded", steps=4, **settings), processes=2, script=script)
    for step, loss in losses(tmp_path / "plain").items():
        assert losses(tmp_path / "sharded")[step] == pytest.approx(loss, rel=1e-4)
    for average in (False, True):
        plain, sharded = (
            gather_weights(newest_checkpoint(tmp_path / name), average=average) for name in ("plain", "sharded")
        )
        assert plain.keys() == sharded.keys()
        for name, weight in plain.items():
            torch.testing.assert_close(sharded[name], weight, rtol=0, atol=2e-4)
        kept = tmp_path / "sharded" / "weights" / "step_00000004"
        assert_same_weights(kept, newest_checkpoint(tmp_path / "sharded"), average=average)


def test_a_lora_run_trains_saves_resumes_and_exports(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = tmp_path / "stock.safetensors"
    weights = load_file(paths["model"])
    weights["patch_embedding.weight"] = weights["patch_embedding.weight"][:, :16].contiguous()
    save_file(weights, stock)
    settings = {"mode": "lora", "lora_rank": 4, "lora_alpha": 8, "model": stock}
    assert main(flags_of(paths, tmp_path / "run", **settings, steps=2)) == 0
    assert main(flags_of(paths, tmp_path / "run", **settings, steps=4)) == 0
    assert main(flags_of(paths, tmp_path / "whole", **settings, steps=4)) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    target = tmp_path / "lora.safetensors"
    command = [sys.executable, "-m", "viewpoint_core.export", "lora", str(tmp_path / "run"), str(target)]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    lora = load_file(target)
    assert lora["diffusion_model.patch_embedding.reshape_weight"].tolist() == [128, 33, 1, 2, 2]
    assert float(lora["diffusion_model.patch_embedding.lora_up.weight"][:, 64:].abs().max()) > 0
    assert main(flags_of(paths, tmp_path / "on", **settings, steps=1, lora=target)) == 0
    assert losses(tmp_path / "on")[1] != losses(tmp_path / "whole")[1]
    other = (
        ({"schedule": "pano"}, "the LoRA was trained with the Perspective blocks 1"),
        ({"model": paths["model"]}, "the LoRA was trained on a model of 16 channels"),
    )
    for changes, words in other:
        for dry in ([], ["--dry-run"]):
            assert main([*flags_of(paths, tmp_path / "other", **{**settings, **changes}, lora=target), *dry]) == 2
            assert words in capsys.readouterr().err
    target.write_bytes(target.read_bytes()[:-8])
    for dry in ([], ["--dry-run"]):
        assert main([*flags_of(paths, tmp_path / "cut", **settings, lora=target), *dry]) == 2
        assert "lora.safetensors is cut short" in capsys.readouterr().err
    save_file({name: weight + 1 for name, weight in weights.items()}, stock)
    assert main(flags_of(paths, tmp_path / "run", **settings, steps=5)) == 2
    assert "was trained with base " in capsys.readouterr().err


def test_a_file_ends_a_run_with_a_checkpoint_and_is_taken_away(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags_of(paths, tmp_path / "run", steps=1)) == 0
    (tmp_path / "run" / "stop").touch()
    assert main(flags_of(paths, tmp_path / "run", steps=3)) == 130
    assert "stopped at step 1 of 3" in capsys.readouterr().err
    assert main(flags_of(paths, tmp_path / "run", steps=2)) == 0


def test_a_file_that_would_end_a_run_in_its_last_step_is_taken_away(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run" / "stop"
    monkeypatch.setattr(train, "save", lambda run: (file.touch(), save(run)))
    assert main(flags_of(paths, tmp_path / "run", steps=1)) == 0
    assert not file.exists()


def test_full_memory_is_said_with_what_takes_less(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    monkeypatch.setattr("viewpoint_core.train.losses_of", fill)
    assert main(flags_of(paths, tmp_path / "run", steps=1)) == 2
    said = capsys.readouterr().err
    assert "gradient_checkpointing" in said
    assert said.rstrip().endswith("Tried to allocate 2.00 GiB)")


def test_the_log_has_the_gradients_norm_since_the_last_line(paths: dict[str, Path], tmp_path: Path) -> None:
    assert main(flags_of(paths, tmp_path / "run", steps=4, log_every=2, heldout_every=0)) == 0
    for line in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines()):
        assert 0 < line["gradient_norm"] <= line["largest_gradient_norm"] < float("inf")


def test_clips_that_break_between_two_starts_are_seen(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(paths["cache"], cache)
    assert main(flags_of(paths | {"cache": cache}, tmp_path / "run", steps=1)) == 0
    (cache / "clips" / f"{CachedClips(cache).rows[0]['key']}.problem").touch()
    assert main(flags_of(paths | {"cache": cache}, tmp_path / "run", steps=2)) == 0
    assert "clips changed: the data goes on after" in capsys.readouterr().out


def test_another_batch_size_goes_on_after_as_many_samples(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags_of(paths, tmp_path / "run", steps=4)) == 0
    assert main(flags_of(paths, tmp_path / "run", steps=6, batch_size=2)) == 0
    assert "joint_batch changed: the data goes on after 4 samples" in capsys.readouterr().out
    facts = json.loads((newest_checkpoint(tmp_path / "run") / "state.json").read_text())
    assert (facts["step"], facts["samples"]) == (6, 8)


def test_another_accumulation_begins_with_the_first_batch_of_a_step(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else noise levels would not be stratified over a step from then on."""
    firsts, batches = [], train.batches
    monkeypatch.setattr(train, "batches", lambda *a, **k: (firsts.append(a[3]), batches(*a, **k))[1])
    for steps, accumulation in ((1, 3), (2, 2), (3, 2)):
        assert main(flags_of(paths, tmp_path / "run", steps=steps, accumulation=accumulation)) == 0
    assert firsts == [0, 4, 6]


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_resumes_and_exports_as_one_process_does(
    paths: dict[str, Path], tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    run(flags_of(paths, tmp_path / "plain", steps=4))
    monkeypatch.setattr(training_runs, "USE_CPU", {})
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for steps in (2, 4):
        run(flags_of(paths, tmp_path / "run", steps=steps), launched=True)
    assert (newest_checkpoint(tmp_path / "run") / "deepspeed").is_dir()
    for step, loss in losses(tmp_path / "plain").items():
        assert losses(tmp_path / "run")[step] == pytest.approx(loss, rel=1e-4)
    plain, other = (gather_weights(newest_checkpoint(tmp_path / name)) for name in ("plain", "run"))
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=2e-4)


def test_it_shows_held_out_losses_and_sample_panoramas(paths: dict[str, Path], tmp_path: Path) -> None:
    settings = {"steps": 2, "heldout_every": 1, "sample_every": 2, "sample_steps": 2, "sample_cfg": 2}
    assert main(flags_of(paths, tmp_path / "run", **settings)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    heldout = [line for line in lines if any(name.startswith("heldout/") for name in line)]
    assert [line["step"] for line in heldout] == [1, 2]
    assert len(heldout[0]) == 5
    assert heldout[0] != {**heldout[1], "step": 1}
    sizes = {}
    for kind in ("map", "erp", "faces"):
        with av.open(str(tmp_path / "run" / "samples" / f"step_00000002_0_{kind}.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        sizes[kind] = (len(frames), *frames[0].shape[:2])
        assert np.std(frames) > 2
    assert sizes == {"map": (5, MAP, MAP), "erp": (5, 48, 96), "faces": (5, 32, 48)}
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("save_every", [1, 100])
def test_what_was_learnt_is_kept_where_watching_fails(
    paths: dict[str, Path], tmp_path: Path, save_every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The samples' folder cannot be made; the same command then goes on behind the samples that failed."""
    flags = flags_of(paths, tmp_path / "run", steps=2, sample_every=2, sample_steps=1, save_every=save_every)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").write_text("in the way")
    assert main(flags) == 2
    assert "samples" in capsys.readouterr().err
    assert newest_checkpoint(tmp_path / "run").name == "step_00000002"
    assert main(flags) == 0


def test_weights_kept_for_good_are_those_of_their_step_without_the_optimiser_and_export(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert main(flags_of(paths, output, steps=4, ema=0.9, save_every=2, keep=2, keep_every=2)) == 0
    assert main(flags_of(paths, output, steps=8, ema=0.9, save_every=2, keep=1, keep_every=3)) == 0
    kept = sorted((output / "weights").iterdir())
    assert [folder.name for folder in kept] == ["step_00000002", "step_00000004", "step_00000006"]
    assert [folder.name for folder in checkpoints(output)] == ["step_00000008"]
    again = tmp_path / "again"
    assert main(flags_of(paths, again, steps=2, ema=0.9, save_every=2)) == 0
    for average in (False, True):
        assert_same_weights(kept[0], newest_checkpoint(again), average=average)
    assert not stored_tensors(kept[0], OPTIMIZER)
    for source, name in ((kept[0], "kept"), (again, "again")):
        assert export(["checkpoint", str(source), str(tmp_path / f"{name}.safetensors"), "--ema"]) == 0
    assert (tmp_path / "kept.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_weights_to_keep_that_were_not_written_are_so_when_the_run_goes_on(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Run) -> None:
        raise OSError("the disk is full")

    flags = flags_of(paths, tmp_path / "run", steps=4, save_every=2, keep_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(train, "keep_weights", fail)
        assert main(flags) == 2
    assert main(flags) == 0
    kept = sorted((tmp_path / "run" / "weights").iterdir())
    assert [folder.name for folder in kept] == ["step_00000002", "step_00000004"]


def test_it_says_what_it_trains_on_and_which_epoch_it_is_in(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three clips and an image one is broken."""
    shutil.copytree(paths["cache"], tmp_path / "cache")
    broken = CachedClips(tmp_path / "cache").rows[0]["key"]
    (tmp_path / "cache" / "clips" / f"{broken}.problem").write_text("it ends early")
    assert main(flags_of({**paths, "cache": tmp_path / "cache"}, tmp_path / "run", steps=6)) == 0
    assert "3 training clips, 1 held out, 1 broken (left out; why:" in (said := capsys.readouterr().out)
    assert "6 steps are 2 epochs" in said
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0.333, 0.667, 1, 1.333, 1.667, 2]


def test_the_logged_speed_is_that_of_all_steps_since_the_last_line(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two steps the first waits for a second, as a slow disk would make it."""
    seconds: list[float] = []

    def slow_first(run: Run, parts: list[tuple[Batch, Draws]]) -> float:
        begin = time.monotonic()
        time.sleep(1 - run.step % 2)
        loss = train_step(run, parts)
        seconds.append(time.monotonic() - begin)
        return loss

    monkeypatch.setattr(train, "train_step", slow_first)
    assert main(flags_of(paths, tmp_path / "run", steps=4, log_every=2, save_every=100)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for line, begin in zip(lines, (0, 2), strict=True):
        assert line["steps_per_second"] <= 2 / sum(seconds[begin : begin + 2])


def damage_clips(cache: Path) -> None:
    """Put infinity into every training latent."""
    for file in (cache / "clips").glob("*.safetensors"):
        with file.open("r+b") as stream:
            stream.seek(-64, 2)
            stream.write(np.full(16, np.inf, np.float32).tobytes())


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {**paths, "cache": tmp_path / "cache"}
    shutil.copytree(paths["cache"], broken["cache"])
    assert main(flags_of(broken, tmp_path / "run", steps=2)) == 0
    before = {file: file.read_bytes() for file in newest_checkpoint(tmp_path / "run").iterdir()}
    damage_clips(broken["cache"])
    assert main(flags_of(broken, tmp_path / "run", steps=4)) == 3
    said = capsys.readouterr().err
    assert "the loss is nan at step 2; this process's own is nan, of the clips" in said
    assert any(file.stem in said for file in (broken["cache"] / "clips").glob("*.safetensors"))
    assert newest_checkpoint(tmp_path / "run").name == "step_00000002"
    assert all(file.read_bytes() == content for file, content in before.items())


def test_bad_input_is_refused_before_anything_is_trained(
    paths: dict[str, Path], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_vae = tmp_path / "vae.safetensors"
    weights = load_file(paths["vae"])
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, other_vae)
    manifest = paths["cache"].parent / "manifest.jsonl"
    other_cache = encode_cache({"manifest": manifest, "vae": other_vae}, tmp_path / "other")
    cases = [
        ({"vae": other_vae}, ["asked for", "cache"]),
        ({"schedule": "perspective"}, ["Perspective blocks"]),
        ({"seed": 5, "ema": 0.9, "output": whole}, ["seed"]),
        ({"ema": 0, "output": whole}, ["with ema True, this run has False"]),
        ({"vae": other_vae, "cache": other_cache, "ema": 0.9, "output": whole}, ["was trained with vae"]),
        ({"lerning_rate": 1}, ["did you mean"]),
        ({"cache": tmp_path}, ["is not a cache"]),
        ({"model": paths["vae"]}, ["Wan2.1"]),
        ({"sharding": "fsdp2"}, ["one process"]),
        ({"vae": paths["model"]}, ["another vae"]),
        ({"layout": "erp", "schedule": "pano"}, ["another projection"]),
    ]
    if find_spec("bitsandbytes") is None:
        cases.append(({"optimizer": "adamw8bit"}, ["needs bitsandbytes"]))
    for settings, words in cases:
        output = settings.pop("output", tmp_path / "run")
        for dry in ([], ["--dry-run"]):
            assert main([*flags_of(paths, output, **settings), *dry]) == 2, (settings, dry)
            said = capsys.readouterr().err
            assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_dry_run_says_what_would_train(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags_of(paths, tmp_path / "run"), "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parameters"] == said["trained"] == sum(w.numel() for w in load_file(paths["model"]).values())
    assert said["perspective blocks"] == "1,3"
    assert said["tokens"] == 32
    assert said["epochs"] == pytest.approx(6 / 4)
    checkpoint = said["GB on disk"]["a checkpoint"]
    assert checkpoint == pytest.approx(3 * 4 * said["parameters"] / 1e9, rel=0.01)
    assert said["GB on disk"]["in all"] == pytest.approx(4 * checkpoint, rel=0.01)
    assert main([*flags_of(paths, tmp_path / "run", mode="lora", lora_rank=4), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["trained"] < said["trained"]
    sharded = [*flags_of(paths, tmp_path / "run", sharding="fsdp2"), "--dry-run", "4"]
    assert main(sharded) == 0
    of_four = json.loads(capsys.readouterr().out)
    assert (said["processes"], of_four["processes"]) == (1, 4)
    assert of_four["epochs"] == pytest.approx(6 / 2), "a batch of the clips and one of the image"
    memory = "GiB a process, without the VAE"
    assert of_four[memory]["optimiser"] == pytest.approx(said[memory]["optimiser"] / 4, abs=0.01)
    assert main([*sharded[:-1], "-1"]) == 2
    assert "--dry-run is -1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
