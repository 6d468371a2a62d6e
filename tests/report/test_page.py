"""The page says whether the explanation holds."""

import pandas as pd
import pytest

from upweight.report import in_words
from upweight.validation.verify import Verification, agreement


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        ([1.0, 2.0, 3.1], "The explanation holds:"),
        ([1.0, 2.6, 3.0], "The explanation holds roughly:"),
        ([3.0, 6.0, 9.0], "The ranking holds, the sizes do not:"),
        ([2.0, 1.0, 0.0], "The explanation does not hold:"),
    ],
)
def test_the_verdict_follows_the_numbers(actual, words):
    top = agreement([1.0, 2.0, 3.0], actual)
    text = in_words(Verification(pd.DataFrame(), top, None))
    assert text.startswith(words)
    assert "random" not in text
