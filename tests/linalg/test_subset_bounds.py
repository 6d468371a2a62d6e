"""Bounds over all sets of k units: held against every set, and against the same formulas written out in loops."""

import numpy as np
import pytest
import torch

from experiments.exhaustive import KINDS, Case, case_of, sets
from upweight.linalg.subset_bounds import ROUNDING, subset_bounds
from upweight.linalg.units import Units


def whitened(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows, z and r of a case, by an eigendecomposition: another way than the library's."""
    S, t = np.sqrt(case.w)[:, None] * case.X, np.sqrt(case.w) * case.y
    values, vectors = np.linalg.eigh(S.T @ S + case.penalty * np.eye(S.shape[1]))
    X = S @ vectors / np.sqrt(values)
    return X, X @ (vectors.T[:, 0] / np.sqrt(values)), t - X @ (X.T @ t)


def bounds_of(case: Case, most: int, numbers: int = 1 << 24) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    X, z, r = whitened(case)
    members = None if case.groups is None else [torch.from_numpy(m) for m in case.members]
    units = Units.of(torch.from_numpy(X), members)
    left, right = units.scaled(torch.from_numpy(z)), units.scaled(torch.from_numpy(r))
    return subset_bounds(
        units, (left, right), units.summed(left * right), most, numbers=numbers
    ).change.numpy(), (
        X,
        z,
        r,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_set_exceeds_its_bound(kind: str) -> None:
    """Inequalities 1 to 9 of docs/certificates.md, of all sets of 1, 2 and 3 units."""
    tight = []
    for seed in range(12):
        case = case_of(kind, seed)
        bound, (X, z, r) = bounds_of(case, 3)
        for k, most in enumerate(bound.tolist(), 1):
            if most == np.inf:
                continue
            values = []
            for T in sets(case.members, k):
                left = np.eye(len(T)) - X[T] @ X[T].T
                alone = np.linalg.eigvalsh(left)[0] < 1e-8  # of directions that the question does not touch
                values.append(z[T] @ (np.linalg.pinv(left, 1e-8) if alone else np.linalg.inv(left)) @ r[T])
            assert max(values) <= most * (1 + 1e-12) + 1e-12
            if k == 1:  # exact
                np.testing.assert_allclose(most, max(values), rtol=1e-6, atol=1e-7)
            tight.append(max(values) / most)
    assert len(tight) >= 12


def sum_of_top(values: list[float], k: int) -> float:
    return sum(sorted(values, reverse=True)[:k])


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_the_one_of_the_text(seed: int) -> None:
    """Formulas (5), (6), (8) and (9) in plain loops; the share of a direction (7) left out by its absence of need."""
    case = case_of("plain", seed)
    bound, (X, z, r) = bounds_of(case, 4)
    n, own = len(X), (X**2).sum(1)
    a, b = z / np.sqrt(1 - own), r / np.sqrt(1 - own)
    N = (X @ X.T) / np.sqrt(np.outer(1 - own, 1 - own))
    others = [[j for j in range(n) if j != i] for i in range(n)]
    outer = np.einsum("ia,ib->iab", X, X).reshape(n, -1)
    shifted = outer - np.outer(own, np.eye(X.shape[1]).ravel()) / X.shape[1]
    for k in range(2, 5):
        nu = max(sum_of_top([abs(N[i, j]) for j in others[i]], k - 1) for i in range(n))
        squares = [sum_of_top([N[i, j] ** 2 for j in others[i]], k - 1) for i in range(n)]
        nu = min(nu, ((k - 1) / k * sum_of_top(squares, k)) ** 0.5)
        worst = np.linalg.eigvalsh(shifted @ shifted.T)[-1]
        share = sum_of_top(own.tolist(), k) / X.shape[1] + (k * (1 - 1 / X.shape[1]) * worst) ** 0.5
        share = min(share, (k * np.linalg.eigvalsh((X @ X.T) ** 2)[-1]) ** 0.5)
        norm = min(1 / (1 - nu) if nu < 1 else np.inf, (1 - own.min()) / (1 - share) if share < 1 else np.inf)
        if norm == np.inf:
            assert bound[k - 1] == np.inf
            continue

        def reach(v: np.ndarray, i: int, k: int = k) -> float:
            sides = [
                sum_of_top([max(sign * N[i, j] * v[j], 0) for j in others[i]], k - 1) for sign in (1, -1)
            ]
            return max(sides) ** 2

        left, right = ([reach(v, i) for i in range(n)] for v in (a, b))
        balance = (sum_of_top(right, k) / sum_of_top(left, k)) ** 0.5
        rest = [norm * (x * balance + y / balance) / 2 for x, y in zip(left, right, strict=True)]
        found = []
        for split in (0.0, *(share / 4 for share in (0.25, 0.5, 1.0, 2.0, 4.0))):
            whole = []
            for i in range(n):
                pairs = [N[i, j] * (a[i] * b[j] + a[j] * b[i]) / 2 + split * a[j] * b[j] for j in others[i]]
                whole.append((1 - split * (k - 1)) * a[i] * b[i] + sum_of_top(pairs, k - 1) + rest[i])
            found.append(sum_of_top(whole, k))
        np.testing.assert_allclose(bound[k - 1], min(found), rtol=max(1e-6, 10 * ROUNDING))


@pytest.mark.parametrize("kind", ["plain", "groups", "heavy tails"])
def test_units_that_are_not_looked_at_do_not_make_a_bound_wrong(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(16): where most units are left out, the bound is about as large, and still holds."""
    rng = np.random.default_rng(5)
    X = rng.standard_t(3, size=(60, 3)) if kind == "heavy tails" else rng.normal(size=(60, 3))
    case = Case(X, rng.normal(size=60), np.ones(60), 0.0, np.arange(60) // 2 if kind == "groups" else None)
    whole = bounds_of(case, 3)[0]
    for name in ("FEW", "MORE"):
        monkeypatch.setattr(f"upweight.linalg.subset_bounds.{name}", 0)
    lazy, (X, z, r) = bounds_of(case, 3)
    np.testing.assert_allclose(lazy[:2], whole[:2], rtol=0.3)
    for k in (1, 2):
        values = [z[T] @ np.linalg.solve(np.eye(len(T)) - X[T] @ X[T].T, r[T]) for T in sets(case.members, k)]
        assert max(values) <= lazy[k - 1]


@pytest.mark.parametrize("kind", ["plain", "groups"])
def test_bounds_do_not_depend_on_blocks(kind: str) -> None:
    case = case_of(kind, 1)
    np.testing.assert_allclose(bounds_of(case, 3, 1)[0], bounds_of(case, 3)[0], rtol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "groups"])
def test_all_blocks_pass_through_what_watches(kind: str) -> None:
    X, z, r = whitened(case := case_of(kind, 1))
    members = None if case.groups is None else [torch.from_numpy(m) for m in case.members]
    units = Units.of(torch.from_numpy(X), members)
    left, right = (units.scaled(torch.from_numpy(one)) for one in (z, r))
    seen: list[torch.Tensor] = []

    def watch(blocks, total):
        assert len(blocks) == total > 1
        seen.extend(blocks)
        return blocks

    subset_bounds(units, (left, right), units.summed(left * right), 3, numbers=1, watch=watch)
    assert torch.cat(seen).tolist() == list(range(units.count))
