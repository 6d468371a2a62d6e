"""Verification: its refits against refits made alone, its statistics, and its refusals."""

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.validation.refits import refit_without
from upweight.validation.verify import agreement


def made_up(keep: str = "mean", n: int = 40) -> uw.LinearProblem:
    """A small softmax regression at its optimum."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=generator)
    weights = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    return uw.LinearProblem.fit(
        X,
        y,
        loss=uw.Softmax(),
        outputs=3,
        intercept=True,
        l2=0.05,
        l2_intercept=0.01,
        weights=weights,
        keep=keep,
    )


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_block_refits_equal_refits_alone(keep: str) -> None:
    problem = made_up(keep)
    removed = [
        torch.tensor(rows, dtype=torch.long) for rows in ([], [0], [7], [39], [1, 4, 30], list(range(15)))
    ]
    thetas, norms = refit_without(problem, removed, uw.Hessian(problem).factor(), 1e-11)
    assert float(norms.max()) <= 1e-11
    for theta, rows in zip(thetas[1:], removed[1:], strict=True):
        kept = torch.tensor([i for i in range(problem.n) if i not in rows.tolist()])
        alone = problem.subset(kept)
        if keep == "total":
            alone = alone.changed(l2=problem.l2 * problem.n / len(kept))
        assert torch.allclose(problem.without(rows).l2, alone.l2, rtol=1e-14)
        expected = alone.minimised(1e-11).theta
        assert float((theta - expected).norm() / expected.norm()) < 1e-8


def test_reduced_gradients_without_removal_is_the_gradient() -> None:
    problem = made_up()
    shifted = problem.at(problem.theta + 0.1)
    got = problem.gradients_without([torch.tensor([], dtype=torch.long)], shifted.theta[None])[0]
    assert torch.allclose(got, shifted.gradient(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_first_gradients_are_the_reduced_ones_at_theta(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upweight.linear.reduced_gradients.GONE_ROWS", 4)
    problem = made_up(keep)
    problem = problem.at(problem.theta + 0.1)
    sets = [torch.tensor(rows, dtype=torch.long) for rows in ([], [0], [39, 2], list(range(15)))]
    got = problem.gradients_without(sets)
    expected = problem.gradients_without(sets, problem.theta.repeat(len(sets), 1))
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_predictions_agree_with_retraining_and_the_sign_is_right() -> None:
    problem = made_up(n=400)
    generator = torch.Generator().manual_seed(1)
    test = (torch.randn(2, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2]))
    result = uw.verify(uw.Influence(problem), test, k=20)
    assert result.random is not None
    assert result.top.pearson > 0.999
    assert 0.95 < result.top.slope < 1.1
    assert result.top.count == 40
    assert float(result.table["gradient norm"].max()) <= 1e-9
    low, high = result.top.interval["pearson"]
    assert low <= result.top.pearson <= high


def test_a_user_given_refit_is_used() -> None:
    problem = made_up()
    test = (
        torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        torch.tensor([1]),
    )
    influence = uw.Influence(problem)
    own = uw.verify(influence, test, k=4)
    given = uw.verify(influence, test, k=4, refit=lambda kept: problem.subset(kept).minimised(1e-10).theta)
    assert np.allclose(own.table["actual"], given.table["actual"], rtol=1e-4, atol=1e-10)


def test_an_interrupt_keeps_what_is_finished() -> None:
    problem = made_up()
    calls = []

    def refit(kept: torch.Tensor) -> torch.Tensor:
        calls.append(len(kept))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return problem.subset(kept).minimised(1e-9).theta

    test = (torch.ones(1, 4, dtype=torch.float64), torch.tensor([1]))
    result = uw.verify(uw.Influence(problem), test, k=6, refit=refit)
    assert not result.complete
    assert "interrupted" in str(result)
    assert 2 <= len(result.table) < 12


def test_networks_need_a_refit() -> None:
    model = torch.nn.Linear(2, 2).double()
    X = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = torch.arange(12) % 2
    problem = uw.Problem(model, torch.nn.functional.cross_entropy, (X, y), l2=0.1)
    with pytest.raises(ValueError, match="refit="):
        uw.verify(uw.Influence(problem), (X[:1], y[:1]), k=2)


@pytest.mark.parametrize(("k", "random"), [(0, 1), (1, -1)])
def test_bad_counts(k: int, random: int) -> None:
    test = (torch.ones(1, 4, dtype=torch.float64), torch.tensor([1]))
    with pytest.raises(ValueError, match="k must be"):
        uw.verify(uw.Influence(made_up()), test, k=k, random=random)


def test_agreement_statistics() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = agreement(x, 2 * x)
    assert found.pearson == pytest.approx(1)
    assert found.spearman == pytest.approx(1)
    assert found.slope == pytest.approx(2)
    assert found.relative_error == pytest.approx(0.5)
    assert agreement(x, -x).pearson == pytest.approx(-1)
