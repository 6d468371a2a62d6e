"""The largest and smallest entries of rows that come in blocks of columns, without the whole matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int

from ..runtime.distributed import gather_rows
from ..types import Tensor


def strongest(
    parts: Iterable[tuple[slice, Tensor]], m: int, top: int
) -> tuple[Float[Tensor, "m q"], Int[Tensor, "m q"]]:
    """The `top` smallest and `top` largest values of each row with their columns, from the smallest to the largest.

    Equal to a stable sort of the whole matrix, but with memory for two blocks of columns: of equal values the first
    columns are taken for the smallest and the last ones for the largest; a NaN counts as the largest of all.

    Args:
        parts: the columns (m, b) of this process in order, each block with its place in the whole.
        m: rows.
        top: how many of each end, >= 1.

    Returns:
        Values (m, q) in float64 and columns (m, q) of all processes, q = min(2 top, n).

    >>> parts = [(slice(0, 2), torch.tensor([[3.0, 1.0]])), (slice(2, 3), torch.zeros(1, 1))]
    >>> [found.tolist() for found in strongest(parts, 1, 1)]
    [[[0.0, 3.0]], [[2, 0]]]
    """
    values, columns = torch.empty(m, 0, dtype=torch.float64), torch.empty(m, 0, dtype=torch.long)
    for part, block in parts:
        if values.shape[1] < 2 * top:
            new, ids = block.double().cpu(), torch.arange(part.start, part.stop).expand(m, -1)
            values, columns = _sorted(torch.cat([values, new], dim=1), torch.cat([columns, ids], dim=1), top)
            continue
        # Most rows of most blocks have nothing to add, and their own extremes are quickly found.
        low, high = (values[:, at].to(block) for at in (top - 1, top))
        rows = ((block.amin(1) < low) | ~(block.amax(1) < high)).nonzero()[:, 0]
        if len(rows):
            new, ids, count = _packed(block[rows], low[rows, None], high[rows, None])
            rows = rows.cpu()
            values[rows], columns[rows] = _sorted(
                torch.cat([values[rows], new], dim=1),
                torch.cat([columns[rows], ids + part.start], dim=1),
                top,
                2 * top + count,
            )
    return _sorted(gather_rows(values.T).T, gather_rows(columns.T).T, top)


def _sorted(
    values: Float[Tensor, "m b"],
    columns: Int[Tensor, "m b"],
    top: int,
    count: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "m q"], Int[Tensor, "m q"]]:
    """The extremes of one block, sorted; row i ends after `count[i]` entries, what follows is NaN."""
    values, order = values.sort(dim=1, stable=True)
    columns = columns.gather(1, order)
    if values.shape[1] <= 2 * top:
        return values, columns
    least = torch.arange(top).expand(len(values), -1)
    end = torch.full((len(values),), values.shape[1]) if count is None else count
    kept = torch.cat([least, end[:, None] - top + least], dim=1)
    return values.gather(1, kept), columns.gather(1, kept)


def _packed(
    block: Float[Tensor, "m b"], low: Float[Tensor, "m 1"], high: Float[Tensor, "m 1"]
) -> tuple[Float[Tensor, "m w"], Int[Tensor, "m w"], Int[Tensor, " m"]]:
    """What is not between `low` and `high` in each row and its columns, filled up with NaN, and how many they are."""
    chosen = (block < low) | ~(block < high)
    rows, columns = (part.cpu() for part in chosen.nonzero(as_tuple=True))
    count = rows.bincount(minlength=len(block))
    place = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
    shape = (len(block), int(count.max()))
    values, ids = torch.full(shape, torch.nan, dtype=torch.float64), torch.full(shape, -1)
    values[rows, place] = block[chosen].double().cpu()
    ids[rows, place] = columns
    return values, ids, count
