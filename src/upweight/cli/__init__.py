"""The command line. What is slow to load (torch, SciPy, pandas, scikit-learn, matplotlib, a server) waits for its use.

So modules here import it inside functions, and above them for type checkers only: help, a wrong option and a mistyped
file name are answered at once.
"""

from . import attack, conclusions, demonstration, index, labels, prediction, row_groups, trust
from .app import app

__all__ = ["app"]

# In the order in which the help shows them.
for command in (
    prediction.explain,
    labels.mislabeled,
    row_groups.mismatch,
    row_groups.remove,
    prediction.flip_set,
    conclusions.robustness,
    prediction.verify,
    trust.trust,
    prediction.report,
    index.index,
    attack.attack,
    labels.review,
    demonstration.demo,
):
    app.command()(command)
