"""An explanation of a prediction about a user's file, as a page that can be sent on."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pandas as pd

from ..measures import MeasureLike
from ..runtime.progress import tell
from ..tables.asked import Asked
from ..tables.asked_sets import AskedSet
from ..tables.fitted_file import FittedFile
from ..types import Batch
from ..uses.explain import Explanation, explain
from ..validation.verify import Verification, verify
from .examples import Example, file_example, training_examples
from .page import NUMBERS, Page


def explained_row(
    fitted: FittedFile,
    asked: Asked,
    *,
    k: int = 10,
    checked: int = 20,
    relative: bool = False,
    first_order: bool = False,
) -> Page:
    """The report about one row's prediction: it is explained, and the explanation verified by retraining.

    Args:
        fitted: The training file with its model.
        asked: The row that is asked about, and what is asked about it.
        k: Training rows of either sign to show.
        checked: The model is retrained without each of so many rows of largest effect, and as many random ones.
        relative: Whether rows are ranked by effect relative to their own pull on the model.
        first_order: Whether effects are of first order (Eq. 2) where they could be those of Newton steps.

    Raises:
        ValueError: The model cannot be retrained: a network that came without a `refit`.
    """
    found, verified = _answers(
        fitted, asked.batch, asked.measure, k=k, checked=checked, relative=relative, first_order=first_order
    )
    test = file_example(
        fitted,
        asked.raw,
        label=str(asked.said.label),
        parts=pd.concat(found.parts).abs().sum() if found.parts else None,
        folder=asked.path.resolve().parent,
    )
    return replace(
        _page(fitted, found, verified, test),
        title=f"Why does the model say this of row {asked.name}?",
        question=f"Row {asked.name} of {asked.path.name}. {asked.said} Which training rows are responsible?",
        sign=f"{found.scores.sign} {found.scores.prediction} {asked.unit}".strip(),
        target=fitted.target if asked.said.quantity and fitted.target not in NUMBERS else "label",
    )


def explained_rows(
    asked: AskedSet, *, k: int = 10, checked: int = 20, relative: bool = False, first_order: bool = False
) -> Page:
    """The report about one number of many rows, such as their AUROC: which training rows move it, and the proof.

    Args:
        asked: The rows that are asked about together, and what of them.
        k: Training rows of either sign to show.
        checked: The model is retrained without each of so many rows of largest effect, and as many random ones.
        relative: Whether rows are ranked by effect relative to their own pull on the model.
        first_order: Whether effects are of first order (Eq. 2), for a measure that has a derivative.

    Raises:
        ValueError: The model cannot be retrained: a network that came without a `refit`.
    """
    fitted = asked.fitted
    found, verified = _answers(
        fitted, asked.batch, asked.measure, k=k, checked=checked, relative=relative, first_order=first_order
    )
    return replace(
        _page(fitted, found, verified, Example(id="", label="")),
        title=f"Which training rows move the {asked.measure.name}?",
        question=" ".join(asked.words),
    )


def _answers(
    fitted: FittedFile,
    batch: Batch,
    measure: MeasureLike | None,
    *,
    k: int,
    checked: int,
    relative: bool,
    first_order: bool,
) -> tuple[Explanation, Verification]:
    """The explanation, and its verification."""
    influence = fitted.model.influence
    how: dict[str, Any] = {"measure": measure, "first_order": first_order}
    found = explain(influence, batch, k=k, relative=relative, **how)
    tell(f"verifying: training again without each of the {checked} top and {checked} random rows")
    return found, verify(influence, batch, k=checked, refit=fitted.model.refit, **how)


def _page(fitted: FittedFile, found: Explanation, verified: Verification, test: Example) -> Page:
    """The page of an answer, whose question is not said yet."""
    parts = found.parts or (None, None)
    return Page(
        title="",
        question="",
        test=test,
        helpful=list(training_examples(fitted, found.helpful, parts[0])),
        harmful=list(training_examples(fitted, found.harmful, parts[1])),
        verified=verified,
        labels=fitted.raw[fitted.target],
        settings=_settings(fitted, found.relative),
        certificate=found.scores.remarks,
        comparisons=found.comparisons,
        sign=f"{found.scores.sign} {found.scores.prediction}",
        measure=found.scores.measure,
        headings=found.headings,
    )


def _settings(fitted: FittedFile, relative: bool) -> dict[str, str]:
    model = fitted.model
    return {
        "training data": f"{fitted.path.name}, {len(fitted.raw):,} rows, target {fitted.target}",
        "model": model.words,
        "columns": ", ".join(f"{name} ({kind})" for name, kind in model.kinds.items()),
        "left out, or filled": "; ".join(model.notes) or "nothing",
        "influence": "; ".join(model.influence.settings.reasons),
        "held fixed": "; ".join(model.influence.problem.terms.notes) or "nothing",
        "ranking": "relative to each row's own pull" if relative else "by effect",
        "upweight": version("upweight"),
    }
