"""Inflation of Wan2.1 checkpoints, on tiny models in every format that stock checkpoints come in."""

import json
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.checkpoints import (
    BLOCKS,
    LAYOUTS,
    SHAPES,
    diffusers_key,
    inflate,
    same_bits,
    stock,
    write_header,
    write_index,
    write_single,
)
from viewpoint_core.checkpoint import (
    PATCH_EMBEDDING,
    inflate_checkpoint,
    original_key,
    read_checkpoint,
    schedule_from_metadata,
)
from viewpoint_core.inflate import main
from viewpoint_core.safetensors_file import CHUNK, stored_chunks
from viewpoint_core.wan_attention import perspective_blocks

REPO = Path(__file__).parents[1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


# What is written


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_columns_are_zero_and_every_old_weight_keeps_its_bits(
    tmp_path: Path, layout: str, dtype: torch.dtype
) -> None:
    weights = stock(dtype)
    (tmp_path / "in").mkdir()
    out = inflate(LAYOUTS[layout](tmp_path / "in", weights), tmp_path / "out.safetensors")
    patch = out.pop(PATCH_EMBEDDING)
    expected = weights.pop(PATCH_EMBEDDING)
    assert patch.shape == (64, 33, 1, 2, 2)
    assert same_bits(patch[:, :16], expected)
    assert same_bits(patch[:, 16:], torch.zeros(64, 17, 1, 2, 2).to(dtype))
    assert out.keys() == weights.keys()
    assert [name for name in out if not same_bits(out[name], weights[name])] == []


def test_every_diffusers_name_becomes_the_original_and_originals_stay() -> None:
    assert [key for key in SHAPES if original_key(diffusers_key(key)) != key] == []
    assert [key for key in SHAPES if original_key(key) != key] == []
    assert len({diffusers_key(key) for key in SHAPES}) == len(SHAPES)
    assert sum(diffusers_key(key) != key for key in SHAPES) == len(SHAPES) - 2  # all but the patch embedding


def test_tensors_of_other_dtypes_scalars_and_empty_ones_pass_through(tmp_path: Path) -> None:
    extra = {
        "scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn),
        "blocks.0.self_attn.q.scale_weight": torch.tensor(0.5),
        "flags": torch.tensor([True, False]),
        "steps": torch.tensor([1, -1]),
    }
    out = inflate(write_single(tmp_path, stock(torch.float8_e4m3fn) | extra), tmp_path / "out.safetensors")
    assert [name for name, tensor in extra.items() if not same_bits(out[name], tensor)] == []


def test_a_wider_latent_gives_2_c_plus_1_channels(tmp_path: Path) -> None:
    weights = stock() | {PATCH_EMBEDDING: torch.ones(64, 48, 1, 2, 2), "head.head.weight": torch.ones(192, 64)}
    out = inflate(write_single(tmp_path, weights), tmp_path / "out.safetensors")
    assert out[PATCH_EMBEDDING].shape[1] == 97


@pytest.mark.parametrize(
    ("schedule", "blocks"), [("alternating", "1"), ("pano", "pano"), ("perspective", "0,1,2"), ("0-1", "0,1")]
)
@pytest.mark.parametrize("layout", ["single file", "folder of shards"])
def test_metadata_says_what_the_model_is_and_keeps_what_was_there(
    tmp_path: Path, layout: str, schedule: str, blocks: str
) -> None:
    inflate(LAYOUTS[layout](tmp_path, stock()), tmp_path / "out.safetensors", schedule=schedule)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "author": "nobody",
        "viewpoint.version": "1",
        "viewpoint.in_dim": "33",
        "viewpoint.perspective_blocks": blocks,
    }
    assert perspective_blocks(schedule_from_metadata(metadata), BLOCKS) == perspective_blocks(schedule, BLOCKS)


def test_what_any_shard_says_is_kept(tmp_path: Path) -> None:
    for number, (name, weight) in enumerate(list(stock().items())[:2], start=1):
        file = tmp_path / f"model-{number:05}-of-00002.safetensors"
        save_file({name: weight}, file, metadata={f"of shard {number}": "yes"})
    assert read_checkpoint(tmp_path)[1] == {"of shard 1": "yes", "of shard 2": "yes"}


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_checkpoint_that_says_no_schedule_has_none(metadata: dict[str, str] | None) -> None:
    assert schedule_from_metadata(metadata) is None


# Streaming


@pytest.mark.parametrize("chunk", [1, 7, 64, 10**6])
def test_a_tensor_is_read_in_order_in_chunks_of_bounded_size(tmp_path: Path, chunk: int) -> None:
    source = write_single(tmp_path, {"a": torch.arange(5.0), "b": torch.arange(30.0)})
    chunks = list(stored_chunks(read_checkpoint(source)[0]["b"], chunk))
    assert max(map(len, chunks)) <= chunk
    assert b"".join(chunks) == torch.arange(30.0).numpy().tobytes()


def test_memory_stays_bounded_however_large_the_checkpoint(tmp_path: Path) -> None:
    large = 8 * CHUNK
    source = write_single(tmp_path, stock())
    header = json.loads(source.read_bytes()[8 : 8 + struct.unpack("<Q", source.read_bytes()[:8])[0]])
    data = source.read_bytes()[-max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_") :]
    header["large"] = {"dtype": "U8", "shape": [large], "data_offsets": [len(data), len(data) + large]}
    write_header(source, header, data)
    os.truncate(source, source.stat().st_size + large)  # a hole: zeros that take no space
    tracemalloc.start()
    for _ in inflate_checkpoint(source, tmp_path / "out.safetensors"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out.safetensors").stat().st_size > large
    assert peak < large / 3


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    written = list(inflate_checkpoint(write_single(tmp_path, stock()), tmp_path / "out.safetensors"))
    assert written == sorted(set(written))
    assert written[-1] == (tmp_path / "out.safetensors").stat().st_size


# Whole or not at all


@pytest.mark.parametrize("existing", [False, True])
def test_a_source_that_breaks_off_while_it_is_read_changes_nothing(tmp_path: Path, existing: bool) -> None:
    source, target = write_single(tmp_path, stock()), tmp_path / "out.safetensors"
    if existing:
        target.write_bytes(b"before")
    progress = inflate_checkpoint(source, target, force=True)
    next(progress)
    assert len(list(tmp_path.iterdir())) == 2 + existing  # the partial file is there
    os.truncate(source, source.stat().st_size // 2)
    with pytest.raises(ValueError, match="cut short"):
        list(progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors"] * existing + ["stock.safetensors"]
    assert not existing or target.read_bytes() == b"before"


def test_a_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    progress = inflate_checkpoint(write_single(tmp_path, stock()), tmp_path / "out.safetensors")
    next(progress)
    progress.close()
    assert [path.name for path in tmp_path.iterdir()] == ["stock.safetensors"]


def test_a_disk_that_takes_no_more_is_an_error_without_a_traceback_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock())
    done = subprocess.run(
        [sys.executable, "-m", "viewpoint_core.inflate", str(source), str(tmp_path / "out.safetensors")],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 2, done.stderr
    assert "inflate: [Errno" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["stock.safetensors"]


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    source, target = write_single(tmp_path, stock()), tmp_path / "out.safetensors"
    target.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"out\.safetensors exists; choose another name, or replace it with --force"):
        inflate(source, target)
    assert target.read_bytes() == b"before"
    assert inflate(source, target, force=True)[PATCH_EMBEDDING].shape[1] == 33


def test_a_checkpoint_can_replace_itself_with_force(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock())
    assert same_bits(inflate(source, source, force=True)["head.head.weight"], stock()["head.head.weight"])


# The command line


def test_the_command_line_writes_the_file_and_prints_its_path(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(write_index(tmp_path, stock())), str(tmp_path / "out.safetensors"), "--schedule", "0,2"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.safetensors'}\n"
    assert read_checkpoint(tmp_path / "out.safetensors")[1]["viewpoint.perspective_blocks"] == "0,2"
    assert main(arguments) == 2
    assert "inflate: " in (said := capsys.readouterr()).err
    assert "exists" in said.err
    assert said.out == ""
    assert main([*arguments, "--force"]) == 0
    assert main([*arguments[:2], "--force"]) == 0
    assert read_checkpoint(tmp_path / "out.safetensors")[1]["viewpoint.perspective_blocks"] == "1", "alternating"


@pytest.mark.parametrize(
    ("source", "target", "options", "words"),
    [
        ("absent.safetensors", "out.safetensors", [], "does not exist"),
        ("stock.safetensors", "out.ckpt", [], "expected a name that ends in .safetensors"),
        ("stock.safetensors", "absent/out.safetensors", [], "No such file"),
        ("stock.safetensors", "out.safetensors", ["--schedule", "odd"], "schedule is 'odd'"),
        ("stock.safetensors", "out.safetensors", ["--schedule", "2-3"], "blocks 0 to 2"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, source: str, target: str, options: list[str], words: str
) -> None:
    write_single(tmp_path, stock())
    assert main([str(tmp_path / source), str(tmp_path / target), *options]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["stock.safetensors"]
