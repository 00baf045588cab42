"""Checkpoints that inflation refuses, with what it says of them; nothing is left behind."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import INDEX, LAYOUTS, inflate, stock, write_header, write_index, write_shards, write_single
from viewpoint_core.checkpoint import PATCH_EMBEDDING, read_checkpoint
from viewpoint_core.safetensors_file import MAX_HEADER, read_header

FIRST_SHARD = "model-00001-of-00003.safetensors"
ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def refusal(source: Path, **options: Any) -> str:
    """What inflation says when it refuses; it must leave nothing behind."""
    folder = source if source.is_dir() else source.parent
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=".") as error:
        inflate(source, folder / "out.safetensors", **options)
    assert sorted(folder.iterdir()) == before
    return str(error.value)


def without(*keys: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in stock().items() if not name.startswith(keys)}


# Other models


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_to_video_model_is_refused(tmp_path: Path, layout: str) -> None:
    (tmp_path / "in").mkdir()
    source = LAYOUTS[layout](tmp_path / "in", stock() | {PATCH_EMBEDDING: torch.ones(64, 36, 1, 2, 2)})
    assert "takes 36 channels and gives 16: expected the text-to-video model" in refusal(source)


def test_a_model_that_is_inflated_already_is_refused(tmp_path: Path) -> None:
    inflate(write_single(tmp_path, stock()), tmp_path / "inflated.safetensors")
    said = refusal(tmp_path / "inflated.safetensors")
    assert "takes 33 channels and gives 16: it is inflated already" in said


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param({"double_blocks.0.img_attn.qkv.weight": torch.ones(4, 4)}, id="Flux"),
        pytest.param({}, id="nothing"),
        pytest.param(without("patch_embedding.weight"), id="no patch embedding"),
        pytest.param(without("head.modulation"), id="no head modulation"),
        pytest.param(without("head.head.weight"), id="no head"),
        pytest.param(without("blocks."), id="no blocks"),
        pytest.param(stock() | {PATCH_EMBEDDING: torch.ones(64, 64)}, id="linear patch embedding"),
        pytest.param(stock() | {PATCH_EMBEDDING: torch.ones(64, 16, 1, 1, 1)}, id="other patch size"),
        pytest.param(stock() | {"head.head.weight": torch.tensor(1.0)}, id="scalar head"),
    ],
)
def test_a_model_that_is_not_wan_is_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    assert "stock.safetensors is not a Wan2.1 checkpoint" in refusal(write_single(tmp_path, weights))


@pytest.mark.parametrize("blocks", [("blocks.0.",), ("blocks.1.",)])
def test_a_model_that_lacks_a_block_is_refused(tmp_path: Path, blocks: tuple[str]) -> None:
    assert "lacks some of the blocks 0 to 2" in refusal(write_single(tmp_path, without(*blocks)))


def test_a_block_number_beyond_all_bounds_is_refused_before_it_is_counted_out(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock() | {f"blocks.{10**15}.modulation": torch.ones(1)})
    assert "lacks some of the blocks" in refusal(source)


@pytest.mark.parametrize("name", ["stock.pth", "stock.bin", "stock.ckpt", "stock.gguf", "stock"])
def test_a_file_of_another_format_is_refused_unread(tmp_path: Path, name: str) -> None:
    write_single(tmp_path, stock()).rename(tmp_path / name)
    assert "is not a safetensors file; files that need pickle are refused" in refusal(tmp_path / name)


# Damaged files


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock())
    whole, header = source.stat().st_size, 8 + struct.unpack("<Q", source.read_bytes()[:8])[0]
    for length in [whole - 1, whole - 100_000, header + 1, header, header - 1, header // 2, 9, 8, 7, 1, 0]:
        os.truncate(source, length)
        assert "cut short" in refusal(source), length


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 100, b"\x80\x02}q\x00." * 100, b"<html>" * 100, b"\0" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stock.safetensors").write_bytes(content)
    assert "is not a safetensors file" in refusal(tmp_path / "stock.safetensors")


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    source = tmp_path / "stock.safetensors"
    source.write_bytes(struct.pack("<Q", MAX_HEADER + 1) + b"{")
    os.truncate(source, 2 * MAX_HEADER)  # a hole: takes no space
    assert "is not a safetensors file, or it is cut short" in refusal(source)


@pytest.mark.parametrize(
    "header",
    [[], 3, "text", None, {"__metadata__": []}, {"__metadata__": {"author": 1}}],
    ids=lambda header: json.dumps(header),
)
def test_a_header_that_is_no_table_of_tensors_is_refused(tmp_path: Path, header: Any) -> None:
    source = write_header(tmp_path / "stock.safetensors", header, bytes(16))
    assert "its header is not a table of tensors" in refusal(source)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {key: value for key, value in ENTRY.items() if key != "dtype"},
        {key: value for key, value in ENTRY.items() if key != "shape"},
        {key: value for key, value in ENTRY.items() if key != "data_offsets"},
        ENTRY | {"shape": 4},
        ENTRY | {"shape": "22"},
        ENTRY | {"shape": [2, None]},
        ENTRY | {"shape": [2, 2.5]},
        ENTRY | {"shape": [2, 3]},
        ENTRY | {"shape": [-2, -2]},
        ENTRY | {"dtype": "F16"},
        ENTRY | {"data_offsets": [0]},
        ENTRY | {"data_offsets": ["0", "16"]},
        ENTRY | {"data_offsets": [0.0, 16.0]},
        ENTRY | {"data_offsets": [-16, 0]},
        ENTRY | {"data_offsets": [16, 0]},
    ],
    ids=lambda entry: json.dumps(entry),
)
def test_an_entry_that_does_not_describe_its_bytes_is_refused(tmp_path: Path, entry: Any) -> None:
    source = write_header(tmp_path / "stock.safetensors", {"a": entry}, bytes(16))
    said = refusal(source)
    assert "stock.safetensors is damaged: " in said
    assert " a" in said


def test_the_entry_that_these_are_made_of_is_taken(tmp_path: Path) -> None:
    tensors, metadata = read_header(write_header(tmp_path / "a.safetensors", {"a": ENTRY}, bytes(16)))
    assert (tensors["a"].shape, tensors["a"].size, metadata) == ((2, 2), 16, {})


# Shards


def test_a_shard_that_the_index_names_and_that_is_missing_is_named(tmp_path: Path) -> None:
    index = write_index(tmp_path, stock())
    (tmp_path / FIRST_SHARD).unlink()
    assert f"missing {FIRST_SHARD}" in refusal(index)
    assert f"missing {FIRST_SHARD}" in refusal(tmp_path)


def test_a_shard_missing_from_a_folder_without_an_index_is_seen_by_the_names_of_the_others(tmp_path: Path) -> None:
    write_shards(tmp_path, stock())
    (tmp_path / FIRST_SHARD).unlink()
    assert "got 2 file(s), but model-00002-of-00003.safetensors is one of 3 shards" in refusal(tmp_path)


def test_one_shard_alone_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, stock())
    assert f"got 1 file(s), but {FIRST_SHARD} is one of 3 shards" in refusal(tmp_path / FIRST_SHARD)


@pytest.mark.parametrize("name", ["../{}", "sub/{}", "/{}", "..\\{}", "C:{}", "./{}", "..", ".", "", "model.bin", 3])
def test_an_index_that_names_anything_but_safetensors_files_beside_it_is_refused(
    tmp_path: Path, name: str | int
) -> None:
    (tmp_path / "in").mkdir()
    index = write_index(tmp_path / "in", stock())
    for folder in (tmp_path, tmp_path / "in" / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / FIRST_SHARD).write_bytes((tmp_path / "in" / FIRST_SHARD).read_bytes())
    named = name.format(FIRST_SHARD) if isinstance(name, str) else name
    index.write_text(json.dumps({"weight_map": {"patch_embedding.weight": named}}))
    assert f"names {named!r}; expected safetensors files in the index's own folder" in refusal(index)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    write_index(tmp_path, stock()).write_text(content)
    assert f"{INDEX} is not the index of a checkpoint" in refusal(tmp_path / INDEX)


def test_a_folder_of_two_checkpoints_is_refused(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock())
    (tmp_path / "copy.safetensors").write_bytes(source.read_bytes())
    assert "comes a second time; expected the files of one checkpoint" in refusal(tmp_path)


def test_a_folder_of_two_indices_is_refused_with_their_names(tmp_path: Path) -> None:
    index = write_index(tmp_path, stock())
    (tmp_path / "other.safetensors.index.json").write_text(index.read_text())
    assert f"holds 2 checkpoints; name one: {INDEX}, other.safetensors.index.json" in refusal(tmp_path)
    assert read_checkpoint(index)[0].keys() == stock().keys()


def test_an_empty_folder_and_an_index_of_nothing_are_refused(tmp_path: Path) -> None:
    assert "no safetensors file in it" in refusal(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {}}')
    assert "no safetensors file in it" in refusal(tmp_path)


def test_names_of_both_kinds_for_one_weight_are_refused(tmp_path: Path) -> None:
    source = write_single(tmp_path, stock() | {"proj_out.weight": torch.zeros(64, 64)})
    assert "comes a second time" in refusal(source)
