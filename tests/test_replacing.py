"""Files under a temporary name until they are whole."""

from pathlib import Path

import pytest

from viewpoint_core.replacing import replace_bytes, replacing


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


def test_a_file_of_the_same_temporary_name_is_written_over_what_a_killed_run_has_left(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(b"half of what was to come")
    replace_bytes(tmp_path / "a.bin", b"whole", same_name=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
