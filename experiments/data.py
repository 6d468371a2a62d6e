"""The real data that several experiments read: where it lies, and the paper's selections of it."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

SMALL = Path(str(files("upweight"))) / "data" / "mnist_small.npz"


def folder() -> Path:
    """The folder of the real data; its README describes the files."""
    if "UPWEIGHT_DATA_DIR" not in os.environ:
        raise SystemExit("set UPWEIGHT_DATA_DIR to the folder of the real data")
    return Path(os.environ["UPWEIGHT_DATA_DIR"])


def digits(small: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train images and labels, test images and labels; the paper trains on rows 5,000 to 59,999."""
    raw = np.load(SMALL if small else folder() / "mnist.npz")
    first = 0 if small else 5000
    images = [torch.from_numpy(raw[name]).reshape(-1, 784).float() / 255 for name in ("x_train", "x_test")]
    labels = [torch.from_numpy(raw[name]).long() for name in ("y_train", "y_test")]
    return images[0][first:], labels[0][first:], images[1], labels[1]


def ones_and_sevens(small: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for the digits 1 (label +1) and 7 (label -1) alone, in the order of the files."""
    X, y, X_test, y_test = digits(small)
    kept = [(labels == 1) | (labels == 7) for labels in (y, y_test)]
    signs = [torch.where(labels == 1, 1, -1) for labels in (y, y_test)]
    return X[kept[0]], signs[0][kept[0]], X_test[kept[1]], signs[1][kept[1]]
