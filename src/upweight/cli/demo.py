"""What `upweight demo` does: a wrong prediction of a digit classifier, explained and verified."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from rich.table import Table

from ..errors import InfluenceError
from ..influence.influence import Influence
from ..influence.score_tables import effects
from ..influence.scores import Scores
from ..linear.problem import LinearProblem
from ..losses import Softmax
from ..runtime.progress import phase, tell
from ..runtime.terminal import console, say
from ..validation.verify import Verification, verify
from .digits import CLASSES, Digits, Wrong, embedded_digits, most_confident_error, pixels

if TYPE_CHECKING:
    from ..report import Example, Page

L2 = 0.01
SHOWN = 8
"""Helpful and harmful digits in the table and the report, each."""


def explained(out: Path, seed: int, k: int) -> None:
    """The most confident wrong prediction is explained and verified, and both files written; what is found is said.

    Args:
        out: The folder of the files.
        seed: The seed of the random control group.
        k: How many digits of largest effect, and how many random ones, are retrained without.

    Raises:
        InfluenceError: Retraining does not confirm the explanation.
    """
    digits = embedded_digits()
    with phase("loading matplotlib"):
        from .. import plots
        from ..report import in_words, write

    labels = torch.from_numpy(digits.train_labels).long()
    with phase(f"training softmax regression on {len(labels):,} digits to a gradient norm of 1e-9"):
        problem = LinearProblem.fit(pixels(digits.train), labels, loss=Softmax(), outputs=CLASSES, l2=L2)
    wrong = most_confident_error(problem, digits)
    say(wrong.question)
    test = pixels(digits.test[[wrong.row]]), torch.tensor([wrong.label])
    influence = Influence(problem)
    tell("solving with the Hessian")
    scores = influence.of_each_removal(test)[0]
    console().print(_table(scores, digits))
    say(f"{scores.sign} {scores.prediction}")
    tell(f"verifying: training again without each of the {k} top and {k} random digits")
    verified = verify(influence, test, k=k, seed=seed)
    say(in_words(verified, "digits"))
    picture = out / "verification.png"
    plots.verification(verified).savefig(picture, dpi=160)
    settings = _settings(influence, problem, seed)
    report = write(out / "report.html", _page(digits, wrong, scores, verified, settings))
    say(f"Report: {report}\nFigure: {picture}")
    if reason := verified.shortcoming():
        raise InfluenceError(reason)


def _table(scores: Scores, digits: Digits) -> Table:
    table = Table(title="The training digits that moved this prediction most")
    table.add_column("", justify="left")
    for heading in ("train row", "label", "removal effect on the test loss (nats)"):
        table.add_column(heading, justify="right")
    for name, frame in (("helpful", scores.helpful(SHOWN)), ("harmful", scores.harmful(SHOWN))):
        for row, effect in effects(frame).items():
            table.add_row(name, str(row), str(digits.train_labels[row]), f"{effect:+.5f}")
        table.add_section()
    return table


def _settings(influence: Influence, problem: LinearProblem, seed: int) -> dict[str, str]:
    return {
        "model": f"softmax regression without intercept, {problem.p:,} parameters, l2 = {L2}",
        "training data": f"{problem.n:,} MNIST digits, pixels from 0 to 1",
        "influence": "; ".join(influence.settings.reasons),
        "retraining convention": f'keep="{problem.keep}": the mean loss of the others with the same l2',
        "random control": f"seed {seed}",
        "upweight": installed_version("upweight"),
    }


def _page(
    digits: Digits, wrong: Wrong, scores: Scores, verified: Verification, settings: dict[str, str]
) -> Page:
    from ..report import Example, Page

    def examples(frame: pd.DataFrame) -> list[Example]:
        return [
            Example(int(i), str(digits.train_labels[i]), float(e), digits.train[i])
            for i, e in effects(frame).items()
        ]

    assert scores.drift is not None
    worst = float(verified.table["gradient norm"].max())
    return Page(
        title=f"Why does the model call this {wrong.label} a {wrong.predicted}?",
        question=wrong.question,
        test=Example(wrong.row, str(wrong.label), image=digits.test[wrong.row]),
        helpful=examples(scores.helpful(SHOWN)),
        harmful=examples(scores.harmful(SHOWN)),
        verified=verified,
        labels=pd.Series(digits.train_labels),
        noun="digits",
        settings=settings,
        certificate=[
            f"Finishing the training would change the test loss by {float(scores.drift):+.1e}; "
            "effects smaller than that are not to be trusted.",
            f"The linear system behind the effects: {scores.verdict}.",
            f"Every retrained model has a gradient norm of at most {worst:.1e}, computed independently of the solver.",
        ],
        sign=f"{scores.sign} {scores.prediction}",
    )
