"""Wrong labels: flipped ones come first, the right ones are proposed, gains are those of retraining."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

import upweight as uw
from tests.support.cases import BY_NAME
from tests.support.classifiers import FLIPPED, blobs, estimator, network
from tests.support.compare import assert_close_per_row
from upweight.uses import out_of_fold
from upweight.uses.out_of_fold import folds


@pytest.mark.parametrize("c", [2, 3])
def test_flipped_labels_come_first_and_the_right_label_is_proposed(c: int) -> None:
    problem = blobs(c, flipped=True)
    found = uw.mislabeled(uw.Influence(problem))
    assert len(set(FLIPPED) & set(found.table.index[:15])) >= 4
    first = found.review(0.04)
    for row, proposed in first["proposed label"].items():
        if row in FLIPPED and c == 3:
            assert proposed == int(row) % c
    assert found.table["loss without the row"].is_monotonic_decreasing
    assert "not seen them" in repr(found)
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize("c", [2, 3])
def test_gain_is_the_first_order_of_retraining_with_the_proposed_label(c: int) -> None:
    problem = blobs(c, flipped=True)
    validation = problem.train_batch(torch.arange(60, 90))
    found = uw.mislabeled(uw.Influence(problem), validation=validation).table
    assert int(found["gain"].notna().sum()) == problem.n
    actual = []
    for row in found.index[:3]:
        alone = uw.Influence(problem).leave_one_out().outputs[int(row)]
        target = alone.sign() if c == 2 else alone.argmax(0, keepdim=True)
        after = problem.relabelled(torch.tensor([int(row)]), target).minimised(1e-10)
        actual.append(float((problem.evaluate(validation) - after.evaluate(validation)).mean()))
    predicted = found["gain"].iloc[:3].to_numpy()
    assert np.sign(predicted).tolist() == np.sign(actual).tolist()
    assert np.linalg.norm(predicted - actual) < 0.4 * np.linalg.norm(actual)


def test_mislabeled_ranks_networks_by_self_influence() -> None:
    problem, (X, y) = network()
    found = uw.mislabeled(uw.Influence(problem))
    own = -uw.Influence(problem).on_self().values[0]
    assert found.table.index[0] == int(own.argmax())
    with pytest.raises(ValueError, match="linear classifiers"):
        uw.mislabeled(uw.Influence(problem), validation=(X, y))


def test_labels_and_ids_are_the_users() -> None:
    problem, _, _ = estimator()
    table = uw.mislabeled(uw.Influence(problem)).table
    assert set(table["proposed label"]) <= {"yes", "no"}
    assert str(table.index[0]).startswith("patient")
    with pytest.raises(ValueError, match="share"):
        uw.mislabeled(uw.Influence(problem)).review(0.0)


@pytest.mark.parametrize("name", ["softmax", "logistic sparse intercept weights", "squared"])
def test_the_columns_are_what_each_question_says_by_itself(name: str) -> None:
    case = BY_NAME[name]
    influence = uw.Influence(case.problem)
    table = uw.mislabeled(influence).table.sort_index()
    alone = influence.leave_one_out()
    for column, wanted in {
        "loss without the row": alone.loss,
        "loss": case.losses(case.problem.theta, case.dense, case.y),
        "self-influence": -influence.on_self().values[0],
        "leverage": alone.leverage,
    }.items():
        assert_close_per_row(table[column].to_numpy(), wanted, 1e-9)
    assert ("proposed label" in table) is case.loss.classifies


@pytest.mark.parametrize("c", [2, 3])
def test_gains_are_those_of_each_change_asked_by_itself(c: int) -> None:
    problem = blobs(c, flipped=True)
    influence, validation = uw.Influence(problem), problem.train_batch(torch.arange(60, 90))
    table = uw.mislabeled(influence, validation=validation).table.sort_index()
    for row in (3, 17, 50):
        X, _ = problem.train_batch(torch.tensor([row]))
        before = problem.train_batch(torch.tensor([row]))
        proposed = torch.tensor([table["proposed label"][row]]).to(problem.y)
        change = influence.of_change(before, (X, proposed), validation).effect()
        assert float(table["gain"][row]) == pytest.approx(-float(change.mean()), rel=1e-8, abs=1e-14)


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_a_share_is_of_all_rows_and_at_least_one(share: float) -> None:
    found = uw.mislabeled(uw.Influence(blobs(2)))
    assert len(found.review(share)) == max(1, round(share * 120))
    assert found.review(share).index.tolist() == found.table.index[: len(found.review(share))].tolist()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share must lie above 0 and up to 1, got {share}"):
        uw.mislabeled(uw.Influence(blobs(2))).review(share)


def test_gains_carry_the_class_weight_of_the_proposed_label() -> None:
    """The derivative of the user's own estimator, refitted with a small share of each row given the other label."""
    generator = np.random.default_rng(0)
    X, V = generator.normal(size=(60, 3)), generator.normal(size=(25, 3))
    y, v = (
        (X @ [1, -1, 0.5] + generator.normal(size=60) > 0.8).astype(int),
        (V @ [1, -1, 0.5] > 0.8).astype(int),
    )

    def loss(row: int, share: float) -> float:
        w = np.r_[np.ones(60), share]
        w[row] -= share
        model = LogisticRegression(C=0.3, class_weight={0: 1.0, 1: 4.0}, tol=1e-13, max_iter=10**5)
        model.fit(np.r_[X, X[[row]]], np.r_[y, 1 - y[row]], sample_weight=w)
        return float(-np.log(model.predict_proba(V)[np.arange(25), v]).mean())

    model = LogisticRegression(C=0.3, class_weight={0: 1.0, 1: 4.0}, tol=1e-13, max_iter=10**5).fit(X, y)
    found = uw.mislabeled(uw.Influence(uw.from_estimator(model, X, y)), validation=(V, v)).table
    proposed = found[found["label"] != found["proposed label"]]
    assert len(proposed) > 5
    for row, gain in proposed["gain"].items():
        naive = (loss(row, 0.0) - loss(row, 1e-4)) / 1e-4
        assert float(gain) == pytest.approx(naive, rel=5e-3)


def rare(flip: float = 0.0) -> tuple[uw.LinearProblem, np.ndarray]:
    """Two classes, 3 % of the rows in one of them, that overlap as in life; a share of the labels is flipped."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(4000, 3))
    y = 1.5 * X[:, 0] + generator.logistic(size=4000) > 5
    wrong = generator.random(4000) < flip
    return uw.LinearProblem.fit(
        X, (y ^ wrong).astype(int), loss=uw.Logistic(), l2=1e-3, intercept=True
    ), wrong


def test_a_rare_class_is_not_contradicted_for_being_rare() -> None:
    problem, _ = rare()
    found = uw.mislabeled(uw.Influence(problem))
    table = found.table
    errors = table["label"] != table["proposed label"]
    assert errors.mean() > 0.015  # most of the rare class is mistaken for the other ...
    assert table["contradicted"].sum() < 0.4 * errors.sum()  # ... and most of these errors are ordinary
    assert not (table["contradicted"] & ~errors).any()
    for number in (int(table["contradicted"].sum()), int(errors.sum())):
        assert f"{number:,}" in found.summary
    assert found.summary in repr(found)


def test_flipped_labels_of_a_common_class_are_contradicted() -> None:
    problem, wrong = rare(flip=0.05)
    table = uw.mislabeled(uw.Influence(problem)).table.sort_index()
    flipped = wrong[table["contradicted"]]
    assert flipped.mean() > 0.9  # all but all contradicted labels are wrong ones
    assert flipped.sum() > 0.45 * wrong.sum()
    assert uw.mislabeled(uw.Influence(BY_NAME["squared"].problem)).summary.startswith("Without having seen")
    assert uw.mislabeled(uw.Influence(network()[0])).summary == ""


def test_a_count_of_contradicted_labels_is_put_in_proportion_where_classes_overlap() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(600, 2))
    for noise, warned in ((0.3, False), (3.0, True)):
        y = (X[:, 0] + noise * generator.logistic(size=600) > 0).astype(int)
        found = uw.mislabeled(
            uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.01, intercept=True))
        )
        wrong = (found.table["label"] != found.table["proposed label"]).mean()
        assert (wrong > 0.2) == warned == ("The count does not say which" in found.summary)


def test_where_the_model_knows_nothing_it_is_said() -> None:
    generator = np.random.default_rng(1)
    X, y = generator.normal(size=(300, 2)), generator.integers(2, size=300)
    found = uw.mislabeled(
        uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.01, intercept=True))
    )
    assert not found.table["contradicted"].any()
    assert found.summary.startswith("No label is contradicted, for the model knows nothing of them")


def flipped_classes(classes: int, n: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    y = np.digitize(X[:, 0] + X[:, 1], [-0.6, 0.6][: classes - 1])
    wrong = rng.random(n) < 0.1
    names = np.array(["red", "green", "blue"])
    return X, names[np.where(wrong, (y + 1) % classes, y)], wrong


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_rank_by_the_estimator_fitted_without_each_fold(classes: int) -> None:
    X, y, wrong = flipped_classes(classes)
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X, y)
    influence = uw.Influence(uw.from_estimator(model, X, y))
    found = uw.mislabeled(influence, seed=3)
    assert "out of fold" in found.ranked_by
    assert wrong[found.table.index[: wrong.sum()]].mean() > 0.5  # one in ten by chance
    assert influence.problem.output_model is not None
    drawn = folds(influence.problem.output_model, 3).numpy()
    outputs = np.zeros((240, 1 if classes == 2 else 3))
    for fold in drawn:
        assert sorted(np.bincount(fold)) == [48] * 5
        for part in range(5):
            left = fold == part
            counts = [np.sum(left & (y == name)) for name in np.unique(y)]
            assert np.abs(np.array(counts) - np.unique(y, return_counts=True)[1] / 5).max() <= 1
            there = clone(model).fit(X[~left], y[~left])
            outputs[left] += there.decision_function(X[left]).reshape(left.sum(), -1) / len(drawn)
    table = found.table.sort_index()
    scores = np.concatenate([0 * outputs, outputs], axis=1) if classes == 2 else outputs
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    own = logs[np.arange(240), np.searchsorted(model.classes_, y)]
    assert_close_per_row(table["loss without the row"].to_numpy(), -own, 1e-9)
    assert (table["proposed label"] == model.classes_[scores.argmax(1)]).all()
    assert set(table["label"]) == set(y)
    assert table["contradicted"].sum() > 10
    assert uw.mislabeled(influence, seed=3).table.equals(found.table)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_quantities_of_trees_have_their_error_out_of_fold(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, _, _ = flipped_classes(2)
    y = np.random.default_rng(1).poisson(np.exp(X[:, 0])).astype(float)
    model = HistGradientBoostingRegressor(loss=loss, max_iter=3).fit(X, y)
    problem = uw.from_estimator(model, X, y)
    assert problem.output_model is not None
    monkeypatch.setattr(out_of_fold, "SMALL", 100)  # one draw
    (fold,) = out_of_fold.folds(problem.output_model, 0).numpy()
    table = uw.mislabeled(uw.Influence(problem)).table.sort_index()
    for part in range(5):
        left = fold == part
        there = clone(model).fit(X[~left], y[~left])
        assert_close_per_row(
            table["error without the row"].to_numpy()[left], there.predict(X[left]) - y[left], 1e-6
        )


def test_trees_that_cannot_be_fitted_again_rank_by_their_loss() -> None:
    X, y, _ = flipped_classes(2)
    problem = uw.from_estimator(GradientBoostingClassifier(n_estimators=5).fit(X, y), X, y)
    problem.cache.clear()
    found = uw.mislabeled(uw.Influence(problem))
    assert "not there to be fitted again" in found.ranked_by
    assert found.table["loss"].is_monotonic_decreasing
    assert "proposed label" not in found.table


def test_the_only_row_of_a_class_is_never_left_out() -> None:
    X, y, _ = flipped_classes(2)
    y[0] = "blue"
    model = GradientBoostingClassifier(n_estimators=5).fit(X, y)
    table = uw.mislabeled(uw.Influence(uw.from_estimator(model, X, y))).table
    assert np.isnan(table.loc[0, "loss without the row"])
    assert table.index[-1] == 0
    assert table["loss without the row"].iloc[:-1].notna().all()
