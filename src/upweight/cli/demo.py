"""`upweight demo`: a wrong prediction of a digit classifier, explained and verified."""

from __future__ import annotations

import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from ..runtime.progress import tell
from .app import answering, app, phase

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..influence.influence import Influence
    from ..influence.scores import Scores
    from ..linear.problem import LinearProblem
    from ..types import Tensor
    from ..validation.verify import Verification

L2 = 0.01
CLASSES = 10
SHOWN = 8
"""Helpful and harmful digits in the table and the report, each."""


@app.command()
@answering
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for report.html and verification.png.", file_okay=False)
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the random control group.", min=0)] = 0,
    k: Annotated[
        int,
        typer.Option("--k", help="Retrain without each of the k top and k random digits.", min=2, max=2000),
    ] = 30,
) -> None:
    """Explain a wrong prediction of a digit classifier, and verify the explanation by retraining.

    Trains softmax regression on 5,500 embedded MNIST digits, takes the wrong test prediction that the model is most
    confident of, and shows which training digits are responsible.
    """
    began = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the folder {out}: {error.strerror}", param_hint="--out"
        ) from None
    _demo(out, seed, k)
    Console().print(f"Total time: {time.perf_counter() - began:.1f} s", highlight=False)


class Digits(NamedTuple):
    """The embedded digits: uint8 images (n, 28, 28) and their labels (n,)."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Wrong(NamedTuple):
    """A wrong prediction: test row, true label, predicted label and the model's probability of the latter."""

    row: int
    label: int
    predicted: int
    probability: float

    @property
    def question(self) -> str:
        """What the demo answers."""
        return (
            f"Test digit {self.row} is a {self.label}, but the model calls it a {self.predicted} with probability "
            f"{self.probability:.1%}. It is the most confident of the model's wrong test predictions. "
            "Which training digits are responsible?"
        )


def embedded_digits() -> Digits:
    """The digits inside the package.

    >>> embedded_digits().train.shape
    (5500, 28, 28)
    """
    from importlib.resources import files

    import numpy as np

    with (files("upweight") / "data" / "mnist_small.npz").open("rb") as file, np.load(file) as data:
        return Digits(data["x_train"], data["y_train"], data["x_test"], data["y_test"])


def most_confident_error(problem: LinearProblem, digits: Digits) -> Wrong:
    """The test digit whose wrong prediction has the highest probability."""
    weight = problem.theta.view(CLASSES, -1)
    probability = (_pixels(digits.test).double() @ weight.T).softmax(1).numpy()
    predicted = probability.argmax(1)
    confidence = probability.max(1) * (predicted != digits.test_labels)
    row = int(confidence.argmax())
    return Wrong(row, int(digits.test_labels[row]), int(predicted[row]), float(confidence[row]))


def _demo(out: Path, seed: int, k: int) -> None:
    console = Console(highlight=False)
    with phase("loading torch"):
        import torch

        from .. import plots
        from ..influence.influence import Influence
        from ..linear.problem import LinearProblem
        from ..losses import Softmax
        from ..report import in_words
        from ..validation.verify import verify

    digits = embedded_digits()
    with phase("training softmax regression on 5,500 digits to a gradient norm of 1e-9"):
        problem = LinearProblem.fit(
            _pixels(digits.train),
            torch.from_numpy(digits.train_labels).long(),
            loss=Softmax(),
            outputs=CLASSES,
            l2=L2,
        )
    wrong = most_confident_error(problem, digits)
    console.print(wrong.question)
    test = _pixels(digits.test[[wrong.row]]), torch.tensor([wrong.label])
    influence = Influence(problem)
    tell("solving with the Hessian")
    scores = influence.on_loss(test)[0]
    console.print(_table(scores, digits))
    console.print(scores.sign)
    tell(f"verifying: training again without each of the {k} top and {k} random digits")
    v = verify(influence, test, k=k, seed=seed)
    console.print(in_words(v, "digits"))
    picture = out / "verification.png"
    figure = plots.verification(v)
    figure.savefig(picture, dpi=160)
    report = _report(out / "report.html", digits, wrong, influence, scores, v, seed)
    console.print(f"Report: {report}\nFigure: {picture}", soft_wrap=True)


def _pixels(images: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(images.reshape(len(images), -1)).float() / 255


def _table(scores: Scores, digits: Digits) -> Table:
    table = Table(title="The training digits that moved this prediction most")
    for heading, justify in (("", "left"), ("train row", "right"), ("label", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("removal effect on the test loss (nats)", justify="right")
    for name, frame in (("helpful", scores.helpful(SHOWN)), ("harmful", scores.harmful(SHOWN))):
        for row, effect in zip(frame.index, frame.iloc[:, -1], strict=True):
            table.add_row(name, str(row), str(digits.train_labels[row]), f"{effect:+.5f}")
        table.add_section()
    return table


def _report(
    path: Path,
    digits: Digits,
    wrong: Wrong,
    influence: Influence,
    scores: Scores,
    v: Verification,
    seed: int,
) -> Path:
    from ..report import Example, write

    def examples(frame: pd.DataFrame) -> list[Example]:
        rows = zip(frame.index, frame.iloc[:, -1], strict=True)
        return [Example(int(i), str(digits.train_labels[i]), float(e), digits.train[i]) for i, e in rows]

    assert scores.drift is not None
    worst = float(v.table["gradient norm"].max())
    return write(
        path,
        title=f"Why does the model call this {wrong.label} a {wrong.predicted}?",
        question=wrong.question,
        test=Example(wrong.row, str(wrong.label), image=digits.test[wrong.row]),
        helpful=examples(scores.helpful(SHOWN)),
        harmful=examples(scores.harmful(SHOWN)),
        verified=v,
        label=lambda row: str(digits.train_labels[row]),
        noun="digits",
        settings={
            "model": f"softmax regression without intercept, {influence.problem.p:,} parameters, l2 = {L2}",
            "training data": f"{influence.problem.n:,} MNIST digits, pixels from 0 to 1",
            "influence": "; ".join(influence.settings.reasons),
            "retraining convention": f'keep="{influence.problem.keep}": the mean loss of the others with the same l2',
            "random control": f"seed {seed}",
            "upweight": installed_version("upweight"),
        },
        certificate=[
            scores.verdict,
            f"Finishing the training would change the test loss by {float(scores.drift):+.1e}; "
            "effects smaller than that are not to be trusted.",
            f"Every retrained model has a gradient norm of at most {worst:.1e}, computed independently of the solver.",
        ],
        sign=scores.sign,
    )
