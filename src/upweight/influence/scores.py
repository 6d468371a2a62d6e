"""Scores: how much each training example moves each test measure, with sign, unit, provenance and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..data.names import as_json, called
from ..errors import StaleError
from ..runtime.fingerprint import content_hash
from ..runtime.notebook import as_html
from ..runtime.tensor_files import read, write
from ..runtime.terminal import plain
from ..types import Tensor
from .checked_scores import of_scores
from .forecasts import BETTER, FIRST_ORDER, of_newton, unsettled
from .score_tables import UNSETTLED
from .stationarity import told

ROLES = ("helpful", "harmful")
ERROR = "standard error"
SYSTEM = "The linear system behind the effects"
"""What a verdict is about, where the provenance says nothing else."""
SIGN = "Positive effect = the {measure} would rise if the training example were {edit} ({meaning})."


@dataclass(frozen=True, eq=False)
class Scores:
    """Influence of n training examples (columns) on m test measures (rows).

    `values` (m, n) float64 is I_up of Eq. 2: the derivative of the measure as the example is up-weighted. With
    `columns` (m, q) given, only those training rows were kept, per test row. `effect()` is the predicted change of the
    measure by the edit: -I/n if removed, +I/n if replaced (the line after Eq. 3 has a sign slip). That is first order:
    `changes` take its place where there are some (`Influence.of_each_removal`). `scores[i]` are those of one test row,
    `numpy.asarray(scores)` the values.

    >>> import torch
    >>> scores = Scores(torch.tensor([[-3.0, 6.0]], dtype=torch.float64), n=3)
    >>> scores.removal_effect()
    tensor([[ 1., -2.]], dtype=torch.float64)
    >>> scores[0].helpful(1)["removal effect on the loss"].item()
    1.0
    """

    values: Float[Tensor, "m q"]
    n: int
    edit: str = "removed"
    measure: str = "loss"
    columns: Tensor | None = None
    ids: pd.Index | None = None
    """What the training rows are called in tables, by their number; None: the number itself."""
    test_ids: pd.Index | None = None
    """What the test rows are called, likewise."""
    drift: Tensor | None = None
    """Predicted change of each measure if training were finished (m,): effects below it are not to be trusted."""
    residual: Tensor | None = None
    """How far each row may be off by its solve (m,), relative: bounded where that can be, else ||v - A s|| / ||v||."""
    changes: Tensor | None = None
    """The change (m, q) of each measure as the row is removed, by a Newton step of its own; None: of first order."""
    steps: Tensor | None = None
    """The Newton steps behind each of the `changes` (m, q)."""
    left: Tensor | None = None
    """What was left to move after them (m, q), a share of the first step; NaN where nobody looked, after one step."""
    errors: Tensor | None = None
    """The standard error (m, q) of each effect, where effects are estimates (`by_refitting`)."""
    said: Sequence[str] = ()
    """How the effects were got, in place of `prediction`, and what to beware of, a sentence each; () of influence."""
    verdict: str = ""
    doubt: str = ""
    """Why effects of single rows may mean little however they were predicted, in a sentence."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Content hash of weights, data and settings, and the settings in words."""

    @classmethod
    def mean(cls, members: Sequence[Scores]) -> Scores:
        """The mean over models trained alike (with other seeds, say) of scores of the same rows: an ensemble.

        Seeds often matter more than solvers. `drift` is the mean too, `residual` the largest. Raises ValueError for no
        members, and for members whose rows, edit or measure differ.

        >>> one = Scores(torch.tensor([[1.0, 3.0]], dtype=torch.float64), n=2)
        >>> Scores.mean([one, Scores(2 * one.values, n=2)]).values
        tensor([[1.5000, 4.5000]], dtype=torch.float64)
        """
        if not members:
            raise ValueError("the mean of no scores: give at least one")
        first = members[0]
        for i, other in enumerate(members):
            if other.columns is not None:
                raise ValueError(f"scores {i} kept only the strongest rows: compute them without top=")
            for what, mine, its in (
                ("shape", tuple(first.values.shape), tuple(other.values.shape)),
                ("training rows", first.n, other.n),
                ("edit", first.edit, other.edit),
                ("measure", first.measure, other.measure),
            ):
                if mine != its:
                    raise ValueError(f"scores {i} have {what} {its}, the first {mine}: members do not match")
        prints = [member.provenance.get("fingerprint", "") for member in members]

        def all_of(name: str) -> Tensor | None:
            found = [getattr(member, name) for member in members]
            return None if any(value is None for value in found) else torch.stack(found)

        names = ("drift", "residual", "changes", "steps", "left", "errors")
        drift, residual, changes, steps, left, errors = map(all_of, names)
        return replace(
            first,
            values=torch.stack([member.values for member in members]).mean(0),
            drift=None if drift is None else drift.mean(0),
            residual=None if residual is None else residual.amax(0),
            changes=None if changes is None else changes.mean(0),
            steps=None if steps is None else steps.amax(0),
            left=None if left is None else left.amax(0),
            errors=None if errors is None else errors.square().mean(0).div(len(members)).sqrt(),
            verdict=f"mean of {len(members)} models: "
            + "; ".join(dict.fromkeys(member.verdict for member in members)),
            provenance={**first.provenance, "fingerprint": content_hash([], repr(prints)), "members": prints},
        )

    @property
    def remarks(self) -> list[str]:
        """How far these effects may be off, a sentence or two each: by unfinished training, then by the solve.

        A solve that converged says nothing about the training: its verdict is about the linear system alone.
        """
        said = list(self.said[1:])
        if self.drift is not None:
            said.append(told(self.measure, self.drift, self.effect(), self.provenance.get("away", "")))
        return [
            *filter(None, [self.doubt]),
            *said,
            *([f"{self.provenance.get('behind', SYSTEM)}: {self.verdict}."] if self.verdict else []),
        ]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Scores]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values.numpy(), dtype=dtype)

    def __getitem__(self, row: int) -> Scores:
        """The scores of one test measure, still (1, n)."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"test row {row} of {len(self)}")
        pick = slice(row, row + 1 or None)
        parts: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[pick]
            for name in ("columns", "test_ids", "drift", "residual", "changes", "steps", "left", "errors")
        }
        return replace(self, values=self.values[pick], **parts)

    def effect(self) -> Float[Tensor, "m q"]:
        """The predicted change of the measure by the edit, (m, q), in the measure's unit, 1/n included.

        -I/n for examples that are removed, +I/n for those that are replaced; positive = the measure would rise. Where
        there are `changes`, it is those: NaN of rows without which nothing is determined.

        >>> import torch
        >>> Scores(torch.tensor([[-3.0, 6.0]], dtype=torch.float64), n=3, edit="replaced").effect()
        tensor([[-1.,  2.]], dtype=torch.float64)
        """
        if self.changes is not None:
            return self.changes
        return self.values * ((-1 if self.edit == "removed" else 1) / self.n)

    def removal_effect(self) -> Float[Tensor, "m q"]:
        """The predicted change (m, q) of the measure if the example is removed; positive = helpful (for a loss).

        -I/n, of first order, or the `changes` where there are some.

        Raises ValueError for scores of replacements, whose sign is the other one: those have `effect()`.

        >>> import torch
        >>> Scores(torch.tensor([[-3.0, 6.0]], dtype=torch.float64), n=3).removal_effect()
        tensor([[ 1., -2.]], dtype=torch.float64)
        """
        if self.edit != "removed":
            raise ValueError(f"these scores are about examples {self.edit}, not removed; use effect()")
        return self.effect()

    def helpful(self, k: int = 10) -> pd.DataFrame:
        """The k training examples whose removal (or replacement) raises the measure most: row id, influence, effect.

        For a loss these are the examples that the prediction owes most to. Raises ValueError for more than one test
        row, and for k < 1.

        >>> import torch
        >>> scores = Scores(torch.tensor([[-3.0, 6.0, -1.5]], dtype=torch.float64), n=3)
        >>> scores.helpful(2)["removal effect on the loss"].to_dict()
        {0: 1.0, 2: 0.5}
        """
        return self._extreme(k, largest=True)

    def harmful(self, k: int = 10) -> pd.DataFrame:
        """The k training examples whose removal (or replacement) lowers the measure most, the strongest first.

        For a loss these are the examples that work against the prediction. Raises ValueError for more than one test
        row, and for k < 1.

        >>> import torch
        >>> Scores(torch.tensor([[-3.0, 6.0, 0.0]], dtype=torch.float64), n=3).harmful(1).index.tolist()
        [1]
        """
        return self._extreme(k, largest=False)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k training examples of largest absolute effect, helpful or harmful, as a table: the strongest first.

        Raises ValueError for more than one test row, and for k < 1.

        >>> import torch
        >>> Scores(torch.tensor([[-3.0, 6.0, 0.0]], dtype=torch.float64), n=3).top(2).index.tolist()
        [1, 0]
        """
        effect = self._row()
        order = effect.abs().nan_to_num(-1).topk(self._count(k)).indices
        return self.table(order)

    def _row(self) -> Tensor:
        if len(self) != 1:
            raise ValueError(
                f"these are the scores of {len(self)} test rows; choose one, as in scores[0].helpful()"
            )
        return self.effect()[0]

    def _count(self, k: int) -> int:
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        return min(k, self.values.shape[1])

    def _extreme(self, k: int, *, largest: bool) -> pd.DataFrame:
        unknown = -torch.inf if largest else torch.inf  # rows without which nothing is determined come last
        effect = self._row().nan_to_num(unknown, torch.inf, -torch.inf)
        return self.table(effect.topk(self._count(k), largest=largest).indices)

    def numbers(self, order: Tensor) -> Tensor:
        """The numbers of the training rows at some places (k,) among the columns of the scores of one test row."""
        return order if self.columns is None else self.columns[0][order]

    def table(self, order: Tensor) -> pd.DataFrame:
        """Some columns of the scores of one test row, in the order given: influence and effect by training row.

        `order` (k,) are places among the columns, as `helpful` and `explain` rank them; the index of the table are the
        ids of the rows, or their numbers. Raises ValueError for more than one test row.
        """
        rows = self.numbers(order)
        cells = {"influence": self.values[0][order].numpy(), self._heading: self._row()[order].numpy()}
        if self.steps is not None:
            cells["steps"] = self.steps[0][order].numpy()
        if self.left is not None and bool(unsettled(left := self.left[0][order]).any()):
            cells[UNSETTLED] = left.where(unsettled(left), torch.nan).numpy()
        if self.errors is not None:
            cells[ERROR] = self.errors[0][order].numpy()
        return pd.DataFrame(cells, index=called(rows.numpy(), self.ids).rename("train row"))

    @property
    def _heading(self) -> str:
        return f"{'removal effect' if self.edit == 'removed' else 'effect'} on the {self.measure}"

    @property
    def sign(self) -> str:
        """How to read the sign of an effect, in one sentence.

        >>> import torch
        >>> Scores(torch.zeros(1, 2, dtype=torch.float64), n=2).sign
        'Positive effect = the loss would rise if the training example were removed (helpful).'
        """
        meaning = self.roles[0]
        if self.edit != "removed":
            meaning = "harmful change" if self.roles == ROLES else "the change raises it"
        return SIGN.format(measure=self.measure, edit=self.edit, meaning=meaning)

    @property
    def prediction(self) -> str:
        """How the effects are predicted, and what they leave out, in a sentence or two.

        >>> Scores(torch.zeros(1, 2, dtype=torch.float64), n=2).prediction.partition(" in ")[0]
        'Effects are of first order'
        """
        if self.said:
            return self.said[0]
        if self.changes is None:
            return f"{FIRST_ORDER} {BETTER}" if self.edit == "removed" else FIRST_ORDER
        return of_newton(self.changes, self.steps, self.left)

    @property
    def roles(self) -> tuple[str, str]:
        """What training rows of positive and of negative removal effect are to the measure, in words.

        A loss is better low: rows without which it would rise are helpful. Any other measure they lower or raise.

        >>> import torch
        >>> zeros = torch.zeros(1, 2, dtype=torch.float64)
        >>> Scores(zeros, n=2).roles, Scores(zeros, n=2, measure="probability").roles
        (('helpful', 'harmful'), ('lowers it', 'raises it'))
        """
        return ROLES if self.measure.endswith("loss") else ("lowers it", "raises it")

    def to_frame(self) -> pd.DataFrame:
        """A table of all scores, one line per test row and training row: test row, train row, influence, effect.

        m q lines: for many rows keep the strongest with `top=`, or save the scores.

        >>> import torch
        >>> Scores(torch.tensor([[-3.0, 6.0]], dtype=torch.float64), n=3).to_frame()["train row"].tolist()
        [0, 1]
        """
        m, q = self.values.shape
        rows = torch.arange(q).expand(m, q) if self.columns is None else self.columns
        return pd.DataFrame(
            {
                "test row": called(np.repeat(np.arange(m), q), self.test_ids),
                "train row": called(rows.flatten().numpy(), self.ids),
                "influence": self.values.flatten().numpy(),
                self._heading: self.effect().flatten().numpy(),
                **({} if self.errors is None else {ERROR: self.errors.flatten().numpy()}),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: the numbers, and the rest as JSON in its header. No pickle.

        Row ids that are neither numbers nor strings (dates, say) are kept as their text.

        >>> import tempfile, torch
        >>> scores = Scores(torch.tensor([[-3.0, 6.0]], dtype=torch.float64), n=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scores.save(f"{folder}/scores.safetensors")
        ...     Scores.load(f"{folder}/scores.safetensors").values
        tensor([[-3.,  6.]], dtype=torch.float64)
        """
        names = ("values", "columns", "drift", "residual", "changes", "steps", "left", "errors")
        tensors = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        words = {
            name: getattr(self, name) for name in ("n", "edit", "measure", "verdict", "doubt", "provenance")
        }
        words |= {name: as_json(getattr(self, name)) for name in ("ids", "test_ids")} | {
            "said": list(self.said)
        }
        write(path, tensors, words)

    @classmethod
    def load(cls, path: str | Path, *, fingerprint: str | None = None) -> Scores:
        """The scores that `save` wrote, bit by bit.

        With `fingerprint` (`Influence.fingerprint`) scores of other weights, data or settings raise `StaleError`.
        Raises ValueError for a file that is no score file.
        """
        tensors, words = read(path, "a score file", "values", "n", "edit", "measure", "provenance")
        fields: dict[str, Any] = {**tensors, **words}
        try:
            for name in ("ids", "test_ids"):
                fields[name] = None if fields.get(name) is None else pd.Index(fields[name])
            scores = cls(**fields)
            of_scores(scores)
        except (TypeError, AttributeError, ValueError) as failure:
            raise ValueError(f"{path} is not a score file of upweight ({failure})") from failure
        found = scores.provenance.get("fingerprint")
        if fingerprint is not None and fingerprint != found:
            raise StaleError(
                f"{path} was computed from other weights, data or settings (its content hash is {found}, "
                f"asked for {fingerprint}); compute the scores again"
            )
        return scores

    def _summary(self) -> list[str]:
        lines = [f"Scores: {len(self)} test rows, {self.n} training rows"]
        if self.columns is not None:
            lines[0] += f", the {self.values.shape[1]} strongest kept"
        return [*lines, self.sign, self.prediction, *self.remarks]

    def __repr__(self) -> str:
        tables = [f"\n{self.helpful(5).to_string()}\n{self.harmful(5).to_string()}"] if len(self) == 1 else []
        return plain("\n".join(self._summary() + tables))

    def _repr_html_(self) -> str:
        tables = ["Helpful", self.helpful(), "Harmful", self.harmful()] if len(self) == 1 else []
        return as_html(*self._summary(), *tables)
