"""An index of gradients: what questions need of every training example, on disk: nobody reads the data again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from ..curvature.base import Curvature
from ..curvature.eigenbases import Eigenbases, of_matrix
from ..data.names import as_json
from ..data.row_sets import as_sets
from ..data.user_terms import batch_index
from ..errors import StaleError
from ..linalg.outer_products import Pairs, joined
from ..measures import Measure, MeasureLike, as_measure, name_of
from ..objective import Objective
from ..runtime.distributed import shard, together
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..types import Tensor
from . import checks
from .index_choice import Target, Trial, relative
from .index_encoding import Encoding, stacked
from .index_store import AGAIN, IndexStore, Part
from .influence import Influence
from .passes import all_columns
from .removal import Removal
from .scores import Scores
from .top_k import strongest

SAMPLED = 256
"""Training examples whose gradients are kept whole at least, to measure errors on."""
ASKED = 32
"""Training examples that stand for questions when it is chosen what to keep."""
BLOCK_BYTES = 64 << 20
"""The size of one block."""
ROWS = 1024
"""Gradients that are multiplied at a time: they stay in the processor's cache."""
MOST_WHOLE = 4096
"""Parameters up to which a curvature without layers is diagonalised whole."""
HELD = 1 << 26
"""Numbers of gradients written out that are held at once."""


class GradientIndex:
    """Gradients of all training examples on disk, short in the bases of the curvature: ask again without the data.

    `build` makes one in a pass over the training data, `open` finds it in a later process or on another machine. A
    question reads the index alone; the model is needed for the new test rows only. Values have sign and scale of
    `Influence.on_loss`; how far they may be off is measured on examples whose gradients are kept whole, for each
    question, and stated in `Scores.residual`.

    >>> import tempfile
    >>> import upweight as uw
    >>> X, y = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2
    >>> problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = uw.GradientIndex.build(uw.Influence(problem), folder)
    ...     scores = uw.GradientIndex.open(folder, problem).on_loss((X[:2], y[:2]), top=3)
    >>> scores.values.shape, bool(scores.residual.max() < 0.01)
    (torch.Size([2, 6]), True)
    """

    def __init__(self, store: IndexStore, problem: Objective | None = None) -> None:
        self.store, self.problem = store, problem
        if not store.parts:
            raise ValueError(f"{store.folder} holds an index that is not finished: {AGAIN}")
        if problem is not None and (found := model_of(problem)) != store.words["model"]:
            raise StaleError(
                f"{store.folder} is an index of other weights (content hash {store.words['model']}, this problem's "
                f"{found}): open it with the model that it was built of, or build another"
            )

    @classmethod
    def build(
        cls,
        influence: Influence,
        folder: str | Path,
        *,
        error: float | None = None,
        bytes_per_example: int | None = None,
    ) -> GradientIndex:
        """Make the index of an influence's training data, in one pass over them; or go on with one that was cut off.

        Args:
            influence: whose curvature is an EKFAC, or the Hessian or Gauss-Newton matrix of up to 4,096 parameters.
            folder: made where it is not there.
            error: the relative error ||difference|| / ||scores|| of a question that is aimed at, default 0.01; 0 keeps
                gradients whole.
            bytes_per_example: in its place, the most that an example may take; the error is what comes of it.

        Raises:
            ValueError: for numbers out of range, both of them, and more bytes than a gradient can be shortened to.
            TypeError: for curvatures that are diagonal in no bases of layers.
            StaleError: for a folder with the index of other weights, data or settings.
        """
        target = _target(error, bytes_per_example)
        problem = influence.problem
        problem.check_current()
        key = content_hash([], f"{influence.fingerprint} index {target} {SAMPLED} {BLOCK_BYTES}")
        store = IndexStore.begun(folder, key)
        if store is None:
            store = _begun(influence, Path(folder), key, target)
        if not store.parts:
            store = _Writing(store, problem).train()
        return cls(store, problem)

    @classmethod
    def open(cls, folder: str | Path, problem: Objective | None = None) -> GradientIndex:
        """The index that `build` made.

        Args:
            folder: where it is.
            problem: with the weights that the index was built of, whatever training rows it has: a few will do. It is
                needed for test rows that are new.

        Raises:
            ValueError: for a folder that is none, and for an index that is not finished.
            StaleError: for a problem of other weights.
        """
        return cls(IndexStore.found(folder), problem)

    def __len__(self) -> int:
        return self.store.n

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return self.store.bases()

    @cached_property
    def _bases(self) -> Eigenbases:
        whole = self.store.words["whole"]
        return Eigenbases.restored(self._tensors, self._layers.layout if whole else None)

    @cached_property
    def _encoding(self) -> Encoding:
        return Encoding.restored(self._tensors, self.store.words)

    @property
    def _whole(self) -> bool:
        """Whether gradients are kept whole, so that there is no error."""
        return not any(self._encoding.ranks) and self.store.words["error"] == 0

    @cached_property
    def _kept(self) -> Eigenbases:
        return self._encoding.kept(self._bases)

    @property
    def _layers(self) -> Any:
        if self.problem is None:
            raise ValueError(
                "new test rows need the model: give GradientIndex.open(folder, problem) a problem with it; a few "
                "training rows are enough"
            )
        return _layers(self.problem)

    # -- questions -------------------------------------------------------------------------------------------------

    def on_loss(self, test: Any, *, measure: MeasureLike | None = None, top: int | None = None) -> Scores:
        """I_up,loss of every training example in the index on each test example (Eq. 2), without the training data.

        Args:
            test: m test examples, as the problem takes them.
            measure: asks about any other differentiable function of single examples in place of the loss.
            top: only the k most helpful and k most harmful training rows of each test row are kept.

        Returns:
            Scores (m, n) as of `Influence.on_loss`; `residual` (m,) is the relative error of each row, measured on the
            sample that the index holds whole.
        """
        checks.options(top, None, None)
        asked = as_measure(measure)
        pairs = self._asked(test, asked)
        turned = self._bases.turned(pairs)
        answers = self._encoding.answers(self._kept, turned)
        constant = self._constant(pairs)
        dtype, m = turned.rest.dtype, len(turned.rest)
        sums = torch.zeros(m, dtype=torch.float64)

        def products(tensors: dict[str, Tensor]) -> Tensor:
            found = answers.products(self._encoding.decoded(tensors, dtype))
            return constant - found * tensors["weights"].to(found)

        def parts() -> Iterator[tuple[slice, Tensor]]:
            for place, tensors, _ in self.store.blocks():
                values = torch.cat([products(some) for some in _split(tensors, ROWS)], dim=1)
                sums.add_(values.sum(1, dtype=torch.float64))
                yield place, values

        columns = None
        if top is None:
            values = all_columns(parts(), m, len(self))
        else:
            values, columns = strongest(parts(), m, top)
        drift = sums / len(self) + self._left(pairs)
        return self._scores(values, (test, asked), columns, drift, self._off(turned))

    def on_self(self) -> Scores:
        """I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4): computed when it was indexed."""
        own = torch.cat([tensors["own"] for _, tensors, _ in self.store.blocks()])
        known = {"ids": self.ids, "verdict": self._verdict("", None), "provenance": self._provenance()}
        return Scores(own[None].double(), len(self), measure="own loss", **known)

    def of_removal(self, groups: Any, test: Any, *, measure: MeasureLike | None = None) -> Removal:
        """The change of each test measure if whole sets of training rows are removed, of first order.

        Args:
            groups: sets of rows of the index, as `Influence.of_removal` takes them.
            test: m test examples.
            measure: what is asked about, default the loss.
        """
        names, sets = as_sets(groups, len(self), self.ids)
        return Removal.of_first_order(self.on_loss(test, measure=measure), names, sets)

    @cached_property
    def ids(self) -> pd.Index | None:
        """What the rows are called, where they came with names."""
        names = [words["ids"] for _, _, words in self.store.blocks()]
        return None if names[0] is None else pd.Index([name for some in names for name in some])

    def _asked(self, test: Any, measure: Measure | None) -> Pairs:
        if measure is not None and measure.single:
            raise TypeError(
                "an index answers measures of single examples: ask Influence.on_loss about a whole set"
            )
        layers = self._layers
        assert self.problem is not None
        self.problem.check_current()
        return joined(list(layers.test_pairs(test, measure)))

    def _constant(self, pairs: Pairs) -> Float[Tensor, "k 1"]:
        """-v . A^-1 times the penalty that is folded into every gradient."""
        return -self._times("folded", pairs)[:, None]

    def _left(self, pairs: Pairs) -> Float[Tensor, " k"]:
        """-v . A^-1 times what of the penalty's gradient is folded into none."""
        return -self._times("unfolded", pairs).double()

    def _times(self, name: str, pairs: Pairs) -> Float[Tensor, " k"]:
        if name not in self._tensors:
            return pairs.rest.new_zeros(len(pairs.rest))
        vector = self._tensors[name].to(pairs.rest)[None]
        return self._layers.layout.take_apart(vector).products(pairs)[0]

    def _off(self, turned: Pairs) -> Float[Tensor, " k"]:
        """The relative error of each question on the sample that is kept whole."""
        if self._whole:
            return torch.zeros(len(turned.rest), dtype=torch.float64)
        whole, kept = self._sample
        truth = self._bases.answers(turned, self._encoding.references).products(whole)
        answers = self._encoding.answers(self._kept, turned)
        return relative(answers.products(kept), truth)

    @cached_property
    def _sample(self) -> tuple[Pairs, Pairs]:
        """The gradients that are kept whole, and what is kept of them otherwise."""
        whole, kept = [], []
        for place, tensors, _ in self.store.blocks():
            rows = _sampled(place, self.store.words["every"])
            if len(rows):
                sample = {name: x for name, x in tensors.items() if name.startswith("sample.")}
                whole.append(
                    Pairs(
                        [
                            (sample[f"sample.{i}.left"], sample[f"sample.{i}.right"])
                            for i in range(len(self._bases.layers))
                        ],
                        sample["sample.rest"],
                    )
                )
                own = {name: tensors[name][rows - place.start] for name in tensors if name not in sample}
                kept.append(self._encoding.decoded(own, whole[-1].rest.dtype))
        return joined(whole), joined(kept)

    def _scores(
        self,
        values: Tensor,
        asked: tuple[Any, Measure | None],
        columns: Tensor | None,
        drift: Tensor,
        off: Tensor,
    ) -> Scores:
        test, measure = asked
        return Scores(
            values,
            len(self),
            measure=name_of(measure),
            columns=columns,
            ids=self.ids,
            test_ids=batch_index(test),
            drift=drift,
            residual=off,
            verdict=self._verdict(f"{len(off)} answers from an index", off),
            provenance=self._provenance(),
        )

    def _verdict(self, what: str, off: Tensor | None) -> str:
        said = [self.store.words["caution"]]
        if off is not None:
            said.insert(
                0,
                f"{what}; measured on {len(self._sample[0].rest)} examples, scores are off by "
                f"{float(off.max()):.1e} of a row's size at most"
                if not self._whole
                else f"{what}, whole",
            )
        return "; ".join(filter(None, said))

    def _provenance(self) -> dict[str, Any]:
        words = self.store.words
        return {
            "fingerprint": content_hash([], repr((words["key"], self.store.parts))),
            **{name: words[name] for name in ("settings", "keep", "notes", "away")},
        }


def _split(tensors: dict[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    """What is kept of a block, some rows at a time; the examples that are kept whole are left out."""
    kept = {name: x.split(rows) for name, x in tensors.items() if not name.startswith("sample.")}
    for parts in zip(*kept.values(), strict=True):
        yield dict(zip(kept, parts, strict=True))


def _target(error: float | None, bytes_per_example: int | None) -> Target:
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


def _layers(problem: Objective) -> Any:
    layers = problem.layers
    if layers is None or not layers.together:
        raise TypeError(
            "an index keeps gradients layer by layer, and this model's cannot be had so (its settings say why): ask "
            "Influence.on_loss"
        )
    return layers


def _bases_of(influence: Influence) -> Eigenbases:
    """The bases in which the curvature of an influence is diagonal."""
    curvature: Curvature = influence.settings.curvature
    if curvature.outer is not None:
        return curvature.outer.eigenbases()
    mean = curvature.examples
    if mean is None or curvature.p > MOST_WHOLE:
        raise TypeError(
            f"an index needs EKFAC, or the Hessian or Gauss-Newton matrix of up to {MOST_WHOLE} parameters, not "
            f"{type(curvature).__name__} of {curvature.p}: give Influence(problem, curvature=EKFAC(problem, damping))"
        )
    _ = influence.inverse  # refuses what has none
    return of_matrix(mean.matrix(torch.float64), layout=_layers(influence.problem).layout)


def _begun(influence: Influence, folder: Path, key: str, target: Target) -> IndexStore:
    """A new store: what is kept of gradients is chosen on a sample, and written with the curvature."""
    problem = influence.problem
    bases, layers = _bases_of(influence), _layers(problem)
    rows = min(SAMPLED, max(8, HELD // problem.p), problem.n)
    every = max(1, problem.n // rows)
    sample = torch.arange(0, problem.n, every)
    asked = (
        torch.linspace(0, problem.n - 1, min(ASKED, rows), dtype=torch.float64).long() + every // 2
    ) % problem.n
    turned = [
        bases.turned(joined(list(layers.test_pairs(problem.train_batch(index))))) for index in (sample, asked)
    ]
    encoding, error = Trial(bases, *turned).chosen(target)
    per_example = encoding.bytes + 16
    words = {
        "key": key,
        "model": model_of(problem),
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


def _sampled(place: slice, every: int) -> Tensor:
    """Those of some rows that are kept whole."""
    return torch.arange(-(-place.start // every) * every, place.stop, every)


class _Writing:
    """Rows on their way into a store."""

    def __init__(self, store: IndexStore, problem: Objective) -> None:
        self.store, self.problem = store, problem
        tensors = store.bases()
        self.layers = _layers(problem)
        self.bases = Eigenbases.restored(tensors, self.layers.layout if store.words["whole"] else None)
        self.turning = self.bases.to(problem.theta)
        self.encoding = Encoding.restored(tensors, store.words)
        folded = tensors.get("folded", torch.zeros_like(problem.theta))
        self.folded = folded.to(problem.theta)[None]

    def train(self) -> IndexStore:
        """The store with the problem's training rows: blocks that are there already are not made again."""
        problem, store = self.problem, self.store
        places = store.places(0, problem.n)
        own = range(len(places))[shard(len(places))]
        ids = problem.train_index
        with together():
            for j in track(own, "blocks of gradients", len(own)):
                if store.path(0, j).exists():
                    store.block(0, j)
                    continue
                place = places[j]
                parts = self.layers.train_pairs(self.folded, place)
                rows = ((part, pairs, products[0]) for part, pairs, products in parts)
                names = None if ids is None else ids[place]
                self._write(0, j, self._block(rows, problem.weights, 0), names)
        return store.with_part(Part(problem.n, store.words["key"]))

    def _write(self, part: int, block: int, tensors: dict[str, Tensor], names: pd.Index | None) -> None:
        self.store.write_block(part, block, tensors, {"ids": as_json(names)})

    def _block(
        self, rows: Iterable[tuple[slice, Pairs, Tensor]], weights: Float[Tensor, " n"], first: int
    ) -> dict[str, Tensor]:
        """What is kept of some rows.

        Args:
            rows: their places, bare gradients, and the products of these with A^-1 times the folded penalty.
            weights: of all rows.
            first: the number in the index of the row at place 0.
        """
        found = []
        for place, pairs, folded in rows:
            turned = self.turning.turned(pairs)
            w = weights[place].double()
            own = -(w * self.turning.quadratic(turned).double() + folded.double())
            tensors = {**self.encoding.encoded(turned), "weights": w, "own": own}
            if self.store.words["error"]:
                at = slice(first + place.start, first + place.stop)
                rows_whole = _sampled(at, self.store.words["every"]) - at.start
                tensors["sample.rest"] = turned.rest[rows_whole]
                for i, (left, right) in enumerate(turned.layers):
                    tensors[f"sample.{i}.left"], tensors[f"sample.{i}.right"] = (
                        left[rows_whole],
                        right[rows_whole],
                    )
            found.append(tensors)
        return stacked(found)
