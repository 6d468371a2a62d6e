"""A run in segments: exact where gradients and curvature do not change within one, and refused where it has no form."""

from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import upweight as uw
from upweight.curvature.kronecker_statistics import Recipe, gather
from upweight.linalg.kronecker import Spectrum
from upweight.linalg.low_rank import LowRankFactor

from ..support.compare import assert_close_per_row
from ..support.runs import data, sgd, trained

N = 30
FULL = [torch.arange(N)]


def half(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.5 * (outputs - targets).square().sum(-1).mean()


def regression(
    steps: int = 40, at_minimum: bool = False, optimizer: Any = None, **fields: Any
) -> tuple[uw.TrainingRun, Any]:
    """Full-batch descent of a linear model, and test rows."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    y = X @ torch.ones(3, 1, dtype=torch.float64) + torch.randn(
        N, 1, generator=generator, dtype=torch.float64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 1).double()
    if at_minimum:
        best = torch.linalg.lstsq(torch.cat([X, torch.ones_like(y)], 1), y).solution
        with torch.no_grad():
            model.weight.copy_(best[:3].T)
            model.bias.copy_(best[3])
    known = {"optimizer": optimizer or sgd(), "batches": FULL * steps, **fields}
    return uw.TrainingRun(model, half, (X, y), **known), (X[:4] + 0.5, y[:4])


@pytest.mark.parametrize("rank", [100, None])
def test_one_segment_is_the_run_where_gradients_do_not_move(rank):
    run, test = regression(at_minimum=True)
    exact, found = uw.Unrolled(run), uw.Unrolled(uw.Segments(run, 1, 2, rank=rank))
    assert_close_per_row(found.on_loss(test).values, exact.on_loss(test).values, 1e-12)
    assert_close_per_row(found.on_self().values, exact.on_self().values, 1e-11)
    assert_close_per_row(found.on_params([0, 7]), exact.on_params([0, 7]), 1e-12)


@pytest.mark.parametrize(
    ("optimizer", "fields"),
    [
        (sgd(), {}),
        (sgd(weight_decay=0.3), {}),
        (sgd(), {"schedule": lambda t: 1 / (1 + t)}),
        (sgd(), {"weights": torch.linspace(0, 2, N)}),
        (sgd(), {"counts": torch.linspace(1, 3, N)}),
        (sgd(lr=0.02), {"batches": [[*torch.arange(N).split(10)]] * 9, "accumulation": "sum"}),
    ],
)
def test_segments_of_one_step_are_the_run_for_a_quadratic(optimizer, fields):
    run, test = regression(9, optimizer=optimizer, **fields)
    wanted = uw.Unrolled(run).on_loss(test).values
    for rank in (100, None):
        found = uw.Unrolled(uw.Segments(run, 9, 1, rank)).on_loss(test).values
        assert_close_per_row(found, wanted, 1e-11)


def test_momentum_is_a_larger_rate():
    run, test = regression(150, at_minimum=True, optimizer=sgd(lr=0.005, momentum=0.5, nesterov=True))
    wanted = uw.Unrolled(run).on_loss(test).values
    assert_close_per_row(uw.Unrolled(uw.Segments(run, 1, 1)).on_loss(test).values, wanted, 0.02)


def warmed(kind: Any, **settings: Any) -> Any:
    """Adam without momentum whose second moments were gathered long before, so that they stay as they are."""

    def made(parameters: Any) -> torch.optim.Optimizer:
        optimizer = kind(parameters, lr=0.05, betas=(0.0, 1 - 1e-13), **settings)
        generator = torch.Generator().manual_seed(3)
        for group in optimizer.param_groups:
            for one in group["params"]:
                v = torch.rand(one.shape, generator=generator, dtype=one.dtype) + 0.1
                optimizer.state[one] = {
                    "step": torch.tensor(1e15, dtype=torch.float64),
                    "exp_avg": torch.zeros_like(one),
                    "exp_avg_sq": v,
                }
        return optimizer

    return made


@pytest.mark.parametrize("clip", [None, 1e3])
def test_one_segment_is_a_run_of_adam_at_a_minimum_where_second_moments_stay(clip):
    run, test = regression(at_minimum=True, optimizer=warmed(torch.optim.AdamW, weight_decay=0.0), clip=clip)
    exact, found = uw.Unrolled(run), uw.Unrolled(uw.Segments(run, 1, 2))
    assert_close_per_row(found.on_loss(test).values, exact.on_loss(test).values, 1e-9)
    assert_close_per_row(found.on_self().values, exact.on_self().values, 1e-9)
    assert_close_per_row(found.on_params([0, 7]), exact.on_params([0, 7]), 1e-9)


@pytest.mark.parametrize("rank", [100, None])
@pytest.mark.parametrize(
    ("kind", "clip"), [(torch.optim.AdamW, None), (torch.optim.Adam, None), (torch.optim.AdamW, 0.5)]
)
def test_segments_of_one_step_are_a_run_of_adam_for_a_quadratic(kind, clip, rank):
    run, test = regression(1, optimizer=warmed(kind, weight_decay=0.3), clip=clip)
    wanted = uw.Unrolled(run).on_loss(test).values
    found = uw.Unrolled(uw.Segments(run, 1, 1, rank)).on_loss(test).values
    if clip is None:
        assert_close_per_row(found, wanted, 1e-9)
    else:  # the derivative of the norm is left out
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.5


def test_the_preconditioned_curvature_is_exact_where_all_directions_are_kept():
    run, test = regression(9, optimizer=warmed(torch.optim.Adam, weight_decay=0.3))
    wanted = uw.Unrolled(run).on_loss(test).values
    assert_close_per_row(uw.Unrolled(uw.Segments(run, 9, 1)).on_loss(test).values, wanted, 1e-9)
    curvature = uw.Segments(run, 1, 1, None).segments[0]
    assert curvature.root is not None
    even = torch.full_like(curvature.root, 2.0)
    plain = uw.Segments(regression(9)[0], 1, 1, None).segments[0].curvature
    rows = run.gradients(test)
    assert isinstance(plain, Spectrum)
    assert_close_per_row(
        plain.weighted(even, 0.5).mapped(rows, lambda h: h),
        2 * (plain.mapped(rows, lambda h: h) + 0.5 * rows),
        1e-12,
    )


def test_own_scores_and_moves_of_adam_agree_with_scores():
    run = trained(partial(torch.optim.AdamW, lr=0.01), clip=0.3)
    unrolled, every = uw.Unrolled(uw.Segments(run, 3, 2, 10)), data()
    scores = unrolled.on_loss(every).values
    assert_close_per_row(unrolled.on_self(block=10).values, scores.diagonal()[None], 1e-9)
    moved = unrolled.on_params([1, 4]) @ run.gradients(every).T
    assert_close_per_row(moved, scores.T[[1, 4]], 1e-9)


def test_an_example_counts_as_often_as_it_was_seen():
    run, test = regression(batches=[torch.arange(10)] * 5 + [torch.arange(5, 15)] * 5, optimizer=sgd(lr=0.01))
    segments = uw.Segments(run, 2, 1)
    first, last = (segment.share * 10 for segment in segments.segments)
    assert torch.allclose(first, (torch.arange(N) < 10).double())
    assert torch.allclose(last, ((torch.arange(N) >= 5) & (torch.arange(N) < 15)).double())
    scores = uw.Unrolled(segments).on_loss(test).values
    assert not scores[:, 15:].any()
    assert scores[:, :15].all()


def test_steps_that_are_too_long_for_a_direction_end_at_its_minimum():
    run, test = regression(8, optimizer=sgd(lr=5.0))
    segment = uw.Segments(run, 1, 1).segments[0]
    rows = run.gradients(test)
    assert not segment.kept(rows).any()
    inverse = uw.EKFAC(run.start.base).factor().solve(rows)
    assert_close_per_row(segment.gained(rows), inverse, 1e-10)


@pytest.mark.parametrize(("rank", "said"), [(10, "along 10 directions"), (None, "by EKFAC")])
def test_own_scores_and_moves_agree_with_scores(rank, said):
    run = trained(sgd(momentum=0.5))
    unrolled, every = uw.Unrolled(uw.Segments(run, 3, 2, rank)), data()
    scores = unrolled.on_loss(every).values
    assert_close_per_row(unrolled.on_self(block=10).values, scores.diagonal()[None], 1e-10)
    moved = unrolled.on_params([1, 4]) @ run.gradients(every).T
    assert_close_per_row(moved, scores.T[[1, 4]], 1e-10)
    removal = unrolled.of_removal([[1, 4]], every, replay=True)
    assert_close_per_row(removal.first_order, -scores[:, [1, 4]].sum(1, keepdim=True) / run.n, 1e-12)
    assert f"3 segments, each held at the mean of 2 of its states, its curvature {said}, of" in str(
        unrolled.settings
    )


@pytest.mark.parametrize("dense", [512, 0])
def test_the_mean_curvature_of_equal_checkpoints_is_that_of_one(dense, monkeypatch):
    monkeypatch.setattr("upweight.curvature.kronecker_statistics.DENSE_REST", dense)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()
    problem = uw.Problem(model.eval(), nn.functional.cross_entropy, data())
    recipe = Recipe(None, 0, None, 0, torch.float64)
    rows = torch.randn(3, problem.p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gather(problem, recipe, [problem, problem]).spectrum(problem.theta)
    wanted = uw.EKFAC(problem).operator()(rows)
    assert_close_per_row(found.mapped(rows, lambda h: h), wanted, 1e-12)
    assert_close_per_row(found.mapped(found.mapped(rows, torch.sqrt), torch.sqrt), wanted, 1e-12)


def test_the_mean_of_factors_along_leading_directions_is_that_of_their_matrices():
    generator = torch.Generator().manual_seed(0)
    parts, dense = [], torch.zeros(7, 7, dtype=torch.float64)
    for scale in (1.0, 3.0):
        vectors = torch.linalg.qr(torch.randn(7, 2, generator=generator, dtype=torch.float64))[0].T
        parts.append(LowRankFactor(vectors, scale * torch.tensor([2.0, 1.0], dtype=torch.float64)))
        dense += vectors.T @ (parts[-1].values[:, None] * vectors) / 2
    found, (values, _) = LowRankFactor.mean(parts), torch.linalg.eigh(dense)
    assert_close_per_row(found.values[None], values.flip(0)[None, :2], 1e-12)
    along = found.mapped(found.vectors, torch.sqrt)
    assert_close_per_row(along, found.values.sqrt()[:, None] * found.vectors, 1e-12)
    rows = torch.eye(7, dtype=torch.float64)
    assert_close_per_row(found.mapped(rows, lambda h: h), found.multiply(rows), 1e-12)


def test_the_mean_curvature_of_two_linear_models_is_the_mean_of_theirs():
    run, _ = regression()
    problem, recipe = run.problem, Recipe(None, 0, None, 0, torch.float64)
    parts = [problem.subset(torch.arange(0, N, 2)), problem.subset(torch.arange(1, N, 2))]
    rows = torch.eye(problem.p, dtype=torch.float64)
    found = gather(parts[0], recipe, parts[1:]).spectrum(problem.theta).mapped(rows, lambda h: h)
    assert_close_per_row(found, uw.GaussNewton(problem).matrix(), 1e-12)


def test_runs_that_have_no_such_form_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"Adam\(.*ask Unrolled\(run\)"):
        uw.Segments(trained(partial(torch.optim.Adam, lr=0.01, maximize=True)))
    with pytest.raises(TypeError, match='without removal="lowered"'):
        uw.Segments(trained(removal="lowered"))
    for fields in ({"rank": 0}, {"rows": 0}):
        with pytest.raises(ValueError, match="rank and rows must be at least 1"):
            uw.Segments(regression(9)[0], **fields)
    for count, checkpoints in ((0, 1), (1, 0), (6, 2)):
        with pytest.raises(ValueError, match="no more than the 9 steps of the run"):
            uw.Segments(regression(9)[0], count, checkpoints)
    unrolled = uw.Unrolled(uw.Segments(trained(), 1, 1))
    with pytest.raises(TypeError, match="followed step by step alone"):
        unrolled.on_inputs([0], data(n=2))
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    moving = uw.TrainingRun.train(
        model, nn.functional.cross_entropy, data(), optimizer=sgd(), epochs=3, batch_size=8
    )
    with pytest.raises(TypeError, match="without batch norm in train mode"):
        uw.Segments(moving)


def test_a_pass_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    run, test = trained(), data(n=3, seed=1)
    segments = uw.Segments(run, 3, 1)
    wanted = segments.derivatives(run.gradients(test))
    kept, calls = uw.training.segments.Segment.kept, []

    def cut_off(self, rows):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return kept(self, rows)

    monkeypatch.setattr(uw.training.segments.Segment, "kept", cut_off)
    with pytest.raises(KeyboardInterrupt):
        segments.derivatives(run.gradients(test), tmp_path)
    assert torch.equal(segments.derivatives(run.gradients(test), tmp_path), wanted)
    assert [segments.segments.index(one) for one in calls] == [2, 1, 1, 0]


def test_a_named_run_keeps_its_segments():
    found = uw.Segments(trained(), 2, 1)
    named = found.named(pd.Index([f"row {i}" for i in range(found.n)]))
    assert (named.count, named.checkpoints) == (2, 1)
    assert named.problem.train_index is not None
    assert named.problem.train_index[3] == "row 3"
