"""Files are there whole or not at all, whoever else writes beside them."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from upweight.runtime import whole_files
from upweight.runtime.whole_files import remove_unfinished, whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a [1]*.txt"


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(path: Path):
    path.write_text("before")
    with whole(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert names(path) == [path.name]


def test_after_a_failure_what_was_there_is_still_there(path: Path):
    path.write_text("before")

    def half(failure: BaseException) -> None:
        with whole(path) as part:
            part.write_text("half")
            raise failure

    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            half(failure)
        assert (path.read_text(), names(path)) == ("before", [path.name])


def test_two_that_write_one_file_do_not_meet(path: Path):
    with whole(path) as first:
        first.write_text("first")
        with whole(path) as second:
            second.write_text("second")
            assert first.exists()
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(path) == [path.name]


def test_what_a_killed_job_left_is_deleted_and_what_another_writes_is_not(path: Path):
    left = path.with_name(f"{path.name}.0123.part")
    left.write_text("half")
    stranger = path.with_name("b.txt.0123.part")
    stranger.write_text("half")
    with whole(path) as part:
        assert (left.exists(), stranger.exists()) == (False, True)
        remove_unfinished(path.parent)
        assert (part.exists(), stranger.exists()) == (True, False)
        part.write_text("all")
    assert path.read_text() == "all"


def test_the_disk_has_the_file_before_its_name_and_then_the_name(path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(part: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    with whole(path) as part:
        part.write_text("all")
    assert done == ["file", "renamed", "folder"]


def test_permissions_and_links_stay(path: Path):
    path.write_text("before")
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    with whole(link) as part:
        part.write_text("after")
    assert link.is_symlink()
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_no_file_is_written_to_directly(tmp_path: Path):
    with whole(os.devnull) as part:
        assert part == Path(os.devnull)
    os.mkfifo(tmp_path / "pipe")
    with whole(tmp_path / "pipe") as part:
        assert part == tmp_path / "pipe"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with (
        pytest.raises(FileNotFoundError, match=r"a\.txt cannot be written: there is no folder"),
        whole(tmp_path / "nowhere" / "a.txt"),
    ):
        pass


def test_a_long_name_is_no_trouble(tmp_path: Path):
    path = tmp_path / ("ä" * 127)
    with whole(path) as part:
        part.write_text("all")
    assert path.read_text() == "all"


def test_without_locks_nothing_unfinished_is_deleted(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole_files, "fcntl", None)
    left = path.with_name(f"{path.name}.0123.part")
    left.write_text("half")
    with whole(path) as part:
        part.write_text("all")
    remove_unfinished(path.parent)
    assert (path.read_text(), left.exists()) == ("all", True)


def test_a_file_that_was_taken_for_a_killed_jobs_before_it_was_locked_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    lock, seen = fcntl.flock, list[Path]()

    def late(handle: int, how: int) -> None:
        if not seen:
            seen.extend(path.parent.iterdir())
            seen[0].unlink()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with whole(path) as part:
        part.write_text("all")
    assert path.read_text() == "all"
    assert names(path) == [path.name]
