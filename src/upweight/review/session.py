"""What is reviewed: the labels as decided so far, the model fitted to them, and the rows that it doubts most."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from ..cli.pages import example
from ..errors import InfluenceError
from ..influence.influence import Influence
from ..linear.diagnostics import own_contribution
from ..objective import LinearModel
from ..report import Example
from ..tables.columns import FileError
from ..tables.fitted_file import Asked
from ..types import Tensor
from ..uses.explain import explain
from ..uses.labels import classifier, decided, label_names
from ..uses.mislabeled import mislabeled
from .journal import Decision, Journal

EVIDENCE = 3
"""Helpful and harmful rows that are shown beside a row, each."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A model of the labels after `decisions` of them: its accuracy on the held-out rows, all rows ranked.

    `ranking` has a line per row that was not dropped, by its name, the most doubtful first: its place in the file, its
    label, the proposed one, the loss of a model that has not seen the row, and the fall of the held-out rows' mean loss
    that is expected of relabelling it (NaN for held-out rows).
    """

    decisions: int
    accuracy: float
    ranking: pd.DataFrame
    influence: Influence


class Session:
    """A file under review.

    A share `held` of the rows, drawn with `seed`, is kept out of the model to measure its accuracy; they are reviewed
    like the others. After decisions the model is fitted again in the background, from where it was.

    Raises FileError for targets that are no classes and models that are not linear.
    """

    def __init__(self, asked: Asked, journal: Journal, *, held: float = 0.2, seed: int = 0) -> None:
        problem = classifier(asked.influence.problem)
        if problem is None:
            raise FileError(
                "labels are reviewed with a linear classifier: the target must be a class, the model linear"
            )
        assert problem.classes is not None
        self.asked, self.journal, self.problem = asked, journal, problem
        self.names = asked.raw.index
        self.labels: list[str] = [str(name) for name in problem.classes]
        count = max(1, round(held * problem.n))
        drawn = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))
        self.held = drawn[:count].sort().values
        self.trouble = ""
        self._news = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Fit the model of the file's labels and that of the labels as decided, and let the latter follow."""
        self.first = self.fit = self._fitted(self.problem.theta, {})
        if self.journal.decisions():
            self._fit_again()
        threading.Thread(target=self._follow, daemon=True).start()

    # -- decisions -------------------------------------------------------------------------------------------------

    def decide(self, decision: Decision) -> None:
        """Write it down, and let the model follow. Raises ValueError for unknown rows and labels."""
        if not 0 <= decision.row < len(self.names):
            raise ValueError(f"there is no row {decision.row}")
        if decision.label is not None and decision.label not in self.labels:
            raise ValueError(f"{decision.label!r} is no label: {', '.join(self.labels)}")
        self.journal.add(decision)
        self._news.set()

    def undo(self) -> Decision | None:
        """Take the newest decision back."""
        taken = self.journal.undo()
        self._news.set()
        return taken

    def waiting(self) -> Iterator[int]:
        """The rows without a decision, the most doubtful first; skipped ones at the end."""
        done = self.journal.decisions()
        order = self.fit.ranking["row"]
        yield from (row for row in order if row not in done)
        yield from (row for row in order if row in done and done[row].action == "skip")

    # -- the model -------------------------------------------------------------------------------------------------

    @cached_property
    def own_labels(self) -> np.ndarray:
        """The labels as the file has them."""
        return label_names(self.problem, self.problem.y)

    def _codes(self, labels: list[str]) -> Tensor:
        """Labels as the loss encodes them: 0..c-1, or -1 and +1."""
        codes = torch.tensor([self.labels.index(label) for label in labels], dtype=torch.long)
        return 2 * codes - 1 if self.problem.c == 1 else codes

    def _corrected(self, done: dict[int, Decision]) -> tuple[LinearModel, Tensor]:
        """The problem with all rows and their labels as decided, and the rows that were dropped."""
        given = {d.row: d.label for d in done.values() if d.label is not None}
        rows, codes = torch.tensor([*given], dtype=torch.long), self._codes([*given.values()])
        dropped = torch.tensor([d.row for d in done.values() if d.action == "drop"], dtype=torch.long)
        return self.problem.relabelled(rows, codes), dropped

    def _fitted(self, start: Tensor, done: dict[int, Decision]) -> Fit:
        whole, dropped = self._corrected(done)
        gone = torch.cat([self.held, dropped]).unique()
        train = whole.at(start).without(gone)
        if len(train.y.unique()) < 2:
            raise ValueError("one class is left")
        train = train.minimised(1e-4 * own_contribution(train))
        influence = Influence(train)
        held = self.held[~torch.isin(self.held, dropped)]
        batch = whole.train_batch(held)
        outputs = train.outputs(batch[0])
        found = decided(outputs)
        accuracy = float((found.to(batch[1]) == batch[1].view(found.shape)).double().mean())
        suspects = mislabeled(influence, validation=batch).table
        unseen = pd.DataFrame(
            {
                "label": label_names(self.problem, batch[1]),
                "proposed label": label_names(self.problem, found),
                "loss without the row": train.loss.value(outputs, batch[1]).numpy(),
                "gain": np.nan,
            },
            index=self.names[held.numpy()],
        )
        ranking = pd.concat([suspects[unseen.columns], unseen])
        ranking.insert(0, "row", self.names.get_indexer(ranking.index))
        ranking = ranking.sort_values("loss without the row", ascending=False, kind="stable")
        return Fit(len(done), accuracy, ranking, influence)

    def _fit_again(self) -> None:
        try:
            self.fit = self._fitted(self.fit.influence.problem.theta, self.journal.decisions())
            self.trouble = ""
        except (InfluenceError, ValueError) as error:  # the last rows of a class dropped, say
            self.trouble = f"The labels as decided cannot be fitted: {error}"

    def _follow(self) -> None:
        """Fit again whenever decisions have changed."""
        while True:
            self._news.wait()
            self._news.clear()
            self._fit_again()

    # -- what a row looks like -------------------------------------------------------------------------------------

    def shown(self, row: int, effect: float | None = None, because: str = "") -> Example:
        """A row as it stands in its file, with its label as decided."""
        raw = self.asked.raw.iloc[row]
        decision = self.journal.decisions().get(row)
        label = str(self.own_labels[row]) if decision is None or decision.label is None else decision.label
        return example(self.asked, raw, self.names[row], label, effect, because, self.asked.file.parent)

    def evidence(self, row: int) -> tuple[Example, list[Example], list[Example]]:
        """The row, the training rows that speak most for its own label, and those that speak most against it."""
        whole, _ = self._corrected(self.journal.decisions())
        with self._lock:
            found = explain(
                self.fit.influence, whole.train_batch(torch.tensor([row])), k=EVIDENCE + 1, relative=True
            )
        causes = ", ".join([*found.helpful["because of"], *found.harmful["because of"]])
        helpful, harmful = self._others(found.helpful, 1, row), self._others(found.harmful, -1, row)
        return self.shown(row, because=causes), helpful, harmful

    def _others(self, table: pd.DataFrame, sign: int, row: int) -> list[Example]:
        effects = next(table[name] for name in table.columns if "effect" in name)
        lines = zip(self.names.get_indexer(table.index), effects, table["because of"], strict=True)
        shown = [
            self.shown(int(place), float(effect), because)
            for place, effect, because in lines
            if place != row and sign * effect > 0
        ]
        return shown[:EVIDENCE]

    def corrected(self, table: pd.DataFrame) -> pd.DataFrame:
        """The file's table, in any spelling of its cells, with the labels as decided and without the dropped rows."""
        done = self.journal.decisions().values()
        given = {d.row: d.label for d in done if d.label is not None}
        spelled = dict(zip(self.own_labels.astype(str), table[self.asked.target], strict=True))
        found = table.copy()
        found[self.asked.target] = [
            spelled[given[row]] if row in given else own for row, own in enumerate(table[self.asked.target])
        ]
        return found.drop(found.index[[d.row for d in done if d.action == "drop"]])
