"""The examples whose gradients an index keeps whole: on them the error of every question is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int

from ..curvature.eigenbases import Answers, Eigenbases
from ..linalg.outer_products import Pairs, joined
from ..types import Tensor
from .index_encoding import Encoding
from .index_store import IndexStore
from .index_writing import HELD, sampled
from .scores import Scores


@dataclass(frozen=True, eq=False)
class Sample:
    """Gradients of b training examples, whole and as the index keeps them.

    Args:
        whole: in all directions of the curvature.
        short: what is kept of them.
        bases: the curvature.
        encoding: what is kept.
    """

    whole: Pairs
    short: Pairs
    bases: Eigenbases
    encoding: Encoding

    @classmethod
    def read(cls, store: IndexStore, bases: Eigenbases, encoding: Encoding) -> Sample:
        """Read the sample of an index.

        Args:
            store: the index on disk.
            bases: its curvature.
            encoding: what it keeps.
        """
        whole, short = [], []
        for place, tensors, _ in store.blocks():
            rows = sampled(place, store.words["every"])
            if len(rows):
                sample = {name: x for name, x in tensors.items() if name.startswith("sample.")}
                sides = [
                    (sample[f"sample.{i}.left"], sample[f"sample.{i}.right"])
                    for i in range(len(bases.layers))
                ]
                whole.append(Pairs(sides, sample["sample.rest"]))
                own = {name: tensors[name][rows - place.start] for name in tensors if name not in sample}
                short.append(encoding.decoded(own, whole[-1].rest.dtype))
        return cls(joined(whole), joined(short), bases, encoding)

    def __len__(self) -> int:
        return len(self.whole.rest)

    def scores(self, turned: Pairs) -> Float[Tensor, "k b"]:
        """The product of A^-1 v with each of these gradients, of k turned questions v.

        A is symmetric: of sequences, whose gradients take long to form, A^-1 times these is kept for all questions.
        """
        if self._answered is not None:
            return self._answered.products(turned).T
        return self.bases.answers(turned, self.encoding.references).products(self.whole)

    @cached_property
    def _answered(self) -> Answers | None:
        """A^-1 times every gradient of the sample, where these are of sequences and memory allows."""
        numbers = len(self) * sum(own.values.numel() for own in self.bases.layers)
        if numbers > HELD or all(left.shape[1] == 1 for left, _ in self.whole.layers):
            return None
        return self.bases.answers(self.whole, [None] * len(self.bases.layers))


def of_sets(scores: Scores, sets: list[Int[Tensor, " _"]]) -> str:
    """What the scores of an index say of the sums over sets of rows, in a sentence.

    An error of E in the norm of a question's scores is at most sqrt(k) E in the sum of k of them (Cauchy-Schwarz).
    """
    assert scores.residual is not None
    said = f"{scores.provenance['behind']}: {scores.verdict}"
    each = scores.residual * scores.removal_effect().norm(dim=1)
    if not bool(each.any()):
        return f"{said}."
    most = float(each.max()) * max(map(len, sets)) ** 0.5
    return f"{said}; as far as that holds of all examples, the change without a set is off by {most:.1e} at most."
