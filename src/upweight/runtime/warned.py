"""Warnings that name the line of the user's program that asked, however deep in this library their cause is found."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

INSIDE = str(Path(__file__).parents[1])
"""The folder of this library."""


def warned(message: str, category: type[Warning]) -> None:
    """Warn at the line outside of this library that asked, so that a filter there takes it, and each line warns once.

    Args:
        message: what is to be known, and what to do.
        category: the kind of warning.
    """
    asked, level, frame = 1, 1, sys._getframe()
    while frame.f_back is not None:
        level += 1
        if frame.f_code.co_filename.startswith(INSIDE):  # others stand between, as decorators of torch do
            asked = level
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=asked)
