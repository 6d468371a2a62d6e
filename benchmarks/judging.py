"""Scores beside exact ones, row by row: a row is a test example, its entries are the training examples."""

from __future__ import annotations

from typing import Any

import numpy as np


def row_errors(scores: Any, truth: Any) -> np.ndarray:
    """||scores - truth|| / ||truth|| of each row."""
    truth = np.asarray(truth)
    return np.linalg.norm(np.asarray(scores) - truth, axis=1) / np.linalg.norm(truth, axis=1)


def row_cosines(scores: Any, truth: Any) -> np.ndarray:
    """The cosine of each row with the exact one."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    return (scores * truth).sum(1) / np.linalg.norm(scores, axis=1) / np.linalg.norm(truth, axis=1)
