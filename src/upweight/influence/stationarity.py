"""How far a model is from where training would end, held against the effects that are shown.

The drift is the predicted change of a measure if training were finished (`checks.drift`). An effect below it is smaller
than the model's own distance from its optimum.
"""

from __future__ import annotations

from jaxtyping import Float

from ..errors import NotStationaryWarning
from ..objective import Objective
from ..runtime.warned import warned
from ..types import Tensor

SHOWN = 10
"""Effects of each test row that a user looks at: the largest ones are held against the drift."""
MOST = 0.5
"""The share of them below the drift from which on a network's answer comes with a warning."""


def below_drift(effects: Float[Tensor, "m q"], drift: Float[Tensor, " m"]) -> float:
    """The share of the `SHOWN` largest effects of each test row that are smaller than its drift.

    >>> import torch
    >>> below_drift(torch.tensor([[1.0, -3.0], [0.1, 0.2]]), torch.tensor([-2.0, 0.0]))
    0.25
    """
    shown = effects.abs().nan_to_num(0).topk(min(SHOWN, effects.shape[1]), dim=1).values
    return float((shown < drift.abs()[:, None]).double().mean()) if shown.numel() else 0.0


def finishing(measure: str, drift: Float[Tensor, " m"], effects: Float[Tensor, "m q"], away: str = "") -> str:
    """One sentence on the drift of m test rows, beside all the effects that are shown.

    Args:
        measure: what is asked about.
        drift: the predicted change of each if training were finished.
        effects: of the rows or groups that are shown.
        away: how far a model is from the optimum (`Facts.away`): where it is far, no step from there predicts a drift.
    """
    if away:
        return far_away(away)
    small = (effects.abs() < drift.abs()[:, None]).double().mean()
    return (
        f"Finishing the training would change the {measure} by up to {float(drift.abs().max()):.1e}: "
        f"{float(small):.0%} of the effects are smaller and not to be trusted."
    )


def unfinished(measure: str, drift: Float[Tensor, " m"], effects: Float[Tensor, "m q"]) -> str:
    """One sentence where some of the largest effects lie below the drift, "" where none does.

    Args:
        measure: what is asked about.
        drift: the predicted change of each if training were finished.
        effects: of the rows or groups that are shown.
    """
    share = below_drift(effects, drift)
    if share == 0:
        return ""
    return (
        f"training is not finished: finishing it would move the {measure} by more than {share:.0%} of the "
        f"{min(SHOWN, effects.shape[1])} largest effects of single examples do"
    )


def far_away(away: str) -> str:
    """What is said, in place of a drift, of a model that is not at the optimum of its training data.

    Args:
        away: how far it is, in multiples of one example's share (`Facts.away`).

    >>> far_away("the gradient is 433 times what one example contributes").partition(":")[0]
    'Beware'
    """
    return (
        f"Beware: the model is not at the optimum of these training data: {away}. No effect of single examples is to "
        "be trusted. Are X, y and weights those that it was fitted on, scaled as they were?"
    )


def told(measure: str, drift: Float[Tensor, " m"], effects: Float[Tensor, "m q"], away: str = "") -> str:
    """What `finishing` says of the drift, behind a warning where some of the largest effects lie below it.

    Args:
        measure: what is asked about.
        drift: the predicted change of each if training were finished.
        effects: of the rows or groups that are shown.
        away: as `finishing` has it.
    """
    reason = "" if away else unfinished(measure, drift, effects)
    return (f"Beware: {reason}. " if reason else "") + finishing(measure, drift, effects, away)


def warn_away(
    problem: Objective, measure: str, drift: Float[Tensor, " m"] | None, effects: Float[Tensor, "m q"]
) -> None:
    """Warn where most of the effects that a user looks at are below the drift.

    Args:
        problem: what was asked about; of a linear model the gradient was looked at when it was made.
        measure: what is asked about.
        drift: the predicted change of each if training were finished; None: nothing is known.
        effects: the effects of single examples.

    Warns:
        NotStationaryWarning: with the share, and what to look at.
    """
    looked = drift is None or problem.facts.closed_form
    share = 0.0 if looked else below_drift(effects, drift)  # type: ignore[arg-type]
    if share > MOST:
        warned(
            f"the model is not at a minimum of this objective: finishing its training would move the {measure} by more "
            f"than {share:.0%} of the largest effects of single examples, so that these are uncertain. Is it the "
            "objective that was trained (loss, weights, l2; the decay of AdamW is no l2)? Then train on, or trust only "
            "effects larger than scores.drift",
            NotStationaryWarning,
        )
