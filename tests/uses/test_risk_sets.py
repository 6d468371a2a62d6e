"""(19) to (25) of docs/certificates.md against refits of Cox's model without every set of 1, 2 or 3 units."""

from itertools import combinations

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.data.user_terms import Terms
from upweight.likelihood import LikelihoodProblem, PartialLikelihood
from upweight.uses.risk_sets import RiskSetBounds, _farthest, _inverses

N = 44


def cox(seed: int, kind: str, N: int = N) -> LikelihoodProblem:
    rng = np.random.default_rng(seed)
    p = 1 if "one column" in kind else 2
    X = rng.normal(size=(N, p)) if "binary" not in kind else rng.integers(0, 2, (N, p)).astype(float)
    X[0] *= 4 if "outlier" in kind else 1
    time = rng.exponential(np.exp(0.4 * X[:, 0])) + 0.01
    time = np.ceil(5 * time) if "tied" in kind else time
    start = time * rng.uniform(size=N) * (rng.uniform(size=N) < 0.4) if "late" in kind else np.zeros(N)
    stratum = rng.integers(0, 2, N) if "strata" in kind else np.zeros(N)
    y = np.column_stack([time, rng.uniform(size=N) < 0.8, stratum, start]).astype(float)
    likelihood = PartialLikelihood(torch.from_numpy(X), torch.from_numpy(y), efron=False, standardised=False)
    w = rng.uniform(0.3, 2, N) if "weights" in kind else np.ones(N)
    l2 = 0.05 if "penalty" in kind else 0.0
    names = Terms(feature_names=("dose", "age")[:p])
    made = LikelihoodProblem(likelihood, np.zeros(p), l2=l2, weights=w, keep="total", terms=names)
    return made.minimised()


class Every:
    """Cox's model refitted without every set of units at once, in plain sums over risk sets."""

    def __init__(self, problem: LikelihoodProblem, units: list[torch.Tensor], k: int) -> None:
        self.X, self.P = problem.likelihood.X, torch.diag(problem.l2 * problem.n)
        stop, event, stratum, start = problem.likelihood.y.T
        self.ev = event.nonzero()[:, 0]
        at = (
            (stop >= stop[self.ev, None])
            & (start < stop[self.ev, None])
            & (stratum == stratum[self.ev, None])
        )
        self.at, self.w = at.double(), problem.weights
        sets = torch.tensor(list(combinations(range(len(units)), k)))
        gone = torch.zeros(len(sets), len(units)).double().scatter_(1, sets, 1.0)
        member = torch.stack([torch.zeros(problem.n).double().index_fill(0, rows, 1.0) for rows in units])
        self.kept = 1 - gone @ member

    def derivatives(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        X = self.X
        risk = self.kept * self.w * (theta @ X.T).exp()
        second = X[:, :, None] * X[:, None, :]
        sums = risk @ self.at.T
        own = self.kept[:, self.ev] * self.w[self.ev]
        sums = torch.where(own > 0, sums, 1.0)
        means = torch.einsum("en,bn,np->bep", self.at, risk, X) / sums[..., None]
        squares = torch.einsum("en,bn,npq->bepq", self.at, risk, second) / sums[..., None, None]
        gradient = torch.einsum("be,bep->bp", own, means - X[self.ev]) + theta @ self.P
        H = torch.einsum("be,bepq->bpq", own, squares - means[..., :, None] * means[..., None, :])
        return gradient, H + self.P

    def fitted(self, theta: torch.Tensor) -> torch.Tensor:
        at = theta.expand(len(self.kept), -1)
        for _ in range(25):
            gradient, H = self.derivatives(at)
            at = at - torch.linalg.solve(H, gradient[..., None])[..., 0].clamp(-1, 1)
        gradient, _ = self.derivatives(at)
        return torch.where(gradient.norm(dim=1, keepdim=True) < 1e-8, at, torch.nan)


def bounds_of(problem: LikelihoodProblem, units: list[torch.Tensor], side: float) -> RiskSetBounds:
    shares = problem.reduced.estimates.risk_shares
    assert shares is not None
    direction = side * torch.eye(problem.p).double()[0]
    asked = direction, problem.gradient() * problem.n
    return RiskSetBounds(shares, problem.likelihood.X, problem.hessian.matrix() * problem.n, asked, units)


KINDS = [
    "plain",
    "weights",
    "tied weights",
    "late",
    "strata late",
    "penalty",
    "outlier",
    "binary tied",
    "one column",
]


@pytest.mark.parametrize("kind", [*KINDS, "groups", "groups one column"])
def test_no_set_goes_beyond_any_of_the_bounds(kind):
    for seed in range(2):
        problem = cox(seed, kind)
        units = list(torch.arange(N).split(2 if "groups" in kind else 1))
        for k in (1, 2, 3):
            every = Every(problem, units, k)
            gradient, H = every.derivatives(problem.theta.expand(len(every.kept), -1))
            for side in (1.0, -1.0):
                check(problem, bounds_of(problem, units, side), (every, gradient, H), k)


def check(problem, bounds, known, k) -> bool:
    """Whether there is a bound of k units; each inequality holds of every set."""
    every, gradient, H = known
    gone = bounds.q.topk(min(k, bounds.count), dim=1).values.sum(1)
    if bool((gone >= 1 - 1e-9).any()):
        return False
    root = torch.linalg.cholesky(problem.hessian.matrix() * problem.n).mT
    inverse = torch.linalg.inv(root)
    eigenvalues = torch.linalg.eigvalsh(inverse.mT @ H @ inverse)
    lost, gained = bounds._curvature(k, gone)
    assert float((1 - eigenvalues).max()) <= lost * (1 + 1e-9) + 1e-12  # (19)
    assert float((eigenvalues - 1).max()) <= gained * (1 + 1e-9) + 1e-12
    newton, pull, rest = bounds._gradient(k, gone)
    pulls = -gradient @ inverse
    if k == 1 and len(every.kept) == bounds.count:
        assert torch.allclose(pulls, bounds.pulls, atol=1e-9)  # (20)
    assert float((pulls @ -bounds.v).max()) <= newton + 1e-9  # (21)
    assert float(pulls.norm(dim=1).max()) <= pull + 1e-9  # (22)
    step, reach = bounds._outputs(k, rest), bounds.widest * pull
    assert widest(problem, bounds.X @ pulls.T) <= step + 1e-9  # (23)
    bound = bounds.change(k)
    if bound < torch.inf:
        there = every.fitted(problem.theta)
        a = root.mT @ bounds.v
        fall = (problem.theta - there) @ a
        assert not bool(fall.isnan().any())  # there is an optimum without each
        assert float(fall.max()) <= bound  # (25)
        far = _farthest(1 / (1 + gained), 1 / (1 - lost), min(step, reach), reach)
        assert widest(problem, problem.likelihood.X @ (there - problem.theta).T) <= far  # (24)
    return bound < torch.inf


def widest(problem, outputs) -> float:
    """The largest range of outputs (n, b) of the rows of one stratum."""
    strata = problem.likelihood.y[:, 2]
    parts = (outputs[strata == one] for one in strata.unique())
    return max(float((part.amax(0) - part.amin(0)).max()) for part in parts)


def test_two_rows_of_more_data_stay_within_the_bound():
    problem = cox(1, "binary one column", 90)
    units = list(torch.arange(90).split(1))
    every = Every(problem, units, 2)
    gradient, H = every.derivatives(problem.theta.expand(len(every.kept), -1))
    assert check(problem, bounds_of(problem, units, 1.0), (every, gradient, H), 2)
    assert check(problem, bounds_of(problem, units, -1.0), (every, gradient, H), 2)


def test_bounds_are_there_and_not_far_for_single_rows():
    problem = cox(0, "one column")
    units = list(torch.arange(N).split(1))
    bounds = bounds_of(problem, units, 1.0)
    true = float((problem.theta - Every(problem, units, 1).fitted(problem.theta)).max())
    assert true <= bounds.change(1) < 5 * true


def test_the_mean_of_the_inverse_lies_between_its_bounds():
    """Of a Hessian that moves by the factor e^(s far) along the way, s from 0 to 1."""
    for far in (0.3, 2.0):
        middle, half = _inverses(0.8, 1.7, far)
        steps = (torch.arange(100_000).double() + 0.5) / 100_000
        assert middle - half == pytest.approx(0.8 / float((steps * far).exp().mean()), rel=1e-6)
        assert middle + half == pytest.approx(1.7 / float((-steps * far).exp().mean()), rel=1e-6)


def test_a_trial_is_certified_and_refits_agree():
    rng = np.random.default_rng(0)
    n = 300
    X = np.column_stack([rng.integers(0, 2, n), rng.uniform(size=n)]).astype(float)
    time, censored = rng.exponential(np.exp(-0.6 * X[:, 0])), rng.exponential(2, n)
    y = np.column_stack([np.minimum(time, censored), time <= censored, np.zeros(n)]).astype(float)
    likelihood = PartialLikelihood(
        torch.from_numpy(X), torch.from_numpy(y)
    )  # Efron's, where no times are tied
    terms = Terms(feature_names=("dose", "age"))
    problem = LikelihoodProblem(
        likelihood, [0.0, 0.0], weights=np.ones(n), keep="total", terms=terms
    ).minimised()
    found = uw.robustness(uw.Influence(problem), "dose")
    assert (found.certified, found.found) == (4, 20)  # as docs/certificates.md says
    assert "risk sets" in found.limit
    significant = uw.robustness(uw.Influence(problem), uw.Significant("dose"))
    assert "No certificate of larger sets exists" in significant.limit
