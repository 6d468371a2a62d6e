"""What is reviewed: the labels as decided so far, the model fitted to them, and the rows that it doubts most."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Shaped

from ..influence.influence import Influence
from ..objective import LinearModel
from ..report import Example, file_example
from ..tables.fitted_file import FittedFile
from ..tables.reading import FileError
from ..types import Tensor
from ..uses.explain import explain
from ..uses.labels import classifier, contradicted, decided, label_names
from ..uses.mislabeled import mislabeled
from .journal import Decided, Decision, Journal
from .watched import Watched

EVIDENCE = 3
"""Helpful and harmful rows that are shown beside a row, each."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A model of the labels as they were decided at one moment.

    Attributes:
        number: The number of that moment (`Decided.number`).
        accuracy: The share of the held-out rows whose labels it predicts.
        ranking: A line per row that was not dropped, by its name, the most doubtful first: its place in the file
            ("row"), its label, the proposed label, whether the label is contradicted, the loss of a model that has not
            seen the row, and the fall of the held-out rows' mean loss that is expected of relabelling it (NaN for
            held-out rows).
        influence: The influence of the rows that it was fitted to.
    """

    number: int
    accuracy: float
    ranking: pd.DataFrame
    influence: Influence

    @cached_property
    def order(self) -> list[int]:
        """The places of the ranked rows, the most doubtful first."""
        return [int(row) for row in self.ranking["row"].tolist()]

    @cached_property
    def contradicted(self) -> int:
        """The number of labels that are contradicted, as `Suspects` counts them."""
        return int(self.ranking["contradicted"].sum())


class Session:
    """A file under review: decisions about its labels, and a model that follows them.

    A share of the rows is kept out of the model to measure its accuracy; they are reviewed like the others. After
    decisions the model is fitted again from where it was, in the background once the session is started.

    Args:
        fitted: The file with its model.
        journal: Where decisions are kept.
        held: The share of the rows that the model does not see.
        seed: The seed of that draw.

    Raises:
        FileError: The target is no class, or the model not linear.
    """

    def __init__(self, fitted: FittedFile, journal: Journal, *, held: float = 0.2, seed: int = 0) -> None:
        problem = classifier(fitted.model.influence.problem)
        if problem is None:
            raise FileError(
                "labels are reviewed with a linear classifier: the target must be a class, the model linear (leave "
                "--booster out; `mislabeled` ranks labels by trees)"
            )
        assert problem.classes is not None
        self.fitted, self.journal, self.problem = fitted, journal, problem
        self.names = fitted.raw.index
        self.labels: list[str] = [str(name) for name in problem.classes]
        count = max(1, round(held * problem.n))
        drawn = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))
        self.held = drawn[:count].sort().values
        self.file = Watched(fitted.path, fitted.file.hash)
        self._trouble = -1, ""
        self._newest: Fit | None = None
        self._news = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """The labels are fitted as they are decided now; from here on the model follows them in the background.

        Raises JournalError where no decision could be written down.
        """
        self.journal.check_writable()
        self._newest = self.first
        if self.journal.decisions():
            self.catch_up()
        threading.Thread(target=self._follow, daemon=True).start()

    @cached_property
    def first(self) -> Fit:
        """The model of the file's own labels, before any decision."""
        return self._fit_to(self.problem.theta, Decided(0, 0, {}))

    @property
    def fit(self) -> Fit:
        """The newest model. It may be some decisions behind."""
        return self._newest or self.first

    @property
    def current(self) -> bool:
        """Whether the newest model knows all decisions."""
        return self.fit.number == self.journal.now().number

    @property
    def trouble(self) -> str:
        """Why there is no model of the labels as they are decided now, in one sentence, or ""."""
        number, words = self._trouble
        return words if number == self.journal.now().number else ""

    # -- decisions -------------------------------------------------------------------------------------------------

    def decide(self, decision: Decision) -> None:
        """A decision is written down, and the model follows.

        Raises ValueError for unknown rows and labels, FileError where the file has changed, JournalError where nothing
        can be written.
        """
        if not 0 <= decision.row < len(self.names):
            raise ValueError(f"there is no row {decision.row}")
        if decision.label is not None and decision.label not in self.labels:
            raise ValueError(f"{decision.label!r} is no label: {', '.join(self.labels)}")
        self.file.check()
        self.journal.add(decision)
        self._news.set()

    def undo(self, number: int | None = None) -> Decision | None:
        """The newest decision is taken back and returned, and the model follows; None where there is none.

        With `number` only the decision of that number is. Raises FileError and JournalError as `decide` does.
        """
        self.file.check()
        taken = self.journal.undo(number)
        self._news.set()
        return taken

    def waiting(self) -> Iterator[int]:
        """The places of the rows without a decision, the most doubtful first; then the skipped, the oldest first."""
        done = self.journal.decisions()
        yield from (row for row in self.fit.order if row not in done)
        yield from (row for row, decision in done.items() if decision.action == "skip")

    def corrected(self, table: pd.DataFrame) -> pd.DataFrame:
        """The file's table, in any spelling of its cells, with the labels as decided and without the dropped rows."""
        done, target = self.journal.decisions().values(), self.fitted.target
        given = {d.row: d.label for d in done if d.label is not None}
        spelled = dict(zip(self.own_labels.astype(str), table[target], strict=True))
        found = table.copy()
        found[target] = [
            spelled[given[row]] if row in given else own for row, own in enumerate(table[target])
        ]
        return found.drop(found.index[[d.row for d in done if d.action == "drop"]])

    # -- the model -------------------------------------------------------------------------------------------------

    @cached_property
    def own_labels(self) -> Shaped[np.ndarray, " n"]:
        """The labels of all rows as the file has them (n,)."""
        return label_names(self.problem, self.problem.y)

    def codes(self, labels: Sequence[str]) -> Int[Tensor, " k"]:
        """Labels as the loss encodes them: 0..c-1, or -1 and +1 where the model has one output."""
        codes = torch.tensor([self.labels.index(label) for label in labels], dtype=torch.long)
        return 2 * codes - 1 if self.problem.c == 1 else codes

    def _as_decided(self, done: Mapping[int, Decision]) -> tuple[LinearModel, Int[Tensor, " dropped"]]:
        """The problem with all rows and their labels as decided, and the rows that were dropped."""
        given = {d.row: d.label for d in done.values() if d.label is not None}
        rows, codes = torch.tensor([*given], dtype=torch.long), self.codes([*given.values()])
        dropped = torch.tensor([d.row for d in done.values() if d.action == "drop"], dtype=torch.long)
        return self.problem.relabelled(rows, codes), dropped

    def _fit_to(self, start: Tensor, decided_so_far: Decided) -> Fit:
        """The model of the labels as decided, from the parameters `start`."""
        whole, dropped = self._as_decided(decided_so_far.rows)
        gone = torch.cat([self.held, dropped]).unique()
        left = torch.ones(whole.n, dtype=torch.bool).index_fill(0, gone, False)
        if len(whole.y[left].unique()) < 2:
            raise ValueError("one class is left" if left.any() else "no row is left")
        train = whole.at(start).without(gone).minimised()
        influence = Influence(train)
        held = self.held[~torch.isin(self.held, dropped)]
        if not len(held):
            raise ValueError("no held-out row is left to measure the accuracy on")
        batch = whole.train_batch(held)
        outputs = train.outputs(batch[0])
        said = decided(outputs)
        accuracy = float((said.to(batch[1]) == batch[1].view(said.shape)).double().mean())
        suspects = mislabeled(influence, validation=batch)
        assert suspects.bars is not None
        unseen = pd.DataFrame(
            {
                "label": label_names(self.problem, batch[1]),
                "proposed label": label_names(self.problem, said),
                "contradicted": contradicted(train, outputs, batch[1], suspects.bars).numpy(),
                "loss without the row": train.loss.value(outputs, batch[1]).numpy(),
                "gain": np.nan,
            },
            index=self.names[held.numpy()],
        )
        ranking = pd.concat([suspects.table[unseen.columns], unseen])
        ranking.insert(0, "row", self.names.get_indexer(ranking.index))
        ranking = ranking.sort_values("loss without the row", ascending=False, kind="stable")
        return Fit(decided_so_far.number, accuracy, ranking, influence)

    def catch_up(self) -> None:
        """The model is fitted to the labels as decided now, or the reason why it cannot be becomes the `trouble`."""
        number = -1
        try:
            now = self.journal.now()
            number = now.number
            self._newest = self._fit_to(self.fit.influence.problem.theta, now) if now.rows else self.first
        except Exception as error:  # whatever it is, the model follows what is decided next
            reason = str(error) or type(error).__name__
            self._trouble = number, f"The labels as decided cannot be fitted: {reason}"

    def _follow(self) -> None:
        """Catch up whenever decisions have changed."""
        while True:
            self._news.wait()
            self._news.clear()
            self.catch_up()

    # -- what a row looks like -------------------------------------------------------------------------------------

    def label(self, row: int) -> str:
        """The label of the row at a place, as decided."""
        decision = self.journal.decisions().get(row)
        return str(self.own_labels[row]) if decision is None or decision.label is None else decision.label

    def shown(self, row: int, effect: float | None = None, parts: pd.Series | None = None) -> Example:
        """A row as it stands in its file, with its label as decided.

        Args:
            row: Its place in the file.
            effect: The predicted change of the loss without it, where it is evidence about another row.
            parts: The parts of the effect by columns, as `Explanation.parts` has them.
        """
        return file_example(
            self.fitted, self.fitted.raw.iloc[row], label=self.label(row), effect=effect, parts=parts
        )

    def evidence(self, row: int) -> tuple[Example, list[Example], list[Example]]:
        """The row, the training rows that speak most for its own label, and those that speak most against it."""
        as_decided = self.codes([self.label(row)])
        asked = self.problem.relabelled(torch.tensor([row]), as_decided).train_batch(torch.tensor([row]))
        with self._lock:
            found = explain(self.fit.influence, asked, k=EVIDENCE + 1, relative=True)
        helpful, harmful = (
            self._others(table, parts, sign, row)
            for table, parts, sign in zip((found.helpful, found.harmful), found.parts, (1, -1), strict=True)
        )
        return self.shown(row, parts=pd.concat(found.parts).abs().sum()), helpful, harmful

    def _others(self, table: pd.DataFrame, parts: pd.DataFrame, sign: int, row: int) -> list[Example]:
        """The rows of a table of evidence, less the row itself, whose effects have the sign."""
        effects = next(table[name] for name in table.columns if "effect" in name)
        shown = [
            self.shown(int(place), float(effect), parts.iloc[i])
            for i, (place, effect) in enumerate(
                zip(self.names.get_indexer(table.index), effects, strict=True)
            )
            if place != row and sign * effect > 0
        ]
        return shown[:EVIDENCE]
