"""Scores through training by way of a folder: passes go on where they were cut off, and few test rows are in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open

from ..runtime.distributed import gather_objects, rank, together
from ..runtime.progress import track
from ..runtime.tensor_files import read, write
from ..types import Tensor
from .score_store import Plan, ScoreStore
from .scores import Scores

HELD_BYTES = 1 << 30
"""Scores of the test rows that go backwards through a run together, at most."""


def scores_in(
    folder: Path,
    key: str,
    plan: Plan,
    v: Float[Tensor, "m q"],
    passed: Callable[[Tensor], Float[Tensor, "k n"]],
    about: Scores,
    top: int | None,
) -> Scores:
    """The scores of m gradients, made or read: the folder is then what any `ScoreStore` is.

    Test rows go through training in groups. What a group has given is kept, test row by test row, until blocks of
    training rows are made of all of them and have been read back.

    Args:
        folder: of the store.
        key: a content hash of weights, data, settings and test rows.
        plan: the sizes of scores and blocks.
        v: the gradients of m test measures.
        passed: the scores of some of them, by a pass that the folder keeps the journal of.
        about: what is known of the scores, without columns.
        top: so many helpful and harmful training rows are kept in memory; None: all.

    Raises:
        StaleError: for a folder with scores of another key.
    """
    store = ScoreStore.begin(folder, key, plan)
    missing = not all(store.path(j).exists() for j in range(plan.blocks))
    paths = [folder / f"passed-{i:05}.safetensors" for i in range(-(-len(v) // _at_once(plan)))]
    if any(gather_objects(missing)):
        for path, group in zip(track(paths, "passes", len(paths)), v.split(_at_once(plan)), strict=True):
            _pass(store, path, group, passed)

    def block(part: slice) -> Tensor:
        try:
            return torch.cat([_columns(path, part) for path in paths])
        except FileNotFoundError:  # another job on this folder has finished all blocks, and tidied up
            return store.block(part.start // plan.columns)

    found = store.finished(about, block, top)
    with together():
        if rank() == 0:
            _tidied(store, read_back=top is None)
    return found


def _tidied(store: ScoreStore, read_back: bool) -> None:
    """Delete what groups have given, as large as all scores, once these are there: no later job asks for it.

    Args:
        store: whose blocks are all written.
        read_back: whether their checksums were compared since.
    """
    passed = list(store.folder.glob("passed-*.safetensors"))
    for j in range(store.plan.blocks if passed and not read_back else 0):
        store.block(j)
    for path in passed:
        path.unlink(missing_ok=True)


def _at_once(plan: Plan) -> int:
    """How many test rows go through training together."""
    return max(1, HELD_BYTES // (8 * plan.n))


def _pass(
    store: ScoreStore, path: Path, group: Float[Tensor, "k q"], passed: Callable[[Tensor], Tensor]
) -> None:
    """Take a group through training and keep what it gives, unless that has been done; its journal is over then."""
    if gather_objects(path.exists())[0]:
        with together():
            _, words = read(path, "a group of scores", "values", "key")
            if words["key"] != store.key:
                raise ValueError(f"{path} belongs to other scores: delete it and run again")
        return
    values = passed(group).to(getattr(torch, store.plan.dtype))
    with together():
        write(path, {"values": values}, {"key": store.key})
    if rank() == 0:
        for journal in store.folder.glob("through_*.safetensors"):
            journal.unlink(missing_ok=True)


def _columns(path: Path, part: slice) -> Float[Tensor, "k b"]:
    """The scores of a group on some training rows; its checksum was compared or written before."""
    with safe_open(path, framework="pt") as file:
        return file.get_slice("values")[:, part].contiguous()
