"""Sets of rows that flip a prediction: retraining says that they do, and that their last row is needed."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.svm import SVC

import upweight as uw
from tests.support.cases import BY_NAME
from tests.support.classifiers import blobs, estimator, network
from tests.support.compare import assert_close_per_row
from upweight.uses.flip_set import Search


@pytest.mark.parametrize("c", [2, 3])
@pytest.mark.parametrize("relabel", [False, True])
def test_a_flip_set_flips_and_its_last_row_is_needed(c: int, relabel: bool) -> None:
    problem = blobs(c, l2=0.05)
    outputs = problem.outputs()
    margin = outputs[:, 0].abs() if c == 2 else outputs.topk(2).values.diff(dim=1)[:, 0].abs()
    row = margin.argsort()[[10]]
    found = uw.flip_set(uw.Influence(problem), problem.train_batch(row), relabel=relabel)
    assert found.rows is not None
    assert found.before != found.after
    assert 1 <= len(found.rows) < 60

    def said(rows: torch.Tensor) -> float:
        edited = problem.without(rows)
        if relabel:
            rival = -outputs[row, 0].sign() if c == 2 else outputs[row].topk(2).indices[:, 1]
            edited = problem.relabelled(rows, rival.expand(len(rows)))
        out = edited.minimised(1e-10).outputs(problem.design.take(row))
        return float(out.sign()) if c == 2 else float(out.argmax())

    start = said(torch.empty(0, dtype=torch.long))
    assert said(found.rows) != start
    assert said(found.rows[:-1]) == start
    assert ("relabelled" if relabel else "removed") in repr(found)


def test_no_flip_set_is_said() -> None:
    problem = blobs(2)
    outputs = problem.outputs()[:, 0]
    found = uw.flip_set(uw.Influence(problem), problem.train_batch(outputs.argmax()[None]), most=2)
    assert found.rows is None
    assert "No set found" in repr(found)


def test_flip_set_refuses() -> None:
    problem = blobs(2)
    with pytest.raises(ValueError, match="one test row"):
        uw.flip_set(uw.Influence(problem), problem.train_batch(torch.arange(2)))
    case = BY_NAME["squared"]
    with pytest.raises(TypeError, match="linear classifiers"):
        uw.flip_set(uw.Influence(case.problem), case.test)


def search_of(c: int, relabel: bool) -> Search:
    """A search for a test row that has one clear rival: the margin has a kink where rivals change places."""
    problem = blobs(c, l2=0.05)
    outputs = problem.outputs()
    row = outputs[:, 0].abs().argsort()[[30]]
    if c == 3:
        first, second, third = outputs.sort(dim=1, descending=True).values.T
        row = ((second - third) - (first - second)).argmax()[None]
    return Search(problem, problem.prepared(problem.train_batch(row)), relabel)


@pytest.mark.parametrize("relabel", [False, True])
@pytest.mark.parametrize("c", [2, 3])
def test_predicted_effects_on_the_margin_are_those_of_refits(c: int, relabel: bool) -> None:
    search = search_of(c, relabel)
    problem, effects = search.problem, search.effects(search.problem)
    start = float(search.margin(search.outputs(problem)))
    rows = [*effects.topk(3).indices.tolist(), *effects.topk(3, largest=False).indices.tolist(), 5]
    actual = [
        float(search.margin(search.outputs(search.retrained(torch.tensor([row]))))) - start for row in rows
    ]
    assert search.refits == len(rows)
    gap = effects[rows] - torch.tensor(actual, dtype=torch.float64)
    assert float(gap.norm()) < 0.2 * float(torch.tensor(actual).norm())


@pytest.mark.parametrize("c", [2, 3])
def test_the_effect_of_another_label_is_that_of_the_change_asked_by_itself(c: int) -> None:
    search = search_of(c, True)
    problem, rows = search.problem, torch.arange(0, 120, 7)
    assert isinstance(problem, uw.LinearProblem)
    X, y = problem.train_batch(rows)
    rival = search.rival(problem).expand(len(rows))
    asked = uw.Influence(problem).of_change(
        (X, y), (X, rival.to(y)), search.batch, measure=uw.Overall(lambda out, _: search.margin(out).sum())
    )
    found = search.effects(problem)[rows]
    assert_close_per_row(found[None], asked.effect(), 1e-8)
    assert bool((found[y == rival] == 0).all())  # nothing changes


@pytest.mark.parametrize("c", [2, 3])
def test_the_rival_is_the_class_that_comes_second(c: int) -> None:
    search = search_of(c, True)
    outputs = search.outputs(search.problem)
    rival = search.rival(search.problem)
    if c == 2:
        assert rival.tolist() == [-float(outputs[0, 0].sign())]
    else:
        assert rival.tolist() == [int(outputs[0].topk(2).indices[1])]
    relabelled = search.edited(search.problem, torch.tensor([0, 4]))
    assert relabelled.y[[0, 4]].tolist() == rival.tolist() * 2
    assert relabelled.n == search.problem.n
    assert not search.flipped(search.problem)


@pytest.mark.parametrize("needed", [1, 2, 5, 8])
def test_bisection_finds_the_shortest_beginning(needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    search, lengths = search_of(2, False), []

    def flips(rows: Any) -> bool:
        lengths.append(len(rows))
        return len(rows) >= needed

    monkeypatch.setattr(search, "retrained", lambda rows: rows)
    monkeypatch.setattr(search, "flipped", flips)
    assert search.shortest(torch.arange(8)).tolist() == list(range(needed))
    assert len(lengths) <= 3


def test_the_limit_is_kept_and_refits_are_counted() -> None:
    problem = blobs(2, l2=0.05)
    row = problem.outputs()[:, 0].abs().argsort()[[10]]
    influence, test = uw.Influence(problem), problem.train_batch(row)
    free = uw.flip_set(influence, test)
    assert free.rows is not None
    assert free.refits >= 2
    short = uw.flip_set(influence, test, most=len(free.rows) - 1)
    assert short.rows is None or len(short.rows) < len(free.rows)


def test_the_answer_speaks_the_users_language() -> None:
    problem, X, y = estimator()
    row = abs(problem.outputs()[:, 0]).argmin()
    found = uw.flip_set(uw.Influence(problem), (X.iloc[[int(row)]], y.iloc[[int(row)]]))
    assert {found.before, found.after} == {"yes", "no"}
    assert all(name.startswith("patient ") for name in found.names)
    assert f"from {found.before!r} to {found.after!r} (confirmed by retraining" in repr(found)


def test_networks_are_not_retrained_many_times() -> None:
    problem, (X, y) = network()
    with pytest.raises(TypeError, match=r"flip_set is for linear classifiers .* it retrains many times"):
        uw.flip_set(uw.Influence(problem), (X[:1], y[:1]))


def test_relabelled_sets_flip_the_users_own_estimator_with_class_weights() -> None:
    """A label that changes brings its class's weight along, in the search, in its refits and in the user's own fit."""
    generator = np.random.default_rng(0)
    X, new = generator.normal(size=(60, 3)), generator.normal(size=(8, 3))
    y = np.where(X @ [1, -1, 0.5] + generator.normal(size=60) > 0.8, "pos", "neg")

    def fit(labels: np.ndarray) -> LogisticRegression:
        weights = {"pos": 4.0, "neg": 1.0}
        return LogisticRegression(C=0.3, class_weight=weights, tol=1e-12, max_iter=10**5).fit(X, labels)

    model = fit(y)
    influence = uw.Influence(uw.from_estimator(model, X, y))
    for row in new:
        said = model.predict([row])[0]
        other = "neg" if said == "pos" else "pos"
        found = uw.flip_set(influence, (row[None], [said]), relabel=True)
        assert found.rows is not None
        labels = y.copy()
        labels[found.rows.numpy()] = other
        assert fit(labels).predict([row])[0] == other
        labels[found.rows.numpy()[-1]] = said
        assert fit(labels).predict([row])[0] == said


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_removed_sets_flip_the_users_own_support_vector_machine(kernel: str) -> None:
    """The refits are of a sharp smooth hinge; the estimator without those rows has the true one."""
    generator = np.random.default_rng(1)
    X, new = generator.normal(size=(60, 2)), generator.normal(size=(3, 2))
    y = (X[:, 0] + 0.7 * generator.normal(size=60) > 0).astype(int)
    model = SVC(kernel=kernel, gamma=0.5, tol=1e-8).fit(X, y)
    influence = uw.Influence(uw.from_estimator(model, X, y))
    for row in new:
        said = model.predict([row])
        found = uw.flip_set(influence, (row[None], said))
        if found.rows is None:
            continue
        kept = np.setdiff1d(np.arange(60), found.rows.numpy())
        margin = clone(model).fit(X[kept], y[kept]).decision_function([row])[0]
        assert margin * (2 * said[0] - 1) < 1e-3  # the smoothing may shift a margin by its temperature


def test_a_prediction_that_training_alone_changes_has_no_flip_set() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(150, 4))
    y = (X[:, 0] + generator.normal(size=150) > 0).astype(int)
    model = SGDClassifier(random_state=0).fit(X, y)
    with pytest.warns(uw.NotStationaryWarning):
        rough = uw.from_estimator(model, X, y)
    trained = uw.from_estimator(model, X, y, polish=True)
    changed = (rough.outputs() > 0) != (trained.outputs() > 0)
    row = int(changed.nonzero()[0, 0])
    with pytest.raises(ValueError, match="once its training is finished, with nothing edited"):
        uw.flip_set(uw.Influence(rough), (X[[row]], y[[row]]))
    assert uw.flip_set(uw.Influence(trained), (X[[row]], y[[row]])).rows is not None
    same = int((~changed).nonzero()[0, 0])
    assert uw.flip_set(uw.Influence(rough), (X[[same]], y[[same]]), most=60).before == int(
        rough.outputs()[same] > 0
    )
