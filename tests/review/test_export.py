"""What is exported is what was decided."""

import io
from functools import partial

import pandas as pd
import pytest

from tests.support.reviews import labelled, session_of
from upweight.review.export import corrected_file
from upweight.review.journal import Decision
from upweight.tables import FittedFile


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
    session = session_of(FittedFile.of(file, "kind"))
    session.decide(Decision(4, "relabel", "1" if table["kind"][4] == 0 else "0"))
    session.decide(Decision(8, "drop"))
    session.decide(Decision(9, "keep"))
    name, content = corrected_file(session)
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
    session = session_of(FittedFile.of(tmp_path / "kinds.csv", "kind"))
    written, exact = (
        pd.read_csv(io.BytesIO(corrected_file(session, exact=exact)[1]), dtype=str) for exact in (False, True)
    )
    assert written.loc[2, "note"].startswith("'=HYPERLINK")
    assert exact.loc[2, "note"].startswith("=HYPERLINK")
    assert written.drop(columns="note").equals(exact.drop(columns="note"))
    assert float(written["a"][0]) == table["a"][0]
