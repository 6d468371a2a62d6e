"""Commands about a file: what cannot be used gets one sentence and exit code 2."""

import pytest

from tests.support.files import people, run
from upweight.tables.fitted_file import FittedFile


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--target", "opinoin"], "closest: opinion"),
        (None, ["--target", "opinion", "--text", "sad"], "closest: said"),
        ({"opinion": "likes"}, ["--target", "opinion"], "in every row"),
        ({"opinion": None}, ["--target", "opinion"], "is missing in 120 rows, first in row 0"),
        ({"name": "same"}, ["--target", "opinion", "--id", "name"], "is there 120 times"),
        ({"said": [[1]] * 120}, ["--target", "opinion", "--row", "500"], "they go from 0 to 119"),
        (None, ["--target", "opinion", "--row", "x"], "no row 'x'"),
        (None, ["--target", "opinion", "--encoding", "nonsense"], "nonsense"),
    ],
)
def test_bad_tables_get_one_sentence(tmp_path, change, arguments, message):
    path = tmp_path / "a.csv"
    table = people() if change is None else people().assign(**change)
    table.to_csv(path, index=False)
    command = "explain" if "--row" in arguments else "mislabeled"
    result = run(command, path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("out", "message"),
    [("answer.docx", "its suffix names no format"), ("nowhere/answer.csv", "there is no folder")],
)
def test_where_an_answer_goes_is_looked_at_before_the_work(tmp_path, monkeypatch, out, message):
    path = tmp_path / "a.csv"
    people().to_csv(path, index=False)
    monkeypatch.setattr(FittedFile, "of", lambda *read, **options: pytest.fail("the model was fitted"))
    result = run("explain", path, "--target", "opinion", "--row", "1", "--out", tmp_path / out)
    assert result.exit_code == 2, result.output
    assert message in result.output
