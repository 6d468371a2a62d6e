"""The pages of a review, and what each of them shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypedDict
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from ..report import Example, templates
from .journal import ACTIONS, Decision
from .session import Session

PER_PAGE = 50
"""Rows on a page of the list."""
Export = Callable[[], tuple[str, bytes]]
"""The name and the bytes of the corrected file."""


@dataclass(frozen=True)
class State:
    """How far a review is, and what the model makes of it.

    Attributes:
        decided: The number of rows with a decision.
        counts: How many rows have each kind of decision.
        contradicted: The number of labels that are contradicted, as `Suspects` counts them.
        held: The number of held-out rows.
        first: The accuracy on them before any decision.
        accuracy: The accuracy on them now.
        current: Whether the model has followed all decisions.
        trouble: Why it cannot, in one sentence, or "".
    """

    decided: int
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
        done, fit = session.journal.decisions(), session.fit
        return cls(
            decided=len(done),
            counts={action: sum(d.action == action for d in done.values()) for action in ACTIONS},
            contradicted=int(fit.ranking["contradicted"].sum()),
            held=len(session.held),
            first=session.first.accuracy,
            accuracy=fit.accuracy,
            current=fit.decisions == len(done),
            trouble=session.trouble,
        )


class Frame(TypedDict):
    """What every page shows."""

    file: str
    state: State


class RowShown(TypedDict):
    """What the page of one row shows beside its frame."""

    example: Example
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
        "places": {other.id: int(session.names.get_loc(other.id)) for other in [*helpful, *harmful]},
        "decision": session.journal.decisions().get(row),
        "proposed": str(line.get("proposed label", "")),
        "loss": line.get("loss without the row"),
        "gain": line.get("gain"),
        "groups": [("Rows that speak for its label", helpful), ("Rows that speak against it", harmful)],
    }


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

    def row(self, request: Request) -> Response:
        """The page of the row that is asked for, or of the next one that waits for a decision."""
        asked = request.query_params.get("row", "")
        known = asked.isdigit() and int(asked) < len(self.session.names)
        row = int(asked) if known else next(self.session.waiting(), None)
        if row is None:
            return self._rendered("page", row=None)
        return self._rendered("page", row=row, labels=self.session.labels, **row_shown(self.session, row))

    def rows(self, request: Request) -> Response:
        """A page of the list of all rows, the most doubtful first."""
        number = request.query_params.get("page", "1")
        return self._rendered("list", **list_shown(self.session, int(number) if number.isdigit() else 1))

    async def decide(self, request: Request) -> Response:
        """A decision is written down; the next row follows, or the reason why this is no decision."""
        given = {name: values[-1] for name, values in parse_qs((await request.body()).decode()).items()}
        try:
            self.session.decide(Decision(int(given["row"]), given["action"], given.get("label")))
        except (KeyError, ValueError) as error:
            return PlainTextResponse(f"Not a decision: {error}", 400)
        return RedirectResponse("/", 303)

    def undo(self, request: Request) -> Response:
        """The newest decision is taken back; its row follows."""
        taken = self.session.undo()
        return RedirectResponse("/" if taken is None else f"/?row={taken.row}", 303)

    def state(self, request: Request) -> Response:
        """The state of the review as JSON, for a page that waits for the model."""
        return JSONResponse(asdict(State.of(self.session)))

    def exported(self, request: Request) -> Response:
        """The corrected file, to be saved."""
        name, content = self.export()
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _rendered(self, template: str, **shown: object) -> Response:
        frame: Frame = {"file": self.session.fitted.path.name, "state": State.of(self.session)}
        return HTMLResponse(
            self.templates.get_template(f"review/{template}.html.j2").render(**frame, **shown)
        )
