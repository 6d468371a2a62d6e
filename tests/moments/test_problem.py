"""Moments of classes against the textbook: sums without rows, their moves with weights, gradients of what is asked."""

import numpy as np
import pytest
import torch

from tests.support.compare import assert_close_per_row
from upweight import Influence, Overall, measures
from upweight.data.user_terms import Terms
from upweight.moments import (
    ClassRows,
    FullGaussians,
    Gaussians,
    MomentProblem,
    NaiveGaussians,
    SharedGaussians,
    SharedScaled,
)

N, D = 50, 3
PRIORS = torch.tensor([0.5, 0.3, 0.2]).double()


def gaussians(kind: str, k: int) -> Gaussians:
    priors = None if k == 2 else PRIORS
    return {
        "shared, scaled": SharedScaled(priors, 1e-4, 0),
        "shared, scaled, n - k": SharedScaled(None, 1e-4, k),
        "shared": SharedGaussians(priors, 0.0),
        "shared, shrunk": SharedGaussians(None, 0.3),
        "full": FullGaussians(priors, 0.0, 0.0, 1e-4, 1),
        "full, shrunk": FullGaussians(None, 0.2, 0.1, 1e-4, 0),
        "naive": NaiveGaussians(priors),
    }[kind]


KINDS = [
    "shared, scaled",
    "shared, scaled, n - k",
    "shared",
    "shared, shrunk",
    "full",
    "full, shrunk",
    "naive",
]


def rows(crossed: bool, k: int, seed: int, smoothing: float = 0.0) -> ClassRows:
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.permutation(np.arange(N) % k))
    X = (rng.normal(size=(N, D)) + 0.7 * codes.numpy()[:, None]) * [1.0, 30.0, 0.1] + [100.0, 0, 3]
    return ClassRows(torch.from_numpy(X), codes, torch.from_numpy(rng.uniform(0.3, 2, N)), crossed, smoothing)


def problem(kind: str, k: int = 3, seed: int = 0) -> MomentProblem:
    found = gaussians(kind, k)
    return MomentProblem(rows(found.crossed, k, seed, 0.0 if found.crossed else 1e-2), found, Terms())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crossed", [True, False])
def test_moments_without_rows_are_those_of_the_others(crossed: bool, seed: int):
    data = rows(crossed, 3, seed, smoothing=0.1)
    draw = torch.Generator().manual_seed(seed)
    for size in (1, 2, 7, 30, 44):
        gone = torch.randperm(N, generator=draw)[:size]
        kept = torch.ones(N, dtype=torch.bool)
        kept[gone] = False
        found = data.without(gone)
        for c in range(3):
            own = kept & (data.codes == c)
            X, w = data.X[own].numpy(), data.w[own].numpy()
            mean = np.average(X, axis=0, weights=w)
            scatter = ((X - mean).T * w) @ (X - mean)
            assert float(found.total[c]) == pytest.approx(w.sum(), rel=1e-12)
            np.testing.assert_allclose(found.mean[c], mean, rtol=1e-12)
            scatter = scatter if crossed else np.diag(scatter)
            np.testing.assert_allclose(found.scatter[c], scatter, rtol=1e-9, atol=1e-12)
        assert float(found.smoothing) == pytest.approx(0.1 * data.X[kept].numpy().var(0).max(), rel=1e-12)
        assert_close_per_row(data.packed(data.summed_without(gone))[None], data.packed(found)[None], 1e-10)


@pytest.mark.parametrize("crossed", [True, False])
def test_a_column_that_one_row_alone_varies_in_is_constant_without_it(crossed: bool):
    data = rows(crossed, 2, 0)
    X = data.X.clone()
    X[:, 1] = 0.1
    X[4, 1] = 50.0
    found = ClassRows(X, data.codes, data.w, crossed).without(torch.tensor([4])).scatter
    assert not bool((found.diagonal(dim1=1, dim2=2) if crossed else found)[:, 1].any())


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "asked", [None, measures.margin, Overall(lambda outputs, y: outputs.square().mean())]
)
def test_first_order_is_the_derivative_in_the_weight_of_a_row(kind: str, k: int, asked):
    """Eq. 2 by central differences of the moments with other weights, what is added to variances held fixed."""
    whole = problem(kind, k)
    test = (whole.given.X[:6] * 1.001, whole.given.codes[:6])
    values = Influence(whole).on_loss(test, measure=asked).values / whole.n
    step = 1e-4
    for i in (0, 17, 31):
        sides = []
        for sign in (1, -1):
            w = whole.weights.clone()
            w[i] *= 1 + sign * step  # an example is up-weighted by its own weight
            sides.append(
                whole.evaluate(test, asked, theta=whole.given.packed(whole.changed(weights=w).rows.all))
            )
        actual = (sides[0] - sides[1]) / (2 * step)
        assert_close_per_row(values[:, i][None], actual[None], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_replacements_are_those_of_the_moves(kind: str):
    whole = problem(kind)
    everything = torch.arange(N)
    G, S = whole.train_gradients(everything), torch.randn(4, whole.p, dtype=torch.float64)
    ((part, found),) = whole.products(S)
    assert part == slice(0, N)
    assert_close_per_row(found, S @ G.T, 1e-10)
    ((part, found),) = whole.products(S, within=slice(11, 30))
    assert part == slice(11, 30)
    assert_close_per_row(found, S @ G[11:30].T, 1e-10)
    influence, test = Influence(whole), (whole.given.X[:5] * 1.001, whole.given.codes[:5])
    own = influence.on_self().values[0]
    full = influence.on_loss(whole.train_batch(everything)).values.diagonal()
    assert_close_per_row(own[None], full[None], 1e-9)
    with pytest.raises(TypeError, match="minimise the loss of their rows"):
        influence.on_self(samples=5)
    few = influence.on_loss(test, top=4)
    assert few.columns is not None
    assert_close_per_row(few.values, influence.on_loss(test).values.gather(1, few.columns), 1e-12)
    moved = whole.changed(theta=whole.theta + influence.on_params([3])[0] * 1e-5 / N)
    change = (moved.evaluate(test) - whole.evaluate(test)) / 1e-5
    assert_close_per_row(influence.on_loss(test).values[:, 3][None] / N, change[None], 1e-3)
    batch = whole.train_batch(torch.tensor([3, 8]))
    nothing = influence.of_change([3, 8], (whole.given.X[[3, 8]], whole.given.codes[[3, 8]]), test)
    assert not bool(nothing.values.abs().max() > 1e-12)
    assert whole.gradients_as_train(batch, whole.weights[[3, 8]]).equal(G[[3, 8]])


def test_what_a_model_cannot_be_fitted_without_is_unknown_and_a_set_of_it_refused():
    whole = problem("full")
    lonely = (whole.given.codes == 1).nonzero()[:, 0]
    test = (whole.given.X[:3], whole.given.codes[:3])
    influence = Influence(whole)
    with pytest.raises(ValueError, match=r"class 1 has no other rows.*remove others"):
        influence.of_removal({"all of a class": lonely.numpy()}, test)
    with pytest.raises(ValueError, match="single row"):
        influence.of_removal({"all but one": lonely[1:].numpy()}, test)
    assert whole.reduced.newton([lonely]).isnan().all()
    assert whole.evaluate(test, theta=whole.reduced.newton([lonely])[0]).isnan().all()


def test_moments_have_no_penalty():
    with pytest.raises(ValueError, match="no penalty"):
        Influence(problem("naive").changed(l2=0.1)).on_loss((torch.zeros(1, D), torch.zeros(1)))


def test_what_changes_the_answers_changes_the_fingerprint():
    prints = [problem(kind).fingerprint() for kind in KINDS]
    prints += [
        problem("naive", seed=1).fingerprint(),
        problem("naive").changed(weights=torch.ones(N)).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert problem("full").fingerprint() == problem("full").fingerprint()
