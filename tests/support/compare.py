"""The one way in which tests compare numbers: row by row, relative to that row's own size."""

import numpy as np
import torch


def assert_close_per_row(actual, expected, rtol: float) -> None:
    """Raise with the worst row where ||actual - expected|| > rtol ||expected|| (or > rtol, where that row is 0)."""
    a, e = (
        v.detach().double() if isinstance(v, torch.Tensor) else torch.tensor(np.array(v)).double()
        for v in (actual, expected)
    )
    if a.shape != e.shape:
        raise AssertionError(f"shape {tuple(a.shape)}, expected {tuple(e.shape)}")
    if a.numel() == 0:
        raise AssertionError("nothing to compare")
    a, e = (v.reshape(len(v), -1) if v.ndim else v.reshape(1, 1) for v in (a, e))
    size = e.norm(dim=1)
    error = (a - e).norm(dim=1) / torch.where(size > 0, size, torch.ones_like(size))
    error = torch.where(error.isnan(), torch.full_like(error, torch.inf), error)
    worst = int(error.argmax())
    if not float(error[worst]) <= rtol:
        raise AssertionError(
            f"row {worst} of {len(error)}: relative error {float(error[worst]):.3e} > {rtol:.0e}\n"
            f"actual   {a[worst][:8].tolist()}\nexpected {e[worst][:8].tolist()}"
        )


def residual_in_units(curvature, A: torch.Tensor, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """||v - A s|| / ||v|| of every row (k,), in the curvature's own coordinates: what solvers state."""
    there = curvature.coordinates
    left, rows = there.inward(rows - value @ A), there.inward(rows)
    return left.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-300)
