"""Files under a temporary name until they are whole."""

import os
from pathlib import Path

import pytest

from viewpoint_core.replacing import partial_beside, replace_bytes, replace_text, replacing, take_first_free


def half_write(target: Path) -> None:
    with replacing(target) as partial:
        partial.write_text("half")
        raise OSError("disk full")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        half_write(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with replacing(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append([file.suffix for file in tmp_path.iterdir()]))
    replace_bytes(tmp_path / "a.bin", b"whole")
    assert seen == [[".partial"]]
    (tmp_path / "a.bin").rename(tmp_path / "again.partial")
    assert take_first_free(tmp_path / "again.partial", [tmp_path / "b.bin"]) == tmp_path / "b.bin"
    assert seen == [[".partial"]] * 2


def test_text_is_written_in_utf_8(tmp_path: Path) -> None:
    replace_text(tmp_path / "a.txt", "a canal in 京都, café\n")
    assert (tmp_path / "a.txt").read_bytes().decode("utf-8") == "a canal in 京都, café\n"


def test_a_name_is_given_back_where_the_file_cannot_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with partial_beside(tmp_path / "a.mp4") as partial:
        partial.write_text("whole")
        with pytest.raises(PermissionError, match="not here"):
            take_first_free(partial, [tmp_path / "a.mp4"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_same_temporary_name_is_written_over_what_a_killed_run_has_left(tmp_path: Path) -> None:
    with partial_beside(tmp_path / "a.bin", same_name=True) as partial:
        pass
    partial.write_bytes(b"half of what was to come")
    replace_bytes(tmp_path / "a.bin", b"whole", same_name=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"whole"


@pytest.mark.parametrize("length", [240, 255])
def test_a_file_whose_name_is_as_long_as_can_be_is_written_also_one_within_another(tmp_path: Path, length: int) -> None:
    target = tmp_path / ("p" * (length - 4) + ".mp4")
    with replacing(target) as partial:
        partial.write_text("encoded")
        with replacing(partial) as marked:
            marked.write_text("marked")
    assert target.read_text() == "marked"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_meanwhile_is_left_to_its_file(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError("this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    names = [tmp_path / f"{number}.mp4" for number in range(3)]
    with partial_beside(names[0]) as partial:
        partial.write_text("this")
        names[0].write_text("another program's")
        assert take_first_free(partial, names) == names[1]
    assert sorted((file.name, file.read_text()) for file in tmp_path.iterdir()) == [
        ("0.mp4", "another program's"),
        ("1.mp4", "this"),
    ]
