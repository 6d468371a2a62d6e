"""Scores on disk: the bytes of an undisturbed run, whatever happened on the way, and nothing of another model."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import upweight as uw
from tests.questions import linear
from tests.support.cases import draw
from tests.support.ranks import PATIENCE, ROOT, Group, script, starter, torchrun
from tests.support.stores import contents, preconditioned
from upweight import RankError, ScoreStore, StaleError
from upweight.influence import score_store as store
from upweight.influence.score_store import Plan
from upweight.runtime.fingerprint import FORMAT
from upweight.runtime.tensor_files import read, write_own
from upweight.runtime.whole_files import whole
from upweight.solvers import Solution, Status

pytestmark = pytest.mark.usefixtures("small_blocks")
KEY, PLAN = "a key", Plan(m=2, n=7, p=3, columns=3, dtype="float64")
VALUES = torch.arange(14.0, dtype=torch.float64).view(2, 7)


@given(m=st.integers(1, 5), n=st.integers(1, 50), columns=st.integers(1, 60))
def test_the_blocks_of_a_plan_are_all_training_rows_once(m: int, n: int, columns: int):
    plan = Plan(m, n, 4, min(columns, n), "float32")
    rows = [row for j in range(plan.blocks) for row in range(n)[plan.part(j)]]
    assert rows == list(range(n))
    assert plan.size == 4 * m * n
    assert all(len(range(n)[plan.part(j)]) == plan.columns for j in range(plan.blocks - 1))


@pytest.mark.parametrize(("m", "columns"), [(3, 10), (1, 30), (24, 1), (1000, 1)])
def test_a_plan_for_a_problem_keeps_blocks_to_their_size(m: int, columns: int):
    problem, _ = linear()
    plan = Plan.of(m, problem)
    assert plan.columns == min(columns, problem.n)
    assert (plan.n, plan.p, plan.dtype) == (37, 15, "float64")
    assert f"{m} x 37 scores" in str(plan)
    assert f"{-(-m // 2)} groups of solves" in str(plan)


def filled(folder: Path) -> ScoreStore:
    store_ = ScoreStore.begin(folder, KEY, PLAN)
    assert len(list(store_.fill(lambda part: VALUES[:, part]))) == 3
    return store_


def test_a_filled_store_holds_the_values_and_computes_them_once(tmp_path: Path):
    made = filled(tmp_path)
    assert torch.equal(made.values(), VALUES)
    assert torch.equal(made.block(2), VALUES[:, 6:])
    assert len(made) == 2

    def compute(part: slice) -> Any:
        raise AssertionError(f"{part} is there")

    again = ScoreStore.begin(tmp_path, KEY, PLAN)
    assert [part for part, _ in again.fill(compute)] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    with pytest.raises(ValueError, match=r"about\.safetensors is missing: run on_loss again"):
        again[0]


def test_folders_on_the_way_to_a_store_are_made(tmp_path: Path):
    filled(tmp_path / "of" / "today")
    assert torch.equal(ScoreStore(tmp_path / "of" / "today").values(), VALUES)


def test_a_store_of_other_scores_or_sizes_is_not_mixed_with(tmp_path: Path):
    filled(tmp_path)
    for key, plan in (("another", PLAN), (KEY, replace(PLAN, columns=2)), (KEY, replace(PLAN, m=3))):
        with pytest.raises(StaleError, match="holds scores of other weights, data, settings or test rows"):
            ScoreStore.begin(tmp_path, key, plan)


def test_what_a_killed_job_left_half_written_is_deleted(tmp_path: Path):
    tmp_path.joinpath("scores-000000.safetensors.part").write_bytes(b"half")
    tmp_path.joinpath(".tmp123").write_bytes(b"half")
    tmp_path.joinpath("mine.txt").write_text("keep")
    ScoreStore.begin(tmp_path, KEY, PLAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "store.json"]


def test_two_jobs_on_one_store_end_as_one_would(tmp_path: Path):
    def while_another_begins(part: slice) -> Any:
        with whole(tmp_path / "both" / "solved-00000.safetensors"):  # which that one must not delete
            filled(tmp_path / "both")
        return VALUES[:, part]

    filled(tmp_path / "alone")
    first = ScoreStore.begin(tmp_path / "both", KEY, PLAN)
    assert len(list(first.fill(while_another_begins))) == 3
    found = contents(tmp_path / "both")
    assert found.pop("solved-00000.safetensors") == b""
    assert found == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "no JSON",
        "[1, 2]",
        f'{{"format": {FORMAT}}}',
        f'{{"format": {FORMAT}, "key": "a"}}',
        f'{{"format": {FORMAT}, "key": "a", "plan": {{"m": 1}}}}',
    ],
    ids=len,
)
def test_a_file_of_words_that_is_none_is_named(tmp_path: Path, words: str):
    (tmp_path / "store.json").write_text(words)
    with pytest.raises(ValueError, match="is not a folder of scores of upweight"):
        ScoreStore(tmp_path)


def test_a_missing_block_is_named(tmp_path: Path):
    made = filled(tmp_path)
    made.path(1).unlink()
    with pytest.raises(ValueError, match=r"scores-000001\.safetensors is missing: run on_loss again"):
        made.values()


def solution(rows: torch.Tensor, precision: torch.dtype | None = None) -> Solution:
    kinds = (Status.CONVERGED, Status.ESTIMATED)
    status = tuple(kinds[i % 2] for i in range(len(rows)))
    return Solution(2 * rows, rows[:, 0].abs(), torch.arange(len(rows)), status, precision)


@pytest.mark.parametrize("precision", [None, torch.float32])
def test_solves_are_kept_group_by_group_with_all_that_is_known(tmp_path: Path, precision: torch.dtype | None):
    made = ScoreStore.begin(tmp_path, KEY, PLAN)
    rows, asked = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double(), []

    def solve(group: torch.Tensor) -> Solution:
        asked.append(len(group))
        return solution(group, precision)

    found = made.solved(rows, solve)
    assert asked == [2, 2, 1]
    assert torch.equal(found.value, 2 * rows)
    assert torch.equal(found.residual, rows[:, 0].abs())
    assert found.steps.tolist() == [0, 1, 0, 1, 0]
    assert [status.value for status in found.status] == [*["converged", "estimated"] * 2, "converged"]
    assert found.precision == precision
    again = made.solved(rows, solve)
    assert asked == [2, 2, 1]
    assert torch.equal(again.value, found.value)
    assert again.status == found.status
    with pytest.raises(ValueError, match=r"solved-00000\.safetensors belongs to other scores"):
        made.solved(rows[:1], solve)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "changed", "other scores"])
def test_a_damaged_block_is_named(tmp_path: Path, damage: str):
    problem, test = linear()
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
    if damage in ("truncated", "foreign"):
        with pytest.raises(ValueError, match=r"scores-000001\.safetensors is damaged, it is cut off"):
            ScoreStore(tmp_path)[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"scores-000001\.safetensors cannot be read"):
        ScoreStore(tmp_path)[0]
    influence.on_loss(test, store=tmp_path)
    assert path.read_bytes() == whole


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a folder of scores"):
        ScoreStore(tmp_path / "nowhere")
    problem, test = linear()
    with pytest.raises(ValueError, match="compress and store"):
        preconditioned(problem).on_loss(test, store=tmp_path, compress=0.1)


@pytest.mark.parametrize("old", [None, FORMAT - 1])
def test_a_folder_of_another_format_is_refused(tmp_path: Path, old: int | None):
    problem, test = linear()
    influence = uw.Influence(problem)
    influence.on_loss(test, store=tmp_path)
    place = tmp_path / "store.json"
    words = json.loads(place.read_text())
    assert words.pop("format") == FORMAT
    place.write_text(json.dumps(words if old is None else {"format": old, **words}))
    said = rf"is a folder of scores of .*, and this version of upweight reads format {FORMAT}: delete it"
    for ask in (lambda: ScoreStore(tmp_path), lambda: influence.on_loss(test, store=tmp_path)):
        with pytest.raises(ValueError, match=said):
            ask()


def test_a_full_disk_leaves_a_valid_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, test = linear()
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
from tests.support.stores import preconditioned
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


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_flipped_bit_is_seen_by_whoever_reads_that_row(tmp_path: Path, row: int):
    problem, test = linear()
    preconditioned(problem).on_loss(test, store=tmp_path)
    store = ScoreStore(tmp_path)
    right = [store[i].values for i in range(len(store))]
    path = tmp_path / "scores-000001.safetensors"
    with safe_open(path, framework="pt") as file:
        needle = file.get_slice("values")[row].numpy().tobytes()
    whole = bytearray(path.read_bytes())
    place = bytes(whole).index(needle)
    whole[place + 3] ^= 16
    path.write_bytes(bytes(whole))
    for i, wanted in enumerate(right):
        if i == row:
            with pytest.raises(
                ValueError, match=r"scores-000001\.safetensors has changed since it was written"
            ):
                ScoreStore(tmp_path)[i]
        else:
            assert torch.equal(ScoreStore(tmp_path)[i].values, wanted)


def test_blocks_of_other_scores_are_not_read(tmp_path: Path):
    """The key of a block is compared, by whoever reads all of it and by whoever reads a row."""
    problem, test = linear()
    preconditioned(problem).on_loss(test, store=tmp_path)
    store = ScoreStore(tmp_path)
    path = tmp_path / "scores-000000.safetensors"
    tensors, words = read(path, "a block of scores")
    write_own(path, tensors, {**words, "key": "another"})
    for ask in (lambda: store.block(0), lambda: store[0], store.values):
        with pytest.raises(ValueError, match=r"scores-000000\.safetensors belongs to other scores"):
            ask()


def test_solves_of_other_scores_are_not_read(tmp_path: Path):
    made, rows = ScoreStore.begin(tmp_path, KEY, PLAN), draw(1, 3)
    made.solved(rows, solution)
    path = tmp_path / "solved-00000.safetensors"
    tensors, words = read(path, "a group of solves")
    write_own(path, tensors, {**words, "key": "another"})
    with pytest.raises(ValueError, match=r"solved-00000\.safetensors belongs to other scores"):
        made.solved(rows, solution)


@pytest.mark.parametrize("crafted", [{"m": -3}, {"n": 0}, {"columns": 0}, {"p": -1}, {"dtype": "os"}])
def test_a_crafted_plan_is_refused(tmp_path: Path, crafted: dict[str, Any]):
    problem, test = linear()
    uw.Influence(problem).on_loss(test, store=tmp_path)
    place = tmp_path / "store.json"
    words = json.loads(place.read_text())
    place.write_text(json.dumps({**words, "plan": {**words["plan"], **crafted}}))
    with pytest.raises(ValueError, match=r"is not a folder of scores of upweight \(no plan has"):
        ScoreStore(tmp_path)
