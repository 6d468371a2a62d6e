"""The page about survival runs, and its numbers are those of today; `make oracles` installs the libraries."""

import re
from pathlib import Path

import pytest

pytest.importorskip("lifelines", reason="`make oracles` installs lifelines and scikit-survival")
pytest.importorskip("sksurv", reason="`make oracles` installs lifelines and scikit-survival")
PAGE = Path(__file__).parents[2] / "docs" / "survival.md"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_page_runs_and_its_numbers_stand(capsys):
    session: dict = {}
    for number, block in enumerate(re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)):
        exec(compile(block, f"survival.md, block {number}", "exec"), session)
    told = capsys.readouterr().out
    assert session["rossi_again"].found == 19
    assert session["rossi_again"].first_order == 24
    assert "The coefficient of sho is positive" in told
    assert "without 12 of them" in told
