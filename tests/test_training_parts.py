"""Parts of the trainer: settings, averages, checkpoints, the memory estimate."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from viewpoint_core.training import state
from viewpoint_core.training.config import FIELDS, PRESETS, TrainingConfig, add_flags, read_config, read_file
from viewpoint_core.training.ema import averaged_weights, start_ema, update_ema
from viewpoint_core.training.loop import Batch, draw
from viewpoint_core.training.lora import add_lora
from viewpoint_core.training.memory import ModelSize, disk_space, step_memory
from viewpoint_core.training.stopping import stopped_by_signals
from viewpoint_core.training.wan import set_perspective

PATHS = {"model": "m", "vae": "v", "cache": "c", "output": "o"}
REPO = Path(__file__).parents[1]


def parse(*flags: str) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--preset")
    add_flags(parser)
    paths = [part for name, value in PATHS.items() for part in (f"--{name}", value)]
    return read_config(parser.parse_args([*paths, *flags]))


# Processes


WAITING_THREAD = """
import sys, time
from pathlib import Path
import torch
from viewpoint_core.training.parallel import end_processes
torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
sys.setswitchinterval(1000)  # this thread keeps Python's lock for as long as it does not wait
tensor = torch.ones(1000000)
work = torch.distributed.broadcast(tensor, 0, async_op=True)
del tensor, work  # the group's thread is the last that holds them, and needs the lock to let them go
end = time.perf_counter() + 0.2
while time.perf_counter() < end:
    pass
del model
end_processes()
names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
sys.exit(", ".join(name for name in names if "gloo" in name) or 0)
"""


def test_processes_end_while_a_thread_of_their_group_waits_for_pythons_lock() -> None:
    """Left to DDP's reducer this hangs; left to Python's end it aborts now and then."""
    command = [sys.executable, "-c", WAITING_THREAD]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


# Settings


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("lr: 3e-6\nsteps: 12\n")
    config = parse("--preset", "calm", "--config", str(tmp_path / "run.yaml"), "--steps", "13")
    assert (config.steps, config.lr, config.ema) == (13, 3e-6, 0.999)


@pytest.mark.parametrize("name", ["paper", "calm", "lora_24gb", "14b_sharded", "tiny", "tiny_viewpoint"])
def test_every_preset_is_a_run(name: str) -> None:
    assert parse("--preset", name).output == "o"


def test_the_papers_preset_is_the_papers() -> None:
    config = parse("--preset", "paper")
    assert (config.mode, config.lr, config.batch_size, config.schedule) == ("full", 1e-4, 1, "alternating")


@pytest.mark.parametrize("name", ["paper", "calm", "lora_24gb", "14b_sharded"])
def test_where_the_model_computes_in_bf16_the_vae_does(name: str) -> None:
    config = parse("--preset", name)
    assert (config.precision, config.vae_dtype) == ("bf16", "bf16")


def test_every_preset_file_is_listed_above() -> None:
    assert {file.stem for file in PRESETS.glob("*.yaml")} == {
        "paper",
        "calm",
        "lora_24gb",
        "14b_sharded",
        "tiny",
        "tiny_viewpoint",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate: 1", "did you mean"),
        ("warm_up: 3", "did you mean warmup?"),
        ("steps: many", "steps is 'many'; expected int"),
        ("steps: true", "steps is True; expected int"),
        ("ema: [1]", "ema is [1]"),
        ("mode: half", "expected one of full, lora"),
        ("gradient_checkpointing: 3", "expected bool"),
        ("- a", "expected 'key: value' lines"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_in_plain_words(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="run.yaml|expected") as caught:
        read_file(file)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", ""], "model is missing"),
        (["--steps", "0"], "steps is 0"),
        (["--caption-dropout", "2"], "caption_dropout is 2.0"),
        (["--ema", "1"], "ema is 1.0"),
        (["--beta1", "2"], "beta1 is 2.0; expected a decay in"),
        (["--beta2", "-0.1"], "beta2 is -0.1"),
        (["--heldout-levels", "200"], "heldout_levels is 200; expected fewer"),
        (["--base-dtype", "bf16"], "full mode"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--faces", "FX"], "faces is 'FX'"),
        (["--lr", "nan"], "lr is nan"),
        (["--lora-alpha", "0"], "lora_alpha is 0.0"),
        (["--warmup", "-1"], "warmup is -1"),
        (["--keep-every", "-1"], "keep_every is -1"),
        (["--image-share", "1"], "image_share is 1.0; expected a part in"),
        (["--image-share", "-0.5"], "image_share is -0.5"),
        (["--sample-steps", "0"], "sample_steps is 0"),
        (["--mode", "lora", "--base-dtype", "bf16", "--precision", "fp32"], "needs precision bf16"),
        (["--optimizer", "adamw8bit", "--sharding", "fsdp2"], "adamw8bit does not shard"),
        (["--optimizer", "muon", "--sharding", "fsdp2"], "muon does not shard"),
        (["--compile", "true", "--sharding", "fsdp2"], "compile was not tried on sharded weights"),
        (["--compile", "true"], "compiled blocks do not go with gradient_checkpointing"),
        (["--lora", "x.safetensors"], "the mode is full"),
    ],
)
def test_settings_that_make_no_training_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        parse(*flags)


def test_every_key_says_what_it_is() -> None:
    assert all(len(item.metadata["help"]) > 10 for item in FIELDS.values())


# Averages


def test_the_average_follows_its_recurrence_and_steps_aside() -> None:
    model = nn.Linear(2, 2)
    average, expected = start_ema(model), model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight += 1
        update_ema(average, model, 0.3, step)
        decay = min(0.3, (1 + step) / (10 + step))  # from the third step on 0.3
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average["weight"], expected)
    before = model.weight.detach().clone()
    with averaged_weights(model, average):
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, before)
    torch.testing.assert_close(average["weight"], expected)
    assert start_ema(nn.ModuleDict({"module": model})).keys() == average.keys(), "also of a wrapped model"


# Signals


def test_a_signal_that_is_passed_on_at_once_counts_once() -> None:
    with stopped_by_signals() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked


ASKED_AGAIN = """
import signal
from viewpoint_core.training.stopping import ONCE, stopped_by_signals
with stopped_by_signals() as stop:
    signal.raise_signal(signal.SIGTERM)
    stop.at -= 2 * ONCE
    signal.raise_signal(signal.SIGTERM)
print("still here")
"""


def test_a_signal_that_comes_again_later_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED_AGAIN], cwd=REPO, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


# Checkpoints


def trained(seed: int = 0, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer, start_ema(model)


def save(output: Path, step: int, parts: tuple, keep: int = 2) -> Path:
    tensors, _ = state.collect_tensors(*parts)
    return state.save_state(output, partial(state.write_tensors, tensors), {"mode": "full"}, step=step, keep=keep)


@pytest.mark.parametrize("file_bytes", [40, 1 << 30])
def test_a_loaded_checkpoint_is_what_was_saved_and_trains_on_alike(
    tmp_path: Path, file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one file, as all were once, or of many."""
    monkeypatch.setattr(state, "FILE_BYTES", file_bytes)
    parts, others = trained(), trained(seed=1, steps=1)
    folder = save(tmp_path, 2, parts)
    assert (len(list(folder.glob("*.safetensors"))) == 1) == (file_bytes > 1 << 20)
    state.load_state(folder, *others)
    batch = torch.randn(4, 3)
    for model, optimizer, average in (parts, others):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        update_ema(average, model, 0.9, 3)
    for one, other in zip(parts[0].parameters(), others[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(parts[2][name], others[2][name]) for name in parts[2])
    weights = state.gather_weights(folder)
    assert set(weights) == set(parts[0].state_dict())
    assert set(state.gather_weights(folder, average=True)) == set(weights)


def resident_bytes(which: str) -> int:
    """What /proc says of this process's memory: VmRSS, or VmHWM for the most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(which))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="the peak of memory is reset in /proc")
def test_writing_holds_a_file_in_memory_not_all_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FILE_BYTES", 4 << 20)
    tensors = {f"model.{i}": torch.full((1 << 20,), float(i)) for i in range(20)}
    state.write_tensors({"model.small": torch.zeros(1)}, tmp_path / "first")  # what it imports takes memory too
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    state.write_tensors(tensors, tmp_path / "all")
    assert resident_bytes("VmHWM") - before < 0.5 * sum(tensor.nbytes for tensor in tensors.values())
    assert len(list((tmp_path / "all").glob("*.safetensors"))) == 20
    again = state.gather_weights(tmp_path / "all")
    assert all(torch.equal(again[name.removeprefix("model.")], tensor) for name, tensor in tensors.items())


def test_a_tensor_larger_than_a_file_gets_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FILE_BYTES", 40)
    sizes = {"a": 5, "b": 5, "c": 1, "d": 30, "e": 1, "f": 1}
    numbers = state.file_numbers({name: torch.zeros(size) for name, size in sizes.items()})
    assert numbers == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 4, "f": 4}
    assert state.file_numbers({"d": torch.zeros(30), "e": torch.zeros(1)}) == {"d": 1, "e": 2}


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    parts = trained()
    for step in (1, 2, 3):
        save(tmp_path, step, parts)
    assert [folder.name for folder in state.checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert state.newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step_00000003"


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 2, trained())
    parts = trained(seed=1)
    folder = save(tmp_path, 2, parts)
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    assert torch.equal(state.gather_weights(folder)["0.weight"], parts[0].state_dict()["0.weight"])


def test_a_checkpoint_whose_removal_was_cut_short_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = trained()
    save(tmp_path, 1, parts, keep=1)

    def cut_short(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (folder / "state.json").unlink()
            raise SystemExit("the process ends here")

    with monkeypatch.context() as patch:
        patch.setattr(state.shutil, "rmtree", cut_short)
        with pytest.raises(SystemExit, match="ends here"):
            save(tmp_path, 2, parts, keep=1)
    save(tmp_path, 3, parts, keep=1)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


WRITE_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.test_training_parts import save, trained

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output, parts = Path(sys.argv[1]), trained()
save(output, 1, parts)
(output / "checkpoints" / ".step_00000009.partial").mkdir()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
save(output, 2, parts)
"""


@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_a_disk_that_is_full_leaves_the_last_good_checkpoint(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(tmp_path), str(limit)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=100)
    assert "OSError" in result.stderr.splitlines()[-1], result.stderr
    assert "File too large" in result.stderr
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert state.gather_weights(state.newest_checkpoint(tmp_path)).keys() == trained()[0].state_dict().keys()


class Windows:
    """The module os, where it opens no folders, and flushes no file that is open for reading alone."""

    name = "nt"

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags)

    def fsync(self, file: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        os.fsync(file)


def test_a_checkpoint_is_saved_by_the_rules_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "os", Windows())
    assert state.gather_weights(save(tmp_path, 3, trained())).keys() == trained()[0].state_dict().keys()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 7, trained())
    assert state.check_facts(folder, {"mode": "full"})["step"] == 7
    assert state.check_facts(folder, {"mode": "full", "said since a later version": 1})["step"] == 7
    with pytest.raises(ValueError, match="mode 'full', this run has 'lora'"):
        state.check_facts(folder, {"mode": "lora"})


def test_a_run_without_average_has_none_to_export(tmp_path: Path) -> None:
    model, optimizer, _ = trained()
    folder = save(tmp_path, 1, (model, optimizer, None))
    with pytest.raises(ValueError, match="no average"):
        state.gather_weights(folder, average=True)
    assert json.loads((folder / "state.json").read_text())["step"] == 1


# What is drawn


def test_noise_levels_are_spread_over_all_batches_of_an_optimiser_step() -> None:
    config = parse("--accumulation", "4", "--batch-size", "2", "--sigmas", "uniform", "--shift", "1")
    for step in range(3):
        joint = []
        for part in range(4):
            for rank in range(3):
                batch = Batch(torch.zeros(2, 1), None, torch.zeros(2, 1, 1), ["a", "b"], 4 * step + part, 2 * rank, 64)
                joint += draw(batch, config, 3).sigma.tolist()
        assert sorted(int(24 * sigma) for sigma in joint) == list(range(24))


# The estimate


def test_the_papers_run_needs_about_30_gib_and_lora_fits_24() -> None:
    size = {"dim": 1536, "ffn_dim": 8960, "blocks": 30, "tokens": 27_508}
    whole = step_memory(
        ModelSize(1_419_000_000, 1_419_000_000, **size),
        batch=1, base_bytes=4, optimizer_bytes=8, ema=False, autocast=True, checkpointing=True,
    )  # fmt: skip
    assert whole["weights"] + whole["gradients"] + whole["optimiser"] == pytest.approx(21, abs=0.3)
    assert 26 < whole["in all"] < 34
    lora = step_memory(
        ModelSize(1_419_000_000, 90_000_000, **size),
        batch=1, base_bytes=2, optimizer_bytes=8, ema=False, autocast=True, checkpointing=True,
    )  # fmt: skip
    assert lora["in all"] < 16


def saved_bytes(model: nn.Module, frames: int, autocast: bool) -> int:
    """Bytes that a model's forward pass of maps of 8 x 8 tokens saves for its backward pass, weights not counted."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model(torch.randn(1, 33, frames, 16, 16), torch.tensor([500.0]), torch.randn(1, 8, 4096))
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if t.data_ptr() not in weights
    }
    return sum(storages.values())


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_activations_take_what_is_foretold(mode: str, autocast: bool) -> None:
    save, ffn_dim = [], 1024
    for blocks in (1, 3):
        model = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=128, ffn_dim=ffn_dim, num_layers=blocks, in_channels=33,
            out_channels=16,
        )  # fmt: skip
        set_perspective(model, "alternating")
        if mode == "lora":
            add_lora(model, 4)
        save.append(saved_bytes(model, 4, autocast) - saved_bytes(model, 2, autocast))
    trained = 2 if mode == "full" else 1
    foretold = [
        step_memory(
            ModelSize(2, trained, 256, ffn_dim, blocks, 2 * 64), batch=1, base_bytes=4, optimizer_bytes=8, ema=False,
            autocast=autocast, checkpointing=False,
        )["activations"] * 2**30
        for blocks in (1, 3)
    ]  # fmt: skip
    assert foretold[1] - foretold[0] == pytest.approx(save[1] - save[0], rel=0.08)
    assert foretold[1] == pytest.approx(save[1], rel=0.1)


def test_a_checkpoint_takes_the_space_that_is_foretold(tmp_path: Path) -> None:
    model, optimizer, average = trained()
    foretold = disk_space(
        sum(weight.numel() for weight in model.parameters()), optimizer_bytes=8, ema=True, keep=3, kept=5
    )
    stored = state.stored_tensors(save(tmp_path, 1, (model, optimizer, average)), "")
    sizes = {name: 4 * entry.size.numel() for name, entry in stored.items() if not name.endswith(".step")}
    assert foretold["a checkpoint"] * 1e9 == pytest.approx(sum(sizes.values()))
    learnt = sum(size for name, size in sizes.items() if not name.startswith(state.OPTIMIZER))
    assert foretold["trained weights alone"] * 1e9 == pytest.approx(learnt)
    assert foretold["in all"] == pytest.approx(4 * foretold["a checkpoint"] + 5 * foretold["trained weights alone"])


def test_checkpoints_of_the_presets_take_17_23_and_1_gb() -> None:
    full, lora = 1_419_000_000, 90_000_000
    sizes = [disk_space(n, optimizer_bytes=8, ema=ema, keep=3, kept=0) for n, ema in ((full, False), (full, True))]
    assert [round(size["a checkpoint"]) for size in sizes] == [17, 23]
    assert round(disk_space(lora, optimizer_bytes=8, ema=False, keep=3, kept=0)["a checkpoint"]) == 1
