"""Files whose labels are reviewed, sessions that review them, and browsers that ask the sessions' pages."""

import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from upweight.review import Journal, Keys, Session, application, corrected_file
from upweight.tables import FittedFile

PORT = 8765
HOME = f"http://127.0.0.1:{PORT}"


def labelled(n: int = 90, classes: int = 2) -> pd.DataFrame:
    """Numbers that tell the classes apart, a text, and every tenth label wrong."""
    random = np.random.default_rng(0)
    names = ["ant", "bee", "cow"][:classes]
    true = random.integers(classes, size=n)
    given = true.copy()
    given[::10] = (given[::10] + 1) % classes
    table = pd.DataFrame(random.normal(size=(n, 3)) + 2 * np.eye(classes, 3)[true], columns=["a", "b", "c"])
    table["note"] = [f"said <b>something</b> number {i}" for i in range(n)]
    table["kind"] = [names[label] for label in given]
    return table


def session_of(fitted: FittedFile, journal: Journal | None = None) -> Session:
    """A session whose model stands still until it is told to catch up."""
    return Session(fitted, journal or Journal(":memory:", fitted.path.name, fitted.target, fitted.hash))


def settled(session: Session) -> None:
    """Wait until the model of a started session has followed the decisions."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if session.current or session.trouble:
            return
        time.sleep(0.02)
    pytest.fail("the model did not follow")


def client(session: Session, *, enter: bool = True, keys: Keys | None = None) -> TestClient:
    keys = keys or Keys()
    app = application(session, partial(corrected_file, session), PORT, keys)
    browser = TestClient(app, base_url=HOME, headers={"origin": HOME})
    if enter:
        assert browser.get(f"/?token={keys.token}").status_code == 200
    return browser


def decide(browser: TestClient, row: int, action: str, label: str | None = None) -> int:
    form = {"row": row, "action": action} | ({} if label is None else {"label": label})
    return browser.post("/decide", data=form).status_code
