"""The pages of a review: what they show, what they take for a decision, and what they show as text."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.support.reviews import client, decide, labelled, session_of, settled
from upweight.review.pages import row_shown
from upweight.tables import FileError, FittedFile


def test_a_review_by_the_page(fitted):
    session = session_of(fitted)
    session.start()
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


def test_the_list_has_every_row_once_the_most_doubtful_first(fitted):
    session = session_of(fitted)
    browser = client(session)
    first, last = (browser.get(f"/list?page={page}").text for page in (1, 2))
    shown = [int(row) for page in (first, last) for row in re.findall(r'<a href="/\?row=(\d+)">', page)]
    assert shown == session.fit.ranking["row"].tolist()
    assert sorted(shown) == list(range(90))
    assert len(re.findall(r"<tr", first)) == 51
    for page, wanted in (("0", first), ("x", first), ("", first), ("3", last), ("99999", last)):
        assert browser.get(f"/list?page={page}").text == wanted
    state = browser.get("/state").json()
    assert state["contradicted"] == len(re.findall(r'class="doubted"', first + last)) > 0
    assert (state["decided"], state["held"], state["current"]) == (0, 18, True)
    assert state["accuracy"] == state["first"]
    decide(browser, shown[0], "keep")
    state = browser.get("/state").json()
    assert (state["decided"], state["current"]) == (1, False)


@pytest.mark.parametrize("place", [0, 89])
def test_the_page_of_a_row_says_what_the_model_says_of_it(fitted, place):
    session = session_of(fitted)
    shown, line = row_shown(session, place), session.fit.ranking.loc[place]
    assert (shown["example"].id, shown["decision"]) == (place, None)
    assert (shown["proposed"], shown["loss"]) == (line["proposed label"], line["loss without the row"])
    names = [other.id for _, others in shown["groups"] for other in others]
    assert shown["places"] == {name: name for name in names}
    page = client(session).get(f"/?row={place}").text
    assert f"Is row {place} " in page
    assert all(f'href="/?row={name}"' in page for name in names)
    assert f"Is row {next(session.waiting())} " in client(session).get("/?row=90").text


def test_scripts_in_cells_and_labels_are_shown_as_text(tmp_path):
    table = labelled()
    hostile = "<script>alert(1)</script>"
    table["note"] = f'"><img src=x onerror=alert(1)> {hostile} and some more words'
    table.loc[::2, "note"] = "an ordinary remark of some words"
    table["kind"] = table["kind"].replace("bee", hostile)
    table["name"] = [f'{i}"><script>{i}</script>' for i in range(90)]
    table.to_csv(tmp_path / "hostile.csv", index=False)
    session = session_of(FittedFile.of(tmp_path / "hostile.csv", "kind", id="name"))
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
    table = labelled(20).drop(columns="note")
    table["photo"] = [f"photos/{i}.png" for i in range(20)]
    for name in table["photo"]:
        Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp_path / name)
    table.to_csv(tmp_path / "photos.csv", index=False)
    page = client(session_of(FittedFile.of(tmp_path / "photos.csv", "kind"))).get("/").text
    assert len(re.findall(r'<img class="picture" src="data:image/jpeg;base64', page)) >= 4
    table.loc[3, "photo"] = "../../etc/passwd.png"
    table.to_csv(tmp_path / "photos.csv", index=False)
    with pytest.raises(FileError, match="outside the folder"):
        FittedFile.of(tmp_path / "photos.csv", "kind")
