"""The page about a row of a file: rows as they are, escaped, with what is responsible marked."""

import re

from tests.support.files import people, run


def test_a_report_shows_rows_as_they_are_and_escapes_them(tmp_path):
    table = people()
    table.loc[:, "said"] = [f"<script>alert({i})</script> {words}" for i, words in enumerate(table["said"])]
    table["town"] = table["town"].map(lambda town: f"<i>{town}</i>", na_action="ignore")
    path, out = tmp_path / "people.csv", tmp_path / "report.html"
    table.to_csv(path, index=False)
    result = run("report", path, "--target", "opinion", "--row", 7, "--k", 3, "--checked", 4, "--out", out)
    assert result.exit_code == 0, result.output
    html = out.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script>alert|<link|@import|url\(|<i>", html)
    assert html.count("<script>") == 1
    assert html.count("&lt;script&gt;") >= 7
    assert "<mark>" in html
    assert html.count("<li>") == 6
    assert re.search(r"The explanation (holds|does not hold)", html)
    for words in (
        "said (text)",
        "age: 1 missing values",
        "country: left out",
        "The model says",
        "logistic regression (C = 1) of opinion on",
    ):
        assert words in html


def test_a_report_says_what_marks_and_parts_are_and_hides_no_column_without_a_word(tmp_path):
    table = people(80)
    for j in range(15):
        table[f"extra {j}"] = table["age"].rank() * (j + 1) % 7.3
    path, out = tmp_path / "people.csv", tmp_path / "report.html"
    table.to_csv(path, index=False)
    asked = ("--target", "opinion", "--row", 3, "--k", 2, "--checked", 4, "--out", out, "--fail-over", 10)
    assert run("report", path, *asked).exit_code == 0
    html = out.read_text(encoding="utf-8")
    assert "<mark>Marked</mark> are the columns and words with the largest parts" in html
    assert "<summary>5 more columns</summary>" in html
    assert all(
        html.count(f">extra {j}</th>") >= 5 for j in range(15)
    )  # of the row asked about and of four others
    assert "<td>missing</td>" in html or "<mark>missing</mark>" in html  # the age of row 3
    assert ">nan<" not in html
    assert '<span class="soft">said:</span>' in html
    assert "a probability of" in html


def test_of_a_quantity_values_stand_under_the_name_of_their_column(houses_file, tmp_path):
    out = tmp_path / "report.html"
    asked = ("--target", "price", "--row", 5, "--k", 2, "--checked", 4, "--out", out)
    assert run("report", houses_file, *asked).exit_code == 0
    html = out.read_text(encoding="utf-8")
    assert "Effects are in the unit of price." in html
    assert html.count("<br>price ") == 4
    assert '<th scope="col">price</th>' in html
    assert "change of the prediction" in html
