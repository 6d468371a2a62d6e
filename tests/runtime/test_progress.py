"""What is said while something runs: on a terminal only, and by the first of several processes only."""

from collections.abc import Iterator

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
def test_what_changes_an_answer_is_told_in_a_pipe_too(capsys, monkeypatch, rank):
    monkeypatch.setattr(progress, "rank", lambda: rank)
    progress.tell("a column was left out", always=True)
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "" if rank else "a column was left out\n")


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


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_words_are_written_as_they_are(capsys, on_a_terminal):
    progress.tell("[bold]17[/bold] rows")
    assert "[bold]17[/bold] rows" in capsys.readouterr().err


def test_a_quick_loop_shows_no_bar(capsys, on_a_terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 1e9)
    assert list(progress.track([1, 2, 3], "counting", 3)) == [1, 2, 3]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", [3, None])
def test_a_bar_says_how_many_of_how_many(capsys, on_a_terminal, monkeypatch, total):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.track(iter([1, 2, 3]), "counting", total)) == [1, 2, 3]
    assert f"3/{total or '?'}" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_items_are_taken_one_by_one(monkeypatch, terminal):
    """Nobody reads on behind the back of a loop that stops."""
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            taken.append(i)
            yield i

    for item in progress.track(items(), "looking"):
        if item == 1:
            break
    assert taken == [0, 1]


@pytest.mark.parametrize("patience", [-1.0, 1e9])
def test_a_bar_goes_away_with_an_exception(capsys, on_a_terminal, monkeypatch, patience):
    monkeypatch.setattr(progress, "PATIENCE", patience)

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        list(progress.track(items(), "counting"))
    said = capsys.readouterr().err
    assert ("\x1b[?25h" in said) == (patience < 0)  # the cursor is back where a bar was shown


def test_a_phase_turns_on_a_terminal_and_lets_exceptions_through(capsys, on_a_terminal):
    with pytest.raises(KeyError, match="gone"), progress.phase("failing"):
        raise KeyError("gone")
    assert "failing" in capsys.readouterr().err


def test_a_gauge_says_what_share_is_done_and_does_not_go_back(capsys, on_a_terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.gauge("searching") as reached:
        for share in (0.5, 0.25, 0.5):
            reached(share)
    said = capsys.readouterr().err
    assert " 50%" in said
    assert " 25%" not in said
    assert "searching" in said


def test_a_gauge_of_something_quick_says_nothing(capsys, on_a_terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 1e9)
    with progress.gauge("searching") as reached:
        reached(0.5)
    assert capsys.readouterr().err == ""
