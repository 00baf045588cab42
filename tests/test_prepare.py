"""The manifest lists every good panorama of every dataset layout, and names what is wrong with the others."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.panorama_files import cut_short, write_frames, write_image, write_video
from tests.two_to_one import dual_fisheye, flat, letterboxed, panorama, vr180, write_at_times
from viewpoint_core import prepare
from viewpoint_core.training.data import video_file
from viewpoint_core.training.data.adapters import ADAPTERS, Found
from viewpoint_core.training.data.manifest import (
    MAX_CAPTION,
    Item,
    read_manifest,
    split_of,
    write_manifest,
)
from viewpoint_core.training.data.media import read_frames


def run(tmp_path: Path, *options: str | Path) -> tuple[int, list[Item]]:
    """The exit status of the command line and the manifest's items."""
    out = tmp_path / "manifest.jsonl"
    status = prepare.main([*map(str, options), "--out", str(out), "--workers", "2"])
    return status, read_manifest(out) if out.exists() else []


def names(items: list[Item], root: Path) -> list[str]:
    return [item.path.relative_to(root).as_posix() for item in items]


def reasons(found: Found) -> str:
    return "\n".join(f"{problem.name}: {problem.reason}" for problem in found.problems)


# Adapters, on each dataset's own layout


def test_flickr360_takes_the_hr_images_only(tmp_path: Path) -> None:
    root = tmp_path / "Flickr360"
    for split in ("train", "val"):
        write_image(root / split / "HR" / "0001.png", 1, 128, 64)
        write_image(root / split / "LR_X4" / "0001.png", 1, 32, 16)
    status, items = run(tmp_path, "--flickr360", root)
    assert status == 0
    assert names(items, root) == ["train/HR/0001.png", "val/HR/0001.png"]
    assert {(item.frames, item.fps, item.width, item.caption, item.licence) for item in items} == {
        (1, 0, 128, "", "mixed, non-commercial")
    }
    assert len(run(tmp_path, "--flickr360", root / "train" / "HR")[1]) == 1


def test_web360_takes_its_captions_from_its_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "WEB360"
    for name in ("100726", "100737", "100773"):
        write_video(root / "videos_512x1024x100" / f"{name}.mp4", 64)
    (root / "WEB360_360TF_train.csv").write_text(
        'videoid,name\n100726,"A lake, and hills."\n100737,A street.\n999,Gone.\n', encoding="utf-8"
    )
    status, items = run(tmp_path, "--web360", root)
    assert status == 0
    assert [item.caption for item in items] == ["A lake, and hills.", "A street.", ""]
    assert {(item.start, item.frames, item.fps) for item in items} == {(0, 64, 16)}
    assert "WEB360_360TF_train.csv:4: 999: there is no such panorama" in capsys.readouterr().err


def test_odv360_takes_a_folder_of_frames_for_each_clip(tmp_path: Path) -> None:
    root = tmp_path / "ODV360"
    for clip in ("001", "002"):
        write_frames(root / "train" / "HR" / clip, 100)
        write_frames(root / "train" / "LR_X4" / clip, 100, 16, 8)
    (root / "train" / "HR" / "003").mkdir()
    status, items = run(tmp_path, "--odv360", root, "--fps", "30")
    assert status == 0
    assert names(items, root) == ["train/HR/001", "train/HR/002"]
    assert {(item.frames, item.fps, item.licence) for item in items} == {(100, 30, "academic")}
    assert reasons(ADAPTERS["odv360"](root)).endswith("003: the folder holds no image")


def test_360x_takes_trimmed_cuts_and_keeps_a_recording_in_one_split(tmp_path: Path) -> None:
    root = tmp_path / "360x"
    for recording in range(12):
        for cut in range(3):
            name = f"cut{cut}_{cut * 10}s_to_{cut * 10 + 10}s"
            folder = root / f"{recording:02d}" / "360_trim" / "360_panoramic_trim" / name
            write_video(folder / f"{name}.mp4", 52)
        write_video(root / f"{recording:02d}" / "360_trim" / "front_view_trim" / "cut0" / "cut0.mp4", 52)
    status, items = run(tmp_path, "--360x", root, "--heldout", "0.5")
    assert status == 0
    assert len(items) == 36
    by_recording: dict[str, set[str]] = {}
    for item in items:
        by_recording.setdefault(item.path.relative_to(root).parts[0], set()).add(item.split)
    assert {len(splits) for splits in by_recording.values()} == {1}
    assert {split for splits in by_recording.values() for split in splits} == {"train", "heldout"}


def test_360x_takes_the_release_and_names_what_its_index_lists_and_lacks(tmp_path: Path) -> None:
    root = tmp_path / "360x_dataset_LR"
    write_video(root / "panoramic" / "aaaa.mp4", 64)
    write_video(root / "binocular" / "aaaa" / "clip1.mp4", 64)
    (root / "index.json").write_text(json.dumps([{"uuid": "aaaa"}, {"uuid": "bbbb", "category": "Nature"}]))
    status, items = run(tmp_path, "--360x", root)
    assert status == 0
    assert names(items, root) == ["panoramic/aaaa.mp4"]
    assert items[0].licence == "CC BY-NC-SA"
    assert reasons(ADAPTERS["360x"](root)).endswith("bbbb.mp4: index.json lists it, and it is not there")
    (root / "index.json").write_text("{")
    assert "index.json: cannot be read as JSON" in reasons(ADAPTERS["360x"](root))


def test_any_folder_gives_images_videos_and_frames_with_captions_of_every_kind(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_image(root / "a" / "one.png")
    (root / "a" / "one.txt").write_text("By text.\n")
    write_image(root / "a" / "two.jpg")
    (root / "table.csv").write_text("file_name,text\na/two.jpg,By csv.\nclips/v,By csv without suffix.\n")
    write_video(root / "clips" / "v.MP4".lower(), 64)
    write_frames(root / "clips" / "walk", 96)
    (root / "clips" / "more.jsonl").write_text(json.dumps({"path": "walk", "caption": " By\n jsonl. "}) + "\n\n")
    (root / "README.txt").write_text("about")
    (root / "clips" / "._v.mp4").write_bytes(b"junk of another system")
    status, items = run(tmp_path, "--folder", root, "--licence", "CC0")
    assert status == 0
    found = {item.path.relative_to(root).as_posix(): (item.caption, item.frames) for item in items}
    assert found == {
        "a/one.png": ("By text.", 1),
        "a/two.jpg": ("By csv.", 1),
        "clips/v.mp4": ("By csv without suffix.", 64),
        "clips/walk": ("By jsonl.", 96),
    }
    assert {item.licence for item in items} == {"CC0"}
    assert not ADAPTERS["folder"](root).problems


def test_the_caption_beside_a_video_and_its_thumbnail_is_the_videos(tmp_path: Path) -> None:
    """Thumbnails of every kind are left out by name, but for one that a table names."""
    for name in ("clip1.webp", "clip2.jpg", "clip3.png", "photo.png"):
        write_image(tmp_path / name)
    for name in ("clip1.mp4", "clip2.mkv", "clip3.webm"):
        (tmp_path / name).write_bytes(b"not decoded here")
    (tmp_path / "clip1.txt").write_text("A street.")
    (tmp_path / "photo.txt").write_text("A photo.")
    (tmp_path / "table.csv").write_text("path,caption\nclip2,A lake.\nclip3.png,A still.\n")
    found = ADAPTERS["folder"](tmp_path)
    assert {candidate.path.name: candidate.caption for candidate in found.candidates} == {
        "clip1.mp4": "A street.",
        "clip2.mkv": "A lake.",
        "clip3.png": "A still.",
        "clip3.webm": "",
        "photo.png": "A photo.",
    }
    assert [Path(problem.name).name for problem in found.problems] == ["clip1.webp", "clip2.jpg"]
    assert "left out: beside a video of its name" in reasons(found)


def test_the_frames_option_takes_every_folder_of_images_for_a_clip(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_frames(root / "walk", 100)
    write_frames(root / "ride.v2", 100)
    (root / "ride.v2.txt").write_text("A ride.")
    status, items = run(tmp_path, "--frames", root)
    assert status == 0
    assert [(item.path.name, item.caption) for item in items] == [("ride.v2", "A ride."), ("walk", "")]


def test_a_manifest_in_the_dataset_is_no_table_of_captions(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    first = run(tmp_path, "--folder", tmp_path)
    assert run(tmp_path, "--folder", tmp_path) == first
    assert not ADAPTERS["folder"](tmp_path).problems


@pytest.mark.parametrize("dataset", sorted(ADAPTERS))
def test_an_empty_folder_is_named_and_the_run_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    assert run(tmp_path, f"--{dataset}", root) == (1, [])
    errors = capsys.readouterr().err
    assert f"{root}: " in errors
    assert "no item is good" in errors


# Bad items


def test_every_bad_item_is_named_and_the_good_one_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "mine"
    write_image(root / "good.png")
    write_image(root / "square.png", 0, 64, 64)
    write_image(root / "odd.png", 0, 62, 31)
    cut_short(write_image(root / "broken.png", 0, 256, 128), 0.4)
    (root / "nothing.jpg").write_bytes(b"")
    cut_short(write_video(root / "truncated.mp4"), 0.5)
    write_video(root / "wide.mp4", 64, width=96)
    write_video(root / "short.mp4", 20)
    cut_short(write_video(root / "early.mp4", 100, faststart=True), 0.9)
    cut_short(write_video(root / "gone.mp4", 100, faststart=True), 0.55)
    status, items = run(tmp_path, "--folder", root, "--report", tmp_path / "report.txt")
    assert status == 0
    assert names(items, root) == ["early.mp4", "good.png"]
    assert 49 <= items[0].frames < 100
    errors = capsys.readouterr().err
    for line in (
        "square.png: it is 64 x 64; an equirectangular panorama is 2:1",
        "odd.png: it is 62 x 31; expected an even height",
        "broken.png: the image cannot be read",
        "nothing.jpg: the image cannot be read",
        "truncated.mp4: the video cannot be opened",
        "wide.mp4: it is 96 x 32",
        "short.mp4: it is too short: 20 frames at 16 fps last 1.19 s; expected 3 s",
        "early.mp4: it ends early",
        "gone.mp4: it ends early",
        "gone.mp4: it is too short",
    ):
        assert f"prepare: {root}/{line}" in errors
    report = (tmp_path / "report.txt").read_text().splitlines()
    assert len(report) == 10
    assert all(f"prepare: {line}" in errors for line in report)


def test_bad_captions_are_named_and_leave_the_item_without_one(tmp_path: Path) -> None:
    for name in ("empty", "huge", "twice", "latin"):
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    rows = {"huge": "word " * MAX_CAPTION, "twice": "One."}
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"path": f"{name}.png", "caption": text}) + "\n" for name, text in rows.items())
        + '{"path": "twice.png"}\n{"path": 3, "caption": "x"}\n[]\n{\n'
    )
    (tmp_path / "b.csv").write_text(f"path,caption\ntwice.png,Two.\nnone.png,None.\nhuge.png,{'x' * 200_000}\n")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    found = ADAPTERS["folder"](tmp_path)
    assert {candidate.path.stem: candidate.caption for candidate in found.candidates} == {
        "empty": "",
        "huge": "",
        "latin": "",
        "twice": "One.",
    }
    report = reasons(found)
    for line in (
        "empty.txt: empty.png: the caption is empty",
        "latin.txt: ",
        "a.jsonl:1: huge.png: the caption has 19999 characters",
        "a.jsonl:3: the table has path; expected one of",
        "a.jsonl:4: expected texts, got 3",
        "a.jsonl:5: expected a JSON object, got list",
        "a.jsonl:6: ",
        "b.csv:2: twice.png: it has another caption already",
        "b.csv:3: none.png: there is no such panorama",
        "b.csv:4: field larger than field limit",
        "c.csv: the table has a, b; expected one of",
    ):
        assert line in report
    assert len(found.problems) == 11


def test_a_file_found_twice_is_one_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "set" / "HR" / "one.png")
    status, items = run(tmp_path, "--flickr360", tmp_path / "set", "--folder", tmp_path / "set")
    assert (status, len(items), items[0].licence) == (0, 1, "mixed, non-commercial")
    assert "one.png: found twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name at least one dataset"),
        (["--folder", "nowhere"], "nowhere: there is no such folder"),
        (["--folder", ".", "--heldout", "1.5"], "--heldout is 1.5"),
        (["--folder", ".", "--span", "1"], "--span is 1"),
        (["--folder", ".", "--fps", "0"], "--fps above 0"),
        (["--folder", ".", "--train-fps", "-1"], "--train-fps is -1"),
        (["--folder", ".", "--report", "nowhere/report.txt"], "there is no folder nowhere"),
        (["--folder", ".", "--caption", "nowhere"], "expected a folder with a Qwen2.5-VL model"),
    ],
)
def test_bad_options_are_refused_with_a_plain_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(tmp_path, *options) == (2, [])
    assert message in capsys.readouterr().err


def test_a_manifest_needs_no_transformers(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    code = (
        "import sys; sys.modules['transformers'] = None; from viewpoint_core import prepare;"
        "sys.exit(prepare.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--folder", str(tmp_path), "--out", str(tmp_path / "m.jsonl")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    refused = subprocess.run([*command, "--caption", str(tmp_path)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert '--caption needs the extra "caption"' in refused.stderr


# What is 2:1 and no panorama


def save(pictures: Iterable[Tensor], file: Path, fps: float = 16) -> Path:
    """A video of float pictures, by the project's own writer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    video_file.write_video(pictures, file, fps)
    return file


def turning(erp: Tensor, count: int = 52) -> Iterator[Tensor]:
    """A panorama whose camera turns by a degree or two a picture."""
    return (erp.roll(number, -1) for number in range(count))


def test_what_is_2_to_1_and_no_panorama_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, city = tmp_path / "mine", panorama("city")
    for spoil in (flat, vr180, dual_fisheye, letterboxed, torch.zeros_like):
        save(map(spoil, turning(city)), root / f"{spoil.__name__}.mp4")
    save(turning(city), root / "good.mp4")
    video_file.write_image(city, root / "still.png")
    video_file.write_image(flat(city), root / "photo.png")
    status, items = run(tmp_path, "--folder", root)
    assert status == 0
    assert names(items, root) == ["good.mp4", "still.png"]
    errors = capsys.readouterr().err
    for line in (
        "flat.mp4: its left and right edges do not meet",
        "vr180.mp4: its left and right halves show the same",
        "dual_fisheye.mp4: it shows two circles in black",
        "letterboxed.mp4: it has black bars above and below",
        "zeros_like.mp4: every picture is black",
        "photo.png: its left and right edges do not meet",
    ):
        assert f"prepare: {root}/{line}" in errors
    assert errors.count("(--no-check takes it anyway)") == 6
    assert len(run(tmp_path, "--folder", root, "--no-check")[1]) == 8
    assert "--no-check" not in capsys.readouterr().err


def test_a_video_is_divided_at_its_cuts_and_no_span_crosses_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = [turning(panorama(name), count) for name, count in (("city", 60), ("forest", 20), ("night", 200))]
    file = save(chain(*shots), tmp_path / "in" / "cut.mp4")
    _, items = run(tmp_path, "--folder", file.parent, "--span", "5")
    assert [(item.start, item.frames) for item in items] == [(0, 60), (80, 100), (180, 100)]
    assert len({item.split for item in items}) == 1
    errors = capsys.readouterr().err
    assert "cut.mp4: it has hard cuts, at 3.75, 5.00 s, and is divided there; 1 of its 3 shots are too short" in errors
    _, items = run(tmp_path, "--folder", file.parent, "--span", "0", "--no-check")
    assert [(item.start, item.frames) for item in items] == [(0, 280)]


def test_a_cut_of_a_variable_rate_video_lies_on_its_timeline(tmp_path: Path) -> None:
    times = [*range(0, 4000, 100), *range(4000, 8000, 50)]
    pictures = [*turning(panorama("city"), 40), *turning(panorama("forest"), 80)]
    file = write_at_times(tmp_path / "in" / "v.mkv", pictures, times)
    _, items = run(tmp_path, "--folder", file.parent)
    assert len(items) == 2
    assert items[1].frames / items[1].fps == pytest.approx(4, abs=0.1)
    last, first = items[0].start + items[0].frames - 1, items[1].start
    shown = read_frames(file, [last, first], items[0].fps)
    assert (shown[0] / 255 - pictures[39]).abs().mean() < 0.03
    assert (shown[1] / 255 - pictures[40]).abs().mean() < 0.03


def test_frames_in_a_folder_are_divided_too(tmp_path: Path) -> None:
    for number, erp in enumerate(chain(turning(panorama("city"), 60), turning(panorama("studio"), 70))):
        (tmp_path / "in" / "walk").mkdir(parents=True, exist_ok=True)
        video_file.write_image(erp, tmp_path / "in" / "walk" / f"{number}.png")
    _, items = run(tmp_path, "--frames", tmp_path / "in", "--fps", "16")
    assert [(item.start, item.frames) for item in items] == [(0, 60), (60, 70)]


def test_a_rate_below_that_of_training_is_named_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fps in (12, 16):
        write_video(tmp_path / "in" / f"{fps}.mp4", 60, fps=fps)
    _, items = run(tmp_path, "--folder", tmp_path / "in")
    assert [item.fps for item in items] == [12, 16]
    errors = capsys.readouterr().err
    assert "12.mp4: its 12 fps are fewer than the 16 of training, so pictures will repeat" in errors
    assert "16.mp4" not in errors
    run(tmp_path, "--folder", tmp_path / "in", "--train-fps", "12")
    assert "will repeat" not in capsys.readouterr().err


def test_videos_of_kinds_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "good.png")
    for name in ("a.insv", "b.360", "deep/c.MTS", "._d.insv", "notes.doc"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    _, items = run(tmp_path, "--folder", tmp_path / "in")
    assert len(items) == 1
    found = capsys.readouterr()
    assert "a.insv: .insv is not read; stitch it" in found.err
    assert "b.360: .360 is not read; stitch it" in found.err
    assert "c.MTS: .MTS is not read; convert it to .mp4" in found.err
    assert "3 problems reported" in found.out


# Spans and splits


def test_long_videos_become_equal_spans_that_share_a_split(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "long.mp4", 16 * 34 + 3)
    _, items = run(tmp_path, "--folder", tmp_path / "in", "--heldout", "0.5")
    assert [(item.start, item.frames) for item in items] == [(0, 182), (182, 182), (364, 183)]
    assert len({item.split for item in items}) == 1
    _, items = run(tmp_path, "--folder", tmp_path / "in", "--span", "0")
    assert [(item.start, item.frames) for item in items] == [(0, 547)]


def test_the_split_depends_on_the_path_in_the_dataset_alone(tmp_path: Path) -> None:
    for place, count in (("here", 40), ("there", 20)):
        for number in range(count):
            write_image(tmp_path / place / f"{number}.png")
    splits = []
    for place in ("here", "there"):
        _, items = run(tmp_path, "--folder", tmp_path / place, "--heldout", "0.3")
        splits.append({item.path.name: item.split for item in items})
    assert splits[1].items() <= splits[0].items()
    assert set(splits[1].values()) == {"train", "heldout"}


def test_the_held_out_part_is_the_asked_one() -> None:
    splits = [split_of(f"folder/{number}.png", 0.1) for number in range(5000)]
    assert splits.count("heldout") / 5000 == pytest.approx(0.1, abs=0.02)
    assert {split_of(str(number), 0) for number in range(100)} == {"train"}


# The manifest file


def manifest_item(folder: Path, name: str = "one.png", caption: str = "A place.") -> Item:
    return Item(write_image(folder / name), 0, 1, 0.0, 64, 32, caption, "CC0", "heldout")


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    items = [manifest_item(tmp_path / "data", caption='Ünï "quoted"\u2028line'), manifest_item(tmp_path, "two.png", "")]
    write_manifest(items, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl") == items
    assert not list(tmp_path.glob(".*partial"))


def test_paths_are_relative_below_the_manifest_and_absolute_elsewhere(tmp_path: Path) -> None:
    items = [manifest_item(tmp_path / "set" / "data"), manifest_item(tmp_path / "other")]
    write_manifest(items, tmp_path / "set" / "m.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "set" / "m.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == ["data/one.png", (tmp_path / "other" / "one.png").as_posix()]
    (tmp_path / "set").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved" / "m.jsonl")[0].path == tmp_path / "moved" / "data" / "one.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "gone.png"}, "gone.png does not exist"),
        ({"caption": "x" * (MAX_CAPTION + 1)}, "the caption has 4001 characters"),
        ({"caption": None}, "caption is None"),
        ({"start": -1}, "start is -1"),
        ({"frames": True}, "frames is True"),
        ({"frames": 9}, "fps is 0.0 for 9 frames"),
        ({"width": 70}, "it is 70 x 32"),
        ({"split": "test"}, "split is 'test'"),
        ({"captoin": ""}, "unknown key 'captoin'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "m.jsonl"
    write_manifest([manifest_item(tmp_path)], file)
    line = file.read_text()
    file.write_text(line + json.dumps(json.loads(line) | {"start": 1} | change) + "\n")
    with pytest.raises(ValueError, match="m.jsonl:2: .*" + message):
        read_manifest(file)


def test_all_wrong_lines_are_named_together_and_what_is_no_json_too(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    write_manifest([manifest_item(tmp_path, caption="")], file)
    file.write_text(file.read_text() * 2 + "{\n[]\n{}\n")
    with pytest.raises(ValueError, match="m.jsonl:2: repeats line 1") as caught:
        read_manifest(file)
    assert [line.split(": ")[0].split(":")[-1] for line in str(caught.value).splitlines()] == ["2", "3", "4", "5"]
    file.write_text("\n")
    with pytest.raises(ValueError, match="the manifest is empty"):
        read_manifest(file)
    with pytest.raises(ValueError, match="there is no such manifest"):
        read_manifest(tmp_path / "none.jsonl")


def manifest_of(folder: Path, count: int) -> Path:
    for number in range(count):
        write_image(folder / f"{number}.png", number)
    return folder


def test_of_five_recordings_one_is_held_out_always_the_same(tmp_path: Path) -> None:
    items = [run(tmp_path, "--folder", manifest_of(tmp_path / place, 5))[1] for place in ("here", "there")]
    held = [[item.path.name for item in found if item.split == "heldout"] for found in items]
    assert len(held[0]) == 1
    assert held[0] == held[1]
    larger = run(tmp_path, "--folder", tmp_path / "here", "--heldout", "0.5")[1]
    assert held[0][0] in [item.path.name for item in larger if item.split == "heldout"]


def test_that_nothing_is_held_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, enough = manifest_of(tmp_path / "few", 3), manifest_of(tmp_path / "enough", 5)
    assert {item.split for item in run(tmp_path, "--folder", few)[1]} == {"train"}
    assert "nothing is held out" in capsys.readouterr().err
    assert {item.split for item in run(tmp_path, "--folder", enough, "--heldout", "0")[1]} == {"train"}
    run(tmp_path, "--folder", enough)
    assert "nothing is held out" not in capsys.readouterr().err
