"""An explanation of a prediction about a user's file, as a page that can be sent on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from ..runtime.progress import tell
from ..tables.fitted_file import FittedFile
from ..uses.explain import Explanation, explain
from ..validation.verify import verify
from .examples import file_example, training_examples
from .page import Page


def explained_row(
    fitted: FittedFile,
    row: str,
    test: Path | None = None,
    *,
    k: int = 10,
    checked: int = 20,
    relative: bool = False,
) -> Page:
    """The report about one row's prediction: it is explained, and the explanation verified by retraining.

    Args:
        fitted: The training file with its model.
        row: The row (or id) that is asked about.
        test: The file that the row is in; otherwise the training file.
        k: Helpful and harmful training rows to show, each.
        checked: The model is retrained without each of so many rows of largest effect, and as many random ones.
        relative: Whether rows are ranked by effect relative to their own pull on the model.

    Raises:
        FileError: There is no such row.
        ValueError: The model cannot be retrained: a network that came without a `refit`.
    """
    raw, batch = fitted.row(row, test), fitted.batch(test, row=row)
    influence = fitted.model.influence
    found = explain(influence, batch, k=k, relative=relative)
    tell(f"verifying: training again without each of the {checked} top and {checked} random rows")
    verified = verify(influence, batch, k=checked, refit=fitted.model.refit)
    return Page(
        title=f"Why does the model say this of row {row}?",
        question=_question(found, f"Row {row} of {(test or fitted.path).name}."),
        test=file_example(
            fitted,
            raw,
            label=str(raw[fitted.target]),
            because=_causes(found),
            folder=fitted.folder(test),
        ),
        helpful=list(training_examples(fitted, found.helpful)),
        harmful=list(training_examples(fitted, found.harmful)),
        verified=verified,
        labels=fitted.raw[fitted.target],
        settings=_settings(fitted, relative),
        certificate=found.scores.remarks,
        sign=found.scores.sign,
    )


def _question(found: Explanation, which: str) -> str:
    said = (
        ""
        if found.prediction is None
        else f" The model says {found.prediction!r}; the label is {found.label!r}."
    )
    return f"{which}{said} Which training rows are responsible?"


def _causes(found: Explanation) -> str:
    """The columns and words responsible in any of the training rows shown."""
    lines = [*found.helpful.to_dict("records"), *found.harmful.to_dict("records")]
    return ", ".join(line.get("because of", "") for line in lines)


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
