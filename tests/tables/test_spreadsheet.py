"""Text that a spreadsheet would run is made harmless wherever it stands; everything else stays."""

import pandas as pd
import pytest

from upweight.tables.spreadsheet import inert


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@sum", "\tx", "\rx"])
def test_formulas_get_an_apostrophe_in_cells_names_and_headings(text):
    frame = pd.DataFrame({text: [text, "plain"], "number": [-1.5, 2.0]}, index=[text, "row"])
    found = inert(frame)
    assert found.columns.tolist() == [f"'{text}", "number"]
    assert found.index.tolist() == [f"'{text}", "row"]
    assert found.iloc[:, 0].tolist() == [f"'{text}", "plain"]
    assert frame.columns[0] == text  # a copy


@pytest.mark.parametrize("text", ["-1+2", "+A1", "--1", "-7 - 8", "-sum(1)", "-7\n=1"])
def test_what_only_begins_as_a_number_is_a_formula(text):
    for kind in ("str", object, "category"):
        assert inert(pd.DataFrame({"said": pd.Series([text], dtype=kind)}))["said"].tolist() == [f"'{text}"]


def test_numbers_are_no_formulas_also_as_text():
    words = ["-3.5", "+1e4", "", None, "-3,5", "-1.234,50", "+12 %", "-", "- 7", "-1\u202f000"]
    frame = pd.DataFrame({"text": words, "number": range(-1, 9)})
    pd.testing.assert_frame_equal(inert(frame), frame)


def test_whole_numbers_beside_missing_cells_stay_whole():
    frame = pd.DataFrame(
        {"proposed": pd.Series([1, None, 2], dtype=object), "kind": pd.Categorical(["a", "b", "a"])}
    )
    assert inert(frame).to_csv(index=False) == "proposed,kind\n1,a\n,b\n2,a\n"
    pd.testing.assert_frame_equal(inert(frame), frame)
