"""The page: its verdict, its pictures as text, and nothing in it that could run or be fetched."""

import base64
import hashlib
import io
import re
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from upweight.report import (
    Example,
    Page,
    data_uri,
    figure_uri,
    image_uri,
    in_words,
    marked,
    sha256,
    templates,
    write,
)
from upweight.validation.verify import Verification, agreement


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        ([1.0, 2.0, 3.1], "The explanation holds:"),
        ([1.0, 2.6, 3.0], "The explanation holds roughly:"),
        ([3.0, 6.0, 9.0], "The ranking holds, the sizes do not:"),
        ([2.0, 1.0, 0.0], "The explanation does not hold:"),
    ],
)
def test_the_verdict_follows_the_numbers(actual, words):
    top = agreement([1.0, 2.0, 3.0], actual)
    text = in_words(Verification(pd.DataFrame(), top, None))
    assert text.startswith(words)
    assert "random" not in text


def test_the_verdict_counts_random_rows_and_says_what_was_interrupted():
    top, random = agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.1]), agreement([1.0, 2.0], [1.0, 2.0])
    text = in_words(Verification(pd.DataFrame(), top, random, complete=False), "digits")
    assert "; of 2 random digits, with Pearson 1.0000" in text
    assert text.endswith("; interrupted, so only finished refits count.")
    assert "of the 3 largest effects, predictions and retraining agree with Pearson 0.99" in text


def decoded(uri: str, kind: str) -> bytes:
    head, _, data = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    return base64.b64decode(data)


def test_grey_pixels_are_kept_to_a_level():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with Image.open(io.BytesIO(decoded(image_uri(pixels), "png"))) as found:
        assert found.size == (16, 16)
        # matplotlib's grey scale truncates: a level may be one less.
        assert np.abs(np.asarray(found.convert("L")).astype(int) - pixels).max() <= 1


def test_coloured_pixels_become_a_photograph():
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:, :, 1] = 200
    with Image.open(io.BytesIO(decoded(image_uri(pixels), "jpeg"))) as found:
        assert (found.format, found.size) == ("JPEG", (24, 16))
        assert np.abs(np.asarray(found).astype(int) - pixels).max() < 10


def test_a_figure_is_made_of_lines_and_the_same_every_time():
    figure = Figure()
    figure.add_subplot().plot([1, 2], [2, 1])
    text = decoded(figure_uri(figure), "svg+xml").decode()
    assert "<svg" in text
    assert "<dc:date>" not in text


@given(st.text(max_size=50), st.frozensets(st.text(alphabet="abc<>&", max_size=3), max_size=3))
def test_marked_text_is_escaped_whatever_it_holds(text: str, words: frozenset[str]):
    found = str(marked(text, words))
    without = found.replace("<mark>", "").replace("</mark>", "")
    assert "<" not in without
    assert ">" not in without
    assert '"' not in without


def test_words_are_marked_in_any_case_and_whole():
    assert str(marked("Cat cats CAT", frozenset({"cat"}))) == "<mark>Cat</mark> cats <mark>CAT</mark>"
    assert str(marked("x" * 700, frozenset())).endswith("x …")
    assert len(str(marked("x" * 700, frozenset()))) == 602


def test_the_hash_is_that_of_a_content_policy():
    digest = base64.b64encode(hashlib.sha256(b"alert(1)").digest()).decode()
    assert sha256("alert(1)") == digest
    assert data_uri(b"a", "jpeg") == "data:image/jpeg;base64,YQ=="


def test_a_name_that_a_template_does_not_know_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        templates().from_string("{{ nobody }}").render()
    assert templates().from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page() -> Page:
    """A page whose every word comes from somebody hostile."""
    table = pd.DataFrame(
        {
            "train row": [3, 5, 8],
            "group": ["top", "top", "random"],
            "predicted": [0.1, -0.5, 0.01],
            "actual": [0.11, -0.52, 0.02],
        }
    )
    verified = Verification(table, agreement([0.1, -0.5], [0.11, -0.52]), None)
    example = Example(id=3, label=HOSTILE, effect=0.1, texts={"said": HOSTILE}, cells={HOSTILE: HOSTILE})
    labels = pd.Series({3: HOSTILE, 5: "b", 8: "c"})
    return Page(
        title=HOSTILE,
        question=HOSTILE,
        test=Example(id=9, label="x"),
        helpful=[example],
        harmful=[example],
        verified=verified,
        labels=labels,
        settings={HOSTILE: HOSTILE},
        certificate=[HOSTILE],
        sign=HOSTILE,
    )


def test_the_file_runs_nothing_of_what_it_shows_and_fetches_nothing(page: Page, tmp_path: Path):
    path = write(tmp_path / "report.html", page)
    assert path == tmp_path / "report.html"
    html = path.read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;") >= 9
    assert html.count("<script>") == 1
    assert not re.search(r"https?://(?!www\.w3\.org)|<link|@import|url\(", html)


def test_retrained_rows_stand_there_the_largest_predictions_first(page: Page, tmp_path: Path):
    html = write(tmp_path / "report.html", page).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.S)[-3:]
    found = [re.findall(r"<t[dh].*?</t[dh]>", row, flags=re.S) for row in rows]
    cells = [[re.sub(r"<[^>]+>", "", cell).strip() for cell in line] for line in found]
    assert [line[0] for line in cells] == ["5", "3", "8"]
    assert [line[1] for line in cells] == ["b", "&lt;script&gt;alert(1)&lt;/script&gt;", "c"]


def test_of_several_processes_the_first_one_writes(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("upweight.report.page.rank", lambda: 1)
    assert not write(tmp_path / "report.html", page).exists()
