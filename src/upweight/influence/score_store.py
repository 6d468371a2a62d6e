"""Scores on disk: a folder of blocks, each written whole when it is finished, that a job cut off goes on from.

A block holds the scores of all test rows on consecutive training rows, in one safetensors file with a checksum; the
folder's key is a content hash of weights, data, settings and test rows, so that answers of two models never mix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open

from ..errors import StaleError
from ..objective import Objective
from ..runtime.distributed import gather_objects, rank, shard, together
from ..runtime.fingerprint import FORMAT, content_hash
from ..runtime.progress import tell, track
from ..runtime.tensor_files import UNREADABLE, check_format, damage, header, read, write, write_own
from ..runtime.whole_files import remove_unfinished, whole
from ..solvers import Solution, Status
from ..types import Tensor
from .scores import Scores
from .top_k import strongest

BLOCK_BYTES = 64 << 20
"""The size of one block of scores."""
ABOUT = "about.safetensors"
"""The file of what is known of the scores but their values, as `Scores` without columns."""
AGAIN = "run on_loss again, it makes what is missing"
SOLVED_AT_ONCE = 64
"""Right-hand sides that are solved together, and kept together."""


@dataclass(frozen=True)
class Plan:
    """What is going to be computed: m x n scores in blocks of `columns` training rows, from m answers of p numbers."""

    m: int
    n: int
    p: int
    columns: int
    dtype: str

    @classmethod
    def of(cls, m: int, problem: Objective) -> Plan:
        """The plan for m test measures of a problem, in blocks of 64 MiB, or less where all scores are fewer."""
        columns = max(1, BLOCK_BYTES // (m * problem.dtype.itemsize))
        return cls(
            m, problem.n, problem.p, min(columns, problem.n), str(problem.dtype).removeprefix("torch.")
        )

    def checked(self) -> Plan:
        """The plan itself; raises TypeError where its numbers are none of a plan's."""
        sizes = (self.m, self.n, self.p, self.columns)
        if not all(type(size) is int and size >= 1 for size in sizes) or self.dtype not in (
            "float32",
            "float64",
        ):
            raise TypeError(f"no plan has {vars(self)}")
        return self

    @property
    def blocks(self) -> int:
        """The number of blocks, the last of which may be shorter."""
        return -(-self.n // self.columns)

    @property
    def size(self) -> int:
        """The size of all scores in bytes, as they are written."""
        return self.m * self.n * getattr(torch, self.dtype).itemsize

    def part(self, j: int) -> slice:
        """The training rows of block j, 0 <= j < blocks."""
        return slice(j * self.columns, min((j + 1) * self.columns, self.n))

    def __str__(self) -> str:
        item = getattr(torch, self.dtype).itemsize
        held = 2 * self.m * self.p * item + 3 * self.m * self.columns * item
        groups = -(-self.m // SOLVED_AT_ONCE)
        return (
            f"{self.m} x {self.n} scores, {self.size / 2**30:.2f} GiB: {groups} groups of solves, "
            f"then one pass over the training data in {self.blocks} blocks of {self.columns} rows; about "
            f"{held / 2**30:.2f} GiB of memory beside the model and its data"
        )


class ScoreStore:
    """The scores in a folder that `on_loss(store=folder)` filled, at a minimum or through training, row by row.

    `store[i]` are the `Scores` (1, n) of test row i, `len(store)` the number of test rows; nothing else is held in
    memory. Raises ValueError for a folder that is not one and blocks that are missing, truncated or of other scores.
    Checksums are compared in all that is read.

    >>> import tempfile
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.eye(4, 2), torch.arange(4.0)
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scores = influence.on_loss((X[:3], y[:3]), store=folder)
    ...     bool((ScoreStore(folder)[1].values == scores[1].values).all())
    True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            words = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
            self.key: str = words["key"]
            check_format(words.get("format"), self.folder, "a folder of scores")
            self.plan = Plan(**words["plan"]).checked()
        except OSError as failure:
            raise ValueError(f"{folder} is not a folder of scores of upweight ({failure})") from failure
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as failure:
            raise ValueError(
                f"{folder} is not a folder of scores of upweight ({failure}), or its store.json is damaged: delete the "
                "folder and compute the scores again"
            ) from failure

    @classmethod
    def begin(cls, folder: str | Path, key: str, plan: Plan) -> ScoreStore:
        """The store in a folder for these scores: a new one, or the one there with what is finished.

        What a killed job left half written is deleted. Several jobs may fill one store: each writes under names of its
        own, and all write the same.

        Args:
            folder: made where it is not there.
            key: a content hash of weights, data, settings and test rows.
            plan: the sizes of scores and blocks.

        Raises:
            StaleError: where the folder holds scores of another key or plan.
        """
        place = Path(folder)
        with together():
            if rank() == 0:
                place.mkdir(parents=True, exist_ok=True)
                remove_unfinished(place)
                remove_unfinished(place, ".tmp*")
                if not (place / "store.json").exists():
                    write_words(place / "store.json", {"format": FORMAT, "key": key, "plan": vars(plan)})
        with together():
            found = cls(place)  # fails where a process does not see the folder of the first
        if (found.key, found.plan) != (key, plan):
            raise StaleError(
                f"{place} holds scores of other weights, data, settings or test rows (content hash {found.key}, asked "
                f"for {key}): give another folder, or delete this one"
            )
        tell(f"{plan}; {len(list(place.glob('scores-*.safetensors')))} blocks are finished")
        return found

    def __len__(self) -> int:
        return self.plan.m

    def __getitem__(self, row: int) -> Scores:
        if not -len(self) <= row < len(self):
            raise IndexError(f"test row {row} of {len(self)}")
        values = torch.cat([self._row(j, row % len(self)) for j in range(self.plan.blocks)])
        return replace(self._about[row], values=values.double()[None])

    @cached_property
    def _about(self) -> Scores:
        try:
            return Scores.load(self.folder / ABOUT)
        except FileNotFoundError:
            raise ValueError(f"{self.folder / ABOUT} is missing: {AGAIN}") from None

    def values(self) -> Float[Tensor, "m n"]:
        """All scores, in memory, m n numbers."""
        return torch.cat([self.block(j) for j in range(self.plan.blocks)], dim=1).double()

    def path(self, j: int) -> Path:
        """The file of block j."""
        return self.folder / f"scores-{j:06}.safetensors"

    def block(self, j: int) -> Float[Tensor, "m b"]:
        """The scores of block j, its checksum compared. Raises ValueError where it is missing, changed or not ours."""
        path, shape = self.path(j), (self.plan.m, _length(self.plan.part(j)))
        try:
            tensors, words = read(path, "a block of scores", "values", "key")
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: {AGAIN}") from None
        if words["key"] != self.key or tuple(tensors["values"].shape) != shape:
            raise ValueError(f"{path} belongs to other scores: delete it and run again")
        return tensors["values"]

    def _row(self, j: int, row: int) -> Float[Tensor, " b"]:
        path = self.path(j)
        try:
            with safe_open(path, framework="pt") as file:
                key = header(file)[2].get("key")
                found, check = file.get_slice("values")[row], file.get_slice("checks")[row]
        except OSError as failure:
            raise ValueError(f"{path} cannot be read ({failure}): {AGAIN}") from None
        except UNREADABLE as failure:
            raise ValueError(f"{path} is damaged, {damage(failure)}: delete it, and {AGAIN}") from None
        if key != self.key or len(found) != _length(self.plan.part(j)):
            raise ValueError(f"{path} belongs to other scores: delete it and run again")
        if int(check) != _check(found):
            raise ValueError(f"{path} has changed since it was written: delete it and run again")
        return found

    # -- filling it ------------------------------------------------------------------------------------------------

    def solved(self, rows: Float[Tensor, "m p"], solve: Callable[[Tensor], Solution]) -> Solution:
        """A^-1 v for all rows (m, p), in groups of 64; a finished group is kept in the folder and not solved again.

        `solve` gives A^-1 v for the rows of a group, and is called by all processes or by none.
        """
        groups = rows.split(SOLVED_AT_ONCE)
        found = [self._group(i, group, solve) for i, group in enumerate(track(groups, "solves", len(groups)))]
        errors = [part.error for part in found if part.error is not None]
        return Solution(
            torch.cat([part.value for part in found]),
            torch.cat([part.residual for part in found]),
            torch.cat([part.steps for part in found]),
            tuple(status for part in found for status in part.status),
            found[0].precision,
            torch.cat(errors) if errors else None,
        )

    def _group(self, i: int, rows: Tensor, solve: Callable[[Tensor], Solution]) -> Solution:
        path = self.folder / f"solved-{i:05}.safetensors"
        if not gather_objects(path.exists())[0]:
            made = solve(rows)
            tensors = {"value": made.value, "residual": made.residual, "steps": made.steps}
            tensors |= {} if made.error is None else {"error": made.error}
            precision = None if made.precision is None else str(made.precision).removeprefix("torch.")
            status = [status.value for status in made.status]
            with together():
                write(path, tensors, {"key": self.key, "status": status, "precision": precision})
        # Read also what was just written: the bytes are the same in every run.
        needed = ("value", "residual", "steps", "key", "status", "precision")
        tensors, words = read(path, "a group of solves", *needed)
        if words["key"] != self.key or tensors["value"].shape != rows.shape:
            raise ValueError(f"{path} belongs to other scores: delete it and run again")
        precision = None if words["precision"] is None else getattr(torch, words["precision"])
        value, residual = tensors["value"].to(rows.device), tensors["residual"].to(rows.device)
        ended = tuple(map(Status, words["status"]))
        return Solution(value, residual, tensors["steps"], ended, precision, tensors.get("error"))

    def fill(
        self, compute: Callable[[slice], Float[Tensor, "m b"]]
    ) -> Iterator[tuple[slice, Float[Tensor, "m b"]]]:
        """The blocks of this process one after the other: read where they are finished, else computed and written.

        `compute` gives the scores (m, b) of all test rows on some training rows. Where one process fails (a full disk,
        a file that is not ours) the others finish their blocks; then all raise.
        """
        own = range(self.plan.blocks)[shard(self.plan.blocks)]
        with together():
            for j in track(own, "blocks of scores", len(own)):
                part = self.plan.part(j)
                if self.path(j).exists():
                    values = self.block(j)
                else:
                    values = compute(part)
                    checks = torch.tensor([_check(row) for row in values])
                    write_own(self.path(j), {"values": values, "checks": checks}, {"key": self.key})
                yield part, values

    def finished(
        self, about: Scores, compute: Callable[[slice], Float[Tensor, "m b"]], top: int | None
    ) -> Scores:
        """The scores, once all blocks are there; what is known of them can be read before.

        Args:
            about: what is known of the scores, without columns.
            compute: the scores of all test rows on some training rows, as `fill` takes it.
            top: so many helpful and harmful training rows are kept in memory; None: all.
        """
        with together():
            about.save(self.folder / ABOUT)
        if top is not None:
            values, columns = strongest(self.fill(compute), len(self), top)
            return replace(about, values=values, columns=columns)
        for _ in self.fill(compute):
            pass
        return replace(about, values=self.values())


def _check(row: Float[Tensor, " b"]) -> int:
    """The checksum of one test row's scores in a block, 60 bits: a row is read by itself."""
    return int(content_hash([row])[:15], 16)


def write_words(path: Path, words: dict[str, Any]) -> None:
    """Write a file of JSON at once or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(words, indent=1), encoding="utf-8")


def _length(part: slice) -> int:
    return part.stop - part.start
