"""What can go wrong, each with a remedy in its message.

Bad input raises `ValueError` or `TypeError`. What only shows in the numbers derives from `InfluenceError`.
"""

from __future__ import annotations


class InfluenceError(Exception):
    """An answer could not be given, or not with the asked accuracy.

    All failures of ours derive from it, so that `except InfluenceError` catches what only shows in the numbers, and not
    wrong arguments, which are `ValueError` or `TypeError`.
    """


class IndefiniteError(InfluenceError):
    """The curvature has a negative or zero eigenvalue: there is no quadratic minimum to speak of (Sec. 4.2; R18).

    Raised by factorisations and by conjugate gradients, with the cure: damping, a penalty, or the Gauss-Newton matrix.

    Args:
        message: what was found and what to do.
        eigenvalue: the smallest eigenvalue where it is known, NaN where it could not be found.
    """

    def __init__(self, message: str, eigenvalue: float | None = None) -> None:
        super().__init__(message)
        self.eigenvalue = eigenvalue


class DerivativeError(InfluenceError):
    """A derivative that the question needs does not exist, or torch has none that is right.

    Losses that are linear piece by piece (L1, hinge) have no curvature; some layers have no second derivative in torch.
    The text names what lacks it and what to use.
    """


class NotConvergedError(InfluenceError):
    """A solve or a training stopped before its residual or gradient norm reached the tolerance.

    Solves with `throw=False` give their status and residuals instead. More steps, more damping or a preconditioner
    help; a training on separable data needs a penalty.
    """


class NoOptimumError(NotConvergedError):
    """The training objective has no minimum: there is no trained model whose effects could be asked for.

    The data are separable without a penalty, so that the loss falls for as long as weights grow. The text names the
    columns. `verify` leaves out removals that lead there and says so.
    """


class NotDeterministicError(InfluenceError):
    """Two passes over the same training data gave different numbers, so that no derivative of them means anything.

    Dropout or batch norm in train mode, augmentation and shuffling are the usual causes: call `model.eval()` and turn
    the others off.
    """


class NotStationaryWarning(UserWarning):
    """The parameters are not where training would end: influence functions describe a minimum.

    Answers are given all the same. Their drift says how much a measure would move if training were finished: effects
    smaller than that are below the model's own distance from its optimum.
    """


class ApproximationWarning(UserWarning):
    """A problem stands for the user's model only up to a stated difference.

    A hinge that was smoothed, a kernel that was replaced by features of lower rank: the text says what was replaced,
    how large the difference is where that is known, and how to make it smaller.
    """


class DerivativeWarning(UserWarning):
    """A derivative of a model is not what it should be, and the text says what is done about it.

    Either torch's short way to it is wrong (a batched or forward derivative that parts from plain backward passes), and
    a slower way is taken that is right; or the model's own gradients are not those of its loss (`.detach()` in its
    forward pass, a straight-through estimator), and answers are about the training that followed them.
    """


class SmallerBlocksWarning(UserWarning):
    """Memory ran out, and work goes on in smaller blocks: answers stay the same, passes take longer.

    The text says the new size; `batch_size=` of `Problem` fixes it in advance.
    """


class StaleError(InfluenceError):
    """Weights, data or settings differ from those that a problem, a store or a file of scores was made with.

    Arrays that were changed in place, a model that was trained further, scores of another penalty: an old answer would
    be about something else. Make the problem anew, or compute the scores again.
    """


class RankError(InfluenceError):
    """A process of a distributed job failed or holds other data than the first; every rank raises it.

    The text names the rank and what it said. Every rank must hold the same weights and the whole training set.
    """
