"""One self-contained HTML file: a question, its answer in training examples, and the answer's verification."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from ..validation.verify import Agreement, Verification

NUMBERS = ("predicted", "actual", "error")
"""Columns of the table of effects that are numbers."""
LONGEST = 600
"""Characters of a text that are shown."""


@dataclass(frozen=True, eq=False)
class Example:
    """An example as the report shows it: row `id`, `label`, `effect` of its removal (None: the one asked about).

    Of what it is made of: an `image`, grey (h, w) or coloured (h, w, 3), 0..255; texts and cells by the names of their
    columns, with what to highlight in them: words, and names of columns.
    """

    id: Any
    label: str
    effect: float | None = None
    image: Any = None
    texts: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, str] = field(default_factory=dict)
    highlight: frozenset[str] = frozenset()


def in_words(v: Verification, what: str = "rows") -> str:
    """The verification in one sentence: whether the explanation holds, by the numbers of the top group."""
    top = v.top
    if top.pearson >= 0.99 and top.relative_error <= 0.1:
        judgement = "The explanation holds"
    elif top.pearson >= 0.9 and top.relative_error <= 0.5:
        judgement = "The explanation holds roughly"
    elif top.pearson >= 0.9:
        judgement = "The ranking holds, the sizes do not"
    else:
        judgement = "The explanation does not hold"
    sentence = f"{judgement}: of the {top.count} largest effects, predictions and retraining agree with {_numbers(top)}"
    if v.random is not None:
        sentence += f"; of {v.random.count} random {what}, with {_numbers(v.random)}"
    return sentence + ("." if v.complete else "; interrupted, so only finished refits count.")


def _numbers(agreement: Agreement) -> str:
    low, high = agreement.interval["pearson"]
    return (
        f"Pearson {agreement.pearson:.4f} (95% interval {low:.4f} to {high:.4f}), "
        f"slope {agreement.slope:.3f}, relative error {agreement.relative_error:.1%}"
    )


def data_uri(data: bytes, kind: str = "png") -> str:
    """An image as text that stands in an HTML attribute.

    >>> data_uri(b"png")
    'data:image/png;base64,cG5n'
    """
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def image_uri(image: Any) -> str:
    """An image of 0..255 as `data_uri`, one pixel per pixel: the browser enlarges it. Coloured ones as JPEG."""
    buffer, pixels = io.BytesIO(), np.asarray(image)
    if pixels.ndim == 3:
        imsave(buffer, pixels, format="jpeg", pil_kwargs={"quality": 85})
        return data_uri(buffer.getvalue(), "jpeg")
    imsave(buffer, pixels, cmap="gray", vmin=0, vmax=255, format="png")
    return data_uri(buffer.getvalue())


def marked(text: str, words: frozenset[str]) -> Markup:
    """The first lines of a text, escaped, with these words (of any case) marked.

    >>> marked("Win <b>money</b>", frozenset({"money"}))
    Markup('Win &lt;b&gt;<mark>money</mark>&lt;/b&gt;')
    """
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    parts = re.split(r"(\w+)", shown)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if part.lower() in words else escape(part) for part in parts
    )


def figure_uri(figure: Figure) -> str:
    """A figure, as `data_uri`: lines, so that it is sharp in print and on any screen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "svg+xml")


def sha256(text: str) -> str:
    """The hash of a script or style by which a content policy allows it, and nothing else."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def templates() -> jinja2.Environment:
    """The templates of this package, which escape all text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("upweight", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"image": image_uri, "marked": marked, "sha256": sha256}
    return environment


def write(
    path: str | Path,
    *,
    title: str,
    question: str,
    test: Example,
    helpful: Sequence[Example],
    harmful: Sequence[Example],
    verified: Verification,
    label: Callable[[Any], str],
    settings: Mapping[str, str],
    certificate: Sequence[str],
    sign: str,
    noun: str = "rows",
) -> Path:
    """Write the report to `path` and return it. No network: images, style and script stand in the file itself.

    `label` gives the label of a training row by its name. All text is escaped, and the file's own content policy
    allows no other script than that of its table.
    """
    folder = Path(__file__).parent
    verdict = in_words(verified, noun)
    text = (
        templates()
        .get_template("report/report.html.j2")
        .render(
            title=title,
            question=question,
            verdict=verdict,
            test=test,
            groups=[
                ("Helpful: without them the loss would rise", helpful),
                ("Harmful: without them the loss would fall", harmful),
            ],
            figure=figure_uri(plots.verification(verified)),
            figure_text=f"Scatter plot of predicted against actual changes of the loss. {verdict}",
            effects=_effects(verified, label),
            numbers=NUMBERS,
            settings=settings,
            certificate=certificate,
            sign=sign,
            style=(folder / "report.css").read_text(encoding="utf-8"),
            script=(folder / "report.js").read_text(encoding="utf-8"),
            zip=zip,
        )
    )
    path = Path(path)
    if rank() == 0:
        path.write_text(text, encoding="utf-8")
    return path


def _effects(verified: Verification, label: Callable[[Any], str]) -> pd.DataFrame:
    """The retrained rows, the largest predicted effects first."""
    found = verified.table[["train row", "group", "predicted", "actual"]]
    found = found.iloc[found["predicted"].abs().argsort(kind="stable")[::-1]]
    found.insert(1, "label", found["train row"].map(label))
    return found.assign(error=found["predicted"] - found["actual"])
