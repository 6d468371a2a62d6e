"""What is said while something runs: on a terminal only, and by the first of several processes only."""

import pytest

from upweight.runtime import progress


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a phase, a line and a bar write; nothing of it may go to standard output."""
    with progress.phase("adding"):
        progress.tell("one line")
        assert list(progress.track(iter([1, 2]), "counting")) == [1, 2]
    written = capsys.readouterr()
    assert written.out == ""
    return written.err


def test_nothing_is_said_without_a_terminal(capsys):
    assert said(capsys) == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_says_it_on_a_terminal(capsys, monkeypatch, rank):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE", -1.0)  # the bar is shown at once
    monkeypatch.setattr(progress, "rank", lambda: rank)
    words = said(capsys)
    assert bool(words) == (rank == 0)
    for word in ("adding", "one line", "counting"):
        assert (word in words) == (rank == 0)


def test_a_phase_ends_with_its_exception():
    with pytest.raises(KeyError, match="gone"), progress.phase("failing"):
        raise KeyError("gone")
