"""An index on disk: the bytes of an undisturbed run, whatever happened on the way, and nothing of another model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from tests.support.ranks import PATIENCE, script
from tests.support.stores import contents
from upweight.influence import index_writing

pytestmark = pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
N, MORE = 40, 45


def rows(first: int, last: int, columns: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randn(200, columns, generator=torch.Generator().manual_seed(0)).double()
    return X[first:last], (X[first:last, 0] > 0).long()


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def problem(seed: int = 0, n: int = N) -> uw.Problem:
    return uw.Problem(network(seed), F.cross_entropy, rows(0, n))


def influence(damping: float = 0.01, **fields: Any) -> uw.Influence:
    own = problem(**fields)
    return uw.Influence(own, curvature=uw.EKFAC(own, damping=damping))


@pytest.fixture(autouse=True)
def blocks_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writing, "BLOCK_BYTES", 1000)


def built(folder: Path, **fields: Any) -> uw.GradientIndex:
    return uw.GradientIndex.build(influence(**fields), folder, error=1e-3)


JOB = """
import signal
import torch._dynamo  # what the first backward pass imports, once for all
from pathlib import Path
import upweight as uw
from tests.influence import test_index_files as tests
from upweight.influence import index_writing
from upweight.runtime import whole_files

index_writing.BLOCK_BYTES = 1000
work = Path(sys.argv[1])

def killed(count, task):
    "Whether a process of its own is killed, before (even counts) or after a file takes its place."
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    torch.set_num_threads(1)
    replace, done = Path.replace, []
    def fatal(self, target):
        done.append(None)
        if len(done) == count // 2 + 1 and count % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        found = replace(self, target)
        if len(done) == count // 2 + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    Path.replace = fatal
    try:
        task()
    finally:
        os._exit(0)

def build(folder):
    return tests.built(folder)

def append(folder):
    index = uw.GradientIndex.open(folder, tests.problem())
    if len(index) == tests.N:
        index.add(tests.rows(tests.N, tests.N + tests.MORE))

never = 10**6
for task, at in ((build, work / "build"), (append, work / "append")):
    for moment in range(10):
        folder = at / str(moment)
        if task is append:
            killed(never, lambda: build(folder))
        assert killed(moment, lambda: task(folder)), (task, moment)
        assert not killed(never, lambda: task(folder))
"""


def test_kill_at_ten_moments_of_a_build_and_an_append_leaves_the_bytes_of_undisturbed_runs(tmp_path: Path):
    job = [sys.executable, str(script(tmp_path, JOB)), str(tmp_path)]
    ended = subprocess.run(job, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    undisturbed = built(tmp_path / "alone")
    assert len(contents(tmp_path / "alone")) >= 6
    for moment in range(10):
        assert contents(tmp_path / "build" / str(moment)) == contents(tmp_path / "alone")
    undisturbed.add(rows(N, N + MORE))
    for moment in range(10):
        assert contents(tmp_path / "append" / str(moment)) == contents(tmp_path / "alone")


def test_rows_that_are_added_have_the_scores_of_rows_of_training(tmp_path: Path):
    asked = influence()
    index = uw.GradientIndex.build(asked, tmp_path, error=0.0).add(rows(N, N + MORE))
    test = rows(100, 103)
    found = uw.GradientIndex.open(tmp_path, asked.problem).on_loss(test)
    assert found.values.shape == (3, N + MORE)
    torch.testing.assert_close(found.values[:, :N], asked.on_loss(test).values, rtol=1e-9, atol=1e-12)
    solved = asked.solve(asked.problem.test_gradients(test)).value
    expected = -solved @ asked.problem.test_gradients(rows(N, N + MORE)).T
    torch.testing.assert_close(found.values[:, N:], expected, rtol=1e-9, atol=1e-12)
    assert f"the curvature is that of the first {N} rows; the {MORE} added since" in found.verdict
    before = contents(tmp_path)
    assert len(index.add(rows(N, N + MORE))) == N + MORE  # a call that is repeated adds nothing
    assert contents(tmp_path) == before


def test_weights_of_added_rows_count(tmp_path: Path):
    index = built(tmp_path).add(rows(N, N + 3), weights=[2.0, 1.0, 0.5]).add(rows(N, N + 3))
    found = index.on_loss(rows(100, 101)).values[0, N:]
    torch.testing.assert_close(found[:3], found[3:] * torch.tensor([2.0, 1.0, 0.5]).double())


def test_a_full_disk_leaves_an_index_that_is_still_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = built(tmp_path / "alone")
    undisturbed, values = contents(tmp_path / "alone"), index.on_loss(rows(100, 102)).values
    fsync, left = os.fsync, [0]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(handle)

    for files in range(4):
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            left[0] = 2 * files
            with pytest.raises(OSError, match="No space left"):
                built(tmp_path / "full")
            left[0] = 2 * files
            with pytest.raises(OSError, match="No space left"):
                index.add(rows(N, N + MORE))
        again = uw.GradientIndex.open(tmp_path / "alone", index.problem)
        assert torch.equal(again.on_loss(rows(100, 102)).values, values)
    built(tmp_path / "full")
    assert contents(tmp_path / "full") == undisturbed


def test_another_machine_needs_the_model_and_a_few_rows(tmp_path: Path):
    values = built(tmp_path).on_loss(rows(100, 104)).values
    elsewhere = uw.GradientIndex.open(tmp_path, problem(n=5))
    assert torch.equal(elsewhere.on_loss(rows(100, 104)).values, values)
    found = elsewhere.on_loss(rows(100, 104), top=3)
    assert found.columns is not None
    assert torch.equal(found.values, values.gather(1, found.columns))
    with pytest.raises(ValueError, match="new test rows need the model"):
        uw.GradientIndex.open(tmp_path).on_loss(rows(100, 104))
    assert len(uw.GradientIndex.open(tmp_path).on_self().values[0]) == N


def test_candidates_are_scored_exactly_and_their_recall_is_told(tmp_path: Path):
    asked, test = influence(), rows(100, 104)
    index = uw.GradientIndex.build(asked, tmp_path, error=0.3)
    truth = asked.on_loss(test, top=3)
    found = index.on_loss(test, top=3, candidates=10)
    assert found.columns is not None
    assert truth.columns is not None
    assert torch.equal(found.columns, truth.columns)
    torch.testing.assert_close(found.values, truth.values, rtol=1e-6, atol=1e-9)
    assert "of 10 candidates of the index, scored exactly" in found.verdict
    with pytest.raises(ValueError, match="candidates are for the strongest rows"):
        index.on_loss(test, candidates=10)
    with pytest.raises(uw.StaleError, match="give the whole problem"):
        uw.GradientIndex.open(tmp_path, problem(n=5)).on_loss(test, top=3, candidates=10)


def test_an_index_of_other_weights_or_settings_is_refused(tmp_path: Path):
    built(tmp_path)
    with pytest.raises(uw.StaleError, match="is an index of other weights"):
        uw.GradientIndex.open(tmp_path, problem(seed=1))
    with pytest.raises(uw.StaleError, match="holds an index of other weights, data or settings"):
        built(tmp_path, damping=0.1)
    with pytest.raises(uw.StaleError, match="holds an index of other weights, data or settings"):
        uw.GradientIndex.build(influence(), tmp_path, error=0.1)
    assert len(uw.GradientIndex.open(tmp_path, problem())) == N


def test_a_layer_that_was_not_indexed_is_named(tmp_path: Path):
    some = uw.Problem(network(0), F.cross_entropy, rows(0, N), params=["2.weight", "2.bias"])
    uw.GradientIndex.build(uw.Influence(some, curvature=uw.EKFAC(some, damping=0.01)), tmp_path)
    with pytest.raises(uw.StaleError, match=r"parameter '0\.weight' of this problem is not indexed"):
        uw.GradientIndex.open(tmp_path, problem())


@pytest.mark.parametrize("name", ["index.json", "bases.safetensors", "part-00000-000001.safetensors"])
@pytest.mark.parametrize("how", ["missing", "cut off", "changed", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, how: str):
    index = built(tmp_path / "own")
    path = tmp_path / "own" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "changed":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    else:
        other = built(tmp_path / "other", damping=0.1).store.folder / name
        if name == "index.json":
            path.write_text(json.dumps({"rows": 3}))
        else:
            shutil.copy(other, path)
    if (name, how) == ("index.json", "changed"):
        return  # a digit of words
    with pytest.raises(
        ValueError, match=path.name.replace(".", r"\.") if name != "index.json" else "index of gradients"
    ):
        uw.GradientIndex.open(tmp_path / "own", index.problem).on_loss(rows(100, 101))


def test_an_index_that_is_not_finished_says_so(tmp_path: Path):
    built(tmp_path)
    words = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**words, "parts": []}))
    with pytest.raises(ValueError, match="that is not finished"):
        uw.GradientIndex.open(tmp_path, problem())
    built(tmp_path)
    assert len(uw.GradientIndex.open(tmp_path)) == N


def test_rows_to_be_added_have_the_columns_and_names_of_the_others(tmp_path: Path):
    index = built(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="do not fit the model of the index"):
        index.add(rows(N, N + 3, columns=4))
    X, y = rows(N, N + 3)
    named = pd.DataFrame(X.numpy(), index=["a", "b", "c"])
    with pytest.raises(ValueError, match="name all or none"):
        index.add((named, y.numpy()))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"error": 0.1, "bytes_per_example": 100}, "not both"),
        ({"error": -1.0}, "error must be >= 0"),
        ({"bytes_per_example": 0}, "bytes_per_example must be >= 1"),
        ({"bytes_per_example": 3}, "is too little for a gradient of this model"),
    ],
)
def test_what_is_wanted_is_checked(tmp_path: Path, wanted: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        uw.GradientIndex.build(influence(), tmp_path, **wanted)


def test_bytes_are_kept_to(tmp_path: Path):
    errors = []
    for size in (30, 60, 90):
        index = uw.GradientIndex.build(influence(), tmp_path / str(size), bytes_per_example=size)
        assert index.bytes_per_example - 16 <= size
        errors.append(index.error)
    assert errors == sorted(errors, reverse=True)


def test_curvatures_without_bases_are_refused(tmp_path: Path):
    own = problem()
    for curvature in (
        uw.EKFAC(own, damping=0.1, leading=2),
        uw.Nystrom(uw.GaussNewton(own, damping=0.1), rank=3),
    ):
        with pytest.raises((TypeError, ValueError), match=r"no bases|needs EKFAC"):
            uw.GradientIndex.build(uw.Influence(own, curvature=curvature), tmp_path)
