"""Which columns a row was split on before it came to each leaf."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse


def paths(leaves: Iterable[Sequence[Sequence[int]]]) -> sparse.csr_matrix:
    """Whether each column is on the path to each leaf: (leaves, d), tree after tree.

    `leaves` has, for each tree and each of its leaves in their order, the columns on the path.

    >>> paths([[[0], [0, 2]]]).toarray().tolist()
    [[True, False, False], [True, False, True]]
    """
    rows = [np.unique(np.asarray(own, dtype=np.int64)) for tree in leaves for own in tree]
    found = np.concatenate(rows) if rows else np.empty(0, np.int64)
    ends = np.cumsum([0, *map(len, rows)])
    d = int(found.max(initial=-1)) + 1
    return sparse.csr_matrix((np.ones(len(found), bool), found, ends), shape=(len(rows), d))


def above(left: Any, right: Any, column: Any) -> list[list[int]]:
    """The columns on the path to each leaf of a tree, leaves by their node numbers.

    Args:
        left: the left child of each node, negative or 0 at leaves, whose node 0 is the root.
        right: the right child of each node.
        column: the column that each node splits on.
    """
    ways: dict[int, list[int]] = {}
    stack: list[tuple[int, list[int]]] = [(0, [])]
    while stack:
        node, way = stack.pop()
        if left[node] <= 0:
            ways[node] = way
            continue
        on = [*way, int(column[node])]
        stack += [(int(left[node]), on), (int(right[node]), on)]
    return [ways[node] for node in sorted(ways)]
