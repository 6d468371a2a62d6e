"""All that a spreadsheet would run is made inert, wherever it stands."""

import pandas as pd
import pytest

from upweight.tables.spreadsheet import inert


@pytest.mark.parametrize(
    "first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
)
@pytest.mark.parametrize("place", ["cell", "index", "column", "heading"])
def test_every_beginning_of_a_formula_is_inert_everywhere(first: str, place: str):
    words = f"{first}cmd()"
    frame = pd.DataFrame({words if place == "column" else "said": [words if place == "cell" else "fine"]})
    frame.index = pd.Index([words if place == "index" else "a"], name=words if place == "heading" else "name")
    found = inert(frame)
    told = {"cell": found.iloc[0, 0], "index": found.index[0], "column": found.columns[0]}
    told["heading"] = found.index.name
    assert found.to_csv().count(f"'{first}") == 1
    assert told[place] == f"'{words}"
    fine = {"cell": "fine", "index": "a", "column": "said", "heading": "name"}
    assert all(told[other] == fine[other] for other in told if other != place)
