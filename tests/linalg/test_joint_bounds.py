"""The bound of all rows of a set at once: held against sets, and against its formulas with inverses written out."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from experiments.exhaustive import KINDS, case_of, sets
from upweight.linalg import joint_bounds
from upweight.linalg.joint_bounds import JointBound, Settings

from .test_subset_bounds import whitened

ROWS = [kind for kind in KINDS if case_of(kind, 0).groups is None]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the search leaves a bound: a few are enough."""
    monkeypatch.setattr(joint_bounds, "STEPS", 25)
    monkeypatch.setattr(joint_bounds, "STAGES", (0.1, 0.01, 0.001))


def bound_of(X: np.ndarray, z: np.ndarray, r: np.ndarray, k: int) -> JointBound:
    return JointBound(torch.from_numpy(X), torch.from_numpy(z), torch.from_numpy(r), k)


def settings_of(bound: JointBound, seed: int) -> Settings:
    """Some settings around those that the search begins with."""
    begun = bound.start()
    assert begun is not None
    generator = torch.Generator().manual_seed(seed)

    def noise(like: torch.Tensor, size: float) -> torch.Tensor:
        return size * torch.randn(like.shape, generator=generator, dtype=torch.float64)

    width = begun.width + (noise(begun.width, 0.03) * begun.width.diagonal()).tril()
    turn = noise(begun.turn, 0.02) * torch.cat([bound.left[:, None].abs(), bound.X.abs()], 1)
    return Settings(
        width, noise(begun.back, 0.1), begun.balance + noise(begun.balance, 0.3), begun.turn + turn
    )


def change(X: np.ndarray, z: np.ndarray, r: np.ndarray, T: Sequence[int] | np.ndarray) -> float:
    left = np.eye(len(T)) - X[T] @ X[T].T
    if np.linalg.eigvalsh(left)[0] < 1e-9:
        return np.inf  # it carries all of some direction: no bound may be finite
    return float(z[T] @ np.linalg.solve(left, r[T]))


@pytest.mark.parametrize("kind", ROWS)
def test_no_set_exceeds_its_bound(kind: str) -> None:
    """(28) to (32) of docs/certificates.md, of all sets of 1, 2 and 3 rows, with settings of every sort."""
    held = 0
    for seed in range(4):
        X, z, r = whitened(case := case_of(kind, seed))
        alone = (X**2).sum(1) > 1 - 1e-9
        if np.abs(z[alone]).max(initial=0) > 1e-9:
            continue  # undetermined without such a row
        X, z, r = (
            np.where(alone if part.ndim == 1 else alone[:, None], 0, part) for part in (X, z, r)
        )  # (4)
        largest = 0.0
        for k in (1, 2, 3):
            largest = max(largest, *(change(X, z, r, T) for T in sets(case.members, k)))
            bound = bound_of(X, z, r, k)
            if (begun := bound.start()) is None:
                continue
            tried = [begun, *(settings_of(bound, other) for other in range(5))]
            values = [*(bound.value(settings) for settings in tried), bound.tightened(begun)[1]]
            assert min(values) >= largest * (1 - 1e-12)
            held += sum(np.isfinite(values))
    assert held > 10


@pytest.mark.parametrize("seed", range(3))
def test_sets_that_were_grown_stay_below_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.linalg.qr(rng.standard_t(5, size=(80, 4)))[0]
    r = rng.normal(size=80)
    r -= X @ (X.T @ r)
    z, T, settings = X @ rng.normal(size=4), list[int](), None
    for k in range(1, 13):
        rest = [i for i in range(80) if i not in T]
        T.append(max(rest, key=lambda i: change(X, z, r, [*T, i])))
        bound = bound_of(X, z, r, k)
        settings = bound.start() if settings is None else bound.near(settings)
        if settings is None:
            break
        settings, value = bound.tightened(settings)
        assert change(X, z, r, T) <= value
        if k < 4:
            assert value <= 1.5 * change(X, z, r, T)
    assert k > 3


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_the_one_of_the_text(seed: int) -> None:
    """(30) and (31) row by row, with every inverse written out, and what they claim of each row."""
    X, z, r = whitened(case_of("plain", seed))
    k, p = 2, X.shape[1]
    bound = bound_of(X, z, r, k)
    tried = (settings_of(bound, 10 * seed + other) for other in range(10))
    settings = next(one for one in tried if np.isfinite(bound.value(one)))
    L, v, balance, turn = (part.numpy() for part in settings)
    theta, beta = L @ L.T, np.exp(balance)
    m, d = np.sqrt(beta) * z + r / np.sqrt(beta), np.sqrt(beta) * z - r / np.sqrt(beta)
    E = np.zeros((p + 1, p + 1))
    E[0, 0] = 1
    P = k * theta
    for i in range(len(X)):
        xi, e = np.array([m[i], *X[i]]), (d[i] + X[i] @ v) ** 2
        Q = theta + e * E
        a = xi @ np.linalg.solve(Q, xi)
        part = np.zeros_like(Q)
        if a > 1:
            y = xi + turn[i]
            b, c = xi @ np.linalg.solve(Q, y), y @ np.linalg.solve(Q, y)
            assert b**2 > (a - 1) * c
            part = (a - 1) / (b**2 - (a - 1) * c) * np.outer(y, y)
        assert np.linalg.eigvalsh(part - np.outer(xi, xi) + Q)[0] > -1e-12
        P = P + part
    rest = P[0, 1:] @ np.linalg.solve(np.eye(p) - P[1:, 1:], P[1:, 0])
    np.testing.assert_allclose(bound.value(settings), (P[0, 0] + rest + v @ v) / 4, rtol=1e-4)


def test_settings_that_prove_nothing_give_no_number() -> None:
    bound = bound_of(*whitened(case_of("plain", 0)), 2)
    begun = bound.start()
    assert begun is not None
    assert bound.value(begun._replace(width=100 * begun.width)) == np.inf  # R < I fails
    flat = begun.width.clone()
    flat[1, 1] = 1e-9
    assert bound.value(begun._replace(width=flat)) == np.inf  # too flat to be solved with
    assert bound.value(begun._replace(turn=-2 * bound.X.new_ones(begun.turn.shape))) >= bound.value(begun)
