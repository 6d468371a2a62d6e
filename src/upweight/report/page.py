"""One self-contained HTML file: a question, its answer in training examples, and the answer's verification."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.image import imsave

from .. import plots
from ..runtime.distributed import rank
from ..runtime.whole_files import whole
from ..validation.verify import Agreement, Verification
from .examples import Example

NUMBERS = ("predicted", "actual", "error")
"""Columns of the table of effects that are numbers."""
LONGEST = 600
"""Characters of a text that are shown."""


@dataclass(frozen=True, eq=False)
class Page:
    """What a report says: an explanation of one prediction, its verification, and how both were made.

    Attributes:
        title: The question in a few words.
        question: What was asked, and what the model says, in one or two sentences.
        test: The example in question.
        helpful: Training examples without which the measure would rise, the strongest first.
        harmful: Training examples without which the measure would fall, the strongest first.
        verified: Predicted against actual effects of single removals.
        labels: The labels of the training rows, by their names.
        settings: What the answer depends on, and what it was, in words.
        certificate: What the solver guarantees of the answer, a paragraph each.
        sign: How to read the sign of an effect, in one sentence.
        noun: What the training examples are, in the plural.
        measure: What was asked about.
        headings: What the two kinds of training examples are to the measure.
        target: What a label is called: of a quantity its own name.
        comparisons: Whether other data would name the same rows, and what simpler rankings name, a paragraph each.
        robust: What is said of conclusions about coefficients (`RobustPart`), if anything is.
    """

    title: str
    question: str
    test: Example
    helpful: Sequence[Example]
    harmful: Sequence[Example]
    verified: Verification
    labels: pd.Series
    settings: Mapping[str, str]
    certificate: Sequence[str]
    sign: str
    noun: str = "rows"
    measure: str = "loss"
    headings: tuple[str, str] = ("Helpful", "Harmful")
    target: str = "label"
    comparisons: Sequence[str] = ()
    robust: Any = None


def write(path: str | Path, page: Page) -> Path:
    """The report is written to `path`, which is returned; of several processes the first one writes.

    Nothing is asked of a network: images, style and script stand in the file itself. All text is escaped, and the
    file's own content policy allows no other script than that of its table.
    """
    verdict = in_words(page.verified, page.noun)
    return written(
        path,
        "report/report.html.j2",
        title=page.title,
        question=page.question,
        verdict=verdict,
        test=page.test,
        groups=[
            (f"{page.headings[0]}: without them the {page.measure} would rise", page.helpful),
            (f"{page.headings[1]}: without them the {page.measure} would fall", page.harmful),
        ],
        measure=page.measure,
        explained=any(example.because for example in (*page.helpful, *page.harmful)),
        figure=figure_uri(plots.verification(page.verified)),
        figure_text=f"Scatter plot of predicted against actual changes of the {page.measure}. {verdict}",
        effects=_effects(page),
        target=page.target,
        numbers=NUMBERS,
        settings=page.settings,
        certificate=page.certificate,
        comparisons=page.comparisons,
        sign=page.sign,
        robust=page.robust,
        zip=zip,
    )


def written(path: str | Path, template: str, **content: Any) -> Path:
    """A template of a report is filled and written to `path`, which is returned; of several processes one writes.

    Args:
        path: The HTML file.
        template: Its name among the templates.
        content: What it shows.
    """
    folder = Path(__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = templates().get_template(template).render(style=style, script=script, **content)
    path = Path(path)
    if rank() == 0:
        with whole(path) as part:
            part.write_bytes(text.encode("utf-8", "replace"))  # a file's name may hold halves of characters
    return path


def _effects(page: Page) -> pd.DataFrame:
    """The retrained rows, the largest predicted effects first."""
    found = page.verified.table[["train row", "group", "predicted", "actual"]]
    found = found.iloc[found["predicted"].abs().argsort(kind="stable")[::-1]]
    found.insert(1, page.target, found["train row"].map(lambda name: str(page.labels.loc[name])))
    groups = found["group"].replace({"top": "largest effects"})
    return found.assign(group=groups, error=found["predicted"] - found["actual"])


def in_words(verified: Verification, noun: str = "rows") -> str:
    """A verification in one sentence: its judgement (`Verification.judgement`) and its numbers.

    `noun` says what the random removals were, in the plural.
    """
    top = verified.top
    counted = f"of the {top.count} largest effects, predictions and retraining agree with {_numbers(top)}"
    sentence = f"{verified.judgement}: {counted}"
    if verified.random is not None:
        sentence += f"; of {verified.random.count} random {noun}, with {_numbers(verified.random)}"
    return sentence + ("." if verified.complete else "; interrupted, so only finished refits count.")


def _numbers(agreement: Agreement) -> str:
    low, high = agreement.interval["pearson"]
    return (
        f"Pearson {agreement.pearson:.4f} (95% interval {low:.4f} to {high:.4f}), "
        f"slope {agreement.slope:.3f}, relative error {agreement.relative_error:.1%}"
    )


def templates() -> jinja2.Environment:
    """The templates of the report and of the review page, which escape all text; an unknown name is an error.

    They know the filters `image` (pixels as an address), `marked` (a text with words marked) and `sha256`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("upweight", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"image": image_uri, "marked": marked, "sha256": sha256}
    return environment


def data_uri(data: bytes, kind: str = "png") -> str:
    """An image as text that stands in an HTML attribute, in place of an address.

    >>> data_uri(b"png")
    'data:image/png;base64,cG5n'
    """
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def image_uri(pixels: np.ndarray) -> str:
    """An image as `data_uri`, one pixel per pixel: the browser enlarges it.

    Grey pixels (h, w) of 0..255 become PNG, coloured ones (h, w, 3) JPEG.
    """
    buffer, pixels = io.BytesIO(), np.asarray(pixels)
    if pixels.ndim == 3:
        imsave(buffer, pixels, format="jpeg", pil_kwargs={"quality": 85})
        return data_uri(buffer.getvalue(), "jpeg")
    imsave(buffer, pixels, cmap="gray", vmin=0, vmax=255, format="png")
    return data_uri(buffer.getvalue())


def figure_uri(figure: Figure) -> str:
    """A figure as `data_uri`: it consists of lines, so that it is sharp in print and on any screen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "svg+xml")


def marked(text: str, words: frozenset[str]) -> Markup:
    """The first 600 characters of a text, escaped, in which some words, in lower case or not, are marked.

    >>> marked("Win <b>money</b>", frozenset({"money"}))
    Markup('Win &lt;b&gt;<mark>money</mark>&lt;/b&gt;')
    """
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    parts = re.split(r"(\w+)", shown)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if part.lower() in words else escape(part) for part in parts
    )


def sha256(text: str) -> str:
    """The hash of a script or style by which a content policy allows it, and nothing else: SHA-256 in base 64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
