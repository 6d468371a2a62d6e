"""The command line. What is slow to load beside torch (matplotlib, scikit-learn, a server) waits until it is needed."""

from . import attack, demo, labels, prediction, row_groups, trust
from .app import app

__all__ = ["app"]

# In the order in which the help shows them.
for command in (
    prediction.explain,
    labels.mislabeled,
    row_groups.mismatch,
    row_groups.remove,
    prediction.verify,
    trust.trust,
    prediction.report,
    attack.attack,
    labels.review,
    demo.demo,
):
    app.command()(command)
