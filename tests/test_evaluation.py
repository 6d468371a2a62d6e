"""The judges: on outcomes whose answer is known, and that nothing is trained twice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from upweight import Influence, LinearProblem, Softmax
from upweight.evaluation import detection, lds, random_subsets, retrained


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


def test_bad_input():
    subsets, outcomes = random_subsets(6, 4), torch.zeros(4, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"shape \(m, n\) = \(2, 6\), got \(3, 6\)"):
        lds(torch.zeros(3, 6), subsets, outcomes)
    with pytest.raises(ValueError, match="3 subsets and 4 outcomes"):
        lds(torch.zeros(2, 6), subsets[:3], outcomes)
    for wrong in ([True, True], [False, False], [True]):
        with pytest.raises(ValueError, match="need one suspicion per row and both kinds"):
            detection([1.0, 2.0], wrong)
