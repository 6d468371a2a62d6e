"""How an index is written: what is kept is chosen on a sample, then gradients go into blocks as they pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from ..capabilities import LayerGradients
from ..curvature.base import Curvature
from ..curvature.eigenbases import Eigenbases, of_matrix
from ..data.names import as_json
from ..data.user_terms import batch_index
from ..data.weights import check_weights
from ..errors import StaleError
from ..linalg.outer_products import Pairs, joined
from ..objective import Objective
from ..runtime.distributed import shard, together
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..types import ArrayLike, Tensor
from .index_choice import Target, Trial
from .index_encoding import Encoding, stacked
from .index_store import IndexStore, Part
from .influence import Influence

SAMPLED = 256
"""Training examples whose gradients are kept whole at most, to measure errors on."""
ASKED = 32
"""Training examples that stand for questions when it is chosen what to keep."""
BLOCK_BYTES = 64 << 20
"""The size of one block."""
MOST_WHOLE = 4096
"""Parameters up to which a curvature without layers is diagonalised whole."""
FEWEST = 32
"""Training examples whose gradients are kept whole at least."""
WHOLE = 1 << 23
"""Numbers of all gradients that are kept whole."""
HELD = 1 << 26
"""Numbers of gradients written out that are held at once."""


def target_of(error: float | None, bytes_per_example: int | None) -> Target:
    """What is wanted of an index, checked: an error of 0.01 where nothing is said. Raises ValueError."""
    if error is not None and bytes_per_example is not None:
        raise ValueError("give error or bytes_per_example, not both")
    if error is not None and not 0 <= error < 1:
        raise ValueError(f"error must be >= 0 and below 1, got {error}")
    if bytes_per_example is not None and bytes_per_example < 1:
        raise ValueError(f"bytes_per_example must be >= 1, got {bytes_per_example}")
    return Target(0.01 if error is None and bytes_per_example is None else error, bytes_per_example)


def model_of(problem: Objective) -> str:
    """The content hash of a problem's weights, whatever its training data."""
    return content_hash([problem.theta], repr((problem.layout, str(problem.dtype))))


def check_model(store: IndexStore, problem: Objective) -> None:
    """Nothing happens where a problem has the weights that an index was built of; StaleError where it has others."""
    indexed = store.words["parameters"]
    for name, size in zip(problem.layout.names, problem.layout.sizes, strict=True):
        if (known := indexed.get(name)) != size:
            what = "is not indexed" if known is None else f"has {size} numbers, {known} were indexed"
            raise StaleError(
                f"parameter {name!r} of this problem {what} in {store.folder}: open it with a problem of the "
                f"parameters {', '.join(indexed)}, or build another"
            )
    if (found := model_of(problem)) != store.words["model"]:
        raise StaleError(
            f"{store.folder} is an index of other weights (content hash {store.words['model']}, this problem's "
            f"{found}): open it with the model that it was built of, or build another"
        )


def layers_of(problem: Objective) -> LayerGradients:
    """What gives a problem's gradients layer by layer. Raises TypeError where nothing does."""
    layers = problem.layers
    if layers is None or not layers.together:
        raise TypeError(
            "an index keeps gradients layer by layer, and this model's cannot be had so (its settings say why): ask "
            "Influence.on_loss"
        )
    return layers


def indexable(curvature: Curvature) -> bool:
    """Whether a curvature can be diagonalised for an index: EKFAC, and the matrices of up to 4,096 parameters."""
    return curvature.outer is not None or (curvature.examples is not None and curvature.p <= MOST_WHOLE)


def _bases_of(influence: Influence) -> Eigenbases:
    """The bases in which the curvature of an influence is diagonal."""
    curvature: Curvature = influence.settings.curvature
    if curvature.outer is not None:
        return curvature.outer.eigenbases()
    mean = curvature.examples
    if mean is None or not indexable(curvature):
        raise TypeError(
            f"an index needs EKFAC, or the Hessian or Gauss-Newton matrix of up to {MOST_WHOLE} parameters, not "
            f"{type(curvature).__name__} of {curvature.p}: give Influence(problem, curvature=EKFAC(problem, damping))"
        )
    _ = influence.inverse  # refuses what has none
    return of_matrix(mean.matrix(torch.float64), layout=layers_of(influence.problem).layout)


def begun(influence: Influence, folder: Path, key: str, target: Target) -> IndexStore:
    """A new store: what is kept of gradients is chosen on a sample, and written with the curvature.

    Args:
        influence: whose curvature and training data.
        folder: where.
        key: a content hash of weights, data and settings.
        target: what is wanted.
    """
    problem = influence.problem
    bases, layers = _bases_of(influence), layers_of(problem)
    alone = joined(list(layers.test_pairs(problem.train_batch(torch.arange(1)))))
    numbers = alone.rest.numel() + sum(left.numel() + right.numel() for left, right in alone.layers)
    rows = min(SAMPLED, max(FEWEST, min(HELD // problem.p, WHOLE // numbers)), problem.n)
    every = max(1, problem.n // rows)
    sample = torch.arange(0, problem.n, every)
    asked = (
        torch.linspace(0, problem.n - 1, min(ASKED, rows), dtype=torch.float64).long() + every // 2
    ) % problem.n
    turned = [
        bases.turned(joined(list(layers.test_pairs(problem.train_batch(index))))) for index in (sample, asked)
    ]
    encoding, error = Trial(bases, *turned).chosen(target)
    kept = encoding.encoded(turned[0]).values()
    per_example = sum(x.nbytes for x in kept) // len(sample) + 16
    words = {
        "key": key,
        "model": model_of(problem),
        "problem": problem.fingerprint(),
        "parameters": dict(zip(problem.layout.names, problem.layout.sizes, strict=True)),
        "whole": bases.layout is not None,
        "every": every,
        "rows_per_block": max(1, BLOCK_BYTES // per_example),
        "error": error,
        "bytes_per_example": per_example,
        "settings": list(influence.settings.reasons),
        "keep": problem.keep,
        "notes": list(problem.terms.notes),
        "away": problem.facts.away,
        "caution": problem.facts.caution,
        **encoding.words,
    }
    tensors = {**bases.tensors(), **encoding.tensors()}
    penalty = problem.folded_penalty
    for name, part in (("folded", penalty), ("unfolded", problem.penalty.gradient(problem.theta) - penalty)):
        if bool(part.any()):
            tensors[name] = influence.solve(part[None]).value[0]
    return IndexStore.new(folder, words, tensors)


def sampled(place: slice, every: int) -> Tensor:
    """Rows that are kept whole: every so many of some consecutive ones."""
    return torch.arange(-(-place.start // every) * every, place.stop, every)


@dataclass(frozen=True, eq=False)
class Writing:
    """Rows on their way into a store.

    Args:
        store: where to.
        problem: whose gradients they have.
    """

    store: IndexStore
    problem: Objective

    @cached_property
    def layers(self) -> LayerGradients:
        """What gives gradients layer by layer."""
        return layers_of(self.problem)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The curvature, and what is kept of gradients."""
        return self.store.bases()

    @cached_property
    def bases(self) -> Eigenbases:
        """The curvature in the precision of gradients."""
        layout = self.layers.layout if self.store.words["whole"] else None
        return Eigenbases.restored(self.tensors, layout).to(self.problem.theta)

    @cached_property
    def encoding(self) -> Encoding:
        """What is kept of every gradient."""
        return Encoding.restored(self.tensors, self.store.words)

    @cached_property
    def folded(self) -> Float[Tensor, "1 p"]:
        """A^-1 times the penalty that is folded into every gradient."""
        theta = self.problem.theta
        return self.tensors.get("folded", torch.zeros_like(theta)).to(theta)[None]

    def train(self) -> IndexStore:
        """The store with the problem's training rows: blocks that are there already are not made again."""
        problem, store, size = self.problem, self.store, self.store.words["rows_per_block"]
        starts = range(0, problem.n, size)
        own = range(len(starts))[shard(len(starts))]
        with together():
            for j in track(own, "blocks of gradients", len(own)):
                if store.path(0, j).exists():
                    store.block(0, j)
                    continue
                place = slice(starts[j], min(starts[j] + size, problem.n))
                rows = self.layers.train_pairs(self.folded, place)
                parts = [
                    self._kept(part, pairs, products[0], problem.weights[part])
                    for part, pairs, products in rows
                ]
                names = None if problem.train_index is None else problem.train_index[place]
                store.write_block(0, j, stacked(parts), {"ids": as_json(names)})
        return store.with_part(Part(problem.n, len(starts), store.words["key"]))

    def added(self, batch: Any, weights: ArrayLike | None) -> IndexStore:
        """The store with some rows more; as it is, where they are those of the last call.

        Args:
            batch: b examples, as the problem takes them.
            weights: their sample weights; None: 1.
        """
        store, number = self.store, len(self.store.parts)
        folded = self.layers.layout.take_apart(self.folded)
        held: list[dict[str, Tensor]] = []
        rows, hashes = 0, []
        names = batch_index(batch)
        store.clear(number)
        if (names is None) != (store.block(0, 0)[1]["ids"] is None):
            known, given = ("have none", "some") if names is not None else ("have names", "none")
            raise ValueError(
                f"the rows of {store.folder} {known}, those to be added have {given}: name all or none"
            )

        w = self.problem.label_weights(batch).double()
        w = w if weights is None else w * check_weights(weights, len(w)).to(w)

        def write() -> None:
            tensors = stacked(held)
            done = rows - len(tensors["own"])
            ids = as_json(None if names is None else names[done:rows])
            hashes.append(content_hash(tensors.values(), repr(ids)))
            store.write_block(number, len(hashes) - 1, tensors, {"ids": ids})

        for pairs in self._fitting(batch):
            place = slice(rows, rows + len(pairs.rest))
            held.append(self._kept(place, pairs, folded.products(pairs)[0], w[place], store.n))
            rows = place.stop
            if sum(len(part["own"]) for part in held) >= store.words["rows_per_block"]:
                write()
                held.clear()
        if held:
            write()
        part = Part(rows, len(hashes), content_hash([], repr(hashes)))
        if part == store.parts[-1]:
            store.clear(number)
            return store
        return store.with_part(part)

    def _fitting(self, batch: Any) -> Iterator[Pairs]:
        """The gradients of a batch, no more at a time than a block has; ValueError where the model cannot take it."""
        size = self.store.words["rows_per_block"]
        try:
            for pairs in self.layers.test_pairs(batch):
                sides = [
                    zip(left.split(size), right.split(size), strict=True) for left, right in pairs.layers
                ]
                for rest, *layers in zip(pairs.rest.split(size), *sides, strict=True):
                    yield Pairs(layers, rest)
        except RuntimeError as failure:
            raise ValueError(
                f"the rows to be added do not fit the model of the index, have they the columns of the others? "
                f"({str(failure).splitlines()[0]})"
            ) from failure

    def _kept(
        self,
        place: slice,
        pairs: Pairs,
        folded: Float[Tensor, " b"],
        weights: Float[Tensor, " b"],
        first: int = 0,
    ) -> dict[str, Tensor]:
        """What is kept of some rows.

        Args:
            place: their numbers.
            pairs: their bare gradients.
            folded: the products of these with A^-1 times the folded penalty.
            weights: of the rows.
            first: the number in the index of the row with number 0.
        """
        turned = self.bases.turned(pairs)
        w = weights.double()
        own = -(w * self.bases.quadratic(turned).double() + folded.double())
        tensors = {**self.encoding.encoded(turned), "weights": w, "own": own}
        if not self.encoding.whole:
            rows = sampled(slice(first + place.start, first + place.stop), self.store.words["every"])
            rows = rows - first - place.start
            tensors["sample.rest"] = turned.rest[rows]
            for i, (left, right) in enumerate(turned.layers):
                tensors |= {f"sample.{i}.left": left[rows], f"sample.{i}.right": right[rows]}
        return tensors
