"""The sequences of characters that small language models are trained on here, and what transformers needs beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments import data

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """Sequences of characters: the first mails' to train on, the last ones' as questions."""

    rows: int
    length: int
    words: int
    queries: int
    l2 = 0.0
    file = "enron1.parquet"

    def load(
        self, m: int, rows: int | None = None, path: Path | None = None
    ) -> tuple[Columns, Tensor, tuple[Columns, Tensor]]:
        """Training columns and labels, and those of m questions."""
        import pyarrow.parquet

        path = path or data.folder() / self.file
        mails = pyarrow.parquet.read_table(path, columns=["text"]).column("text").to_pylist()
        train, asked = self._cut(iter(mails), rows or self.rows), self._cut(iter(mails[::-1]), m)
        return train, train["labels"], (asked, asked["labels"])

    def _cut(self, mails: Iterator[str], count: int) -> Columns:
        codes: list[int] = []
        while len(codes) < count * self.length:
            codes += [min(max(ord(letter) - 31, 0), self.words - 1) for letter in next(mails)]
        words = torch.tensor(codes[: count * self.length]).view(count, self.length)
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": words}


TEXT = Texts(5000, length=32, words=97, queries=20)


def without_torchvision() -> None:
    """Hide it from transformers: the libraries bring PyPI's, which does not load beside a CPU build of torch."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]
