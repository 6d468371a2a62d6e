"""Parts of an effect in words: the largest first, then the rest of them."""

import pandas as pd

from tests.support.classifiers import blobs, estimator
from upweight.uses.parts import in_words, part_names


def test_parts_are_named_the_largest_first_and_nothing_of_no_part() -> None:
    parts = pd.Series([0.1, -0.854, 0.0], index=["age", "dose", "noise"])
    assert in_words(parts) == "dose (-0.854), age (+0.1)"
    assert in_words(parts, 1) == "dose (-0.854), the rest (+0.1)"
    assert in_words(0 * parts) == ""


def test_two_columns_of_one_name_keep_their_own_parts() -> None:
    assert in_words(pd.Series([0.1, -0.2], index=["a", "a"])) == "a (-0.2), a (+0.1)"


def test_parts_are_called_as_the_columns_are() -> None:
    named, X, _ = estimator()
    assert part_names(named) == [*X.columns, "the intercept", "the penalty"]
    assert part_names(blobs(2))[2] == "column 2"
