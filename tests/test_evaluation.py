"""The judges: on outcomes whose answer is known, and that nothing is trained twice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from upweight import Influence, LinearProblem, Softmax, Squared
from upweight.evaluation import counterfactual, detection, lds, random_subsets, retrained


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_rank_correlation_of_summed_scores():
    subsets, scores, outcomes = random_subsets(20, 12), draw(3, 20), draw(12, 2, 3, seed=1)
    found = lds(scores, subsets, outcomes)
    for t in range(3):
        predicted = [float(scores[t][mask].sum()) for mask in subsets]
        wanted = stats.spearmanr(predicted, outcomes.mean(1)[:, t]).statistic
        assert float(found.per_test[t]) == pytest.approx(wanted, abs=1e-12)
    assert found.value == pytest.approx(float(found.per_test.mean()))
    assert found.interval[0] <= found.value <= found.interval[1]
    assert lds(scores, subsets, outcomes[:, :1]).ceiling is None
    assert "noise ceiling" in repr(found)


@given(st.integers(0, 50))
def test_the_ceiling_is_what_the_truth_reaches(seed: int):
    """A perfect prediction of the expected outcome, on outcomes with noise of the same size."""
    subsets, truth = random_subsets(40, 400, seed=seed), draw(20, 40, seed=seed)
    expected = subsets.double() @ truth.T
    outcomes = expected[:, None] + 3 * draw(400, 4, 20, seed=seed + 1)
    found = lds(truth, subsets, outcomes)
    assert found.ceiling is not None
    assert found.value == pytest.approx(found.ceiling, abs=0.05)
    assert 0.5 < found.value < 0.97


def test_influence_has_the_sign_that_lds_wants():
    torch.manual_seed(0)
    X, y = draw(60, 4), torch.arange(60) % 3
    X[:, :3] += torch.eye(3, dtype=torch.float64)[y]
    problem = LinearProblem.fit(X, y, loss=Softmax(), outputs=3, l2=0.05)
    test = (draw(5, 4, seed=3), torch.arange(5) % 3)

    def outcome(kept: torch.Tensor, seed: int) -> torch.Tensor:
        return problem.subset(kept).minimised().evaluate(test)

    subsets = random_subsets(60, 15)
    outcomes = retrained(outcome, subsets)
    assert lds(Influence(problem).on_loss(test), subsets, outcomes).value > 0.8


def test_retrainings_are_kept_and_found(tmp_path):
    calls: list[tuple[list[int], int]] = []

    def outcome(kept: torch.Tensor, seed: int) -> list[float]:
        if len(calls) == 3 and not (tmp_path / "resumed").exists():
            raise KeyboardInterrupt
        calls.append((kept.tolist(), seed))
        return [float(kept.sum()), float(seed)]

    subsets = random_subsets(10, 3)
    with pytest.raises(KeyboardInterrupt):
        retrained(outcome, subsets, seeds=(5, 6), folder=tmp_path / "runs")
    (tmp_path / "resumed").touch()
    found = retrained(outcome, subsets, seeds=(5, 6), folder=tmp_path / "runs")
    assert len(calls) == 6  # each once
    assert found.shape == (3, 2, 2)
    assert found[:, :, 1].tolist() == [[5.0, 6.0]] * 3
    assert found[1, 0, 0] == subsets[1].nonzero().sum()
    assert torch.equal(found, retrained(outcome, subsets, seeds=(5, 6)))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_subsets(share: float):
    subsets = random_subsets(20, 6, share=share, seed=1)
    assert subsets.sum(1).tolist() == [round(share * 20)] * 6
    assert len({tuple(mask.tolist()) for mask in subsets}) == 6
    assert torch.equal(subsets, random_subsets(20, 6, share=share, seed=1))


def test_detection_is_the_area_under_the_curve():
    random = np.random.default_rng(0)
    wrong = random.random(200) < 0.2
    suspicion = random.normal(size=200) + wrong
    pairs = (suspicion[wrong][:, None] > suspicion[~wrong]).mean()
    found = detection(suspicion, wrong)
    assert found.auc == pytest.approx(pairs)
    assert found.recall_10 == wrong[np.argsort(-suspicion)[:20]].sum() / wrong.sum()


def test_counterfactual_against_the_closed_form():
    """Least squares without a penalty: theta without S is theta - (X'X)^-1 X_S' (1 - H_SS)^-1 e_S."""
    X, test, sizes = draw(40, 3), (draw(4, 3, seed=1), draw(4, seed=2)), [1, 5, 20]
    y = X.sum(1) + draw(40, seed=3)
    problem = LinearProblem.fit(X, y, loss=Squared())
    inverse = torch.linalg.inv(X.T @ X)
    theta = inverse @ X.T @ y

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return (test[0] @ theta - test[1]).square() / 2

    def change(gone: torch.Tensor) -> torch.Tensor:
        part, left = X[gone], (y - X @ theta)[gone]
        hat = part @ inverse @ part.T
        return loss(theta - inverse @ part.T @ torch.linalg.solve(torch.eye(len(gone)) - hat, left)) - loss(
            theta
        )

    # -(1/n) I_up,loss, all of it by hand.
    pulls = (test[0] @ theta - test[1])[:, None] * (test[0] @ inverse @ X.T)
    effects = pulls * (X @ theta - y)
    found = counterfactual(
        Influence(problem).on_loss(test),
        lambda kept, seed: problem.subset(kept).minimised().evaluate(test),
        sizes=sizes,
        draws=3,
        seed=7,
    )
    for j, k in enumerate(sizes):
        for t in range(4):
            gone = effects[t].argsort(descending=True)[:k]
            assert float(found.top[j, t]) == pytest.approx(float(change(gone)[t]), rel=1e-7)
        random = [change((~kept).nonzero()[:, 0]) for kept in random_subsets(40, 3, share=1 - k / 40, seed=7)]
        assert torch.allclose(found.random[j], torch.stack(random), rtol=1e-7)
    table = found.table.set_index(["rows removed", "group"])
    for j, k in enumerate(sizes):
        largest = float(effects.topk(k, dim=1).values.sum(1).mean())
        assert table.loc[(k, "top"), "predicted"] == pytest.approx(largest, rel=1e-7)
        assert table.loc[(k, "top"), "actual"] == pytest.approx(float(found.top[j].mean()))
        assert table.loc[(k, "random"), "actual"] == pytest.approx(float(found.random[j].mean()))
        for group in ("top", "random"):
            assert (
                table.loc[(k, group), "low"] < table.loc[(k, group), "actual"] < table.loc[(k, group), "high"]
            )
    assert "4 test measures" in repr(found)


@given(st.integers(0, 1000), st.integers(2, 12), st.data())
def test_no_set_does_more_than_the_top_one_where_effects_add_up(seed: int, n: int, data: st.DataObject):
    """A mean without k values moves by n/(n - k) times the sum of the removal effects, exactly."""
    Y, k = draw(n, 3, seed=seed), data.draw(st.integers(1, n - 1))
    found = counterfactual((Y - Y.mean(0)).T, lambda kept, seed: Y[kept].mean(0), sizes=[k], draws=6)
    assert bool((found.top[0] >= found.random[0] - 1e-12).all())
    assert np.allclose(found.table["actual"], found.table["predicted"] * n / (n - k))


def test_scores_at_random_do_no_more_than_rows_at_random():
    Y = draw(200, 30)

    def judged(scores: torch.Tensor) -> tuple[float, float, float, float]:
        found = counterfactual(scores, lambda kept, seed: Y[kept].mean(0), sizes=[20], draws=20)
        (low, high), (low_random, high_random) = found.table[["low", "high"]].to_numpy()
        return low, high, low_random, high_random

    low, high, low_random, high_random = judged(draw(30, 200, seed=1))
    assert low < 0 < high
    assert low < high_random
    assert low_random < high
    low, high, low_random, high_random = judged((Y - Y.mean(0)).T)
    assert low > 10 * abs(high_random)


@pytest.mark.parametrize(("m", "group"), [(200, "top"), (1, "random")])
def test_intervals_are_those_of_a_mean(m: int, group: str):
    """Over test rows, and, where there is a single one, over draws: 1.96 standard errors to both sides."""
    Y = draw(50, m)
    found = counterfactual(draw(m, 50, seed=1), lambda kept, seed: Y[kept].mean(0), sizes=[10], draws=200)
    line = found.table.set_index("group").loc[group]
    error = getattr(found, group).std() / 200**0.5
    assert line["low"] == pytest.approx(line["actual"] - 1.96 * float(error), abs=0.2 * float(error))
    assert line["high"] == pytest.approx(line["actual"] + 1.96 * float(error), abs=0.2 * float(error))


def test_counterfactual_trains_once_and_averages_over_seeds(tmp_path):
    calls: list[tuple[int, int]] = []

    def outcome(kept: torch.Tensor, seed: int) -> list[float]:
        calls.append((len(kept), seed))
        return [float(kept.sum()) + (-1) ** seed, 2.0 * float(kept.sum())]

    scores = draw(2, 9)
    few = counterfactual(scores, outcome, sizes=[3], draws=2, seeds=(0, 1), folder=tmp_path)
    assert sorted(calls) == sorted([(9, 0), (9, 1)] + 4 * [(6, 0), (6, 1)])
    more = counterfactual(scores, outcome, sizes=[3, 4], draws=2, seeds=(0, 1), folder=tmp_path)
    assert calls[10:] == 4 * [(5, 0), (5, 1)]
    assert torch.equal(few.top[0], more.top[0])
    assert torch.equal(few.random[0], more.random[0])
    gone = scores.neg().topk(3, dim=1).indices.sum(1)
    assert few.top[0].tolist() == [-float(gone[0]), -2 * float(gone[1])]


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.zeros(2, 6), {"sizes": [2, 6]}, "leave one of the 6 training rows, got 6"),
        (torch.zeros(2, 6), {"sizes": [0]}, ">= 1 and leave one of the 6 training rows, got 0"),
        (torch.zeros(2, 6), {"sizes": []}, r"need sizes and at least one draw, got sizes = \[\]"),
        (torch.zeros(2, 6), {"sizes": [1], "draws": 0}, "draws = 0"),
        (torch.zeros(6), {"sizes": [1]}, r"shape \(m, n\), got \(6,\)"),
        (torch.tensor([[0.0, 1.0], [np.nan, 1.0]]), {"sizes": [1]}, "NaN .* in test row 1, training row 0"),
        (torch.tensor([[0.0, np.inf]]), {"sizes": [1]}, "infinity, first in test row 0, training row 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(scores, options, message):
    def outcome(kept: torch.Tensor, seed: int) -> list[float]:
        raise AssertionError("trained")

    with pytest.raises(ValueError, match=message):
        counterfactual(scores, outcome, **options)


def test_an_outcome_of_other_measures_is_refused_after_one_training():
    calls: list[int] = []

    def outcome(kept: torch.Tensor, seed: int) -> list[float]:
        calls.append(len(kept))
        return [0.0, 0.0, 0.0]

    with pytest.raises(ValueError, match="scores of 2 test rows, but the outcome has 3 measures"):
        counterfactual(torch.zeros(2, 6), outcome, sizes=[1])
    assert calls == [6]


def test_scores_of_some_rows_or_of_other_edits_are_refused():
    X, y = draw(8, 2), draw(8, seed=1)
    influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1))
    # As many columns as there are rows, but in another order.
    some = influence.on_loss((X[:2], y[:2]), top=4)
    other = influence.of_change((X, y), (X, y + 1), (X[:2], y[:2]))
    subsets, outcomes = random_subsets(8, 4), torch.zeros(4, 1, 2, dtype=torch.float64)
    for scores, message in ((some, "without top="), (other, "replaced")):
        with pytest.raises(ValueError, match=message):
            counterfactual(scores, lambda kept, seed: [0.0, 0.0], sizes=[1])
        with pytest.raises(ValueError, match=message):
            lds(scores, subsets, outcomes)


def test_bad_input():
    subsets, outcomes = random_subsets(6, 4), torch.zeros(4, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"shape \(m, n\) = \(2, 6\), got \(3, 6\)"):
        lds(torch.zeros(3, 6), subsets, outcomes)
    with pytest.raises(ValueError, match="NaN or infinity, first in test row 1, training row 0"):
        lds(torch.tensor([[0.0] * 6, [np.nan] * 6]), subsets, outcomes)
    with pytest.raises(ValueError, match="3 subsets and 4 outcomes"):
        lds(torch.zeros(2, 6), subsets[:3], outcomes)
    for wrong in ([True, True], [False, False], [True]):
        with pytest.raises(ValueError, match="need one suspicion per row and both kinds"):
            detection([1.0, 2.0], wrong)
