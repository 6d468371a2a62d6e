"""The real data that several experiments read: where it lies, and the paper's selections of it."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pooch
import torch

MNIST = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
HASH = "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"


def folder() -> Path:
    """The folder of the real data; its README describes the files."""
    if "UPWEIGHT_DATA_DIR" not in os.environ:
        raise SystemExit("set UPWEIGHT_DATA_DIR to the folder of the real data")
    return Path(os.environ["UPWEIGHT_DATA_DIR"])


def mnist() -> str | Path:
    """The file of all digits: in the folder of the real data, or else downloaded once and kept."""
    if "UPWEIGHT_DATA_DIR" in os.environ:
        return folder() / "mnist.npz"
    return pooch.retrieve(MNIST, HASH, "mnist.npz", pooch.os_cache("upweight"), progressbar=True)


def embedded() -> Path:
    """The file of the 5,500 training and 1,000 test digits that the package carries."""
    return Path(str(files("upweight"))) / "data" / "mnist_small.npz"


def digits(
    small: bool, path: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train images and labels, test images and labels; the paper trains on rows 5,000 to 59,999."""
    raw = np.load(embedded() if small else path or mnist())
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
