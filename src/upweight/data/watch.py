"""What tells that data are still those that a problem was made of: they are not copied, so their user may move them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..runtime.fingerprint import content_hash
from ..types import Tensor

MOVED = (
    "the training data changed in place since this problem was made: make the problem anew, or give it a copy of the "
    "data"
)
"""What a `StaleError` says of it."""


class Watch:
    """Looks again at data that others may change in place.

    A sample of the numbers is hashed now and at each look. Of tensors, torch counts the changes: where the count moved,
    all their numbers are compared, since a view counts also what is changed beside it.

    Args:
        sample: gives some of the numbers, read anew at each call: all of them where they are few.
        tensors: the tensors, as far as data are held as such, whose changes torch counts.

    >>> import torch
    >>> X = torch.zeros(4, 3)
    >>> watch = Watch(lambda: [X[:2]], [X])
    >>> before = watch.moved()
    >>> X[3] += 1
    >>> before, watch.moved()
    (False, True)
    """

    def __init__(self, sample: Callable[[], Sequence[Tensor]], tensors: Sequence[Tensor] = ()) -> None:
        self._sample, self._tensors = sample, tuple(tensors)
        self._counts = _counts(self._tensors)
        self._whole, self._seen = content_hash(self._tensors), content_hash(sample())

    def moved(self) -> bool:
        """Whether any change is seen since the watch began: the sample is read and hashed again, about a millisecond.

        Once a tensor's count of changes has moved, all tensors are hashed, a pass over them. A change that was undone
        is none.
        """
        now = _counts(self._tensors)
        if now != self._counts:
            if content_hash(self._tensors) != self._whole:
                return True
            self._counts = now
        return content_hash(self._sample()) != self._seen


def _counts(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was changed; torch does not count for tensors of its inference mode."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
