"""Short ways to a derivative, each compared once with plain backward passes before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from ..errors import DerivativeWarning
from ..runtime.fallback import out_of_memory
from ..runtime.warned import warned

T = TypeVar("T")


def wrong(off: float) -> str:
    """In words that torch is wrong.

    >>> wrong(0.5)
    "torch's derivative is wrong, by 50% of what plain backward passes give"
    """
    by = f"{off:.0%}" if off >= 0.01 else f"{off:.1%}"
    return f"torch's derivative is wrong, by {by} of what plain backward passes give"


class Shortcuts:
    """What came of comparing torch's short ways to derivatives of one model with plain backward passes.

    torch has batched and forward derivatives that are wrong without an error (`cdist` under vmap, the forward
    derivative of `scatter_reduce("prod")`, the second one of `weight_norm` in torch 2.13). A way is compared when it
    is first taken, and remembered; all problems of one model share it, whatever else of them changes.
    """

    def __init__(self) -> None:
        self.held: dict[Hashable, bool] = {}
        """Whether a way gave the right derivative, for every kind of way that was compared."""
        self.remarks: list[str] = []
        """What is said among the settings: which ways are not taken."""
        self.failures: dict[str, str] = {}
        """Why a matrix has no products, in torch's words."""
        self.misled: set[str] = set()
        """The matrices of which an engine was wrong, and not only missing."""
        self.pseudo = 0.0
        """How far the gradients are off the derivatives of the loss, relatively, once somebody looked."""

    def go(
        self,
        kind: Hashable,
        words: str,
        fast: Callable[[], T],
        slow: Callable[[], T],
        gap: Callable[[T], float],
    ) -> T:
        """Go the fast way where torch can and where it is right, else the slow one.

        Args:
            kind: what is remembered.
            words: what the fast way is and what is done in its place, for the remark.
            fast: what is tried first.
            slow: what gives the right answer for every model.
            gap: how far the answer of the fast way is off, relatively, 0 within rounding; asked once per kind.
        """
        if self.held.get(kind, True):
            try:
                found = fast()
                if self.holds(kind, words, lambda: gap(found)):
                    return found
            except (RuntimeError, NotImplementedError) as error:
                if out_of_memory(error):
                    raise
        return slow()

    def holds(self, kind: Hashable, words: str, gap: Callable[[], float]) -> bool:
        """Whether a way is right: compared at the first time, and said where it is not.

        Args:
            kind: what is remembered.
            words: what the way is and what is done in its place.
            gap: how far it is off, relatively, 0 within rounding.
        """
        if kind not in self.held:
            off = gap()
            self.held[kind] = off == 0
            if off:
                self.say(f"{words}: for the short way {wrong(off)}")
        return self.held[kind]

    def say(self, remark: str, loud: bool = True) -> None:
        """Keep the remark for the settings, and warn if it is `loud`; once."""
        if remark not in self.remarks:
            self.remarks.append(remark)
            if loud:
                warned(remark, DerivativeWarning)
