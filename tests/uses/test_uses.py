"""The uses, on data where the answer is known, and against retraining."""

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw
from tests.support.cases import BY_NAME, draw
from tests.support.compare import assert_close_per_row

N = 120
FLIPPED = [3, 17, 40, 77, 101]


def classes(c: int, l2: float = 0.01, flipped: bool = False) -> uw.LinearProblem:
    """c blobs with overlap; some labels flipped."""
    y = torch.arange(N) % c
    X = draw(N, 3, seed=1) + 2.5 * torch.eye(c, 3, dtype=torch.float64)[y]
    if flipped:
        y[FLIPPED] = (y[FLIPPED] + 1) % c
    loss, outputs = (uw.Logistic(), 1) if c == 2 else (uw.Softmax(), c)
    return uw.LinearProblem.fit(X, y, loss=loss, outputs=outputs, intercept=True, l2=l2)


def estimator(names: tuple[str, ...] = ("yes", "no")) -> tuple[uw.LinearProblem, pd.DataFrame, pd.Series]:
    """A fitted scikit-learn classifier on a DataFrame with string labels and ids."""
    linear = pytest.importorskip("sklearn.linear_model")
    X = pd.DataFrame(draw(60, 3, seed=4).numpy(), columns=["age", "dose", "noise"])
    X.index = [f"patient {i}" for i in range(60)]
    y = pd.Series(np.where(X["dose"] + 0.3 * X["noise"] > 0, *names), index=X.index)
    model = linear.LogisticRegression(tol=1e-10, max_iter=1000).fit(X, y)
    return uw.from_estimator(model, X, y), X, y


# -- explain -------------------------------------------------------------------------------------------------------


def test_explain_names_rows_labels_and_columns() -> None:
    problem, X, y = estimator()
    found = uw.explain(uw.Influence(problem), (X[:1], y[:1]), k=3)
    assert found.prediction in ("yes", "no")
    assert found.label == y.iloc[0]
    assert all(str(name).startswith("patient") for name in found.helpful.index)
    assert set(found.helpful["label"]) <= {"yes", "no"}
    assert any(name in found.helpful["because of"].iloc[0] for name in X.columns)
    effect = uw.Influence(problem).on_loss((X[:1], y[:1])).removal_effect()[0]
    assert found.helpful.index[0] == X.index[int(effect.argmax())]
    assert found.harmful.index[0] == X.index[int(effect.argmin())]
    assert "Helpful" in repr(found)
    assert "<table" in found._repr_html_()


def test_shares_of_columns_are_those_of_the_input_gradient() -> None:
    case = BY_NAME["logistic"]
    influence = uw.Influence(case.problem)
    test = case.test[0][:1], case.test[1][:1]
    found = uw.explain(influence, test, k=1)
    row = int(found.helpful.index[0])
    batch = case.dense[[row]], case.y[[row]]
    shares = influence.on_inputs(batch, test)[0, 0] * case.dense[row] / influence.on_loss(test).values[0, row]
    best = int(shares.abs().argmax())
    assert found.helpful["because of"].iloc[0].startswith(f"column {best} {float(shares[best]):.0%}")


def test_relative_influence_divides_by_the_rows_own_pull() -> None:
    case = BY_NAME["logistic"]
    influence = uw.Influence(case.problem)
    test = case.test[0][:1], case.test[1][:1]
    expected = influence.on_loss(test).values[0] / influence.on_self().values[0].abs().sqrt()
    found = uw.explain(influence, test, k=4, relative=True)
    top = (-expected).topk(4)
    assert found.helpful.index.tolist() == top.indices.tolist()
    assert_close_per_row(found.helpful["relative influence"].to_numpy()[None], -top.values[None], 1e-12)


def test_explain_answers_for_networks_and_for_regression() -> None:
    case = BY_NAME["squared"]
    found = uw.explain(uw.Influence(case.problem), (case.test[0][:1], case.test[1][:1]), k=2)
    assert found.prediction is None
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1).double()
    X, y = draw(20, 3), draw(20, 1, seed=2)
    problem = uw.Problem(model, torch.nn.MSELoss(), (X, y), l2=0.1)
    assert len(uw.explain(uw.Influence(problem), (X[:1], y[:1]), k=2).helpful) == 2


def test_explain_refuses_many_rows() -> None:
    case = BY_NAME["logistic"]
    with pytest.raises(ValueError, match="one test row, got 5"):
        uw.explain(uw.Influence(case.problem), case.test)
    with pytest.raises(ValueError, match="k must be"):
        uw.explain(uw.Influence(case.problem), case.test, k=0)


# -- mislabeled ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [2, 3])
def test_flipped_labels_come_first_and_the_right_label_is_proposed(c: int) -> None:
    problem = classes(c, flipped=True)
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
    problem = classes(c, flipped=True)
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
    torch.manual_seed(0)
    X, y = draw(20, 3), draw(20, 1, seed=2)
    problem = uw.Problem(torch.nn.Linear(3, 1).double(), torch.nn.MSELoss(), (X, y), l2=0.1)
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


# -- mismatch ------------------------------------------------------------------------------------------------------


def test_the_group_with_other_labels_drives_the_errors() -> None:
    X = torch.cat([draw(N, 2, seed=3), (torch.arange(N) % 10 == 0).double()[:, None]], dim=1)
    y = torch.where(X[:, 2] > 0, X[:, 0] < 0, X[:, 0] > 0).long()
    column = np.where(X[:, 2] > 0, "children", "adults")
    problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.01)
    slice_ = X[column == "adults"][:20], y[column == "adults"][:20]
    influence = uw.Influence(problem)
    found = uw.mismatch(influence, slice_, by=column)
    assert found.groups.index[0] == "children"
    assert found.groups["effect of removal"].iloc[0] < 0
    children = torch.as_tensor((column == "children").nonzero()[0])
    refit = problem.without(children).minimised(1e-10)
    actual = float((refit.evaluate(slice_) - problem.evaluate(slice_)).mean())
    # Twelve rows that contradict all others: no small change, so one Newton step sees the most of it, not all.
    assert 0.5 < found.groups["effect of removal"].iloc[0] / actual < 1.0
    assert found.features["feature"].iloc[0] == "column 0"
    assert "children" in repr(found)


# -- flip_set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [2, 3])
@pytest.mark.parametrize("relabel", [False, True])
def test_a_flip_set_flips_and_its_last_row_is_needed(c: int, relabel: bool) -> None:
    problem = classes(c, l2=0.05)
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
    problem = classes(2)
    outputs = problem.outputs()[:, 0]
    found = uw.flip_set(uw.Influence(problem), problem.train_batch(outputs.argmax()[None]), most=2)
    assert found.rows is None
    assert "No set found" in repr(found)


def test_flip_set_refuses() -> None:
    problem = classes(2)
    with pytest.raises(ValueError, match="one test row"):
        uw.flip_set(uw.Influence(problem), problem.train_batch(torch.arange(2)))
    case = BY_NAME["squared"]
    with pytest.raises(TypeError, match="linear classifiers"):
        uw.flip_set(uw.Influence(case.problem), case.test)
