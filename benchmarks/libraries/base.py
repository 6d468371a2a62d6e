"""How a library is asked, and what all of them share."""

from __future__ import annotations

import atexit
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import timed
from benchmarks.problems import Task, Test, head

Answers = Callable[[Any, Tensor], Tensor]
"""Inputs and labels of m test examples -> (m, n) scores in float64, in the convention of `Task`."""


class Library(ABC):
    """A library and the settings that it is asked with: its docstring says what it computes, its fields are settings.

    Settings are chosen in the library's favour: data in memory are handed over without copying, one call for all test
    points where that is possible, tolerances and steps just enough for a relative error of about 1e-3 per row. The
    library is imported inside `prepare`, so that it need not be installed for the others to run.
    """

    package: ClassVar[str]
    """What is imported, and the name of the distribution."""
    penalty_in_train_gradient: bool = False
    """Whether training gradients contain that of the penalty."""
    warm_rows: ClassVar[int] = 64
    """Training examples of the first run, which is not timed; 0: there is none."""
    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors by which it says that it has no answer."""

    @abstractmethod
    def prepare(self, task: Task) -> Answers:
        """Do all that does not depend on the test points. The task's model may be changed."""

    @property
    def version(self) -> str:
        """Of the installed distribution."""
        return importlib.metadata.version(self.package)

    @property
    def notes(self) -> str:
        """What it computes and how it is asked."""
        return inspect.getdoc(type(self)) or ""

    def state(self) -> str:
        """A hash of everything that its answers follow from: its settings, its sources and how they are called."""
        spec = importlib.util.find_spec(self.package)
        sources = Path(spec.origin).parent.rglob("*.py") if spec and spec.origin else []
        called = Path(inspect.getfile(type(self)))
        found = hashlib.sha256(repr(self).encode())
        for path in (called, *sorted(sources)):
            found.update(path.read_bytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """Scores (m, n) of one library, and the seconds before the test points were known and after."""

    scores: Tensor
    setup_s: float
    query_s: float


def measured(library: Library, task: Task, test: Test) -> Result:
    """Ask about a few examples, so that what is imported on first use is not timed, then about all."""
    if library.warm_rows:
        with suppress(*library.refusals):
            library.prepare(task.first(library.warm_rows).own())(head(test[0], 1), test[1][:1])
    gc.collect()  # what the first run left shall not count as memory of the second
    answers, setup = timed(library.prepare, task.own())
    scores, query = timed(answers, *test)
    return Result(scores.detach().cpu(), setup, query)


class InMemory(Dataset):
    """Tensors that a DataLoader reads a batch at a time, as a view: its usual way copies row by row."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitems__(self, rows: Sequence[int]) -> list[Tensor]:
        # A list and not a tuple: dattri's Arnoldi assigns to its elements.
        return [part[rows[0] : rows[-1] + 1] for part in self.tensors]


def as_it_is(views: list[Tensor]) -> list[Tensor]:
    """How batches of `InMemory` are put together: they are."""
    return views


def loader(X: Tensor, y: Tensor, batch: int) -> DataLoader:
    """Batches of at most that size in the order of the rows."""
    return DataLoader(InMemory(X, y), batch_size=batch, shuffle=False, collate_fn=as_it_is)


def equal_batches(n: int, largest: int) -> int:
    """The largest batch size up to `largest` that divides n."""
    return next(b for b in range(min(n, largest), 0, -1) if n % b == 0)


def temporary_folder() -> str:
    """A folder that goes when the process does."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def rows_of(X: Tensor, y: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples, `count` at a time."""
    return zip(X.split(count), y.split(count), strict=True)
