"""Compressed answers of EKFAC against the exact ones: the error that is stated, and the bound that it implies."""

import pytest
import torch

from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight import EKFAC, GaussNewton, Influence, measures
from upweight.measures import as_measure

TOGETHER = ("mlp", "twice", "sequence", "patch", "signal", "words", "tied")


def batch_of(problem, rows: int = 6):
    return problem.train_batch(torch.arange(rows))


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-9])
@pytest.mark.parametrize(("l2", "damping"), [(0.02, 0.01), (0.0, 1e-6)])
def test_the_stated_error_is_the_true_one(name, tolerance, l2, damping):
    problem = problem_of(name, l2=l2)
    curvature = EKFAC(problem, damping)
    batch = batch_of(problem)
    found = curvature.compress(next(problem.layers.test_pairs(batch)), tolerance)
    exact = curvature.factor().solve(problem.test_gradients(batch))
    eye = torch.eye(problem.p).double()
    flat = torch.stack([found.vectors @ one for one in eye], 1)
    assert_close_per_row(found.vectors.flat(), flat, 1e-9)
    A = curvature.operator()(eye)
    size = ((exact @ A) * exact).sum(1)
    error = ((((flat - exact) @ A) * (flat - exact)).sum(1) / size).sqrt()
    assert float((error - found.error).abs().max()) < 1e-9
    assert float(found.error.max()) <= tolerance


@pytest.mark.parametrize("name", ["mlp", "twice", "sequence", "patch", "signal", "words"])
@pytest.mark.parametrize("measure", [None, measures.margin])
def test_scores_and_the_bound_of_their_error(name, measure):
    problem = problem_of(name, keep="total")
    curvature = EKFAC(problem, 0.01, relative=0.1)
    influence, batch = Influence(problem, curvature=curvature), batch_of(problem)
    exact = influence.on_loss(batch, measure=measure)
    tight = influence.on_loss(batch, measure=measure, compress=1e-10)
    assert_close_per_row(tight.values, exact.values, 1e-8)
    assert_close_per_row(tight.drift, exact.drift, 1e-8)
    loose = influence.on_loss(batch, measure=measure, compress=0.05)
    assert loose.residual is not None
    assert 0 < float(loose.residual.max()) <= 0.05
    assert "outer products per layer" in loose.verdict
    # Cauchy-Schwarz: |e . g| <= ||e||_A sqrt(g^T A^-1 g).
    own = curvature.quadratic(next(problem.layers.test_pairs(batch_of(problem, problem.n))))
    asked = curvature.quadratic(next(problem.layers.test_pairs(batch, as_measure(measure))))
    bound = loose.residual[:, None] * (asked[:, None] * own).sqrt() * problem.weights
    assert bool(((loose.values - exact.values).abs() <= bound + 1e-12).all())


def test_top_rows_of_compressed_scores():
    problem = problem_of("mlp")
    influence, batch = Influence(problem, curvature=EKFAC(problem, 0.01)), batch_of(problem)
    everything = influence.on_loss(batch, compress=1e-6)
    best = influence.on_loss(batch, compress=1e-6, top=2)
    assert best.columns is not None
    assert_close_per_row(best.values, everything.values.gather(1, best.columns), 1e-9)


def test_what_cannot_be_compressed_says_so():
    problem = problem_of("mlp")
    batch = batch_of(problem)
    with pytest.raises(TypeError, match="compress is for EKFAC"):
        Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss(batch, compress=0.1)
    other = Influence(problem_of("branches"), curvature=EKFAC(problem_of("branches"), 0.1))
    with pytest.raises(TypeError, match="not taken layer by layer"):
        other.on_loss(batch_of(other.problem), compress=0.1)
    with pytest.raises(ValueError, match="without leading"):
        Influence(problem, curvature=EKFAC(problem, 0.1, leading=2)).on_loss(batch, compress=0.1)
    for wrong in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Influence(problem, curvature=EKFAC(problem, 0.1)).on_loss(batch, compress=wrong)


@pytest.mark.parametrize("leading", [0, 2])
@pytest.mark.parametrize(("l2", "damping"), [(0.02, 0.01), (0.0, 1e-6)])
@pytest.mark.parametrize("name", ["mlp", "twice", "sequence", "patch", "signal", "words", "branches"])
def test_self_influence_from_factors_is_that_from_gradients(name, leading, l2, damping):
    problem = problem_of(name, l2=l2)
    curvature = EKFAC(problem, damping, leading=leading)
    found = Influence(problem, curvature=curvature).on_self()
    index = torch.arange(problem.n)
    bare, trained = problem.test_gradients(problem.train_batch(index)), problem.train_gradients(index)
    wanted = -(curvature.factor().solve(bare) * trained).sum(1)
    assert_close_per_row(found.values.T, wanted[:, None], 1e-9)


def test_relative_damping_is_a_share_of_each_layers_mean_eigenvalue():
    problem = problem_of("signal", l2=0.0)
    eye = torch.eye(problem.p).double()
    bare, damped = EKFAC(problem, 1e-9).operator()(eye), EKFAC(problem, 1e-9, relative=0.1).operator()(eye)
    added = (damped - bare).diagonal()
    layout = problem.layers.layout
    blocks = [matrix.index for matrix in layout.matrices] + [layout.rest]
    for index in blocks:
        mean = bare.diagonal()[index].mean() - 1e-9
        assert_close_per_row(added[index][:, None], (0.1 * mean).expand(len(index), 1), 1e-6)
