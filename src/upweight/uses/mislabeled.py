"""Which training labels are wrong (Sec. 5.4): the order in which to look at them, the label to propose, the gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..data.names import called
from ..influence.unrolled import Answers
from ..objective import LinearModel
from ..outputs import OutputModel
from ..retraining import Refits
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Batch, Tensor
from .labels import bars, classifier, contradicted, decided, label_names, mean_loss
from .out_of_fold import outputs_out_of_fold

UNSEEN = "their loss in a model that has not seen them"
"""What rows are ranked by where a model without each is known."""

OFTEN = 0.2
"""The share of rows decided otherwise from which on the count of contradicted labels needs a word of caution."""
OVERLAP = (
    " That is often: either the columns do not tell the classes apart, and most contradicted labels are right, or many "
    "labels are wrong. The count does not say which: look at the first rows before you rely on it."
)
"""What is said of the count where classes overlap, or labels are noise."""


@dataclass(frozen=True, eq=False)
class Suspects:
    """All training rows, the most suspicious first.

    `table` has a line per training row: for linear models its label, the label that the model proposes without having
    seen the row, whether the label is contradicted (the model is surer of another class than it is of that class's own
    rows in the mean: `labels.contradicted`), the loss without the row (by which they are ranked: the approximate
    leave-one-out loss), the loss with it, self-influence, leverage; `gain` is the predicted fall of the mean validation
    loss if the proposed label is taken, where validation data were given. Of quantities the first columns are the
    value, what the model says of it without having seen the row, and the error of that, all in the quantity's unit.
    Trees have the same of the estimator fitted again without a fifth of the rows, and their loss in that; where it
    cannot be fitted again (a model from a file) they are ranked by their loss. For networks it is self-influence.
    """

    table: pd.DataFrame
    ranked_by: str
    bars: Float[Tensor, " classes"] | None = None
    """How sure of a class the model must be to contradict a label (`labels.bars`); None where no label is proposed."""

    def review(self, share: float = 0.1) -> pd.DataFrame:
        """The first rows of the table, `share` of all: those to look at first, at least one.

        Raises ValueError for a share that is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must lie above 0 and up to 1, got {share}")
        return self.table.head(max(1, round(share * len(self.table))))

    def cleanlab(self) -> pd.DataFrame:
        """The suspects as cleanlab's `Datalab.get_issues("label")` lists them, in the order of `table`.

        `is_label_issue` is whether the label is contradicted, `label_score` the probability of the label in a model
        that has not seen the row (exp of minus the loss without it), then `given_label` and `predicted_label`.

        Raises ValueError where no label is proposed.
        """
        if "contradicted" not in self.table:
            raise ValueError(
                "cleanlab's columns are for labels that the model proposes: for linear classifiers"
            )
        columns = {
            "is_label_issue": self.table["contradicted"],
            "label_score": np.exp(-self.table["loss without the row"]),
            "given_label": self.table["label"],
            "predicted_label": self.table["proposed label"],
        }
        return pd.DataFrame(columns)

    @property
    def summary(self) -> str:
        """How many labels are contradicted, beside how often the model errs at all, in two sentences.

        A classifier errs on right labels too, where classes overlap or one is rare: the first number tells how many
        labels are doubtful, the second how much the model knows. Of quantities it says how large errors are. It is ""
        where nothing but self-influence is known.
        """
        if "error without the row" in self.table:
            off = self.table["error without the row"].dropna().abs()
            return (
                f"Without having seen a row, the model is off by {off.median():,.4g} in the median, and by "
                f"{off.max():,.4g} at most."
            )
        if self.bars is None:
            return ""
        if not self.bars.isfinite().any():
            return (
                "No label is contradicted, for the model knows nothing of them: of rows that it has not seen it is no "
                "surer of a class where they bear it than where they do not. Give it other columns, or more rows."
            )
        doubted, wrong = self.table["contradicted"], self.table["label"] != self.table["proposed label"]
        return (
            f"{int(doubted.sum()):,} of {len(doubted):,} labels ({doubted.mean():.1%}) are contradicted: a model that "
            "has not seen the row is surer of another class than it is, on average, for rows of that class. It "
            f"decides otherwise than the label in {int(wrong.sum()):,} rows ({wrong.mean():.1%}) in all; the rest are "
            f"ordinary errors of the model.{OVERLAP * bool(wrong.mean() > OFTEN)}"
        )

    def __repr__(self) -> str:
        head = f"{len(self.table)} training rows, the most suspicious first (by {self.ranked_by})"
        return plain("\n".join([head, self.table.head(10).to_string(), *filter(None, [self.summary])]))

    def _repr_html_(self) -> str:
        head = f"The most suspicious labels first, by {self.ranked_by}. {self.summary}"
        return as_html(head, self.table.head(25))


def mislabeled(influence: Answers | Refits, *, validation: Batch | None = None, seed: int = 0) -> Suspects:
    """The training rows, ranked by how little their own label is supported by all the others (Sec. 5.4).

    Linear models, whole likelihoods and moments of classes rank by the loss without the row (B5), trees by the loss out
    of fold (in five fits of the user's own estimator, of up to 5,000 rows in fifteen), networks by self-influence, and
    what `by_refitting` gives by the mean loss in models trained on random subsets without the row (out of bag); no test
    data are used.

    Args:
        influence: of the model.
        validation: a batch (inputs, targets): each row then has the predicted gain of the proposed label too, the fall
            of the mean loss on that batch (Eq. 3).
        seed: what the folds of trees are drawn from.

    Raises:
        ValueError: where a gain is asked of a model that is no linear classifier.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Logistic
    >>> X = torch.linspace(-3, 3, 12, dtype=torch.float64)[:, None]
    >>> y = (X[:, 0] > 0).long()
    >>> y[1] = 1
    >>> suspects = mislabeled(Influence(LinearProblem.fit(X, y, loss=Logistic(), l2=0.01)))
    >>> int(suspects.table.index[0]), float(suspects.table["proposed label"].iloc[0])
    (1, -1.0)
    """
    if (formulas := influence.formulas) is None:
        return _by_refits(cast(Refits, influence), validation)
    influence, problem, model = formulas, formulas.problem, classifier(formulas.problem)
    if validation is not None and model is None:
        raise ValueError("the gain of a relabelling is for linear classifiers: leave `validation` out")
    if problem.reduced is not None:
        return _of_reduced(influence)
    if problem.linear is None and problem.output_model is not None:
        return _of_trees(influence, problem.output_model, seed)
    if problem.linear is None:
        suspicion = -influence.own.values[0]
        columns: dict[str, Any] = {"self-influence": suspicion, "loss": problem.train_losses().double()}
        return Suspects(_sorted(influence, suspicion, columns), "self-influence")
    alone = influence.leave_one_out()
    # A row without which nothing is determined keeps its own decision.
    said = torch.where(alone.outputs.isnan(), problem.linear.outputs(), alone.outputs)
    columns, bar = _without(problem.linear, alone.outputs, said)
    columns |= {
        "loss without the row": alone.loss,
        "loss": problem.train_losses(),
        "self-influence": -influence.own.values[0],
        "leverage": alone.leverage,
    }
    if validation is not None and model is not None:
        columns["gain"] = _gain(influence, model, decided(said), model.prepared(validation))
    return Suspects(_sorted(influence, alone.loss, columns), UNSEEN, bar)


def _without(model: OutputModel, outputs: Tensor, said: Tensor) -> tuple[dict[str, Any], Tensor | None]:
    """The columns that say what a model that has not seen a row makes of it, and the bars of its classes.

    Args:
        model: whose training rows.
        outputs: of the model without each row (n, c); NaN where there is none.
        said: the same, with something that decides where there is none.
    """
    if model.loss.classifies:
        outputs, said = model.loss.by_class(outputs), model.loss.by_class(said)
        bar = bars(model, outputs, model.y)
        return {
            "label": label_names(model, model.y),
            "proposed label": label_names(model, decided(said)),
            "contradicted": contradicted(model, outputs, model.y, bar).numpy(),
        }, bar
    if model.c > 1:
        return {}, None
    mean = outputs.exp() if model.loss.logarithms else outputs
    value, without = label_names(model, model.y), mean[:, 0].numpy()
    return {"value": value, "said without the row": without, "error without the row": without - value}, None


def _of_trees(influence: Answers, model: OutputModel, seed: int) -> Suspects:
    """The rows by their loss out of fold, or by their loss where the estimator cannot be fitted again."""
    problem = influence.problem
    loss = problem.train_losses()
    outputs = outputs_out_of_fold(problem, model, seed)
    if outputs is None:
        kind = "label" if model.loss.classifies else "value"
        return Suspects(
            _sorted(influence, loss, {kind: label_names(model, model.y), "loss": loss}),
            "their loss, for the estimator is not there to be fitted again without them",
        )
    own = model.outputs(model.prepared(problem.train_batch(torch.arange(problem.n)))[0])
    columns, bar = _without(model, outputs, torch.where(outputs.isnan(), own, outputs))
    without = model.loss.value(outputs.nan_to_num(), model.y).where(~outputs.isnan().any(1), torch.nan)
    columns |= {"loss without the row": without, "loss": loss}
    ranked_by = "their loss out of fold: in fits of the estimator that each lack a fifth of the rows"
    return Suspects(_sorted(influence, without, columns), ranked_by, bar)


def _of_reduced(influence: Answers) -> Suspects:
    """The rows by their loss without them, where what is left without a row is known."""
    problem, alone = influence.problem, influence.leave_one_out()
    columns: dict[str, Any] = {}
    bar, model = None, problem.output_model
    if model is not None:
        own = model.outputs(model.prepared(problem.train_batch(torch.arange(problem.n)))[0])
        columns, bar = _without(model, alone.outputs, torch.where(alone.outputs.isnan(), own, alone.outputs))
        columns["loss"], columns["self-influence"] = problem.train_losses(), -influence.own.values[0]
    columns["loss without the row"] = alone.loss
    return Suspects(_sorted(influence, alone.loss, columns), UNSEEN, bar)


def _by_refits(refits: Refits, validation: Batch | None) -> Suspects:
    """The rows by their loss in models that were trained without them."""
    if validation is not None:
        raise ValueError(
            "the gain of a relabelling takes derivatives, which refits have not: leave `validation` out"
        )
    trained, alone = refits.problem, refits.out_of_bag()
    own = trained.labels(torch.arange(trained.n))
    columns: dict[str, Any] = {}
    if trained.classes is not None:
        proposed = np.asarray(trained.classes, dtype=object)[alone.decided(trained.likelihood).numpy()]
        columns = {"label": own, "proposed label": proposed}
    elif own.dtype != object:
        said = alone.said[:, 0].numpy()
        columns = {"value": own, "said without the row": said, "error without the row": said - own}
    columns |= {
        "loss without the row": alone.loss,
        "standard error": alone.error,
        "loss": trained.evaluate((trained.X, trained.y)),
    }
    return Suspects(_sorted(refits, alone.loss, columns), "their loss in models that have not seen them")


def _sorted(
    influence: Answers | Refits, suspicion: Float[Tensor, " n"], columns: dict[str, Any]
) -> pd.DataFrame:
    # Rows of which nothing is known come last, with their NaN to be seen.
    order = suspicion.nan_to_num(-torch.inf).sort(descending=True, stable=True).indices
    table = pd.DataFrame({name: values[order.numpy()] for name, values in columns.items()})
    return table.set_axis(called(order.numpy(), influence.problem.train_index).rename("train row"))


def _gain(influence: Answers, model: LinearModel, proposed: Tensor, validation: Any) -> Float[Tensor, " n"]:
    """The predicted fall of the mean validation loss if each row had its proposed label, alone (Eq. 3)."""
    solved = influence.solve(model.test_gradients(validation, mean_loss(model))).value
    edited = model.relabelled(torch.arange(model.n), proposed)
    return (edited.all_products(solved) - model.all_products(solved))[0] / model.n
