"""Whether scores that were read from a file can be scores at all."""

from __future__ import annotations

from typing import Any

import torch

EDITS = ("removed", "replaced")


def of_scores(scores: Any) -> None:
    """Nothing happens where the fields fit together; ValueError where they would turn signs or name other rows."""
    m, q = scores.values.shape
    own = {"ids": scores.n, "test_ids": m, "drift": m, "residual": m}
    sizes = {name: len(getattr(scores, name)) for name in own if getattr(scores, name) is not None}
    places = scores.columns
    for right, said in (
        (type(scores.n) is int and scores.n >= 1, f"n is {scores.n!r}"),
        (scores.edit in EDITS, f"edit is {scores.edit!r}"),
        (scores.values.dtype == torch.float64, f"values are {scores.values.dtype}"),
        (
            all(
                its is None or its.shape == (m, q)
                for its in (scores.changes, scores.steps, scores.left, scores.errors)
            ),
            "changes are for other rows",
        ),
        (
            places is not None or q in (0, scores.n) or scores.edit != "removed",
            f"{q} columns for n = {scores.n}",
        ),
        (
            all(sizes[name] == own[name] or scores.edit != "removed" for name in sizes),
            f"lengths are {sizes}",
        ),
        (
            places is None or (places.shape == scores.values.shape and bool((places >= 0).all())),
            "columns are no training rows",
        ),
    ):
        if not right:
            raise ValueError(said)
