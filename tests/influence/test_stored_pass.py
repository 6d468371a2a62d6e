"""Scores by way of a folder: those without one, made once, and never those of another model."""

from pathlib import Path
from typing import Any

import pytest
import torch

import upweight as uw
from tests.questions import linear, network
from tests.support.cases import BY_NAME, draw, make
from tests.support.stores import contents, preconditioned
from upweight import ScoreStore, StaleError
from upweight.influence.scores import Scores
from upweight.influence.stored_pass import StoredPass, keep, recall

pytestmark = pytest.mark.usefixtures("small_blocks")


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


# -- the pass by itself ------------------------------------------------------------------------------------------------


def stored(
    folder: Path, influence: uw.Influence, v: torch.Tensor, top: int | None = None, key: str = "k"
) -> Scores:
    def about(solution: Any) -> Scores:
        nothing = v.new_empty(len(v), 0, dtype=torch.float64)
        return Scores(nothing, influence.problem.n, residual=solution.residual, verdict=solution.verdict)

    return StoredPass(folder, influence.problem, influence.settings, influence.solve).scores(
        v, key, about, top
    )


@pytest.mark.parametrize("name", ["softmax", "logistic n < p intercept", "squared two outputs"])
def test_stored_scores_are_products_of_solves_and_gradients(name: str, tmp_path: Path):
    case = BY_NAME[name]
    influence = uw.Influence(case.problem)
    v = case.problem.test_gradients(case.test)
    wanted = -influence.solve(v).value @ case.problem.train_gradients(torch.arange(case.n)).T
    found = stored(tmp_path / "all", influence, v)
    torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-12)
    assert len(ScoreStore(tmp_path / "all")) == len(v)
    few = stored(tmp_path / "few", influence, v, top=2)
    ordered, columns = found.values.sort(dim=1, stable=True)
    ends = [0, 1, case.n - 2, case.n - 1]
    assert few.columns is not None
    assert torch.equal(few.columns, columns[:, ends])
    assert torch.equal(few.values, ordered[:, ends])
    assert (few.verdict, found.values.dtype) == (found.verdict, torch.float64)


def test_a_reader_sees_what_is_known_before_the_scores_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """about.safetensors is there when the first block is computed: a job of days can be looked at."""
    problem, test = linear()
    influence, seen = uw.Influence(problem), []
    products = uw.LinearProblem.products

    def looking(self: Any, rows: Any, within: slice) -> Any:
        seen.append(len(Scores.load(tmp_path / "about.safetensors")))
        return products(self, rows, within)

    monkeypatch.setattr(uw.LinearProblem, "products", looking)
    stored(tmp_path, influence, problem.test_gradients(test))
    assert seen == [3] * 4


def test_data_that_moved_are_found_before_anything_is_written(tmp_path: Path):
    case = make("moves", uw.Softmax(), c=3)
    problem = case.problem
    influence = uw.Influence(problem)
    v = problem.test_gradients(case.test)
    case.X[0] += 1.0
    with pytest.raises(StaleError):
        stored(tmp_path / "s", influence, v)
    assert not (tmp_path / "s").exists()


# -- what is kept beside the scores ------------------------------------------------------------------------------------


def test_ends_of_spectra_are_recalled_by_the_same_problem_only(tmp_path: Path):
    problem, _ = network()
    recall(tmp_path, problem)  # nothing there yet
    problem.spectra["Hessian"] = (-0.5, 2.0)
    keep(tmp_path, problem, [])
    again, other = network()[0], network(seed=1)[0]
    recall(tmp_path, again)
    recall(tmp_path, other)
    assert again.spectra == {"Hessian": (-0.5, 2.0)}
    assert other.spectra == {}
    for damaged in ("", "{}", "[1]", '{"problem": "a", "spectra": {"Hessian": ["x"]}}'):
        (tmp_path / "spectra.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"spectra\.json is damaged .*: delete it and run again"):
            recall(tmp_path, other)


def test_a_restarted_run_has_the_damping_of_the_first(tmp_path: Path):
    """The look at the spectrum is written down: chosen settings hang on its last digits."""
    problem, test = network()
    problem = problem.changed(l2=0.0)
    first = uw.Influence(problem)
    first.on_loss(test, store=tmp_path)
    restarted = uw.Influence(network()[0].changed(l2=0.0))
    recall(tmp_path, restarted.problem)
    assert restarted.problem.spectra == problem.spectra != {}
    assert restarted.settings.curvature.damping == first.settings.curvature.damping


def test_factors_are_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, _ = network()
    first = uw.EKFAC(problem, damping=0.1)
    keep(tmp_path, problem, [None, uw.GaussNewton(problem), first])
    files = contents(tmp_path)
    assert [name.partition("-")[0] for name in files] == ["factors"]

    def gather(*_: Any) -> None:
        raise AssertionError("the factors are there")

    monkeypatch.setattr("upweight.curvature.ekfac.gather", gather)
    again = uw.EKFAC(problem, damping=0.1)
    keep(tmp_path, problem, [again])
    rows = draw(3, problem.p)
    assert torch.equal(again.factor().solve(rows), first.factor().solve(rows))
    assert contents(tmp_path) == files
