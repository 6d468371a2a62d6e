"""Explanations: the rows, labels and columns that they name, against influence asked directly."""

import pytest
import torch

import upweight as uw
from tests.support.cases import BY_NAME, CASES, Case, case_id
from tests.support.classifiers import blobs, estimator, network
from tests.support.compare import assert_close_per_row
from upweight.influence.woodbury import newton_steps
from upweight.measures import margin


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


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_parts_add_up_to_the_effect_column_by_column(case: Case) -> None:
    """Each part is what goes through that column's coefficients: s_j . x_ij r_i / n, and their sum is the effect."""
    problem, test = case.problem, (case.test[0][:1], case.test[1][:1])
    influence = uw.Influence(problem)
    found = uw.explain(influence, test, k=3, first_order=True)
    for shown in (found, uw.explain(influence, test, k=3)):
        for table, parts in zip((shown.helpful, shown.harmful), shown.parts, strict=True):
            effects = table["removal effect on the loss"]
            assert parts.index.tolist() == effects.index.tolist()
            assert_close_per_row(parts.sum(axis=1).to_numpy()[None], effects.to_numpy()[None], 1e-9)
    row = torch.tensor([int(found.helpful.index[0])])
    gradient = problem.train_gradients(row)[0] - problem.folded_penalty
    through = influence.solve(problem.test_gradients(test)).value[0] * gradient / problem.n
    weight = problem.layout.unpack(through)["weight"].sum(0)
    assert_close_per_row(found.parts[0].iloc[:1, : problem.d].to_numpy(), weight[None], 1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.problem.gauge is None], ids=case_id)
def test_parts_of_a_newton_step_are_what_it_does_through_each_coefficient(case: Case) -> None:
    """Their sum, less what the measure's curve adds, is the gradient of the measure times the row's Newton step."""
    problem, test = case.problem, (case.test[0][:1], case.test[1][:1])
    influence = uw.Influence(problem, solver=uw.Exact())
    found = uw.explain(influence, test, k=2)
    assert "Newton step" in repr(found)
    gradient = problem.test_gradients(test)[0]
    for name, parts in found.parts[0].iterrows():
        _, _, step = next(newton_steps(problem, uw.Hessian(problem), [torch.tensor([int(name)])]))
        linear = parts.drop("the bend of the measure").sum()
        assert linear == pytest.approx(float(gradient @ step[0]), rel=1e-7, abs=1e-15)


def test_no_step_is_taken_where_first_order_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leverages of all rows need a factor, which large models do not have."""
    case = BY_NAME["softmax"]
    monkeypatch.setattr("upweight.influence.influence.RowSteps.of", pytest.fail)
    test = case.test[0][:1], case.test[1][:1]
    assert uw.explain(uw.Influence(case.problem), test, k=1, first_order=True).scores.changes is None
    iterative = uw.Influence(case.problem, solver=uw.ConjugateGradient())
    assert "first order" in repr(uw.explain(iterative, test, k=1))


def test_rows_without_which_nothing_is_determined_are_listed_last_and_said() -> None:
    """The only row of a category, without a penalty: its own effect is not known, the others' are."""
    X = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    problem = uw.LinearProblem.fit(X, torch.tensor([0.0, 1.0, 3.0, 5.0]), loss=uw.Squared())
    influence = uw.Influence(problem)
    found = uw.explain(influence, (X[:1], torch.tensor([0.0])), k=3)
    assert 3 not in [*found.helpful.index[:1], *found.harmful.index[:1]]
    assert "Without 1 of the rows nothing determines the model" in repr(found)
    scores = influence.of_each_removal((X[:1], torch.tensor([0.0])))
    assert scores.effect().isnan().tolist() == [[False, False, False, True]]
    assert scores.helpful(4).index[-1] == scores.harmful(4).index[-1] == scores.top(4).index[-1] == 3


def test_parts_that_cancel_are_said_in_the_unit_of_the_effect() -> None:
    """Where the parts are many times their sum, a share of it would be thousands of percent."""
    X = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 2.0], [1.0, 0.5]])
    y = torch.tensor([1.0, 2.0, 0.0, 1.0])
    found = uw.explain(uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared(), l2=0.01)), (X[:1], y[:1]))
    words = found.helpful["because of"].iloc[0]
    effect = found.helpful["removal effect on the loss"].iloc[0]
    assert "%" not in words
    numbers = [float(part.rpartition(" ")[2].strip("()")) for part in words.split(", ")]
    assert sum(numbers) == pytest.approx(effect, abs=0.01 * max(map(abs, numbers)))


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
    assert found.prediction == pytest.approx(
        float(case.problem.outputs(case.problem.prepared(case.test)[0])[0])
    )
    assert found.label == float(case.test[1][0])
    problem, (X, y) = network()
    assert len(uw.explain(uw.Influence(problem), (X[:1], y[:1]), k=2).helpful) == 2


def test_explain_refuses_many_rows() -> None:
    case = BY_NAME["logistic"]
    with pytest.raises(ValueError, match="one test row, got 5"):
        uw.explain(uw.Influence(case.problem), case.test)
    with pytest.raises(ValueError, match="k must be"):
        uw.explain(uw.Influence(case.problem), case.test, k=0)


def test_the_ends_of_the_ranking_are_shown_strongest_first() -> None:
    problem = blobs(3)
    influence, test = uw.Influence(problem), problem.train_batch(torch.tensor([7]))
    effect = influence.of_each_removal(test).removal_effect()[0]
    found = uw.explain(influence, test, k=5)
    for table, sign in ((found.helpful, 1), (found.harmful, -1)):
        order = (sign * effect).argsort(descending=True)[:5]
        assert table.index.tolist() == order.tolist()
        assert_close_per_row(table["removal effect on the loss"].to_numpy()[None], effect[order][None], 1e-12)
        assert table["label"].tolist() == problem.y[order].tolist()
    everything = uw.explain(influence, test, k=10_000)
    assert len(everything.helpful) == len(everything.harmful) == problem.n
    assert everything.helpful.index.tolist() == everything.harmful.index.tolist()[::-1]


def test_another_measure_is_explained_in_its_own_unit() -> None:
    problem = blobs(3)
    influence, test = uw.Influence(problem), problem.train_batch(torch.tensor([7]))
    found = uw.explain(influence, test, k=3, measure=margin)
    effect = influence.on_loss(test, measure=margin).removal_effect()[0]
    assert found.helpful.index.tolist() == effect.topk(3).indices.tolist()
    assert found.question.endswith("Training rows by effect on the margin.")
    assert "the margin would rise" in repr(found)


@pytest.mark.parametrize("relative", [False, True])
def test_the_question_is_said_in_words(relative: bool) -> None:
    problem, X, y = estimator()
    found = uw.explain(uw.Influence(problem), (X[:1], y[:1]), k=2, relative=relative)
    assert found.question.startswith(f"The model says {found.prediction!r}, the label is {y.iloc[0]!r}. ")
    assert ("relative to the row's own pull" in found.question) is relative
    assert ("relative influence" in found.helpful) is relative
    assert found.question in found._repr_html_().replace("&#x27;", "'").replace("&#39;", "'")


def test_relative_influence_is_for_networks_too() -> None:
    problem, (X, y) = network()
    influence = uw.Influence(problem)
    wanted = influence.on_loss((X[:1], y[:1])).values[0] / influence.on_self().values[0].abs().sqrt()
    found = uw.explain(influence, (X[:1], y[:1]), k=3, relative=True)
    assert found.helpful.index.tolist() == (-wanted).topk(3).indices.tolist()
    assert "because of" not in found.helpful


def test_a_count_that_no_row_moves_is_said_and_no_one_row_is_looked_near_to():
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    influence = uw.Influence(uw.LinearProblem.fit(X, (X[:, 0] > 0).long(), loss=uw.Logistic(), l2=0.1))
    found = repr(uw.explain(influence, (X, (X[:, 0] > 0).long()), measure=uw.measures.auroc, k=2))
    assert "No training row changes it by its removal alone" in found
    assert "nearest to the row in question" not in found
