"""The pages of a review, and what each of them shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from ..report import Example, templates
from ..runtime.terminal import plain
from ..tables.reading import FileError
from .journal import Decision
from .session import Session

PER_PAGE = 50
"""Rows on a page of the list."""
MOST = 10**12
"""The largest number that an address may name."""
Export = Callable[[], tuple[str, bytes]]
"""The name and the bytes of the corrected file."""


@dataclass(frozen=True)
class State:
    """How far a review is, and what the model makes of it.

    Attributes:
        decided: The number of rows with a decision.
        newest: The number of the newest decision, which is the one to undo; 0 where there is none.
        counts: How many rows have each kind of decision.
        contradicted: The number of labels that are contradicted, as `Suspects` counts them.
        held: The number of held-out rows.
        first: The accuracy on them before any decision.
        accuracy: The accuracy on them now.
        current: Whether the model has followed all decisions.
        trouble: Why it cannot, in one sentence, or "".
    """

    decided: int
    newest: int
    counts: dict[str, int]
    contradicted: int
    held: int
    first: float
    accuracy: float
    current: bool
    trouble: str

    @classmethod
    def of(cls, session: Session) -> State:
        """The state of a session at this moment."""
        now, fit = session.journal.now(), session.fit
        return cls(
            decided=len(now.rows),
            newest=now.newest,
            counts=now.counts,
            contradicted=fit.contradicted,
            held=len(session.held),
            first=session.first.accuracy,
            accuracy=fit.accuracy,
            current=session.current,
            trouble=session.trouble,
        )


class Frame(TypedDict):
    """What every page shows."""

    file: str
    state: State


class RowShown(TypedDict):
    """What the page of one row shows beside its frame."""

    example: Example
    own: str
    places: dict[object, int]
    decision: Decision | None
    proposed: str
    loss: float | None
    gain: float | None
    groups: list[tuple[str, list[Example]]]


class ListShown(TypedDict):
    """What a page of the list shows beside its frame."""

    lines: list[dict[str, object]]
    page: int
    pages: int
    id: str


def row_shown(session: Session, row: int) -> RowShown:
    """A row with its evidence and what the model, which has not seen it, says of it."""
    name, ranking = session.names[row], session.fit.ranking
    line = ranking.loc[name].to_dict() if name in ranking.index else {}
    example, helpful, harmful = session.evidence(row)
    return {
        "example": example,
        "own": str(session.own_labels[row]),
        "places": {other.id: int(session.names.get_loc(other.id)) for other in [*helpful, *harmful]},
        "decision": session.journal.decisions().get(row),
        "proposed": str(line.get("proposed label", "")),
        "loss": line.get("loss without the row"),
        "gain": line.get("gain"),
        "groups": [
            (f"Rows that speak for its label, {example.label}", helpful),
            ("Rows that speak against it", harmful),
        ],
    }


def keys_of(labels: Sequence[str]) -> dict[str, str]:
    """The keys that give a row a label, by the labels: the same keys for every row.

    Labels that are whole numbers have their own digits as keys, and no other has one then; of other labels the first
    nine are numbered.

    >>> keys_of(["1", "2.0", "10"]), keys_of(["ant", "bee"])
    ({'1': '1', '2.0': '2'}, {'ant': '1', 'bee': '2'})
    """
    digits = {label: label[0] for label in labels if re.fullmatch(r"[0-9](\.0)?", label)}
    return digits or {label: str(place) for place, label in enumerate(labels[:9], 1)}


def whole(word: str, most: int) -> int | None:
    """The whole number from 0 to `most` that a word of an address is; None where it is none, as "-1" and "²" are.

    >>> whole("12", 99), whole("²", 99), whole("100", 99)
    (12, None, None)
    """
    found = int(word) if re.fullmatch(r"[0-9]{1,12}", word) else None
    return found if found is not None and found <= most else None


def list_shown(session: Session, page: int) -> ListShown:
    """Fifty rows of all, the most doubtful first, with their decisions; `page` counts from 1 and is kept in range."""
    ranking, done = session.fit.ranking, session.journal.decisions()
    pages = max(1, -(-len(ranking) // PER_PAGE))
    page = min(max(1, page), pages)
    part = ranking.iloc[(page - 1) * PER_PAGE : page * PER_PAGE]
    lines = [
        {"decision": done.get(line["row"]), **line}
        for line in part.rename_axis("name").reset_index().to_dict("records")
    ]
    return {"lines": lines, "page": page, "pages": pages, "id": session.fitted.heading}


class Pages:
    """What is answered to the requests of a browser that was let in: a method per address.

    Args:
        session: What is reviewed.
        export: Makes the corrected file.
    """

    def __init__(self, session: Session, export: Export) -> None:
        self.session, self.export = session, export
        self.templates = templates()
        self.labels = {label: keys_of(session.labels).get(label, "") for label in session.labels}

    def row(self, request: Request) -> Response:
        """The page of the row that is asked for, or of the next one that waits for a decision."""
        row = whole(request.query_params.get("row", ""), len(self.session.names) - 1)
        row = next(self.session.waiting(), None) if row is None else row
        if row is None:
            return self._rendered("page", row=None)
        return self._rendered("page", row=row, labels=self.labels, **row_shown(self.session, row))

    def rows(self, request: Request) -> Response:
        """A page of the list of all rows, the most doubtful first."""
        number = whole(request.query_params.get("page", "1"), MOST)
        return self._rendered("list", **list_shown(self.session, 1 if number is None else number))

    async def decide(self, request: Request) -> Response:
        """A decision is written down; the next row follows, or the reason why this is no decision."""
        try:
            given = await _form(request)
            row = whole(given["row"], len(self.session.names) - 1)
            if row is None:
                raise ValueError(f"there is no row {given['row']!r}")
            decision = Decision(row, given["action"], given.get("label"))
            await run_in_threadpool(self.session.decide, decision)
        except FileError:
            raise
        except (KeyError, ValueError) as error:
            return PlainTextResponse(f"Not a decision: {error}", 400)
        return RedirectResponse("/", 303)

    async def undo(self, request: Request) -> Response:
        """The newest decision is taken back, unless the page that asks for it knew another one; its row follows."""
        number = whole((await _form(request)).get("newest", ""), MOST)
        taken = await run_in_threadpool(self.session.undo, number)
        return RedirectResponse("/" if taken is None else f"/?row={taken.row}", 303)

    def state(self, request: Request) -> Response:
        """The state of the review as JSON, for a page that waits for the model."""
        return JSONResponse(asdict(State.of(self.session)))

    def exported(self, request: Request) -> Response:
        """The corrected file, to be saved."""
        name, content = self.export()
        headers = {"Content-Disposition": disposition(name)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def _rendered(self, template: str, **shown: object) -> Response:
        frame: Frame = {"file": plain(self.session.fitted.path.name), "state": State.of(self.session)}
        return HTMLResponse(
            self.templates.get_template(f"review/{template}.html.j2").render(**frame, **shown)
        )


def disposition(name: str) -> str:
    r"""The header that has a browser save what it gets as a file of this name, in any script (RFC 6266 and 8187).

    Old browsers get the name with "_" for what is not ASCII or would end the quotes.

    >>> disposition('Łódź "1".csv')
    'attachment; filename="__d_ _1_.csv"; filename*=UTF-8\'\'%C5%81%C3%B3d%C5%BA%20%221%22.csv'
    """
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent; of a field that came twice the last."""
    sent = parse_qs((await request.body()).decode(errors="replace"))
    return {name: values[-1] for name, values in sent.items()}
