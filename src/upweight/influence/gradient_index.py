"""An index of gradients: what questions need of every training example, on disk: nobody reads the data again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..capabilities import LayerGradients
from ..curvature.eigenbases import Eigenbases
from ..data.row_sets import as_sets
from ..data.user_terms import batch_index
from ..errors import StaleError
from ..linalg.outer_products import Pairs, joined
from ..measures import Measure, MeasureLike, as_measure, name_of
from ..objective import Objective
from ..runtime.fingerprint import content_hash
from ..types import ArrayLike, Tensor
from . import checks
from .index_candidates import refined
from .index_choice import relative
from .index_encoding import Encoding, split
from .index_sample import Sample, of_sets
from .index_store import AGAIN, IndexStore
from .index_writing import BLOCK_BYTES, SAMPLED, Writing, begun, check_model, layers_of, target_of
from .influence import Influence
from .passes import all_columns
from .removal import Removal
from .scores import Scores
from .top_k import strongest

ROWS = 1024
"""Gradients that are multiplied at a time: they stay in the processor's cache."""


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
        if problem is not None:
            check_model(store, problem)

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
        target = target_of(error, bytes_per_example)
        problem = influence.problem
        problem.check_current()
        key = content_hash([], f"{influence.fingerprint} index {target} {SAMPLED} {BLOCK_BYTES}")
        store = IndexStore.begun(folder, key)
        if store is None:
            store = begun(influence, Path(folder), key, target)
        if not store.parts:
            store = Writing(store, problem).train()
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

    @property
    def bytes_per_example(self) -> int:
        """What a training example takes on disk; the curvature and a few gradients kept whole come on top."""
        return self.store.words["bytes_per_example"]

    @property
    def error(self) -> float:
        """The relative error of the worst training row in a question's place; that of new ones is in `Scores`."""
        return self.store.words["error"]

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

    @cached_property
    def _kept(self) -> Eigenbases:
        return self._encoding.kept(self._bases)

    @property
    def _layers(self) -> LayerGradients:
        if self.problem is None:
            raise ValueError(
                "new test rows need the model: give GradientIndex.open(folder, problem) a problem with it; a few "
                "training rows are enough"
            )
        return layers_of(self.problem)

    def add(self, rows: Any, *, weights: ArrayLike | None = None) -> GradientIndex:
        """The index with more rows, as data arrive: their gradients at the same weights, in a pass over them alone.

        The curvature is held: it stays that of the rows of `build`, whose mean it is, and effects count the new rows
        as rows of training. Answers say by how much the new rows differ in self-influence. Once the model has been
        trained on, or the data have changed in kind, build another index. Rows equal to those of the last call are
        not added twice, so that a call that was cut off can be repeated.

        Args:
            rows: b examples, as the problem takes them; with names if the others have some.
            weights: their sample weights (b,), in the units of those of training.

        Raises:
            ValueError: for rows that do not fit the model, and without a problem.
        """
        _ = self._layers  # refuses where there is no problem
        assert self.problem is not None
        self.problem.check_current()
        return GradientIndex(Writing(self.store, self.problem).added(rows, weights), self.problem)

    # -- questions -------------------------------------------------------------------------------------------------

    def on_loss(
        self,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        top: int | None = None,
        candidates: int | None = None,
    ) -> Scores:
        """I_up,loss of every training example in the index on each test example (Eq. 2), without the training data.

        Args:
            test: m test examples, as the problem takes them.
            measure: asks about any other differentiable function of single examples in place of the loss.
            top: only the k most helpful and k most harmful training rows of each test row are kept.
            candidates: so many of either side are chosen by the index and scored exactly, a few hundred: that needs the
                problem with its training data, of which these rows alone are read. The verdict says the recall.

        Returns:
            Scores (m, n) as of `Influence.on_loss`; `residual` (m,) is the relative error of each row, measured on the
            sample that the index holds whole.
        """
        checks.options(top, None, None)
        if candidates is not None and (top is None or candidates < top):
            raise ValueError(f"candidates are for the strongest rows: give top, of at most {candidates}")
        asked = as_measure(measure)
        pairs = self._asked(test, asked)
        turned = self._bases.turned(pairs)
        sums = torch.zeros(len(turned.rest), dtype=torch.float64)
        parts, columns, off, said = self._parts(pairs, turned, sums), None, self._off(turned), ""
        if top is None:
            values = all_columns(parts, len(sums), len(self))
        else:
            values, columns = strongest(parts, len(sums), candidates or top)
        if columns is not None and top is not None and candidates is not None:
            exact = self._exact(pairs, turned, columns)
            values, columns, said = refined(values, exact, columns, top)
            off = torch.zeros_like(off)
        drift = sums / len(self) + self._left(pairs)
        return self._scores(values, (test, asked), columns, drift, (off, said))

    def _parts(
        self, pairs: Pairs, turned: Pairs, sums: Float[Tensor, " k"]
    ) -> Iterator[tuple[slice, Tensor]]:
        """All scores, block by block, whose rows are added to `sums` as they pass.

        Args:
            pairs: the gradients of k questions.
            turned: the same in the bases of the curvature.
            sums: what is added to.
        """
        answers, constant = self._encoding.answers(self._kept, turned), self._constant(pairs)

        def values(tensors: dict[str, Tensor]) -> Tensor:
            found = answers.products(self._encoding.decoded(tensors, turned.rest.dtype))
            return constant - found * tensors["weights"].to(found)

        for place, tensors, _ in self.store.blocks():
            found = torch.cat([values(some) for some in split(tensors, ROWS)], dim=1)
            sums += found.sum(1, dtype=torch.float64)
            yield place, found

    def _exact(self, pairs: Pairs, turned: Pairs, columns: Int[Tensor, "k c"]) -> Float[Tensor, "k c"]:
        """The exact scores of some rows, from the training data."""
        problem, first = self.problem, self.store.parts[0].rows
        assert problem is not None
        if not self.built_of(problem):
            raise StaleError(
                f"candidates= reads their rows from the training data, and this problem's are not those that "
                f"{self.store.folder} was built of: give the whole problem, or leave candidates out"
            )
        if int(columns.max()) >= first:
            raise ValueError(
                f"candidates= knows the first {first} rows only, not those added since: leave it out"
            )
        rows, places = columns.unique(return_inverse=True)
        found = self._bases.turned(joined(list(self._layers.test_pairs(problem.train_batch(rows)))))
        products = self._bases.answers(turned, [None] * len(self._bases.layers)).products(found)
        values = self._constant(pairs) - products * problem.weights[rows].to(products)
        return values.double().gather(1, places)

    def on_self(self) -> Scores:
        """I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4), as of `Influence.on_self`.

        It was computed from whole gradients when they were indexed, so that nothing is left out of it.
        """
        known: dict[str, Any] = {
            "ids": self.ids,
            "verdict": self._verdict(None),
            "provenance": self._provenance(),
        }
        return Scores(self._own[None], len(self), measure="own loss", **known)

    def of_removal(self, groups: Any, test: Any, *, measure: MeasureLike | None = None) -> Removal:
        """The change of each test measure if whole sets of training rows are removed, of first order.

        Args:
            groups: sets of rows of the index, as `Influence.of_removal` takes them.
            test: m test examples.
            measure: what is asked about, default the loss.

        Returns:
            A Removal; its `behind` says how far the changes may be off.
        """
        names, sets = as_sets(groups, len(self), self.ids)
        scores = self.on_loss(test, measure=measure)
        return replace(Removal.of_first_order(scores, names, sets), behind=of_sets(scores, sets))

    def built_of(self, problem: Objective) -> bool:
        """Whether the index is of a problem's training rows, to the bit; to `open`, it needs their weights alone."""
        return problem.fingerprint() == self.store.words["problem"]

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
        if self._encoding.whole:
            return torch.zeros(len(turned.rest), dtype=torch.float64)
        answers = self._encoding.answers(self._kept, turned)
        return relative(answers.products(self._sample.short), self._sample.scores(turned))

    @cached_property
    def _sample(self) -> Sample:
        return Sample.read(self.store, self._bases, self._encoding)

    def _scores(
        self,
        values: Tensor,
        asked: tuple[Any, Measure | None],
        columns: Tensor | None,
        drift: Tensor,
        known: tuple[Tensor, str],
    ) -> Scores:
        """Numbers with all that is known about them; `known` is how far each row may be off, and what to say of it."""
        (test, measure), (off, said) = asked, known
        return Scores(
            values,
            len(self),
            measure=name_of(measure),
            columns=columns,
            ids=self.ids,
            test_ids=batch_index(test),
            drift=drift,
            residual=off,
            verdict=said or self._verdict(off),
            provenance=self._provenance(),
        )

    def _verdict(self, off: Tensor | None) -> str:
        said = [self._of_added, self.store.words["caution"]]
        if off is not None:
            by = "gradients are whole"
            if not self._encoding.whole:
                by = (
                    f"measured on {len(self._sample)} examples, the scores of a question are off by "
                    f"{float(off.max()):.1e} of their size at most"
                )
            said.insert(0, f"{len(off)} answers from an index; {by}")
        return "; ".join(filter(None, said))

    @cached_property
    def _of_added(self) -> str:
        """How far rows that were added later are from those that the curvature is of; "" where there are none."""
        first = self.store.parts[0].rows
        if len(self) == first:
            return ""
        own = self._own.abs()
        times = float(own[first:].mean() / own[:first].mean().clamp(min=torch.finfo(own.dtype).tiny))
        return (
            f"the curvature is that of the first {first} rows; the {len(self) - first} added since have "
            f"{times:.2g} times their mean self-influence"
        )

    @cached_property
    def _own(self) -> Float[Tensor, " n"]:
        return torch.cat([tensors["own"] for _, tensors, _ in self.store.blocks()]).double()

    def _provenance(self) -> dict[str, Any]:
        words = self.store.words
        return {
            "fingerprint": content_hash([], repr((words["key"], self.store.parts))),
            "behind": "The index behind the effects",
            **{name: words[name] for name in ("settings", "keep", "notes", "away")},
        }
