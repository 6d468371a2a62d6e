"""Answers by retraining: plain loops of the user's own fits are the judge, and exact enumeration of small subsets."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import upweight as uw
from upweight.evaluation import lds, random_subsets, retrained
from upweight.retraining.subsets import differences, drawn
from upweight.retraining.trainable import Trainable


def two_classes(n=40, m=12):
    X, y = make_classification(n + m, 4, n_informative=3, n_redundant=0, flip_y=0.1, random_state=0)
    return X[:n], y[:n], X[n:], y[n:]


def errors_of(scores):
    assert scores.errors is not None
    return scores.errors.numpy()


class Mean(RegressorMixin, BaseEstimator):
    """The mean of the targets, 0 of none: every subset can be trained on."""

    def fit(self, X, y):
        self.mean_ = float(np.sum(y) / max(1, len(y)))
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


class Trainings:
    """How many there were, and which of them is interrupted."""

    def __init__(self):
        self.count = self.interrupted = 0

    def begin(self):
        self.count += 1
        if self.count == self.interrupted:
            raise KeyboardInterrupt


@pytest.fixture
def trainings(monkeypatch):
    found, fitted = Trainings(), Trainable.fitted

    def counted(self, kept, repeat):
        found.begin()
        return fitted(self, kept, repeat)

    monkeypatch.setattr(Trainable, "fitted", counted)
    return found


# -- against plain loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsClassifier(3),
        make_pipeline(StandardScaler(), KNeighborsClassifier(7, weights="distance")),
        LogisticRegression(),
        DecisionTreeClassifier(max_depth=3, random_state=0),
    ],
    ids=["neighbours", "pipeline", "logistic", "tree"],
)
def test_leave_one_out_is_that_of_the_users_own_fits(estimator):
    X, y, X_test, y_test = two_classes()
    rows = [3, 0, 17]
    found = uw.by_refitting(estimator, X, y).of_each_removal((X_test, y_test), rows)

    def losses(kept):
        said = clone(estimator).fit(X[kept], y[kept]).predict_proba(X_test)
        return [log_loss(y_test[[j]], said[[j]], labels=[0, 1]) for j in range(len(y_test))]

    everything = np.arange(len(X))
    before = np.array(losses(everything))
    for j, row in enumerate(rows):
        actual = np.array(losses(np.delete(everything, row))) - before
        np.testing.assert_allclose(found.removal_effect()[:, j], actual, rtol=1e-9, atol=1e-9)
    assert found.columns is not None
    assert found.columns[0].tolist() == rows
    assert found[0].table(torch.tensor([1])).index.tolist() == [0]


def test_a_ridge_is_answered_as_its_influence_is():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = X @ [1.0, 2.0, 0.0] + rng.normal(size=30)
    batch = X[:4], y[:4]
    model = Ridge(2.0).fit(X, y)
    exact = uw.Influence(uw.from_estimator(model, X, y)).of_each_removal(batch)
    found = uw.by_refitting(model, X, y).of_each_removal(batch)
    torch.testing.assert_close(found.effect(), exact.effect(), rtol=1e-6, atol=1e-12)
    assert found.columns is None
    assert errors_of(found).max() == 0


def test_weights_are_those_of_the_rows_kept():
    X, y, X_test, y_test = two_classes()
    weights = np.linspace(0.1, 3, len(X))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    found = uw.by_refitting(pipeline, X, y, sample_weight=weights).of_each_removal((X_test, y_test), [5])
    kept = np.delete(np.arange(len(X)), 5)

    def loss(rows):
        fitted = clone(pipeline).fit(X[rows], y[rows], logisticregression__sample_weight=weights[rows])
        return log_loss(y_test[:1], fitted.predict_proba(X_test[:1]), labels=[0, 1])

    assert float(found.effect()[0, 0]) == pytest.approx(loss(kept) - loss(np.arange(len(X))), rel=1e-9)


def test_groups_and_a_measure_of_a_whole_set():
    X, y, X_test, y_test = two_classes()
    found = uw.by_refitting(KNeighborsClassifier(5), X, y).of_removal(
        {"first": [0, 1, 2], "last": [39]}, (X_test, y_test), measure=uw.measures.auroc
    )
    everything = np.arange(len(X))

    def auroc(kept):
        fitted = KNeighborsClassifier(5).fit(X[kept], y[kept])
        return roc_auc_score(y_test, fitted.predict_proba(X_test)[:, 1])

    actual = [auroc(np.delete(everything, rows)) - auroc(everything) for rows in ([0, 1, 2], [39])]
    np.testing.assert_allclose(found.change[0], actual, atol=1e-12)
    assert found.to_frame()["size"].tolist() == [3, 1]
    assert "auroc" in repr(found)


def test_numbers_of_several_targets_and_several_classes():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    found = uw.by_refitting(KNeighborsRegressor(2), X, Y).of_each_removal((X[:3], Y[:3]), [0])
    before, after = (
        KNeighborsRegressor(2).fit(X[rows], Y[rows]).predict(X[:3]) for rows in (range(20), range(1, 20))
    )
    actual = 0.5 * (((after - Y[:3]) ** 2).sum(1) - ((before - Y[:3]) ** 2).sum(1))
    np.testing.assert_allclose(found.effect()[:, 0], actual)
    y = np.array(["a", "b", "c", "a"] * 5)
    scores = uw.by_refitting(KNeighborsClassifier(3), X, y, refits=60).on_loss((X[:2], y[:2]))
    assert scores.values.shape == (2, 20)
    margins = uw.by_refitting(LinearSVC(), X, y, refits=60).on_loss((X, y), measure=uw.measures.accuracy)
    assert margins.values.shape == (1, 20)


# -- subsets -----------------------------------------------------------------------------------------------------------


def enumerated(y, target):
    """The exact mean of the loss without each row less that with it, over all subsets of the others."""
    n = len(y)
    masks = np.array(list(itertools.product([False, True], repeat=n)))
    loss = np.array([0.5 * (y[mask].sum() / max(1, mask.sum()) - target) ** 2 for mask in masks])
    return np.array([loss[~masks[:, i]].mean() - loss[masks[:, i]].mean() for i in range(n)])


def test_all_subsets_give_the_banzhaf_values():
    y = np.array([0.0, 1.0, 5.0, -2.0])
    masks = torch.tensor(list(itertools.product([False, True], repeat=4)))
    loss = torch.tensor(
        [[0.5 * (float(y[m].sum()) / max(1, int(m.sum())) - 1.0) ** 2] for m in masks.numpy()]
    )
    found = differences(masks, loss.double())
    np.testing.assert_allclose(found.effect[0], enumerated(y, 1.0), rtol=1e-6)


def test_standard_errors_cover_the_enumerated_truth_at_their_rate():
    y = np.array([0.0, 1.0, 5.0, -2.0, 0.5, 2.5, -1.0, 3.0])
    X, target = np.zeros((8, 1)), 1.0
    truth = enumerated(y, target)
    inside, ratios = [], []
    for seed in range(60):
        found = uw.by_refitting(Mean(), X, y, refits=200, seed=seed).on_loss((X[:1], [target]))
        off = found.effect()[0].numpy() - truth
        inside.append(np.abs(off) < 1.96 * errors_of(found)[0])
        ratios.append((off / errors_of(found)[0]) ** 2)
    # 480 intervals, those of one seed not independent: 95 % within three standard errors of 60 of them.
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(ratios) == pytest.approx(1, abs=3 * np.sqrt(2 / 60))


def test_scores_have_the_sign_that_lds_wants():
    X, y, X_test, y_test = two_classes()
    estimator = KNeighborsClassifier(5)
    scores = uw.by_refitting(estimator, X, y, refits=1500).on_loss((X_test, y_test))

    def outcome(kept, seed):
        rows = kept.numpy()
        p = estimator.fit(X[rows], y[rows]).predict_proba(X_test)
        return -np.log(np.clip(p[np.arange(len(p)), y_test], 2.3e-16, 1))

    subsets = random_subsets(len(X), 60, seed=5)
    assert lds(scores, subsets, retrained(outcome, subsets)).value > 0.3


def test_a_budget_that_is_too_small_is_said_and_one_that_suffices_is_not():
    X, y, X_test, y_test = two_classes()
    few = uw.by_refitting(KNeighborsClassifier(5), X, y, refits=30).on_loss((X_test, y_test))
    assert "Too few refits for 40 rows" in " ".join(few.remarks)
    targets = np.array([0.0, 1.0, 5.0, -2.0, 0.5, 2.5, -1.0, 3.0])
    many = uw.by_refitting(Mean(), np.zeros((8, 1)), targets, refits=2000).on_loss((np.zeros((1, 1)), [1.0]))
    assert "Too few" not in " ".join(many.remarks)


def test_leave_one_out_beyond_the_budget_is_answered_by_subsets_and_says_so():
    X, y, X_test, y_test = two_classes()
    small = uw.by_refitting(KNeighborsClassifier(5), X, y, refits=39)
    large = uw.by_refitting(KNeighborsClassifier(5), X, y, refits=40)
    assert "random subsets" in small.of_each_removal((X_test, y_test)).prediction
    assert "refits without the row" in large.of_each_removal((X_test, y_test)).prediction
    with pytest.raises(ValueError, match=r"40 removals take 40 refits, the budget is 39: .*refits=40"):
        small.of_each_removal((X_test, y_test), range(40))


def test_refits_that_fail_do_not_count():
    X, y = np.arange(12.0)[:, None], np.array([0] * 9 + [1] * 3)
    found = uw.by_refitting(LogisticRegression(), X, y, refits=100).on_loss((X[:1], y[:1]))
    assert "of 100 refits failed" in " ".join(found.remarks)  # an eighth of the subsets has one class
    assert bool(found.values.isfinite().all())
    alone = uw.by_refitting(LogisticRegression(), X[:10], y[:10]).of_each_removal((X[:1], y[:1]), [9, 0])
    assert alone.effect()[0].isnan().tolist() == [True, False]


def test_the_first_subsets_do_not_change_with_their_number():
    assert bool((drawn(7, 20, 0.3, 1)[:5] == drawn(7, 5, 0.3, 1)).all())


# -- randomness --------------------------------------------------------------------------------------------------------


def test_a_forest_is_judged_by_the_noise_of_its_seed():
    X, y, X_test, y_test = two_classes()
    refits = uw.by_refitting(RandomForestClassifier(5), X, y, seeds=4)
    batch = X_test, y_test
    found = refits.of_each_removal(batch, [0, 1], measure=uw.measures.probability)
    fits = [RandomForestClassifier(5, random_state=s).fit(X, y).predict_proba(X_test) for s in range(4)]
    said = np.array([p[np.arange(len(p)), y_test] for p in fits])
    np.testing.assert_allclose(
        refits.noise(batch, measure=uw.measures.probability), said.std(0, ddof=1), atol=1e-9
    )
    without = [RandomForestClassifier(5, random_state=s).fit(X[1:], y[1:]) for s in range(4)]
    moved = np.array([m.predict_proba(X_test)[np.arange(len(said[0])), y_test] for m in without]) - said
    np.testing.assert_allclose(found.effect()[:, 0], moved.mean(0), atol=1e-9)
    np.testing.assert_allclose(errors_of(found)[:, 0], moved.std(0, ddof=1) / 2, atol=1e-9)
    words = " ".join([found.prediction, *found.remarks])
    assert "the mean over 4 random states" in words
    assert "below that noise of the seed" in words
    assert "Random_state was not a number and is set to 0 and the numbers after it." in words


def test_a_random_state_of_the_user_comes_first_and_is_not_spoken_of():
    X, y, *_ = two_classes()
    refits = uw.by_refitting(RandomForestClassifier(3, random_state=7), X, y)
    own = RandomForestClassifier(3, random_state=7).fit(X, y)
    np.testing.assert_array_equal(refits.problem.model.predict_proba(X), own.predict_proba(X))
    assert refits.problem.notes == ()


def test_a_random_state_that_changes_nothing_costs_nothing(trainings):
    X, y = np.zeros((6, 1)), np.arange(6.0)
    refits = uw.by_refitting(Mean(), X, y)
    refits.of_each_removal((X[:1], y[:1]))
    assert trainings.count == 1 + 3 + 6  # all rows, whether it is random, each row
    assert "the random state changes nothing" in refits.of_each_removal((X[:1], y[:1])).prediction
    assert trainings.count == 1 + 3 + 6


# -- kept, resumed, interrupted ----------------------------------------------------------------------------------------


def test_results_are_found_in_the_folder_by_their_content(tmp_path, trainings):
    X, y = np.arange(6.0)[:, None], np.arange(6.0)

    def scores(y, seed=0):
        return uw.by_refitting(Mean(), X, y, refits=50, folder=tmp_path, seed=seed).on_loss((X[:1], y[:1]))

    first = scores(y)
    assert trainings.count == 1 + 50
    again = scores(y.copy())
    assert trainings.count == 2 + 50
    assert torch.equal(first.values, again.values)
    scores(y + 1)
    assert trainings.count == 3 + 100
    scores(y, seed=1)
    assert trainings.count == 4 + 150


def test_what_is_finished_counts_after_an_interruption(trainings):
    X, y = np.zeros((6, 1)), np.arange(6.0)
    refits = uw.by_refitting(Mean(), X, y, refits=400)
    trainings.interrupted = 1 + 200 + 1
    found = refits.on_loss((X[:1], y[:1]))
    assert "over 200 refits" in found.prediction
    alone = uw.by_refitting(Mean(), X, y)
    trainings.count, trainings.interrupted = 0, 1 + 3 + 4
    few = alone.of_each_removal((X[:1], y[:1]))
    assert few.columns is not None
    assert few.columns.tolist() == [[0, 1, 2]]
    trainings.count, trainings.interrupted = 0, 2
    with pytest.raises(KeyboardInterrupt):
        uw.by_refitting(Mean(), X, y).on_loss((X[:1], y[:1]))


def test_no_training_begins_after_the_time_is_over(trainings):
    X, y = np.zeros((6, 1)), np.arange(6.0)
    with pytest.raises(ValueError, match="1 refits are too few for 6 rows"):
        uw.by_refitting(Mean(), X, y, refits=400, seconds=1e-9).on_loss((X[:1], y[:1]))
    assert trainings.count == 2


SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
import upweight as uw

folder = Path(sys.argv[1])

class Mean(RegressorMixin, BaseEstimator):
    fits = 0

    def fit(self, X, y):
        Mean.fits += 1
        if Mean.fits == int(os.environ["KILLED"]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.mean_ = y.mean()
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)

X, y = np.arange(9.0)[:, None], np.arange(9.0)
scores = uw.by_refitting(Mean(), X, y, refits=40, folder=folder).on_loss((X[:2], y[:2]))
print(Mean.fits, scores.values.tolist())
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_job_goes_on_where_it_was(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def run(folder, killed):
        command = [sys.executable, str(script), str(tmp_path / folder)]
        variables = {**os.environ, "KILLED": str(killed)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)

    whole = run("one", 0)
    assert whole.returncode == 0, whole.stderr
    assert run("two", 25).returncode == -signal.SIGKILL
    resumed = run("two", 0)
    fits, _, values = resumed.stdout.partition(" ")
    assert int(fits) == 1 + 40 - 23  # the model of all rows, and what the killed job had not finished
    assert values == whole.stdout.partition(" ")[2]


def test_several_processes_give_the_same():
    X, y, X_test, y_test = two_classes()
    one, two = (
        uw.by_refitting(KNeighborsClassifier(3), X, y, refits=40, jobs=jobs).on_loss((X_test, y_test))
        for jobs in (1, 2)
    )
    assert torch.equal(one.values, two.values)
    np.testing.assert_array_equal(errors_of(one), errors_of(two))


# -- by the same uses --------------------------------------------------------------------------------------------------


def test_explain_takes_it():
    X, y, X_test, y_test = two_classes()
    names = pd.DataFrame(X, index=[f"patient {i}" for i in range(len(X))])
    refits = uw.by_refitting(KNeighborsClassifier(3), names, y)
    found = uw.explain(refits, (pd.DataFrame(X_test[:1]), y_test[:1]), k=3)
    assert found.helpful.columns.tolist() == [
        "influence",
        "removal effect on the loss",
        "standard error",
        "label",
    ]
    assert found.helpful.index[0].startswith("patient ")
    assert found.prediction == KNeighborsClassifier(3).fit(X, y).predict(X_test[:1])[0]
    assert "The model says" in repr(found)
    with pytest.raises(ValueError, match="leave relative out"):
        uw.explain(refits, (pd.DataFrame(X_test[:1]), y_test[:1]), relative=True)


def test_wrong_labels_stand_first_out_of_bag():
    X, y = make_classification(150, 4, n_informative=4, n_redundant=0, class_sep=2, flip_y=0, random_state=1)
    y = np.array(["no", "yes"])[y]
    wrong = np.arange(6)
    y[wrong] = np.where(y[wrong] == "no", "yes", "no")
    refits = uw.by_refitting(RandomForestClassifier(10, random_state=0), X, y, refits=40)
    found = uw.mislabeled(refits)
    assert len(set(found.table.index[:12]) & set(wrong)) >= 5
    assert (found.table["proposed label"].iloc[0] != found.table["label"].iloc[0]) is True
    alone = refits.out_of_bag()
    masks, outputs = drawn(150, 40, 0.5, 0), []
    for j, mask in enumerate(masks.numpy()):
        fitted = RandomForestClassifier(10, random_state=j).fit(X[mask], y[mask])
        outputs.append(fitted.predict_proba(X)[:, 1])
    of_unseen = [
        np.mean([p[i] for p, mask in zip(outputs, masks, strict=True) if not mask[i]]) for i in range(150)
    ]
    np.testing.assert_allclose(alone.said[:, 0], of_unseen, atol=1e-9)
    with pytest.raises(ValueError, match="leave `validation` out"):
        uw.mislabeled(refits, validation=(X, y))


def test_quantities_out_of_bag_have_their_errors():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] + 0.1 * rng.normal(size=60)
    y[7] += 5
    found = uw.mislabeled(uw.by_refitting(RandomForestRegressor(5, random_state=0), X, y, refits=30))
    assert found.table.index[0] == 7
    assert "the model is off by" in found.summary


def test_a_measure_of_probabilities_is_refused_without_them():
    X, y, X_test, y_test = two_classes()
    refits = uw.by_refitting(LinearSVC(), X, y)
    assert float(refits.problem.evaluate((X_test, y_test)).sum()) == pytest.approx(
        (LinearSVC().fit(X, y).predict(X_test) != y_test).sum()
    )
    for measure in (uw.measures.brier, uw.measures.probability):
        with pytest.raises(ValueError, match="is about probabilities, and LinearSVC gives none"):
            refits.on_loss((X_test, y_test), measure=measure)
    with pytest.raises(ValueError, match="of parameters, which refits of any estimator do not share"):
        refits.on_loss((X_test, y_test), measure=uw.OfParameters(lambda params: params["weight"].sum()))


def test_what_only_votes_is_judged_by_its_votes():
    class Votes(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_, count = np.unique(y, return_counts=True)
            self.most_ = self.classes_[count.argmax()]
            return self

        def predict(self, X):
            return np.full(len(X), self.most_)

    X, y = np.zeros((5, 1)), np.array(["a", "b", "b", "a", "b"])
    found = uw.by_refitting(Votes(), X, y).of_removal([1, 2], (X[:2], y[:2]))
    assert found.change.tolist() == [[-1.0], [1.0]]


def test_bad_input_gets_a_sentence():
    X, y = np.zeros((5, 1)), np.arange(5.0)
    with pytest.raises(TypeError, match="needs an estimator with fit and predict, got Linear"):
        uw.by_refitting(torch.nn.Linear(1, 1), X, y)
    with pytest.raises(ValueError, match="X has 5 rows and y 4"):
        uw.by_refitting(Mean(), X, y[:4])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(5,\), got \(2,\)"):
        uw.by_refitting(Mean(), X, y, sample_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="seeds >= 2"):
        uw.by_refitting(Mean(), X, y, seeds=1)
    with pytest.raises(ValueError, match="refits must be >= 1"):
        uw.by_refitting(Mean(), X, y, refits=0)
    refits = uw.by_refitting(Mean(), X, y)
    with pytest.raises(AttributeError, match="have no 'settings', which needs a derivative"):
        _ = refits.settings
    with pytest.raises(TypeError, match="there is nothing to verify"):
        uw.verify(refits, (X, y))


def test_what_it_prints_is_no_data():
    refits = uw.by_refitting(KNeighborsRegressor(), np.full((20, 1), 987654.0), np.arange(20.0))
    assert repr(refits) == "Refits of KNeighborsRegressor on 20 rows, at most 500 for a question"
