"""Parts of an effect in words: the largest first, then the rest of them."""

import pandas as pd
import statsmodels.formula.api as smf

import upweight as uw
from tests.support.classifiers import blobs, estimator
from upweight.uses.parts import in_words, part_names


def test_a_column_of_ones_is_not_named_as_the_cause() -> None:
    table = pd.DataFrame({"x": [0.1, 1.0, 2.0, 3.5, 4.0, 5.2], "y": [1.0, 2.0, 2.5, 5.0, 4.0, 7.0]})
    fitted = smf.ols("y ~ x", table).fit()
    found = uw.explain(uw.Influence(uw.from_results(fitted)), (table[:1], table.y[:1]), k=2)
    words = found.helpful["because of"].iloc[0]
    assert words.startswith("x (")
    assert "the rest (" in words
    assert "Intercept" not in words


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
