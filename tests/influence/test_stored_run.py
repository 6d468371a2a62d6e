"""Scores through training by way of a folder: those without one, read as any store, and never those of another run."""

from pathlib import Path
from typing import Any

import pytest
import torch

import upweight as uw
from tests.support.runs import data, trained
from tests.support.stores import contents
from upweight import ScoreStore, StaleError
from upweight.influence import score_store, stored_run
from upweight.runtime import tensor_files

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two test rows go through training together."""
    monkeypatch.setattr(stored_run, "HELD_BYTES", 2 * 8 * 24)


@pytest.mark.parametrize("segments", [False, True])
def test_a_store_gives_the_scores_without_one(tmp_path: Path, few_at_once: None, segments: bool):
    run, test = trained(), data(n=3, seed=1)
    unrolled = uw.Unrolled(uw.Segments(run, 2, 1) if segments else run)
    wanted, found = unrolled.on_loss(test), unrolled.on_loss(test, store=tmp_path)
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-10, atol=1e-12)
    assert (found.said, found.provenance) == (wanted.said, wanted.provenance)
    kept, best = unrolled.on_loss(test, store=tmp_path, top=3), unrolled.on_loss(test, top=3)
    assert kept.columns is not None
    assert best.columns is not None
    assert torch.equal(kept.columns, best.columns)
    read = ScoreStore(tmp_path)
    assert len(read) == 3
    for i in (0, 2):
        assert torch.equal(read[i].values[0], found.values[i])
        assert read[i].helpful(2).equals(found[i].helpful(2))
        assert list(read[i].said) == list(wanted.said)


def test_what_is_finished_is_not_computed_again(
    tmp_path: Path, few_at_once: None, monkeypatch: pytest.MonkeyPatch
):
    run, test = trained(), data(n=5, seed=1)
    whole = tmp_path / "whole"
    uw.Unrolled(run).on_loss(test, store=whole)
    before, asked = contents(whole), list[int]()
    derivatives = uw.TrainingRun.derivatives
    assert not [name for name in before if name.startswith(("passed", "through"))]

    def counted(self: Any, v: Any, store: Any = None) -> Any:
        asked.append(len(v))
        return derivatives(self, v, store)

    monkeypatch.setattr(uw.TrainingRun, "derivatives", counted)
    uw.Unrolled(run).on_loss(test, store=whole)
    assert asked == []
    # Two groups were through when the job was killed; later, with half of the blocks; then while it tidied up.
    cut = tmp_path / "cut"
    for lost in ("passed-00002", "scores-000001", "passed-00000"):
        with monkeypatch.context() as killed:
            _kill(killed, lost)
            with pytest.raises(KeyboardInterrupt):
                uw.Unrolled(trained()).on_loss(test, store=cut)
        assert list(cut.glob("passed-*"))
    uw.Unrolled(trained()).on_loss(test, store=cut)
    assert asked == [2, 2, 1, 1]
    assert contents(cut) == before


def _kill(killed: pytest.MonkeyPatch, at: str) -> None:
    """Stop the job where it writes a file of passes or scores, or deletes one that it has written."""
    write, own, unlink = tensor_files.write, tensor_files.write_own, Path.unlink

    def stopped(make: Any) -> Any:
        def made(path: Path, *args: Any, **fields: Any) -> Any:
            if path.name.startswith(at):
                raise KeyboardInterrupt
            return make(path, *args, **fields)

        return made

    killed.setattr(stored_run, "write", stopped(write))
    killed.setattr(score_store, "write_own", stopped(own))
    killed.setattr(Path, "unlink", stopped(unlink))


@pytest.mark.parametrize("top", [None, 3])
def test_a_damaged_block_keeps_what_it_was_made_of(
    tmp_path: Path, few_at_once: None, monkeypatch: pytest.MonkeyPatch, top: int | None
):
    run, test, own = trained(), data(n=5, seed=1), tensor_files.write_own

    def damaged(path: Path, *args: Any, **fields: Any) -> None:
        own(path, *args, **fields)
        path.write_bytes(path.read_bytes()[:-1])

    with monkeypatch.context() as faulty:
        faulty.setattr(score_store, "write_own", damaged)
        with pytest.raises(ValueError, match="damaged"):
            uw.Unrolled(run).on_loss(test, store=tmp_path, top=top)
    assert len(list(tmp_path.glob("passed-*"))) == 3
    for path in tmp_path.glob("scores-*"):
        path.unlink()
    monkeypatch.setattr(uw.TrainingRun, "derivatives", lambda *_: pytest.fail("a pass was repeated"))
    uw.Unrolled(run).on_loss(test, store=tmp_path, top=top)
    assert not list(tmp_path.glob("passed-*"))


def test_a_job_goes_on_where_another_has_finished_its_blocks(
    tmp_path: Path, few_at_once: None, monkeypatch: pytest.MonkeyPatch
):
    run, test, columns = trained(), data(n=5, seed=1), stored_run._columns

    def meanwhile(path: Path, part: slice) -> Any:
        monkeypatch.setattr(stored_run, "_columns", columns)
        uw.Unrolled(run).on_loss(test, store=tmp_path)
        return columns(path, part)

    monkeypatch.setattr(stored_run, "_columns", meanwhile)
    found = uw.Unrolled(run).on_loss(test, store=tmp_path)
    assert torch.equal(found.values, ScoreStore(tmp_path).values())


def test_other_runs_tests_and_ways_are_refused_as_everywhere(tmp_path: Path):
    run, test = trained(), data(n=3, seed=1)
    uw.Unrolled(run).on_loss(test, store=tmp_path)
    before = contents(tmp_path)
    for other in (
        uw.Unrolled(trained(seed=4)),
        uw.Unrolled(uw.Segments(run, 2, 1)),
        uw.Influence(run.problem, curvature=uw.GaussNewton(run.problem, damping=0.1)),
    ):
        with pytest.raises(StaleError, match="give another folder, or delete this one"):
            other.on_loss(test, store=tmp_path)
    with pytest.raises(StaleError, match="other weights, data, settings or test rows"):
        uw.Unrolled(run).on_loss((test[0] + 1, test[1]), store=tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="top must be >= 1"):
        uw.Unrolled(run).on_loss(test, top=0)
