"""What tells that training data were changed in place after a problem was made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..runtime.fingerprint import content_hash
from ..types import Tensor

Sample = Callable[[], Sequence[Tensor]]
"""Gives the numbers that are compared: all of small data, some rows of large ones."""


class Watch:
    """Remembers data as they are now. A look costs about a millisecond, since of large data only a sample is compared.

    Args:
        sample: gives the numbers that are compared, read again at every look.
        tensors: tensors whose version counter is looked at as well: torch counts every change in place, whichever row.

    >>> import torch
    >>> X = torch.zeros(3)
    >>> watch = Watch(lambda: [X], [X])
    >>> before, _ = watch.moved(), X.add_(1)
    >>> before, watch.moved()
    (False, True)
    """

    def __init__(self, sample: Sample, tensors: Sequence[Tensor] = ()) -> None:
        self.sample, self.tensors = sample, tuple(tensors)
        self.seen = self._look()

    def moved(self) -> bool:
        """Whether the data are other ones now."""
        return self._look() != self.seen

    def _look(self) -> tuple[str, ...]:
        versions = [str(tensor._version) for tensor in self.tensors if not tensor.is_inference()]
        return (content_hash(self.sample()), *versions)
