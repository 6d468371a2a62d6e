"""Training data larger than memory: logistic regression on 20,000,000 x 64 float32 from disk (5 GB).

    python -m benchmarks streaming --folder FOLDER
    python -m benchmarks streaming --folder FOLDER --rows 2000000 --format parquet

Generated rows are written once into --folder (X.npy, or X.parquet with the target in it) and found by the next run.
The problem is fitted, then asked for the 100 most helpful and harmful training rows of 100 test rows. Printed are the
passes over the data and the seconds of each, beside plain reads of the same file in the same process; the system's
cache of the file is dropped before each. Last come the peak memory of the process and a check of the answer. To cap
memory, run it in a cgroup:

    systemd-run --scope -p MemoryMax=4G python -m benchmarks streaming ...
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import upweight as uw
from benchmarks import measuring
from benchmarks.measuring import peak_mib
from experiments import commands
from upweight.data.design_on_disk import StreamedDesign
from upweight.data.sources import ArraySource, Source

D, TESTS, TOP = 64, 100, 100
AT_ONCE = 500_000


def generate(folder: Path, rows: int, kind: str) -> Path:
    """The file, made if it is not there."""
    path = folder / f"X-{rows}.{kind}"
    if path.exists():
        return path
    random = np.random.default_rng(0)
    theta = random.standard_normal(D).astype(np.float32) / 8
    y = np.empty(rows, np.int8)

    def parts() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, rows, AT_ONCE):
            X = random.standard_normal((min(AT_ONCE, rows - start), D), dtype=np.float32)
            y[start : start + len(X)] = random.random(len(X)) < 1 / (1 + np.exp(-X @ theta))
            yield start, X

    unfinished = path.with_suffix(".part")
    if kind == "npy":
        with unfinished.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, D)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, X in parts():
                X.tofile(file)
        np.save(path.with_suffix(".y.npy"), y)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [*(f"x{j}" for j in range(D)), "label"]
        schema = pa.schema([(name, pa.float32()) for name in names[:-1]] + [("label", pa.int8())])
        with pq.ParquetWriter(unfinished, schema, compression="none", use_dictionary=False) as writer:
            for start, X in parts():
                columns = [*X.T.copy(), y[start : start + len(X)]]
                writer.write_table(pa.table(columns, schema=schema))
    unfinished.rename(path)
    return path


def dropped(path: Path) -> None:
    """Tell the system to forget what it has read of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(path: Path) -> float:
    """Seconds to read the file from its start to its end."""
    dropped(path)
    held, began = bytearray(32 << 20), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(held):
            pass
    return time.perf_counter() - began


def counted(source: Source, path: Path) -> list[float]:
    """From now on every pass of the source begins without a cache and notes its seconds."""
    passes: list[float] = []
    read = source.read

    def noted(start: int, stop: int) -> Iterator[np.ndarray]:
        if stop - start < source.shape[0]:
            yield from read(start, stop)
            return
        dropped(path)
        began = time.perf_counter()
        yield from read(start, stop)
        passes.append(time.perf_counter() - began)

    source.read = noted  # type: ignore[method-assign]
    return passes


def timed(what: str, work: Callable[[], Any], passes: list[float]) -> Any:
    """Run, and print the passes that it took."""
    before = len(passes)
    result, seconds = measuring.timed(work)
    own = passes[before:]
    print(
        f"| {what} | {seconds:.1f} | {len(own)} | {', '.join(f'{one:.1f}' for one in own)} |",
        flush=True,
    )
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--format", choices=["npy", "parquet"], default="npy")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = generate(options.folder, options.rows, options.format)
    size = path.stat().st_size / 1e9
    plain = [plain_read(path) for _ in range(3)]
    print(f"{path.name}: {size:.2f} GB; a plain read: {', '.join(f'{one:.1f}' for one in plain)} s")
    print("| | s | passes | s each |\n|---|---|---|---|")
    held: list[float] = []
    if options.format == "npy":
        y: Any = np.load(path.with_suffix(".y.npy"))
        X = timed("check and hash", lambda: StreamedDesign(ArraySource(np.load(path, mmap_mode="r"))), held)
    else:
        X, y = timed("check, hash and targets", lambda: uw.stream(path, "label"), held)
    passes = counted(X.source, path)
    problem = timed("fit", lambda: uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=1e-6), passes)
    influence = uw.Influence(problem)
    test = X.take(torch.arange(TESTS)).X + 0.1, y[:TESTS]
    timed("curvature, factorised", lambda: influence.inverse, passes)
    scores = timed(
        f"{TESTS} x {options.rows} scores, top {TOP}", lambda: influence.on_loss(test, top=TOP), passes
    )
    print(
        f"peak {peak_mib() / 2**10:.2f} GiB resident, what is mapped of the file included; "
        f"worst residual {float(scores.residual.max()):.0e}"
    )
    index = scores.columns[:, [0, -1]]
    again = problem.train_gradients(index.flatten()).view(TESTS, 2, -1)
    solved = influence.solve(problem.test_gradients(test)).value
    direct = -torch.einsum("mp,mkp->mk", solved, again)
    worst = float(((scores.values[:, [0, -1]] - direct) / direct).abs().max())
    print(f"strongest scores against their rows read again: largest relative difference {worst:.1e}")
