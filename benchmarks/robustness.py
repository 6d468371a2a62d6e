"""The certificate of a coefficient's sign, beside the same bound over all pairs of rows in plain NumPy.

    python -m benchmarks robustness
    python -m benchmarks robustness --n 2000 --p 20         seconds, to see that it runs

Least squares of `n` rows and `p` columns, half of them rare indicators (one row in twenty). Processor seconds of one
thread, one after the other in this process: the search for a set, the certificate, and the plain version, which goes
through all n x n ties in blocks of rows and partitions each row for every sum. Both have the same values of mu; the
plain one looks at every row, so that its bound may be a little lower. Printed are what both certify, seconds and
the peak of memory.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

import upweight as uw
from experiments import commands
from upweight.linalg.subset_bounds import SPLITS, subset_bounds
from upweight.linalg.units import Units
from upweight.linear.whitened import Whitened

BLOCK = 256
"""Rows of a block of the plain version."""


def study(n: int, p: int) -> uw.LinearProblem:
    """A least squares problem whose first coefficient is small."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    X[:, p // 2 :] = rng.random((n, p - p // 2)) < 0.05
    y = X @ (rng.normal(size=p) * 0.02) + rng.normal(size=n)
    return uw.LinearProblem.fit(X, y, loss=uw.Squared(), intercept=True)


def top(values: np.ndarray, k: int) -> np.ndarray:
    """Sums of the 1 to k largest of each row."""
    parts = np.partition(values, values.shape[1] - k, axis=1)[:, -k:]
    return np.cumsum(-np.sort(-parts, axis=1), axis=1)


def of_largest(values: np.ndarray) -> np.ndarray:
    """The sum of the 1 largest of the first column, of the 2 largest of the second, ..."""
    return np.array([np.sort(values[:, k])[::-1][: k + 1].sum() for k in range(values.shape[1])])


def plain(Y: np.ndarray, left: np.ndarray, right: np.ndarray, most: int) -> np.ndarray:
    """The bounds (8) and (9) of docs/certificates.md over all pairs, the rest by (5) and (6)."""
    n, k = len(Y), most - 1
    single = left * right
    size, square, p, q, *both = np.zeros((4 + len(SPLITS) + 1, n, most))
    splits = [0.0, *(share / most for share in SPLITS)]
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        N = Y[rows] @ Y.T
        N[np.arange(len(N)), np.arange(start, start + len(N))] = 0
        size[rows, 1:], square[rows, 1:] = top(np.abs(N), k), top(N**2, k)
        L, R = N * left, N * right
        for whole, part in ((p, L), (q, R)):
            whole[rows, 1:] = np.maximum(top(np.maximum(part, 0), k), top(np.maximum(-part, 0), k))
        M = (left[rows, None] * R + right[rows, None] * L) / 2
        for whole, split in zip(both, splits, strict=True):
            pairs = M + split * single
            pairs[np.arange(len(N)), np.arange(start, start + len(N))] = -np.inf
            whole[rows, 1:] = top(pairs, k)
    sizes = np.arange(1, most + 1)
    nu = np.minimum(size.max(0), np.sqrt((1 - 1 / sizes) * of_largest(square)))
    norm = np.where(nu < 1, 1 / np.maximum(1 - nu, 1e-300), np.inf)
    norm[0] = 0
    p, q = p**2, q**2
    balance = np.sqrt(np.maximum(of_largest(q), 1e-300) / np.maximum(of_largest(p), 1e-300))
    rest = (p * balance + q / balance) * norm / 2
    found = [
        of_largest((1 - split * (sizes - 1)) * single[:, None] + part + rest)
        for split, part in zip(splits, both, strict=True)
    ]
    return np.min(found, axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--p", type=int, default=127)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    problem = study(options.n, options.p)
    start = time.process_time()
    found = uw.robustness(uw.Influence(problem), 3)
    ours = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"n = {options.n:,}, p = {options.p}: found {found.found}, certified {found.certified}")
    print(f"robustness, search and refit included: {ours:.1f} s, peak of the process {peak:.2f} GiB")
    whole = Whitened.of(problem)
    units = Units.of(whole.rows)
    direction = whole.direction(torch.eye(problem.p, dtype=torch.float64)[3])
    sides = units.scaled(whole.rows @ direction), units.scaled(whole.residual)
    most = max(2, (found.found or 64) - 1)
    start = time.process_time()
    estimate = abs(float(problem.theta[3]))
    single = sides[0] * sides[1] * problem.theta[3].sign()
    sides = sides[0] * problem.theta[3].sign(), sides[1]
    bound = subset_bounds(units, sides, single, most, numbers=1 << 22, target=estimate).change.numpy()
    ours = time.process_time() - start
    start = time.process_time()
    slow = plain(units.Y.numpy(), sides[0].numpy(), sides[1].numpy(), most)
    theirs = time.process_time() - start
    print(
        f"the certificate up to {most} rows: {ours:.1f} s; plain NumPy: {theirs:.1f} s; ratio {theirs / ours:.1f}"
    )
    print(f"{int((bound < estimate).sum())} certified; plain {int((slow < estimate).sum())}")


if __name__ == "__main__":
    main()
