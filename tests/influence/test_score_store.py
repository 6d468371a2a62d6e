"""Scores on disk: the bytes of an undisturbed run, whatever happened on the way, and nothing of another model."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import upweight as uw
from tests.questions import linear, network
from tests.support.ranks import PATIENCE, ROOT, Group, script, starter, torchrun
from upweight import RankError, ScoreStore, StaleError
from upweight.influence import score_store as store
from upweight.runtime.tensor_files import write_own


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "BLOCK_BYTES", 3 * 8 * 10)  # 10 training rows of 3 scores
    monkeypatch.setattr(store, "SOLVED_AT_ONCE", 2)


def preconditioned(problem: uw.Problem | uw.LinearProblem) -> uw.Influence:
    curvature = uw.GaussNewton(problem, damping=0.1)
    solver = uw.ConjugateGradient(rtol=1e-11, preconditioner=uw.EKFAC(problem, damping=0.1))
    return uw.Influence(problem, curvature=curvature, solver=solver)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("model", [linear, network])
def test_a_store_gives_the_scores_without_one(tmp_path: Path, model: Any):
    problem, test = model()
    influence = preconditioned(problem)
    wanted = influence.on_loss(test)
    found = influence.on_loss(test, store=tmp_path)
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.drift, wanted.drift, rtol=1e-6, atol=1e-12)
    kept = influence.on_loss(test, store=tmp_path, top=3)
    best = influence.on_loss(test, top=3)
    assert kept.columns is not None
    assert best.columns is not None
    assert torch.equal(kept.columns, best.columns)
    read = ScoreStore(tmp_path)
    assert len(read) == 3
    for i in (0, 2, -1):
        assert torch.equal(read[i].values[0], found.values[i])
        assert read[i].helpful(2).equals(found[i].helpful(2))
    with pytest.raises(IndexError, match="test row 3 of 3"):
        read[3]


def test_what_is_finished_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, test = network()
    preconditioned(problem).on_loss(test, store=tmp_path)
    before = contents(tmp_path)
    (tmp_path / "scores-000002.safetensors").unlink()
    (tmp_path / "solved-00001.safetensors").unlink()
    asked: list[Any] = []
    products, solve = uw.Problem.products, uw.Influence.solve

    def counted_solve(self: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return solve(self, rows)

    def counted_products(self: Any, rows: Any, within: slice) -> Any:
        asked.append(within)
        return products(self, rows, within)

    monkeypatch.setattr(uw.Influence, "solve", counted_solve)
    monkeypatch.setattr(uw.Problem, "products", counted_products)
    preconditioned(network()[0]).on_loss(test, store=tmp_path)
    assert asked == [1, slice(20, 30)]
    assert contents(tmp_path) == before


def test_changed_weights_data_settings_or_tests_are_refused(tmp_path: Path):
    problem, test = network()
    preconditioned(problem).on_loss(test, store=tmp_path)
    before = contents(tmp_path)
    other, _ = network(seed=1)
    with pytest.raises(StaleError, match="other weights, data, settings or test rows"):
        preconditioned(other).on_loss(test, store=tmp_path)
    with pytest.raises(StaleError, match="give another folder"):
        preconditioned(problem).on_loss((test[0] + 1, test[1]), store=tmp_path)
    with pytest.raises(StaleError, match="delete this one"):
        uw.Influence(problem, curvature=uw.GaussNewton(problem, damping=0.2)).on_loss(test, store=tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["truncated", "foreign", "changed", "other scores"])
def test_a_damaged_block_is_named(tmp_path: Path, damage: str):
    problem, test = network()
    influence = preconditioned(problem)
    influence.on_loss(test, store=tmp_path)
    path = tmp_path / "scores-000001.safetensors"
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-8])
    elif damage == "foreign":
        path.write_bytes(b"not ours")
    elif damage == "changed":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        write_own(path, {"values": torch.zeros(3, 10)}, {"key": "another", "checksum": ""})
    with pytest.raises(ValueError, match=r"scores-000001\.safetensors"):
        influence.on_loss(test, store=tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"scores-000001\.safetensors cannot be read"):
        ScoreStore(tmp_path)[0]
    influence.on_loss(test, store=tmp_path)
    assert path.read_bytes() == whole


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a folder of scores"):
        ScoreStore(tmp_path / "nowhere")
    problem, test = network()
    with pytest.raises(ValueError, match="compress and store"):
        preconditioned(problem).on_loss(test, store=tmp_path, compress=0.1)


def test_a_full_disk_leaves_a_valid_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, test = network()
    influence = preconditioned(problem)
    written: list[Path] = []

    def full(path: Path, *rest: Any) -> None:
        if len(written) == 2:
            Path(f"{path}.part").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(path)
        write_own(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_own", full)
        with pytest.raises(OSError, match="No space left"):
            influence.on_loss(test, store=tmp_path)
    assert len(list(tmp_path.glob("scores-*.safetensors"))) == 2
    wanted = influence.on_loss(test).values
    torch.testing.assert_close(influence.on_loss(test, store=tmp_path).values, wanted, rtol=1e-8, atol=1e-10)


JOB = """
from unittest import mock
import upweight as uw
from tests import questions
from upweight.influence import score_store as store
from tests.influence.test_score_store import preconditioned
problem, test = questions.network()
with mock.patch.multiple(store, BLOCK_BYTES=3 * 8 * 4, SOLVED_AT_ONCE=1):
    preconditioned(problem).on_loss(test, store=sys.argv[1], top=2)
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, group: Callable[[int], Group]) -> dict[str, bytes]:
    """What two undisturbed processes write."""
    folder = tmp_path_factory.mktemp("calm")
    for ended in group(2).run(script(folder, JOB), folder / "scores"):
        assert ended.returncode == 0, ended.stderr
    return contents(folder / "scores")


def kill_all(folder: Path) -> None:
    """SIGKILL for starter and workers, each in a session of its own: whoever has the folder as argument."""
    found = True
    while found:  # until they are gone
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(folder).encode() in (process / "cmdline").read_bytes():
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)


def files(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, group: Callable[[int], Group], calm: dict[str, bytes]
):
    job, rough = script(tmp_path, JOB), tmp_path / "rough"
    moments = random.Random(0)
    for _ in range(3):
        before, began = files(rough), time.monotonic()
        process = subprocess.Popen(
            starter(job, rough), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Kills count from the first trace of work on.
        while files(rough) <= before and process.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        kill_all(rough)
        process.wait()
    for ended in group(2).run(job, rough):
        assert ended.returncode == 0, ended.stderr
    assert contents(rough) == calm


def test_the_restart_of_torchrun_goes_on(tmp_path: Path, calm: dict[str, bytes]):
    dying = """
import signal
from upweight.influence import score_store as store
if os.environ["RANK"] == "1":
    count, write_own = 0, store.write_own
    def noted(path, *rest):
        global count
        write_own(path, *rest)
        count += 1
        print(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} wrote", path, flush=True)
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    store.write_own = noted
"""
    rough = tmp_path / "rough"
    ended = torchrun(script(tmp_path, dying + JOB), rough, max_restarts="1")
    assert ended.returncode == 0, ended.stderr
    wrote = [line for line in ended.stdout.splitlines() if " wrote " in line]
    assert sum("attempt 0" in line for line in wrote) == 2
    assert any("attempt 1" in line for line in wrote)
    assert len({line.split()[-1] for line in wrote}) == len(wrote)  # nothing twice
    assert contents(rough) == calm


def test_a_block_of_another_on_one_rank_is_said_by_all(tmp_path: Path, group: Callable[[int], Group]):
    job = script(
        tmp_path,
        JOB.replace(
            "    preconditioned(problem).on_loss(test, store=sys.argv[1], top=2)",
            """
    try:
        preconditioned(problem).on_loss(test, store=sys.argv[1])
    except uw.InfluenceError as error:
        print(f"said: {error}", flush=True)
        raise
""",
        ),
    )
    for ended in group(2).run(job, tmp_path / "s"):
        assert ended.returncode == 0, ended.stderr
    last = sorted((tmp_path / "s").glob("scores-*.safetensors"))[-1]
    last.write_bytes(b"not ours")
    for ended in group(2).run(job, tmp_path / "s"):
        assert ended.returncode != 0
        assert ended.stdout.count(f"said: rank 1: {last}") == 1


def test_rank_errors_are_failures_of_ours():
    assert issubclass(RankError, uw.InfluenceError)
