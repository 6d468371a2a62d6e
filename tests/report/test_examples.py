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
    ("because", "first", "highlight"),
    [
        ("", "age", set()),
        ("categories__town = north 54%, said__good 12%", "town", {"town", "good"}),
        ("numbers__missingindicator_age 80%", "age", {"age"}),
        ("said__was 7%", "age", {"was"}),
    ],
)
def test_what_is_responsible_is_marked_and_comes_first(fitted, because, first, highlight):
    found = file_example(fitted, fitted.raw.loc[7], label="likes", because=because)
    assert found.highlight - {""} == highlight
    assert next(iter(found.cells)) == first
    assert set(found.cells) == {"age", "town"}
    assert found.texts == {"said": fitted.raw.loc[7, "said"]}
    assert found.cells["age"] == f"{fitted.raw.loc[7, 'age']:.6g}"
    assert (found.id, found.label, found.effect, found.image) == (7, "likes", None, None)


def test_training_rows_have_their_labels_effects_and_causes(fitted):
    table = pd.DataFrame(
        {"influence": [1.0, 2.0], "removal effect on the loss": [0.5, -0.5], "because of": ["age 9%", ""]},
        index=[3, 8],
    )
    found = list(training_examples(fitted, table))
    assert [example.id for example in found] == [3, 8]
    assert [example.effect for example in found] == [0.5, -0.5]
    assert [example.label for example in found] == [fitted.raw.loc[row, "opinion"] for row in (3, 8)]
    assert found[0].highlight == {"age"}
    assert all(isinstance(example, Example) for example in found)
