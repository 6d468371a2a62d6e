"""The problem of an ensemble's leaf values: what can be asked of it, and what it says it cannot answer."""

import pytest
import torch
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

import upweight as uw
from upweight.influence.recomputed import changes_without

from ..support.boosters import TARGETS, WEIGHTS, N, X, follows_weights, read
from ..support.compare import assert_close_per_row

TWO = HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=6)


@pytest.fixture(scope="module")
def asked():
    problem, test = read(TWO, X, "two", WEIGHTS)
    return problem, uw.Influence(problem), test


def without(problem, rows):
    w = problem.weights.clone()
    w[rows] = 0
    return problem.refitted(w)


def test_a_removal_is_told_at_first_order_and_by_leaves_computed_anew(asked):
    problem, influence, test = asked
    found = influence.of_removal({"few": [3, 8], "many": list(range(40))}, test)
    before = problem.evaluate(test)
    for g, rows in enumerate(([3, 8], list(range(40)))):
        again = without(problem, rows).evaluate(test) - before
        assert_close_per_row(found.recomputed[:, g], again, 1e-10)
        assert_close_per_row(found.best[:, g], again, 1e-10)
    assert found.rescaled is None
    assert found.newton is None
    first = influence.on_loss(test).removal_effect()
    assert_close_per_row(found.first_order[:, 0], first[:, [3, 8]].sum(1), 1e-10)
    assert "recomputed" in repr(found)


def test_the_effects_that_are_shown_of_single_removals_are_computed_anew(asked):
    problem, influence, _ = asked
    one = (X[N : N + 1], TARGETS["two"][N : N + 1])
    found = influence.of_each_removal(one, top=2, rows=[17])
    effect, first = found.effect()[0], influence.on_loss(one).removal_effect()[0]
    shown = sorted({17, *first.argsort()[:2].tolist(), *first.argsort()[-2:].tolist()})
    expected = torch.cat([without(problem, [i]).evaluate(one) - problem.evaluate(one) for i in shown])
    assert_close_per_row(effect[shown], expected, 1e-10)
    others = [i for i in range(N) if i not in shown]
    assert_close_per_row(effect[others], first[others], 1e-10)
    assert f"{len(shown)} rows that are shown" in " ".join(found.said)


def test_the_leaves_of_test_rows_are_looked_up_once_for_all_sets(asked):
    problem, _, test = asked
    apply, calls = problem.trained.structure.apply, []

    def counted(inputs):
        calls.append(len(inputs))
        return apply(inputs)

    found = {}
    for sets in (1, 5):
        calls.clear()
        object.__setattr__(problem.trained.structure, "apply", counted)
        rows = [torch.tensor([i, i + 1]) for i in range(sets)]
        found[sets] = changes_without(problem, problem.stages, rows, test, None)
        object.__setattr__(problem.trained.structure, "apply", apply)
        assert len(calls) == 1
    assert_close_per_row(found[5][:, :1], found[1], 1e-12)


def test_effects_are_said_to_be_of_leaf_values_not_of_a_linear_system(asked):
    _, influence, test = asked
    said = " ".join(influence.on_loss(test).remarks)
    assert "The trees behind the effects: leaf values were followed through all rounds" in said
    assert "solve" not in said
    assert "splits held fixed" in influence.on_loss(test).prediction


def test_what_is_shown_of_a_row_is_not_up_to_the_rows_asked_along(asked):
    _, influence, test = asked
    together = influence.of_each_removal(test, top=2).effect()
    for t in range(3):
        alone = influence.of_each_removal((test[0][t : t + 1], test[1][t : t + 1]), top=2).effect()
        torch.testing.assert_close(together[t : t + 1], alone, rtol=1e-12, atol=1e-16)


def test_explanations_say_that_splits_are_held_fixed(asked):
    problem, influence, _ = asked
    found = uw.explain(influence, (X[N : N + 1], TARGETS["two"][N : N + 1]))
    assert "splits" in repr(found)
    assert any("splits" in remark for remark in problem.remarks)


def test_retraining_by_the_estimator_stands_beside_leaves_computed_anew(asked):
    problem, influence, _ = asked
    test = X[N : N + 1], TARGETS["two"][N : N + 1]
    for first_order in (False, True):
        found = uw.verify(influence, test, k=3, random=2, first_order=first_order)
        assert found.ceiling is not None
        assert found.derivative is not None
        assert "by the derivative" in str(found)
        rows = torch.tensor(found.table["train row"].tolist())
        anew = changes_without(problem, problem.stages, list(rows.split(1)), test, None)[0]
        first = influence.on_loss(test).removal_effect()[0, rows]
        torch.testing.assert_close(torch.tensor(found.table["recomputed"]), anew, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.tensor(found.table["first order"]), first, rtol=1e-12, atol=0)


def test_measures_and_numbers_of_whole_sets_are_differentiated(asked):
    problem, influence, test = asked
    for measure in (uw.measures.probability, uw.measures.brier):
        follows_weights(problem, test, measure)
    assert influence.on_loss(test).values.shape == (12, N)


def test_a_changed_row_is_the_difference_of_two_additions(asked):
    problem, influence, test = asked
    found = influence.of_change([5], (X[N : N + 1], TARGETS["two"][N : N + 1]), test)
    added = problem.gradients_as_train((X[N : N + 1], TARGETS["two"][N : N + 1]), problem.sample_weights[5:6])
    own = problem.train_gradients(torch.tensor([5]))
    as_new = problem.gradients_as_train((X[5:6], TARGETS["two"][5:6]), problem.sample_weights[5:6])
    assert_close_per_row(as_new, own, 1e-10)
    moved = problem.stages.solve_transposed(problem.test_gradients(test)) @ (own - added).T
    assert_close_per_row(found.values, moved, 1e-10)


def test_self_influence_is_the_diagonal(asked):
    _, influence, _ = asked
    own = influence.on_self()
    rows = torch.arange(0, N, 17)
    found = influence.on_loss((X[rows], TARGETS["two"][rows])).values
    values = getattr(own, "values", own)
    assert_close_per_row(values.flatten()[rows], found[torch.arange(len(rows)), rows], 1e-8)


def test_what_trees_cannot_answer_is_refused_in_a_sentence(asked):
    problem, influence, test = asked
    with pytest.raises(TypeError, match="no Hessian"):
        problem.hessian  # noqa: B018
    with pytest.raises(TypeError, match="of_change"):
        influence.on_inputs([0], test)
    with pytest.raises(TypeError, match="all training rows"):
        problem.subset(torch.tensor([1]))
    with pytest.raises(ValueError, match="damped"):
        uw.Stagewise(problem, damping=0.1)


def test_options_of_linear_models_are_refused():
    model = GradientBoostingClassifier(n_estimators=2).fit(X[:N], TARGETS["two"][:N])
    with pytest.raises(ValueError, match="about linear models"):
        uw.from_estimator(model, X[:N], TARGETS["two"][:N], keep="mean")


def test_two_problems_of_other_leaves_or_weights_have_other_fingerprints(asked):
    problem, *_ = asked
    other, _ = read(TWO, X, "two")
    assert problem.fingerprint() != other.fingerprint()
    assert problem.fingerprint() == read(TWO, X, "two", WEIGHTS)[0].fingerprint()


def test_numbers_are_explained_too():
    problem, test = read(HistGradientBoostingRegressor(max_iter=5), X, "number")
    assert uw.Influence(problem).on_loss(test).values.shape == (12, N)
