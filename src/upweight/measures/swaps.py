"""Pairs of a positive and a negative row in many models that differ little from one: only near ones can swap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

GROUP = 8
"""Positive rows whose neighbours are taken together, their outputs measured from a common zero."""
FEW = 256
"""Neighbours whose count fits into a byte."""


def pairs_in_order(
    base: Float[np.ndarray, " m"],
    shifts: Float[np.ndarray, "m k"],
    positive: Bool[np.ndarray, " m"],
    error: Float[np.ndarray, " k"],
) -> tuple[Int[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
    """How many pairs each of k models orders rightly, the positive row above the negative one, and which are in doubt.

    Of a positive row only the negative rows nearer than twice the largest shift can be on its other side: they are
    counted one by one, in float32, twice: with the row a little lower and a little higher than it is. A model is in
    doubt where the two counts differ: a pair is tied, or nearer than the rounding.

    Args:
        base: the outputs of one model, from low to high.
        shifts: how far the outputs of each of k models are from them, in float32.
        positive: which rows are of the second class.
        error: that of the shifts of each model.

    >>> shifts = np.array([[0.0, 1.5], [0.0, 0.0]], dtype=np.float32)
    >>> pairs_in_order(np.array([0.0, 1.0]), shifts, np.array([False, True]), np.zeros(2))[0].tolist()
    [1, 0]
    """
    far = 2.01 * float(np.abs(shifts).max()) + 4 * float(error.max())
    eps, error = float(np.finfo(np.float32).eps), error.astype(np.float32)
    (below, above), (lower, upper) = (
        (part[~positive], part[positive]) for part in (shifts, base.astype(np.float64))
    )
    first, last = np.searchsorted(lower, upper - far), np.searchsorted(lower, upper + far, side="right")
    counts = np.full((2, shifts.shape[1]), first.sum(), dtype=np.int64)
    smaller = np.empty((int((last - first).max(initial=0)), shifts.shape[1]), dtype=bool)
    for start in range(0, len(upper), GROUP):
        group = slice(start, start + GROUP)
        begin, end = first[group][0], last[group][-1]
        zero = upper[group].mean()
        beside = below[begin:end] + (lower[begin:end] - zero).astype(np.float32)[:, None]
        own = above[group] + (upper[group] - zero).astype(np.float32)[:, None]
        widest = np.abs(lower[begin:end] - zero).max(initial=0) + np.ptp(upper[group])
        margin = np.float32(2 * eps * (widest + far)) + 2 * error
        places = zip((first[group] - begin).tolist(), (last[group] - begin).tolist(), strict=True)
        for j, (low, high) in enumerate(places):
            found = smaller[: high - low]
            for count, limit in zip(counts, (own[j] - margin, own[j] + margin), strict=True):
                np.less(beside[low:high], limit, out=found)
                count += np.add.reduce(
                    found.view(np.uint8), axis=0, dtype=np.uint8 if high - low < FEW else np.int64
                )
    return counts[0], counts[0] != counts[1]
