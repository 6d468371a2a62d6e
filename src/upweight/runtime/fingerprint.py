"""Content hashes: what tells that weights, data and settings are those of an earlier answer, or of this one still."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import xxhash

from ..errors import StaleError
from ..types import Tensor
from .unchanging import Unchanging

FORMAT = 2
"""Of fingerprints and of all files with tensors: what another format wrote is refused, not misread."""


def content_hash(parts: Iterable[Tensor], settings: str = "") -> str:
    """A hash (xxh3, 128 bits, as 32 hexadecimal digits) of the bytes of tensors and of settings in words.

    It runs at memory speed and is the same in every process. Only bytes count: neither the shapes of the tensors nor
    where one ends and the next begins, which the settings must say where it matters. It guards against mistakes, not
    against forgery.

    Args:
        parts: tensors on any device, of any strides.
        settings: everything else that an answer depends on.

    >>> content_hash([torch.zeros(2)]) == content_hash([torch.zeros(2)])
    True
    """
    digest = xxhash.xxh3_128(settings.encode())
    for part in parts:
        flat = part.detach().cpu().reshape(-1)
        flat = flat if flat.stride(0) == 1 else torch.cat([flat, flat[:0]])
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Identified(Unchanging, ABC):
    """An unchanging object that is known by a content hash, and notices when its data change in place.

    Fields of the object itself cannot be set, but its user's arrays, which are not copied, and the numbers inside its
    tensors can. Whoever asks the object calls `check_current` first; whoever keeps answers for later names them by
    `fingerprint`.
    """

    @abstractmethod
    def identity(self) -> tuple[list[Tensor], str]:
        """The tensors that the fingerprint covers, and the settings in words; a pass over the data."""

    @abstractmethod
    def check_data(self) -> None:
        """Raise `StaleError` if the live model or the training data have changed since the object was made.

        Small data are compared whole, of large ones a sample of rows: at each question that costs a millisecond.
        """

    def check_current(self) -> None:
        """Raise `StaleError` if fields, the live model or the training data have changed in place.

        Fields are compared by torch's count of changes, data as `check_data` says: a millisecond at every question.
        """
        if self.written():
            raise StaleError(
                f"{', '.join(self.written())} of this {type(self).__name__} changed in place, but it does not change: "
                "take a copy by changed(...)"
            )
        self.check_data()

    def fingerprint(self) -> str:
        """A content hash of weights, data and settings: objects of equal fingerprints give equal answers.

        It is computed once, by a pass over the data, and holds across processes and machines.
        """
        if "fingerprint" not in self.cache:
            self.cache["fingerprint"] = self._hash()
        return self.cache["fingerprint"]

    def _hash(self) -> str:
        tensors, settings = self.identity()
        return content_hash(tensors, f"format {FORMAT} {settings}")

    def check_unmoved(self) -> None:
        """Raise `StaleError` if any number of the data changed since the fingerprint was taken, by a pass over them.

        Before scores are kept for others to read, a sample of rows would not do.
        """
        if self.fingerprint() != self._hash():
            raise StaleError(
                "the training data changed in place since this problem was made: make the problem anew, or give it a "
                "copy of the data"
            )
