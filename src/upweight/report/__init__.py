"""One self-contained HTML file: a question, its answer in training examples, and the answer's verification."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave


@dataclass(frozen=True, eq=False)
class Example:
    """An example as the report shows it: its row `id`, `label`, `effect` of its removal and grey `image` (h, w)."""

    id: int
    label: str
    effect: float
    image: Any


def data_uri(png: bytes) -> str:
    """A PNG as text that stands in an HTML attribute.

    >>> data_uri(b"png")
    'data:image/png;base64,cG5n'
    """
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def image_uri(image: Any) -> str:
    """A grey image (h, w) of 0..255, as `data_uri`, one pixel per pixel: the browser enlarges it."""
    buffer = io.BytesIO()
    imsave(buffer, np.asarray(image), cmap="gray", vmin=0, vmax=255, format="png")
    return data_uri(buffer.getvalue())


def figure_uri(figure: Figure) -> str:
    """A figure, as `data_uri`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return data_uri(buffer.getvalue())


def write(
    path: str | Path,
    *,
    title: str,
    question: str,
    verdict: str,
    test_image: Any,
    helpful: Sequence[Example],
    harmful: Sequence[Example],
    figure: Figure,
    figure_text: str,
    settings: Mapping[str, str],
    certificate: Sequence[str],
    sign: str,
) -> Path:
    """Write the report to `path` and return it. No scripts, no network: images stand in the file itself.

    `figure_text` is what the figure says, for those who cannot see it; all text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("upweight.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["image"] = image_uri
    text = environment.get_template("report.html.j2").render(
        title=title,
        question=question,
        verdict=verdict,
        test_image=test_image,
        groups=[
            ("Helpful: without them the loss would rise", helpful),
            ("Harmful: without them the loss would fall", harmful),
        ],
        figure=figure_uri(figure),
        figure_text=figure_text,
        settings=settings,
        certificate=certificate,
        sign=sign,
    )
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return path
