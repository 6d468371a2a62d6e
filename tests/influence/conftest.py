"""Fixtures of the tests of influence."""

import pytest

from upweight.influence import score_store


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 training rows where there are 3 scores of each, and solves two by two."""
    monkeypatch.setattr(score_store, "BLOCK_BYTES", 3 * 8 * 10)
    monkeypatch.setattr(score_store, "SOLVED_AT_ONCE", 2)
