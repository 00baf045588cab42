"""The cache: what it holds, that it goes on where it was stopped, and what it refuses."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor

from scripts.tiny_models import write_vae
from tests.panorama_files import HEIGHT, WIDTH, cut_short, write_frames, write_image, write_video
from tests.text_encoder import DIM, write_text_encoder
from viewpoint_core import encode as program
from viewpoint_core.encode import main, parse_shard
from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.data import cache as cache_module
from viewpoint_core.training.data.cache import CachedClips, clip_file, read_made_from, read_map, text_key
from viewpoint_core.training.data.clips import Sampling, load_map, map_to_video, plan_clips
from viewpoint_core.training.data.fingerprint import check_fingerprint, read_fingerprint, vae_fingerprint
from viewpoint_core.training.data.manifest import Item, read_manifest, write_manifest
from viewpoint_core.training.known_view import View, known_video, view_mask
from viewpoint_core.training.layouts import VIEWPOINT
from viewpoint_core.training.run import open_cache
from viewpoint_core.training.text import encode_text, load_text_encoder, text_fingerprint
from viewpoint_core.training.wan_vae import encode_video, load_vae
from viewpoint_core.training.watch import known_of

REPO = Path(__file__).parents[1]
SIZE, LENGTH = 32, 5
LONG = "a " * 600


class Studio(NamedTuple):
    """A manifest and the models to encode it with."""

    manifest: Path
    vae: Path
    text_encoder: Path


def make_items(folder: Path) -> list[Item]:
    """Two images, a video of two clips, a folder of frames, and a held-out image: 2 * 2 + 2 * 2 + 2 + 1 clips."""
    size = (WIDTH, HEIGHT)
    return [
        Item(write_image(folder / "a.png", 5), 0, 1, 0.0, *size, caption="a beach"),
        Item(write_image(folder / "b.png", 9), 0, 1, 0.0, *size, caption=""),
        Item(write_video(folder / "v.mp4", 22, fps=30), 1, 21, 30.0, *size, caption="a forest"),
        Item(write_frames(folder / "frames", 7), 0, 7, 16.0, *size, caption="a beach"),
        Item(write_image(folder / "held.png", 30), 0, 1, 0.0, *size, caption=LONG, split="heldout"),
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_vae(folder / "vae.safetensors")
    write_text_encoder(folder / "umt5")
    return folder


def make_studio(folder: Path, models: Path) -> Studio:
    items = make_items(folder)
    write_manifest(items, folder / "manifest.jsonl")
    return Studio(folder / "manifest.jsonl", models / "vae.safetensors", models / "umt5")


@pytest.fixture
def studio(tmp_path: Path, models: Path) -> Studio:
    return make_studio(tmp_path / "data", models)


def arguments(studio: Studio, cache: Path, **changes: Any) -> list[str]:
    options = {
        "manifest": studio.manifest,
        "cache": cache,
        "vae": studio.vae,
        "text-encoder": studio.text_encoder,
        "map-size": SIZE,
        "length": LENGTH,
        "variants": 2,
        "text-dtype": "float32",
        "device": "cpu",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return [str(part) for name, value in options.items() if value is not None for part in (f"--{name}", value)]


def encode(studio: Studio, cache: Path, **changes: Any) -> int:
    return main(arguments(studio, cache, **changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[Studio, Path]:
    """A finished cache, only to be read."""
    folder = tmp_path_factory.mktemp("made")
    studio = make_studio(folder / "data", models)
    assert encode(studio, folder / "cache") == 0
    return studio, folder / "cache"


@pytest.fixture
def finished(made: tuple[Studio, Path], tmp_path: Path) -> tuple[Studio, Path]:
    """A finished cache of one's own, with its sources."""
    shutil.copytree(made[1].parent, tmp_path / "own")
    return made[0]._replace(manifest=tmp_path / "own" / "data" / "manifest.jsonl"), tmp_path / "own" / "cache"


def contents(cache: Path) -> dict[str, bytes]:
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.rglob("*") if file.is_file()}


def changed(cache: Path) -> dict[str, int]:
    return {str(file.relative_to(cache)): file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()}


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


# What a cache holds


def test_every_item_is_in_the_cache(made: tuple[Studio, Path]) -> None:
    train, heldout = CachedClips(made[1]), CachedClips(made[1], "heldout")
    assert (len(train), len(heldout), train.broken) == (2 * 2 + 2 * 2 + 2, 1, set())
    side = SIZE // 8
    buckets = train.buckets()
    assert {shape: len(indices) for shape, indices in buckets.items()} == {(1, side, side): 4, (2, side, side): 6}
    assert sorted(index for indices in buckets.values() for index in indices) == list(range(10))
    for index in buckets[2, side, side]:
        item = train[index]
        assert (item["latent"].shape, item["latent"].dtype) == ((16, 2, side, side), torch.float32)
        assert (item["map"].shape, item["map"].dtype) == ((3, LENGTH, SIZE, SIZE), torch.uint8)
        assert (item["text"].shape, item["text"].dtype) == ((512, DIM), torch.float32)
    assert {train[index]["caption"] for index in range(10)} == {"a beach", "", "a forest"}
    assert len({train[index]["key"] for index in range(10)}) == 10


def test_the_latent_is_the_vaes_of_the_map_that_is_stored(made: tuple[Studio, Path]) -> None:
    vae, clips = load_vae(made[0].vae), CachedClips(made[1])
    for index in range(len(clips)):
        item = clips[index]
        assert torch.equal(item["latent"], encode_video(vae, map_to_video(item["map"])[None])[0])


def test_a_faces_known_latent_is_the_vaes_of_the_map_where_only_its_view_is_known(
    made: tuple[Studio, Path], tmp_path: Path
) -> None:
    studio, _ = made
    assert encode(studio, tmp_path / "cache", known="RF") == 0
    vae, clips = load_vae(studio.vae), CachedClips(tmp_path / "cache")
    shown = CachedClips(tmp_path / "cache", known="R")
    for index in range(len(clips)):
        video = map_to_video(clips[index]["map"])[None]
        expected = encode_video(vae, known_video(video, view_mask(View(90), SIZE)[None]))[0]
        item = shown[index]
        assert item["known"].keys() == {"R"}
        assert torch.equal(item["known"]["R"], expected)
        assert torch.equal(item["latent"], encode_video(vae, video)[0])
    with pytest.raises(ValueError, match=r"known views of FR; expected those of FB"):
        CachedClips(tmp_path / "cache", known="FB")


def test_a_held_out_clip_is_seen_straight_ahead_alike_from_its_map_and_from_the_cache(
    made: tuple[Studio, Path], tmp_path: Path
) -> None:
    studio, _ = made
    assert encode(studio, tmp_path / "cache", known="FR") == 0
    vae, device = load_vae(studio.vae), torch.device("cpu")
    expected = known_of(vae, CachedClips(tmp_path / "cache", "heldout")[0], VIEWPOINT, device)
    found = known_of(vae, CachedClips(tmp_path / "cache", "heldout", known="F")[0], VIEWPOINT, device)
    assert torch.equal(found, expected)
    config = TrainingConfig(vae=str(studio.vae), cache=str(tmp_path / "cache"))
    assert [clips.known for clips in open_cache(config)] == ["", "F"], "a run has it from there"


@pytest.fixture
def batches_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many videos the VAE was given each time."""
    seen: list[int] = []

    def watched(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
        seen.append(len(video))
        return encode_video(vae, video)

    monkeypatch.setattr(program, "encode_video", watched)
    return seen


def test_known_views_take_no_more_memory_than_the_clip(studio: Studio, tmp_path: Path, batches_seen: list[int]) -> None:
    """One video in the VAE at a time, of 11 clips with four views each."""
    assert encode(studio, tmp_path / "cache", known="FRBL", text_encoder=None) == 0
    assert batches_seen == [1] * 11 * 5


def test_full_memory_ends_it_with_what_to_do(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB.\nSee the documentation")

    monkeypatch.setattr(program, "encode_video", full)
    assert encode(studio, tmp_path / "cache", text_encoder=None) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("encode: the device's memory is full;")
    assert "take --dtype bfloat16" in said
    assert said.endswith("(CUDA out of memory. Tried to allocate 4 GiB.)")


def test_a_cache_does_not_mix_clips_with_and_without_known_views(
    made: tuple[Studio, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(*made, known="F") == 2
    assert "made with another known" in capsys.readouterr().err
    for faces in ("FX", "FF"):
        assert encode(*made, known=faces) == 2
        assert f"--known is '{faces}'" in capsys.readouterr().err


def cached_map(cache: Path, key: str) -> torch.Tensor:
    """A clip's map as its cache has it."""
    return read_map(clip_file(cache, key, "mkv"), read_made_from(clip_file(cache, key, "safetensors")))


def test_the_stored_map_is_the_clips_own_pixel_for_pixel(made: tuple[Studio, Path]) -> None:
    studio, cache = made
    specs, _ = plan_clips(read_manifest(studio.manifest), studio.manifest.parent, Sampling(LENGTH, 16.0, 2))
    assert any(spec.mirror for spec in specs)
    assert any(spec.yaw for spec in specs)
    for spec in specs:
        assert torch.equal(cached_map(cache, spec.key), load_map(spec, SIZE))


def test_a_clips_file_is_opened_for_its_header_once(made: tuple[Studio, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clips, read_header, opened = CachedClips(made[1]), cache_module.read_header, []
    monkeypatch.setattr(cache_module, "read_header", lambda file: opened.append(file.parent.name) or read_header(file))
    clips[0]
    assert opened.count("clips") == 1


def test_without_mirrors_every_variant_is_only_turned(studio: Studio, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert main([*arguments(studio, cache, text_encoder=None), "--no-mirror"]) == 0
    items, folder = read_manifest(studio.manifest), studio.manifest.parent
    specs, _ = plan_clips(items, folder, Sampling(LENGTH, 16.0, 2, mirror=False))
    usual, _ = plan_clips(items, folder, Sampling(LENGTH, 16.0, 2))
    assert any(spec.mirror for spec in usual)
    for spec in specs:
        assert torch.equal(cached_map(cache, spec.key), load_map(spec, SIZE))


def test_clips_bounds_the_clips_of_an_item(studio: Studio, tmp_path: Path) -> None:
    """The video gives one clip instead of two."""
    assert encode(studio, tmp_path / "cache", clips=1) == 0
    sources = [row["source"] for row in CachedClips(tmp_path / "cache").rows]
    assert {source: sources.count(source) for source in sources} == {"a.png": 2, "b.png": 2, "v.mp4": 2, "frames": 2}


def test_a_further_length_is_added_to_a_cache_and_repeats_nothing(finished: tuple[Studio, Path]) -> None:
    """The frames are 7 pictures, of which one clip of 5 and seven of 1 fit."""
    studio, cache = finished
    before = contents(cache)
    assert main([*arguments(studio, cache), "--length", str(LENGTH), "1"]) == 0
    after = contents(cache)
    assert {name for name in before if before[name] != after[name]} == {"clips.jsonl"}
    clips = CachedClips(cache)
    side = SIZE // 8
    of_videos = [row for row in clips.rows if row["source"] in ("v.mp4", "frames")]
    assert {tuple(row["shape"]) for row in of_videos} == {(2, side, side), (1, side, side)}
    assert sum(row["source"] == "frames" for row in of_videos) == 2 + 2 * 7


def test_lengths_are_refused_where_they_repeat_or_are_none(studio: Studio, capsys: pytest.CaptureFixture) -> None:
    for lengths, said in ((["9", "9"], "--length is 9 9; expected each length once"), (["9", "8"], "4k + 1")):
        flags = [*arguments(studio, studio.manifest.parent / "none"), "--length", *lengths]
        assert main(flags) == 2
        assert said in capsys.readouterr().err


def test_dtype_is_that_in_which_the_vae_computes(studio: Studio, tmp_path: Path) -> None:
    write_manifest(read_manifest(studio.manifest)[:1], studio.manifest)
    assert encode(studio, tmp_path / "cache", dtype="bfloat16") == 0
    clips, vaes = CachedClips(tmp_path / "cache"), [load_vae(studio.vae, dtype=d) for d in program.DTYPES.values()]
    item = clips[0]
    full, half = (encode_video(vae, map_to_video(item["map"])[None])[0] for vae in vaes)
    assert clips.fingerprint.dtype == "bfloat16"
    assert torch.equal(item["latent"], half)
    assert not torch.equal(item["latent"], full)


def test_texts_are_the_encoders_with_zero_rows_behind(made: tuple[Studio, Path]) -> None:
    studio, cache = made
    encoder, clips = load_text_encoder(studio.text_encoder, torch.float32), CachedClips(cache)
    for caption, tokens in (("a beach", 3), ("", 1), (LONG, 512)):
        stored = load_file(cache / "texts" / f"{text_key(caption)}.safetensors")["embedding"]
        assert stored.shape == (tokens, DIM)
        assert torch.equal(stored, encode_text(encoder, caption)[0])
        padded = clips.text(text_key(caption))
        assert torch.equal(padded[:tokens], stored)
        assert not padded[tokens:].any()
    assert torch.equal(clips.empty_text()[:1], encode_text(encoder, "")[0])


def test_the_empty_caption_is_always_there(studio: Studio, tmp_path: Path) -> None:
    item = read_manifest(studio.manifest)[0]
    write_manifest([item], studio.manifest)
    assert encode(studio, tmp_path / "cache") == 0
    assert CachedClips(tmp_path / "cache").empty_text().shape == (512, DIM)


def test_clips_without_a_caption_are_counted_once_and_not_where_texts_are_not_asked_for(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert encode(studio, tmp_path / "cache", shard="0/2") == 0
    assert "encode: 2 of 11 clips have no caption" in capsys.readouterr().err
    assert encode(studio, tmp_path / "cache", shard="1/2") == 0
    assert "no caption" not in capsys.readouterr().err
    assert main([*arguments(studio, tmp_path / "without", text_encoder=None), "--no-text"]) == 0
    assert "no caption" not in capsys.readouterr().err


def test_the_vaes_hash_is_of_its_weights_not_of_its_files(models: Path, tmp_path: Path) -> None:
    load_vae(models / "vae.safetensors").save_pretrained(tmp_path / "vae")
    assert vae_fingerprint(tmp_path / "vae") == vae_fingerprint(models / "vae.safetensors")
    write_vae(tmp_path / "again.safetensors")
    assert vae_fingerprint(tmp_path / "again.safetensors") == vae_fingerprint(models / "vae.safetensors")


# Going on


def test_a_second_run_repeats_nothing(finished: tuple[Studio, Path], capsys: pytest.CaptureFixture) -> None:
    studio, cache = finished
    before = changed(cache)
    assert encode(studio, cache) == 0
    assert changed(cache) == before
    assert "11 clips; 0 broken, 0 items too short" in capsys.readouterr().out


def test_a_clip_that_was_left_out_by_hand_stays_out(
    finished: tuple[Studio, Path], capsys: pytest.CaptureFixture
) -> None:
    studio, cache = finished
    key = CachedClips(cache).rows[0]["key"]
    file = cache / "clips" / f"{key}.problem"
    file.touch()
    assert encode(studio, cache) == 0
    assert file.read_bytes() == b""
    assert "10 clips; 0 broken, 0 items too short, 1 left out by hand" in capsys.readouterr().out
    assert key in CachedClips(cache).broken


def test_an_empty_text_that_is_there_is_not_written_again(studio: Studio, tmp_path: Path) -> None:
    flags = [*arguments(studio, tmp_path / "cache", text_encoder=None), "--no-text"]
    assert main([*flags, "--shard", "1/2"]) == 0
    assert list((tmp_path / "cache" / "texts").iterdir()) == []
    assert main([*flags, "--shard", "0/2"]) == 0
    before = changed(tmp_path / "cache")
    assert main(flags) == 0
    assert changed(tmp_path / "cache") == before


def run_and_stop(command: list[str], cache: Path, number: signal.Signals, after: int) -> int:
    """Start an encoding, send it a signal once some clips are finished; its exit status."""
    process = subprocess.Popen([sys.executable, "-m", "viewpoint_core.encode", *command], cwd=REPO)
    try:
        give_up = time.monotonic() + 120
        while len(list(cache.glob("clips/[!.]*.safetensors"))) < after and process.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        process.kill()


class AskedInFinaliser:
    """Something in whose finaliser the signal comes, where Python drops what is raised."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_after_the_clip_at_hand_wherever_the_signal_comes(
    number: signal.Signals,
    studio: Studio,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, before = tmp_path / "cache", [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def stopped_at_the_third(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
        if len(list(cache.glob("clips/*.safetensors"))) == 2:
            AskedInFinaliser(number)
        return encode_video(vae, video)

    monkeypatch.setattr(program, "encode_video", stopped_at_the_third)
    assert encode(studio, cache, text_encoder=None) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "encode: stopped; start it again to go on"
    assert len(list(cache.glob("clips/*.safetensors"))) == 3
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[Studio, Path]:
    """A studio and its finished cache of 101 clips, only to be read."""
    folder = tmp_path_factory.mktemp("long")
    studio = make_studio(folder / "data", models)
    assert encode(studio, folder / "cache", variants=20) == 0
    return studio, folder / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_and_equals_one_that_is_not(
    number: signal.Signals, long: tuple[Studio, Path], tmp_path: Path
) -> None:
    changes, studio = {"variants": 20}, long[0]
    whole, cache = contents(long[1]), tmp_path / "stopped"
    status = run_and_stop(arguments(studio, cache, **changes), cache, number, after=3)
    assert status == (130 if number is signal.SIGINT else -signal.SIGKILL)
    early = [name for name in contents(cache) if name.endswith(".safetensors") and not Path(name).name.startswith(".")]
    assert 3 <= sum(name.startswith("clips") for name in early) < 100
    with pytest.raises(ValueError, match=r"is not finished: \d+ of 101 clips and 0 of 4 texts are missing"):
        CachedClips(cache)
    before = changed(cache)
    assert encode(studio, cache, **changes) == 0
    after = changed(cache)
    assert [name for name in early if after[name] != before[name]] == []
    assert contents(cache) == whole


def test_two_shards_make_the_same_cache_as_one(
    made: tuple[Studio, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, cache = made
    assert encode(studio, tmp_path / "cache", shard="0/2") == 0
    half = contents(tmp_path / "cache")
    assert (
        0 < sum(name.startswith("clips/") for name in half) < sum(name.startswith("clips/") for name in contents(cache))
    )
    with pytest.raises(ValueError, match="is not finished"):
        CachedClips(tmp_path / "cache")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert encode(studio, tmp_path / "cache") == 0
    assert contents(tmp_path / "cache") == contents(cache)


def test_more_variants_leave_those_that_are_there(finished: tuple[Studio, Path]) -> None:
    studio, cache = finished
    before = changed(cache)
    assert encode(studio, cache, variants=3) == 0
    after = changed(cache)
    assert {name for name in differing(before, after) if name in before} == {"clips.jsonl"}
    assert len(CachedClips(cache)) == 15
    assert encode(studio, cache, variants=1) == 0
    assert len(CachedClips(cache)) == 5


def test_files_that_were_cut_short_are_made_again(finished: tuple[Studio, Path]) -> None:
    studio, cache = finished
    whole, before = contents(cache), changed(cache)
    keys = [row["key"] for row in CachedClips(cache).rows]
    cut = {f"clips/{keys[0]}.safetensors", f"clips/{keys[3]}.mkv", f"texts/{text_key('a forest')}.safetensors"}
    for name in cut:
        cut_short(cache / name, 0.6)
    with pytest.raises(ValueError, match=r"safetensors is damaged or missing; run"):
        CachedClips(cache)[0]
    with pytest.raises(ValueError, match=r"mkv is damaged or missing"):
        CachedClips(cache)[3]
    assert encode(studio, cache) == 0
    assert contents(cache) == whole
    remade = {Path(name).stem for name in differing(before, changed(cache))}
    assert remade == {Path(name).stem for name in cut}


def test_a_source_that_changed_is_encoded_again_and_one_that_was_touched_is_not(finished: tuple[Studio, Path]) -> None:
    studio, cache = finished
    folder, before = studio.manifest.parent, changed(cache)
    write_image(folder / "a.png", 6)
    os.utime(folder / "b.png", (1, 1))
    os.utime(folder / "frames" / "00002.png", (1, 1))
    assert encode(studio, cache) == 0
    remade = differing(before, changed(cache))
    assert len(remade) == 4
    assert all(name.startswith("clips/a-") for name in remade)


def test_a_caption_that_changed_is_encoded_and_no_clip_with_it(finished: tuple[Studio, Path]) -> None:
    studio, cache = finished
    before = changed(cache)
    studio.manifest.write_text(studio.manifest.read_text().replace("a forest", "a beach in a forest"))
    assert encode(studio, cache) == 0
    assert differing(before, changed(cache)) == {
        "clips.jsonl",
        f"texts/{text_key('a beach in a forest')}.safetensors",
    }


def test_texts_can_come_later(made: tuple[Studio, Path], tmp_path: Path) -> None:
    studio, cache = made
    assert encode(studio, tmp_path / "cache", text_encoder=None) == 0
    assert read_fingerprint(tmp_path / "cache").text_encoder == ""
    with pytest.raises(ValueError, match=r"0 of 11 clips and 4 of 4 texts are missing; .* with --text-encoder"):
        CachedClips(tmp_path / "cache")
    before = changed(tmp_path / "cache")
    assert encode(studio, tmp_path / "cache") == 0
    assert {name for name in differing(before, changed(tmp_path / "cache")) if name in before} == {"cache.json"}
    assert contents(tmp_path / "cache") == contents(cache)
    assert encode(studio, tmp_path / "cache", text_encoder=None) == 0
    assert contents(tmp_path / "cache") == contents(cache)


# What is refused


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"map_size": 64}, "map_size"),
        ({"length": 9}, "length"),
        ({"fps": 8}, "fps"),
        ({"seed": 1}, "seed"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"vae": "other"}, "vae"),
        ({"text_encoder": "other"}, "text_encoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cache_of_other_settings_is_refused_with_both_fingerprints(
    changes: dict[str, Any], name: str, made: tuple[Studio, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    studio, cache = made
    if name == "vae":
        write_vae(tmp_path / "other.safetensors", seed=7)
        changes = {"vae": tmp_path / "other.safetensors"}
    if name == "text_encoder":
        changes = {"text_encoder": write_text_encoder(tmp_path / "other", seed=7)}
    before = changed(cache)
    assert encode(studio, cache, **changes) == 2
    assert changed(cache) == before
    said = capsys.readouterr().err
    asked = vae_fingerprint(changes["vae"]) if name == "vae" else changes[name]
    asked = text_fingerprint(asked, "float32") if name == "text_encoder" else asked
    assert f"was made with another {name};" in said
    for value in (getattr(read_fingerprint(cache), name), asked):
        assert str(value) in said


def test_a_trainer_can_check_what_a_cache_was_made_with(made: tuple[Studio, Path]) -> None:
    studio, cache = made
    own = vae_fingerprint(studio.vae)
    assert check_fingerprint(cache, vae=own, map_size=SIZE) == read_fingerprint(cache) == CachedClips(cache).fingerprint
    with pytest.raises(
        ValueError, match=rf'another vae and map_size;(?s:.)*"{own}", "map_size": 32(?s:.)*"map_size": 64'
    ):
        check_fingerprint(cache, vae="0", map_size=64, length=LENGTH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_size": 100}, "side is 100; expected a positive multiple of 32"),
        ({"length": 48}, r"48 frames; expected 4k \+ 1"),
        ({"fps": 2000}, "--fps is 2000; expected above 0 and below 1000"),
        ({"variants": 0}, "--variants is 0; expected 1 or more"),
        ({"shard": "2/2"}, "the shard is '2/2'; expected i/n"),
        ({"manifest": "no.jsonl"}, "there is no such manifest"),
        ({"vae": "no.safetensors"}, "does not exist"),
        ({"text_encoder": "no"}, "expected the folder of a UMT5 encoder"),
    ],
)
def test_bad_options_are_answered_before_anything_is_written(
    changes: dict[str, Any], message: str, studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert encode(studio, tmp_path / "cache", **changes) == 2
    assert not (tmp_path / "cache").exists()
    said = capsys.readouterr().err
    assert re.search(message, said), said


def test_files_of_another_vae_than_the_caches_are_not_read(finished: tuple[Studio, Path], tmp_path: Path) -> None:
    studio, cache = finished
    write_vae(tmp_path / "other.safetensors", seed=7)
    (cache / "cache.json").unlink()
    assert encode(studio, cache, vae=tmp_path / "other.safetensors", shard="0/2") == 0
    clips = CachedClips(cache)
    assert clips.rows[0]["key"].endswith("v0")
    clips[0]
    with pytest.raises(ValueError, match=r"-v1\.safetensors was made with \{'vae': "):
        clips[1]


@pytest.mark.parametrize("text", ["", "1", "1/1", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_shard_is_one_of_its_number(text: str) -> None:
    with pytest.raises(ValueError, match="expected i/n with 0 <= i < n"):
        parse_shard(text)


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path, made: tuple[Studio, Path]) -> None:
    with pytest.raises(ValueError, match=r"is not a cache \(no cache.json\)"):
        CachedClips(tmp_path)
    (tmp_path / "cache.json").write_text('{"vae": "0"}')
    with pytest.raises(ValueError, match=r"cache.json is damaged: expected JSON with vae"):
        CachedClips(tmp_path)
    shutil.copy(made[1] / "cache.json", tmp_path)
    with pytest.raises(ValueError, match=r"is not finished: it holds no clips.jsonl; run"):
        CachedClips(tmp_path)
    with pytest.raises(ValueError, match="split is 'test'; expected one of train, heldout"):
        CachedClips(made[1], "test")


# What is broken


def test_broken_items_are_named_and_the_rest_goes_on(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, cache = studio.manifest.parent, tmp_path / "cache"
    good = {name: (folder / name).read_bytes() for name in ("a.png", "v.mp4")}
    cut_short(folder / "a.png", 0.5)
    write_video(folder / "v.mp4", 9, fps=30)
    assert encode(studio, cache) == 1
    said = capsys.readouterr()
    assert f"encode: {folder / 'a.png'}: the image cannot be read" in said.err
    assert f"encode: {folder / 'v.mp4'} from picture 1: picture 10 at 30 fps was asked for" in said.err
    clips = CachedClips(cache)
    assert {key.split("-")[0] for key in clips.broken} == {"a", "v"}
    assert sorted(row["source"] for row in clips.rows) == ["b.png"] * 2 + ["frames"] * 2 + ["v.mp4"] * 2
    assert all("-c0-" in row["key"] for row in clips.rows)
    assert not list(cache.rglob("*.partial"))
    for name, data in good.items():
        (folder / name).write_bytes(data)
    assert encode(studio, cache) == 0
    assert len(CachedClips(cache)) == 10
    assert CachedClips(cache).broken == set()
    assert not list(cache.rglob("*.problem"))


def test_items_that_are_too_short_are_named_and_the_rest_goes_on(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert encode(studio, tmp_path / "cache", length=9) == 1
    said = capsys.readouterr().err
    assert "frames: it is too short: 7 frames at 16 fps are 7 at 16 fps; expected 9" in said
    assert len(CachedClips(tmp_path / "cache")) == 2 * 2 + 2


@pytest.mark.slow
def test_processes_of_a_launcher_finish_though_items_are_broken_and_short(studio: Studio, tmp_path: Path) -> None:
    """Length 9 is too much for the folder of frames, and the video ends too early."""
    write_video(studio.manifest.parent / "v.mp4", 9, fps=30)
    cut_short(studio.manifest.parent / "a.png", 0.5)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "viewpoint_core.encode", *arguments(studio, tmp_path / "cache", length=9)]
    done = subprocess.run(command, cwd=REPO, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a.png: the image cannot be read" in done.stderr
    assert "it is too short: 7 frames" in done.stderr
    clips = CachedClips(tmp_path / "cache")
    assert {row["source"] for row in clips.rows} == {"b.png"}
    assert {key.split("-")[0] for key in clips.broken} == {"a", "v"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make writes beyond this size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(
    made: tuple[Studio, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    studio, cache = made[0], tmp_path / "cache"
    maps = sorted(file.stat().st_size for file in made[1].glob("clips/*.mkv"))
    with largest_file(maps[-1] - 1):
        assert encode(studio, cache) == 2
    assert "File too large" in capsys.readouterr().err
    whole, found = contents(made[1]), contents(cache)
    assert 0 < len(found) < len(whole)
    assert {name for name in found if found[name] != whole.get(name)} == set()
    assert encode(studio, cache) == 0
    assert contents(cache) == whole
