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
