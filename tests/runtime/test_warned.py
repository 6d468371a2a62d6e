"""Warnings name the line that asked."""

import subprocess
import sys

ASKED = """
import torch
import upweight as uw

network = torch.nn.Linear(3, 2)  # not trained at all
X, y = torch.randn(20, 3), torch.randint(2, (20,))
influence = uw.Influence(uw.Problem(network, torch.nn.CrossEntropyLoss(), (X, y), l2=0.1))
for _ in range(2):
    influence.on_loss((X[:1], y[:1]))
uw.explain(influence, (X[:1], y[:1]), k=2)
"""


def test_a_warning_names_the_line_that_asked_and_comes_once_for_each(tmp_path) -> None:
    """In a program of its own: here type checks stand between the line and the library."""
    program = tmp_path / "asked.py"
    program.write_text(ASKED)
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    warned = [line for line in answer.stderr.splitlines() if "NotStationaryWarning" in line]
    places = [
        f"{program}:{1 + ASKED.splitlines().index(line)}:" for line in ASKED.splitlines() if "y[:1]" in line
    ]
    assert [line.split(" ")[0] for line in warned] == places
