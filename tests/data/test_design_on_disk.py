"""Data on disk against the same data in memory: equal answers, whatever the format, the chunks and the rank's share."""

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.on_disk import FORMS, D, N, X, Y, on_disk, table
from upweight import GaussNewton, Influence, LinearProblem, Logistic, Problem, Softmax, from_estimator, stream
from upweight.data import design_on_disk as streams
from upweight.data import sources
from upweight.data.design import Design


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 5 * D * 4)


@pytest.mark.parametrize("form", FORMS)
def test_the_three_products_and_single_rows(form, tmp_path):
    given, y = on_disk(form, tmp_path)
    design = streams.opened(given) if not isinstance(given, Design) else given
    assert design.shape == (N, D)
    assert np.asarray(y).tolist() == Y.tolist()
    for size, within in ((3, None), (100, None), (4, slice(11, 38))):
        start, stop, _ = (within or slice(None)).indices(N)
        parts = list(design.blocks(size, torch.float64, within))
        assert [i for part, _ in parts for i in range(N)[part]] == list(range(start, stop))
        assert max(part.stop - part.start for part, _ in parts) <= min(size, 5)
        assert torch.equal(torch.cat([block.dense() for _, block in parts]), X[start:stop].double())
    index = torch.tensor([56, 0, 0, 31, 13])
    assert torch.equal(design.take(index).block(slice(None), torch.float32).dense(), X[index])
    assert torch.equal(design.block(slice(9, 30), torch.float32).dense(), X[9:30])
    assert torch.equal(design.block(slice(None), torch.float32).dense(), X)


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_data_in_memory(form, tmp_path):
    given, y = on_disk(form, tmp_path)
    options: dict[str, Any] = {"loss": Logistic(), "l2": 0.01, "intercept": True}
    here, there = LinearProblem.fit(X, Y, **options), LinearProblem.fit(given, y, **options)
    assert_close_per_row(there.theta[None], here.theta[None], 1e-8)
    test = X[:3] + 0.1, Y[:3]
    mine, theirs = Influence(there), Influence(here)
    assert_close_per_row(mine.on_loss(test).values, theirs.on_loss(test).values, 1e-7)
    assert_close_per_row(mine.on_self().values, theirs.on_self().values, 1e-7)
    few, whole = mine.on_loss(test, top=4), theirs.on_loss(test)
    assert few[1].top(4).index.tolist() == whole[1].top(4).index.tolist()
    sets = [[1, 2, 3], list(range(20, 30))]
    ours, plain = mine.of_removal(sets, test), theirs.of_removal(sets, test)
    assert_close_per_row(ours.newton, plain.newton, 1e-6)


def test_transformers_of_a_pipeline_cannot_read_a_stream(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    given, y = on_disk("parquet", tmp_path)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X.numpy(), Y.numpy())
    with pytest.raises(TypeError, match="streamed from disk"):
        from_estimator(model, given, y)


def test_softmax_of_a_stream(tmp_path):
    given, _ = on_disk("parquet", tmp_path)
    y = (Y + (X[:, 1] > 0.5)).long()
    options: dict[str, Any] = {"loss": Softmax(), "l2": 0.05, "outputs": 3}
    here, there = LinearProblem.fit(X, y, **options), LinearProblem.fit(given, y, **options)
    test = X[:3], y[:3]
    assert_close_per_row(Influence(there).on_loss(test).values, Influence(here).on_loss(test).values, 1e-7)


def test_scores_of_a_stream_go_to_a_store(tmp_path):
    given, y = on_disk("parquet", tmp_path)
    problem = LinearProblem.fit(given, y, loss=Logistic(), l2=0.01)
    test = X[:3], Y[:3]
    stored = Influence(problem).on_loss(test, store=tmp_path / "scores")
    assert_close_per_row(stored.values, Influence(problem).on_loss(test).values, 1e-12)


def test_an_estimator_with_data_on_disk(tmp_path):
    from sklearn.linear_model import LogisticRegression

    given, _ = on_disk("memmap", tmp_path)
    model = LogisticRegression(tol=1e-10).fit(X.numpy(), Y.numpy())
    test = X[:2].numpy(), Y[:2].numpy()
    here, there = from_estimator(model, X.numpy(), Y.numpy()), from_estimator(model, given, Y.numpy())
    assert isinstance(there.design, streams.StreamedDesign)
    assert_close_per_row(Influence(there).on_loss(test).values, Influence(here).on_loss(test).values, 1e-9)


def test_a_network_on_a_memory_map(tmp_path):
    given, _ = on_disk("memmap", tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(D, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    scores = []
    for inputs in (X, given):
        problem = Problem(model, F.cross_entropy, (inputs, Y))
        scores.append(Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((X[:2], Y[:2])).values)
    assert_close_per_row(scores[1], scores[0], 1e-5)


def test_the_fingerprint_is_that_of_the_contents(tmp_path):
    given, y = on_disk("memmap", tmp_path)
    names = [LinearProblem(given, y, torch.zeros(D), loss=Logistic()).fingerprint() for _ in range(2)]
    assert names[0] == names[1]
    changed = X.numpy().copy()
    changed[40, 2] += 1e-6
    np.save(tmp_path / "changed.npy", changed)
    other = LinearProblem(
        np.load(tmp_path / "changed.npy", mmap_mode="r"), y, torch.zeros(D), loss=Logistic()
    )
    assert other.fingerprint() != names[0]


def test_no_reader_outlives_a_pass_that_was_cut_off(tmp_path):
    given, _ = on_disk("memmap", tmp_path)
    passing: Any = streams.opened(given).blocks(2, torch.float32)
    next(passing)
    passing.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.set_column(1, "x0", pa.array([None, *X[1:, 0].tolist()])), ValueError, "example 0"),
        (
            lambda t: t.set_column(2, "x1", pa.array([*X[:-1, 1].tolist(), float("inf")])),
            ValueError,
            "example 56",
        ),
        (lambda t: t.drop(["x1"]), ValueError, "not ['x1']"),
        (lambda t: t.drop(["label"]), ValueError, "not ['label']"),
        (
            lambda t: t.set_column(1, "x0", pa.array(["word"] * N)),
            TypeError,
            "'x0' holds string, not numbers",
        ),
        (lambda t: t.set_column(1, "x0", pa.array([[1.0]] * 30 + [[1.0, 2.0]] * 27)), ValueError, "lists"),
        (lambda t: t.slice(0, 0), ValueError, "empty"),
        (lambda t: t.to_pandas(), TypeError, "got DataFrame"),
        (lambda t: "nowhere.parquet", FileNotFoundError, "nowhere.parquet"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(change, error, words):
    with pytest.raises(error) as raised:
        stream(change(table()), "label", [f"x{j}" for j in range(D)])
    assert words in str(raised.value)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    pa.parquet.write_table(table(), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.parquet"):
        stream(tmp_path / "cut.parquet", "label")
    with pytest.raises(TypeError, match=r"open an array with np\.load"):
        LinearProblem("X.npy", Y, torch.zeros(D), loss=Logistic())


def test_an_array_whose_file_is_cut_while_it_is_used(tmp_path):
    given, _ = on_disk("memmap", tmp_path)
    problem = LinearProblem(given, Y, torch.zeros(D), loss=Logistic())
    with (tmp_path / "X.npy").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(OSError, match="ends too early"):
        problem.gradient()


def test_what_is_wrong_with_an_array_is_said(tmp_path):
    bad = X.numpy().copy()
    bad[33, 1] = np.nan
    for name, values, error, words in (
        ("bad", bad, ValueError, "example 33"),
        ("flat", bad[:, 0], ValueError, r"shape \(n, d\)"),
        ("words", np.full((N, D), "word"), TypeError, "not numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(error, match=words):
            LinearProblem(
                np.load(tmp_path / f"{name}.npy", mmap_mode="r"), Y, torch.zeros(D), loss=Logistic()
            )
