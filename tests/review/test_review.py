"""The label-review page: decisions survive, nobody else comes in, what is exported is what was decided."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from upweight import LinearProblem
from upweight.review.export import corrected
from upweight.review.journal import Decision, Journal
from upweight.review.server import Keys, application
from upweight.review.session import Session
from upweight.tables.columns import FileError
from upweight.tables.fitted_file import Asked

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


def asked(file: Path, **options: object) -> Asked:
    given: dict[str, object] = {
        "model": None, "trust": [], "problem": None, "text": [], "image": [], "drop": [], "id": None,
        "encoding": "utf-8",
    }  # fmt: skip
    return Asked.of(file, "kind", **{**given, **options})  # type: ignore[arg-type]


def reviewed(file: Path, journal: Journal | None = None, **options: object) -> Session:
    journal = journal or Journal(":memory:", file.name, "kind", "hash")
    session = Session(asked(file, **options), journal)
    session.start()
    return session


def settled(session: Session) -> None:
    """Wait until the model has followed the decisions."""
    for _ in range(400):
        if session.fit.decisions == len(session.journal.decisions()) or session.trouble:
            return
        time.sleep(0.02)
    pytest.fail("the model did not follow")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kinds.csv"
    labelled().to_csv(path, index=False)
    return path


def client(session: Session, *, enter: bool = True, keys: Keys | None = None) -> TestClient:
    keys = keys or Keys()
    app = application(session, partial(corrected, session), PORT, keys)
    browser = TestClient(app, base_url=HOME, headers={"origin": HOME})
    if enter:
        assert browser.get(f"/?token={keys.token}").status_code == 200
    return browser


def decide(browser: TestClient, row: int, action: str, label: str | None = None) -> int:
    form = {"row": row, "action": action} | ({} if label is None else {"label": label})
    return browser.post("/decide", data=form).status_code


# -- the journal -----------------------------------------------------------------------------------------------------


def test_the_newest_decision_counts_and_undo_brings_back_the_one_before(tmp_path):
    path = tmp_path / "decisions"
    journal = Journal(path, "f", "y", "h")
    for decision in (Decision(3, "keep"), Decision(4, "drop"), Decision(3, "relabel", "x")):
        journal.add(decision)
    assert Journal(path, "f", "y", "h").decisions() == {
        3: Decision(3, "relabel", "x"),
        4: Decision(4, "drop"),
    }
    assert journal.undo() == Decision(3, "relabel", "x")
    assert journal.decisions()[3] == Decision(3, "keep")
    assert [journal.undo(), journal.undo(), journal.undo()] == [
        Decision(4, "drop"),
        Decision(3, "keep"),
        None,
    ]
    with pytest.raises(ValueError, match="keep, relabel, drop, skip"):
        Decision(1, "burn")
    for action, label in (("relabel", None), ("keep", "x")):
        with pytest.raises(ValueError, match="a label goes with relabel"):
            Decision(1, action, label)


def test_a_journal_of_something_else_is_refused(tmp_path):
    path = tmp_path / "decisions"
    Journal(path, "train.csv", "y", "hash")
    with pytest.raises(FileError, match="about the target 'y', not 'z'"):
        Journal(path, "train.csv", "z", "hash")
    with pytest.raises(FileError, match=r"another state of train.csv"):
        Journal(path, "train.csv", "y", "other")
    (tmp_path / "photo").write_bytes(b"no database, but long enough to be looked at" * 50)
    with pytest.raises(FileError, match="cannot be used as a journal"):
        Journal(tmp_path / "photo", "train.csv", "y", "hash")


# -- the session -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_the_model_follows_as_a_fit_from_scratch(tmp_path, classes):
    file = tmp_path / "kinds.csv"
    labelled(classes=classes).to_csv(file, index=False)
    session = reviewed(file)
    held = set(session.held.tolist())
    train = [row for row in range(90) if row not in held]
    changed, dropped, test = train[3], train[7], session.held[:2].tolist()
    other = next(label for label in session.labels if label != session.own_labels[changed])
    for decision in (
        Decision(changed, "relabel", other),
        Decision(dropped, "drop"),
        Decision(test[0], "relabel", "bee"),
        Decision(test[1], "drop"),
        Decision(train[1], "keep"),
    ):
        session.decide(decision)
    settled(session)

    whole = session.problem
    y, rows = whole.y.clone(), [row for row in train if row != dropped]
    y[changed] = session._codes([other])[0]
    scale = len(y) / len(rows)  # scikit-learn's C: the penalty's share grows as rows go
    twin = LinearProblem.fit(
        whole.design.take(torch.tensor(rows)), y[rows], loss=whole.loss, outputs=whole.c, intercept=True,
        l2=float(whole.l2[0]) * scale,
    )  # fmt: skip
    found = session.fit.influence.problem.theta
    # Softmax and its intercepts: a common shift changes nothing.
    X = whole.design.take(session.held)
    ours, theirs = (whole.outputs(X, theta).softmax(1) for theta in (found, twin.theta))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

    labels = dict(enumerate(session.own_labels)) | {test[0]: "bee"}
    left = [row for row in session.held.tolist() if row != test[1]]
    batch = whole.design.take(torch.tensor(left))
    outputs = twin.outputs(batch)
    said = (outputs[:, 0] > 0).long() if whole.c == 1 else outputs.argmax(1)
    right = [session.labels[code] == labels[row] for code, row in zip(said.tolist(), left, strict=True)]
    assert session.fit.accuracy == pytest.approx(np.mean(right))
    assert set(session.fit.ranking["row"]) == set(range(90)) - {dropped, test[1]}


def test_flipped_labels_come_first_and_accuracy_rises_as_they_are_mended(file):
    session = reviewed(file)
    wrong = set(range(0, 90, 10))
    assert len(wrong & set(session.fit.ranking["row"][:12])) >= 8
    for row in wrong:
        session.decide(Decision(row, "relabel", "bee" if session.own_labels[row] == "ant" else "ant"))
    settled(session)
    assert session.fit.accuracy > session.first.accuracy
    assert not wrong & set(session.waiting())


def test_skipped_rows_come_again_at_the_end(file):
    session = reviewed(file)
    first = next(session.waiting())
    session.decide(Decision(first, "skip"))
    settled(session)
    assert list(session.waiting())[-1] == first
    assert len(list(session.waiting())) == 90


def test_what_cannot_be_fitted_is_said_and_the_last_model_stays(file):
    session = reviewed(file)
    for row in np.flatnonzero(session.own_labels == "ant"):
        session.journal.add(Decision(int(row), "drop"))
    session.decide(Decision(0, "drop"))
    settled(session)
    page = client(session).get("/")
    assert page.status_code == 200
    assert "cannot be fitted: one class is left" in page.text


def test_quantities_and_unknown_decisions_are_refused(file, tmp_path):
    session = reviewed(file)
    for wrong in (Decision(90, "keep"), Decision(-1, "keep"), Decision(0, "relabel", "dog")):
        with pytest.raises(ValueError, match=r"no row|no label"):
            session.decide(wrong)
    assert not session.journal.decisions()
    table = labelled().assign(kind=np.linspace(0, 1, 90))
    table.to_csv(tmp_path / "numbers.csv", index=False)
    with pytest.raises(FileError, match="linear classifier"):
        reviewed(tmp_path / "numbers.csv")


# -- the page --------------------------------------------------------------------------------------------------------


def test_a_review_by_the_page(file):
    session = reviewed(file)
    browser = client(session)
    page = browser.get("/")
    row = next(session.waiting())
    assert f"Is row {row} " in page.text
    assert "Rows that speak for its label" in page.text
    assert "said &lt;<mark>" in page.text or "&lt;b&gt;" in page.text
    assert "<b>something</b>" not in page.text
    assert decide(browser, row, "relabel", "bee" if session.own_labels[row] == "ant" else "ant") == 200
    assert f"Is row {row} " not in browser.get("/").text
    assert decide(browser, 5, "drop") == 200
    assert "Decided: drop" in browser.get("/?row=5").text
    back = browser.post("/undo", follow_redirects=False)
    assert back.headers["location"] == "/?row=5"
    settled(session)
    state = browser.get("/state").json()
    assert state["counts"] == {"keep": 0, "relabel": 1, "drop": 0, "skip": 0}
    assert state["current"]
    assert len(re.findall(r"<tr", browser.get("/list?page=2").text)) == 41
    for nonsense in ("/?row=abc", "/?row=999999", "/list?page=0", "/list?page=x", "/list?page=99999"):
        assert browser.get(nonsense).status_code == 200
    for body in ("", "row=1", "row=x&action=keep", "row=1&action=burn", "row=1&action=relabel&label=dog"):
        assert browser.post("/decide", content=body).status_code == 400


def test_nobody_else_comes_in(file):
    session = reviewed(file)
    stranger = client(session, enter=False)
    for path in ("/", "/list", "/state", "/export", "/static/keys.js", "/?token=", "/?token=guess"):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/decide", data={"row": 0, "action": "drop"}).status_code == 403
    assert stranger.get("/", headers={"cookie": f"upweight-{PORT}=guess"}).status_code == 403

    keys = Keys()
    token = keys.token
    browser = client(session, keys=keys)
    assert browser.get("/", headers={"host": f"evil.example:{PORT}"}).status_code == 403
    for origin in ("http://evil.example", f"http://127.0.0.1:{PORT + 1}", "null"):
        answer = browser.post("/decide", data={"row": 0, "action": "drop"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert browser.post("/undo", headers={"origin": origin}).status_code == 403
    assert not session.journal.decisions()

    # The token in the address has been used.
    again = TestClient(browser.app, base_url=HOME)
    assert again.get(f"/?token={token}").status_code == 403
    assert browser.get("/static/../session.py").status_code in (403, 404)
    assert browser.get("/static/%2e%2e/session.py").status_code == 404
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_scripts_in_cells_and_labels_are_shown_as_text(tmp_path):
    table = labelled()
    hostile = "<script>alert(1)</script>"
    table["note"] = f'"><img src=x onerror=alert(1)> {hostile} and some more words'
    table.loc[::2, "note"] = "an ordinary remark of some words"
    table["kind"] = table["kind"].replace("bee", hostile)
    table["name"] = [f'{i}"><script>{i}</script>' for i in range(90)]
    table.to_csv(tmp_path / "hostile.csv", index=False)
    session = reviewed(tmp_path / "hostile.csv", id="name")
    browser = client(session)
    for path in ("/", "/list", "/?row=1"):
        page = browser.get(path).text
        assert "<script>alert" not in page
        assert "<script>1" not in page
        assert "<img src=x" not in page
        assert re.findall(r"<script[^>]*>", page) == ['<script src="/static/keys.js" defer>']
    assert decide(browser, 1, "relabel", hostile) == 200


def test_photographs_are_shown_and_stay_inside_their_folder(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    table = labelled(40).drop(columns="note")
    table["photo"] = [f"photos/{i}.png" for i in range(40)]
    for name in table["photo"]:
        Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp_path / name)
    table.to_csv(tmp_path / "photos.csv", index=False)
    page = client(reviewed(tmp_path / "photos.csv")).get("/").text
    assert len(re.findall(r'<img class="picture" src="data:image/jpeg;base64', page)) >= 4
    table.loc[3, "photo"] = "../../etc/passwd.png"
    table.to_csv(tmp_path / "photos.csv", index=False)
    with pytest.raises(FileError, match="outside the folder"):
        asked(tmp_path / "photos.csv")


# -- the corrected file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".feather"])
def test_an_export_has_the_decisions_and_every_other_cell_as_it_was(tmp_path, suffix):
    table = labelled()
    table["kind"] = table["kind"].map({"ant": 0, "bee": 1})
    table["code"] = [f"{i:03d}" for i in range(90)]  # leading zeros, and a number with a point for a label
    file = tmp_path / f"kinds{suffix}"
    writers = {
        ".csv": partial(table.to_csv, index=False), ".tsv": partial(table.to_csv, sep="\t", index=False),
        ".parquet": table.to_parquet, ".feather": table.to_feather,
    }  # fmt: skip
    writers[suffix](file)
    session = Session(asked(file), Journal(":memory:", "f", "kind", "h"))
    session.decide(Decision(4, "relabel", "1" if table["kind"][4] == 0 else "0"))
    session.decide(Decision(8, "drop"))
    session.decide(Decision(9, "keep"))
    name, content = corrected(session)
    assert name == f"kinds.corrected{suffix}"
    readers = {
        ".csv": partial(pd.read_csv, dtype=str), ".tsv": partial(pd.read_csv, dtype=str, sep="\t"),
        ".parquet": pd.read_parquet, ".feather": pd.read_feather,
    }  # fmt: skip
    found = readers[suffix](io.BytesIO(content))
    expected = readers[suffix](file)
    one = type(expected["kind"][4])
    expected.loc[4, "kind"] = one(1 - int(expected["kind"][4]))
    pd.testing.assert_frame_equal(found, expected.drop(index=8).reset_index(drop=True))


def test_formulas_are_exported_as_text_unless_asked(tmp_path):
    table = labelled()
    table["note"] = "words that are said here"
    table.loc[2, "note"] = '=HYPERLINK("http://evil.example","click") and more words'
    table["a"] = table["a"] - 5  # negative numbers are no formulas
    table.to_csv(tmp_path / "kinds.csv", index=False)
    session = Session(asked(tmp_path / "kinds.csv"), Journal(":memory:", "f", "kind", "h"))
    written, exact = (
        pd.read_csv(io.BytesIO(corrected(session, exact=exact)[1]), dtype=str) for exact in (False, True)
    )
    assert written.loc[2, "note"].startswith("'=HYPERLINK")
    assert exact.loc[2, "note"].startswith("=HYPERLINK")
    assert written.drop(columns="note").equals(exact.drop(columns="note"))
    assert float(written["a"][0]) == table["a"][0]


# -- the server ------------------------------------------------------------------------------------------------------


def start(file: Path, *options: str) -> tuple[subprocess.Popen, str]:
    words = [
        sys.executable,
        "-m",
        "upweight",
        "review",
        str(file),
        "--target",
        "kind",
        "--no-browser",
        *options,
    ]
    server = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert server.stderr is not None
    for line in server.stderr:
        if "token=" in line:
            return server, line.strip()
    pytest.fail(f"the server ended with {server.wait()}")


def test_a_killed_server_has_lost_nothing(file):
    import httpx2

    given: dict[int, str] = {}
    for rows in (range(0, 6), range(6, 10)):
        server, address = start(file)
        home = address.partition("/?")[0]
        try:
            with httpx2.Client(
                base_url=home, headers={"origin": home}, follow_redirects=True, timeout=60
            ) as browser:
                assert browser.get(address).status_code == 200
                for row in rows:
                    action = ("drop", "keep")[row % 2]
                    assert browser.post("/decide", data={"row": row, "action": action}).status_code == 200
                    given[row] = action
                if rows.stop == 10:
                    exported = browser.get("/export").content
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
            server.stderr.close()  # type: ignore[union-attr]
    written = pd.read_csv(io.BytesIO(exported))
    gone = [row for row, action in given.items() if action == "drop"]
    pd.testing.assert_frame_equal(written, pd.read_csv(file).drop(index=gone).reset_index(drop=True))

    out = file.with_name("mended.csv")
    words = ["review", str(file), "--target", "kind", "--export", str(out)]
    subprocess.run([sys.executable, "-m", "upweight", *words], check=True, capture_output=True)
    assert out.read_bytes() == exported
