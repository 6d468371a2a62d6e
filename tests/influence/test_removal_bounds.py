"""Guaranteed intervals: no refit leaves them, a step squares their width, and what they cannot be given for."""

import pytest
import torch

import upweight as uw
from tests.support.cases import BY_NAME, CASES, Case, case_id, newton
from tests.support.refits import losses_on_test, total_objective
from upweight.influence.removal_bounds import Enclosure, intervals

GUARANTEED = [
    case
    for case in CASES
    if isinstance(case.loss, uw.Softmax) or (isinstance(case.loss, uw.Logistic) and case.c == 1)
]


@pytest.mark.parametrize("case", GUARANTEED, ids=case_id)
def test_no_refit_leaves_its_interval(case: Case) -> None:
    sets = [[0], [3], [5], [1, 2]]
    influence = uw.Influence(case.problem, solver=uw.Exact())
    start = losses_on_test(case, case.problem.theta)
    refits = [newton(total_objective(case, rows), case.problem.theta, 1e-12) for rows in sets]
    actual = torch.stack([losses_on_test(case, theta) - start for theta in refits], dim=1)
    for steps in (1, 2, 3):
        found = influence.of_removal(sets, case.test, guarantee=steps)
        assert found.low is not None
        assert found.high is not None
        assert bool((found.low <= actual).all())
        assert bool((actual <= found.high).all())


def test_a_newton_step_squares_the_width() -> None:
    case = BY_NAME["logistic sparse intercept weights"]
    influence = uw.Influence(case.problem)
    width = []
    for steps in (1, 2, 3):
        found = influence.of_removal([[i] for i in range(case.n)], case.test, guarantee=steps)
        width.append(float((found.high - found.low).median()))  # type: ignore[operator]
    assert width[1] < 0.05 * width[0]
    assert width[2] < 1e-3 * width[1]


def test_an_interval_holds_also_where_training_was_not_finished() -> None:
    case = BY_NAME["logistic"]
    unfinished = case.problem.at(case.problem.theta + 0.02)
    found = uw.Influence(unfinished).of_removal([[5]], case.test, guarantee=2)
    actual = losses_on_test(case, newton(total_objective(case, [5]), case.problem.theta, 1e-12))
    actual = actual - losses_on_test(case, unfinished.theta)
    assert found.low is not None
    assert found.high is not None
    assert bool(((found.low[:, 0] <= actual) & (actual <= found.high[:, 0])).all())


def test_bad_guarantees() -> None:
    squared, logistic = BY_NAME["squared"], BY_NAME["logistic"]
    with pytest.raises(ValueError, match="logistic and softmax"):
        uw.Influence(squared.problem).of_removal([0], squared.test, guarantee=1)
    damped = uw.Influence(logistic.problem, curvature=uw.Hessian(logistic.problem, 0.1))
    with pytest.raises(ValueError, match="without damping"):
        damped.of_removal([0], logistic.test, guarantee=1)
    with pytest.raises(ValueError, match="leave `measure` out"):
        damped.of_removal([0], logistic.test, guarantee=1, measure=lambda o, t: o[:, 0])
    rest = next(case for case in CASES if isinstance(case.loss, uw.Logistic) and case.c > 1)
    with pytest.raises(ValueError, match="one-vs-rest"):
        uw.Influence(rest.problem).of_removal([0], rest.test, guarantee=1)
    with pytest.raises(ValueError, match="at least 1"):
        uw.Influence(logistic.problem).of_removal([0], logistic.test, guarantee=-1)


def test_a_set_too_large_for_a_statement_has_an_infinite_interval() -> None:
    # Without its last row the data are separable, and the penalty is next to nothing: the weight grows manyfold.
    X, y = torch.tensor([[1.0], [-1.0], [1.5], [-0.5], [1.0]]).double(), torch.tensor([1, 0, 1, 0, 0])
    problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=1e-6)
    found = uw.Influence(problem).of_removal([4], (X[:2], y[:2]), guarantee=1)
    assert found.low is not None
    assert found.high is not None
    assert bool(found.high.isinf().all())
    assert bool((found.low >= -problem.evaluate((X[:2], y[:2]))[:, None] - 1e-12).all())


# -- enclosures of the parameters themselves -----------------------------------------------------------------------


def enclosure(case: Case, removed: list[int], moved: float = 0.0) -> Enclosure:
    """Around the parameters moved by some noise, with the norms of the reduced Hessian there."""
    problem, rows = case.problem, torch.tensor(removed)
    reduced = problem.without(rows)
    start = problem.theta[None]
    steps = moved * torch.randn(1, problem.p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = uw.Hessian(reduced).matrix() * reduced.n
    inverse = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-9)
    E = problem.output_gradients(problem.train_batch(torch.arange(problem.n)))
    K = E @ inverse @ E.mT
    own = K.diagonal(dim1=1, dim2=2)
    square = K if problem.c == 1 else own[:, :, None] + own[:, None, :] - 2 * K
    widest = square.amax().sqrt()[None]
    return Enclosure.around(problem, [rows], steps, start, lambda v: v @ inverse, widest, 1e-15)


@pytest.mark.parametrize("moved", [0.0, 0.001])
@pytest.mark.parametrize("removed", [[0], [3], [1, 2]], ids=str)
@pytest.mark.parametrize("name", ["logistic", "softmax", "softmax weights float32"])
def test_the_retrained_parameters_lie_in_the_enclosure(name: str, removed: list[int], moved: float) -> None:
    case = BY_NAME[name]
    found = enclosure(case, removed, moved)
    theta = newton(total_objective(case, removed), case.problem.theta, 1e-12)
    rows = case.problem.test_gradients(case.test)
    gap = (rows @ (theta - found.theta[0])).abs()
    assert bool(found.radius.isfinite().all())
    assert bool((gap <= found.halfwidths(rows)[0]).all())
    # It is no empty statement: at the given parameters the width is that of the change itself, within a factor.
    if not moved:
        assert float(found.halfwidths(rows).max()) < 10 * float(gap.max())
    nothing = torch.zeros(1, case.p, dtype=torch.float64)
    assert float(found.halfwidths(nothing)) == 0.0


def test_closer_enclosures_follow_newton_steps() -> None:
    case = BY_NAME["logistic"]
    curvature = uw.Hessian(case.problem)
    first = enclosure(case, [1, 2])
    assert list(first.closer(curvature, 0, 1e-15)) == [first]
    radii = [float(first.radius)]
    theta = newton(total_objective(case, [1, 2]), case.problem.theta, 1e-12)
    for steps in (1, 2):
        (nearer,) = first.closer(curvature, steps, 1e-15)
        radii.append(float(nearer.radius))
        assert float((nearer.theta[0] - theta).norm()) < 0.1 * float((first.theta[0] - theta).norm()) ** steps
    assert radii[1] < radii[0] ** 2 * 10
    assert radii[2] < radii[1] ** 2 * 10


def test_a_set_without_a_statement_is_infinite_for_every_row_but_zero() -> None:
    case = BY_NAME["logistic"]
    far = enclosure(case, [1, 2], moved=50.0)
    assert bool(far.radius.isinf().all())
    widths = far.halfwidths(torch.stack([torch.zeros(case.p).double(), torch.ones(case.p).double()]))
    assert widths.tolist() == [[0.0, torch.inf]]


def test_bounds_do_not_depend_on_the_sets_asked_along() -> None:
    case = BY_NAME["softmax"]
    curvature = uw.Hessian(case.problem)
    sets = [torch.tensor(rows) for rows in ([0], [4, 5], [7], [1, 2, 3])]
    together = intervals(case.problem, curvature, sets, case.test, 2)
    for j, rows in enumerate(sets):
        alone = intervals(case.problem, curvature, [rows], case.test, 2)
        for side, other in zip(together, alone, strict=True):
            torch.testing.assert_close(side[:, [j]], other, rtol=1e-9, atol=1e-13)
