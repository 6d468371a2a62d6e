"""Rows as people see them: the cells responsible come first, texts and numbers stay as they are."""

import pandas as pd
import pytest

from tests.support.files import people
from upweight.report import Example, file_example, training_examples
from upweight.tables import FittedFile


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "people.csv"
    people().to_csv(path, index=False)
    return FittedFile.of(path, "opinion")


@pytest.mark.parametrize(
    ("parts", "first", "highlight"),
    [
        ({}, "age", set()),
        (
            {"town = north": 0.54, "said: good": -0.12, "the intercept": 3.0, "age": 0.0},
            "town",
            {"town", "good"},
        ),
        ({"age missing": 0.8}, "age", {"age"}),
        ({"said: was": 0.07}, "age", {"was"}),
        ({"numbers__missingindicator_age": 0.8}, "age", {"age"}),
        ({"said__was": 0.07}, "age", {"was"}),
    ],
)
def test_what_is_responsible_is_marked_and_comes_first(fitted, parts, first, highlight):
    found = file_example(fitted, fitted.raw.loc[7], label="likes", parts=pd.Series(parts, dtype=float))
    assert found.highlight == highlight
    assert next(iter(found.cells)) == first
    assert set(found.cells) == {"age", "town"}
    assert found.texts == {"said": fitted.raw.loc[7, "said"]}
    assert found.cells["age"] == f"{fitted.raw.loc[7, 'age']:.6g}"
    assert (found.id, found.label, found.effect, found.image) == (7, "likes", None, None)
    assert file_example(fitted, fitted.raw.loc[7], label="likes").highlight == frozenset()


def test_missing_cells_are_called_so_and_cells_that_are_left_out_are_counted(fitted, monkeypatch):
    assert file_example(fitted, fitted.raw.loc[3], label="likes").cells["age"] == "missing"
    assert file_example(fitted, fitted.raw.loc[4], label="likes").cells["town"] == "missing"
    monkeypatch.setattr("upweight.report.examples.CELLS", 1)
    found = file_example(fitted, fitted.raw.loc[4], label="likes")
    assert (len(found.cells), found.hidden) == (1, 1)


def test_training_rows_have_their_labels_effects_and_causes(fitted):
    table = pd.DataFrame({"influence": [1.0, 2.0], "removal effect on the loss": [0.5, -0.5]}, index=[3, 8])
    parts = pd.DataFrame({"age": [0.4, 0.0], "the intercept": [0.1, -0.5]}, index=table.index)
    found = list(training_examples(fitted, table, parts))
    assert [example.id for example in found] == [3, 8]
    assert [example.effect for example in found] == [0.5, -0.5]
    assert [example.label for example in found] == [fitted.raw.loc[row, "opinion"] for row in (3, 8)]
    assert [example.because for example in found] == ["age (+0.4), the rest (+0.1)", "the rest (-0.5)"]
    assert [example.highlight for example in found] == [{"age"}, set()]
    assert [example.because for example in training_examples(fitted, table)] == ["", ""]
    assert all(isinstance(example, Example) for example in found)
