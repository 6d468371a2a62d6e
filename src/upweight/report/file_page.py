"""An explanation of a prediction about a user's file, as a page that can be sent on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pandas as pd

from ..runtime.progress import tell
from ..tables.asked import Asked
from ..tables.fitted_file import FittedFile
from ..uses.explain import explain
from ..validation.verify import verify
from .examples import file_example, training_examples
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
    influence = fitted.model.influence
    how: dict[str, Any] = {"measure": asked.measure, "first_order": first_order}
    found = explain(influence, asked.batch, k=k, relative=relative, **how)
    tell(f"verifying: training again without each of the {checked} top and {checked} random rows")
    verified = verify(influence, asked.batch, k=checked, refit=fitted.model.refit, **how)
    parts = found.parts or (None, None)
    return Page(
        title=f"Why does the model say this of row {asked.name}?",
        question=f"Row {asked.name} of {asked.path.name}. {asked.said} Which training rows are responsible?",
        test=file_example(
            fitted,
            asked.raw,
            label=str(asked.said.label),
            parts=pd.concat(found.parts).abs().sum() if found.parts else None,
            folder=asked.path.resolve().parent,
        ),
        helpful=list(training_examples(fitted, found.helpful, parts[0])),
        harmful=list(training_examples(fitted, found.harmful, parts[1])),
        verified=verified,
        labels=fitted.raw[fitted.target],
        settings=_settings(fitted, relative),
        certificate=found.scores.remarks,
        comparisons=found.comparisons,
        sign=f"{found.scores.sign} {found.scores.prediction} {asked.unit}".strip(),
        measure=found.scores.measure,
        headings=found.headings,
        target=fitted.target if asked.said.quantity and fitted.target not in NUMBERS else "label",
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
