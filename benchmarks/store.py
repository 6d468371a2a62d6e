"""Scores to disk: 1,000 x 1,000,000 with the strongest 100 in memory, and jobs that are killed.

    python -m benchmarks store
    python -m benchmarks store --kills 10 --rows 1000000 --tests 150    two processes, killed at random moments

Logistic regression on generated data. Printed are seconds, peak memory of the process, the size of the folder and the
time to read one test row back; with --kills what was finished at each kill, and whether the folder that the restarts
leave has the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import upweight as uw
from benchmarks import measuring
from benchmarks.measuring import peak_mib, timed
from experiments import commands

KEPT = 100


def fill(folder: Path, rows: int, columns: int, m: int) -> None:
    """The job."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, columns, generator=generator)
    y = (X[:, 0] + torch.randn(rows, generator=generator) > 0).long()
    # Not at the optimum: nothing here depends on it.
    problem = uw.LinearProblem(X, y, 0.1 * torch.ones(columns), loss=uw.Logistic(), l2=1e-3)
    solver = uw.ConjugateGradient(rtol=1e-9)
    influence = uw.Influence(problem, solver=solver)
    _, seconds = timed(lambda: influence.on_loss((X[:m], y[:m]), top=KEPT, store=folder))
    print(
        f"{m} x {rows} scores: {seconds:.1f} s, peak {peak_mib() / 2**10:.2f} GiB with the data", flush=True
    )


def read_back(folder: Path) -> None:
    """One row after the other."""
    store = uw.ScoreStore(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    seconds = []
    for row in torch.randint(len(store), (20,), generator=torch.Generator().manual_seed(0)).tolist():
        finite, took = timed(lambda row=row: store[row].values.isfinite().all())
        assert finite
        seconds.append(took)
    middle, most = sorted(seconds)[10], max(seconds)
    print(
        f"folder {size / 2**30:.2f} GiB; a row read back in {1e3 * middle:.0f} ms (median), {1e3 * most:.0f} ms (most)"
    )


def job(options: argparse.Namespace, folder: Path) -> list[str]:
    """Two processes that fill a folder."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("rows", "columns", "tests")]
    return measuring.job(2, ["store", *sizes, f"--fill={folder}"])


def finished(folder: Path) -> list[Path]:
    """The files that carry their last names."""
    return [*folder.glob("*.safetensors"), *folder.glob("*.json")]


def contents(folder: Path) -> dict[str, bytes]:
    """All that is finished."""
    return {path.name: path.read_bytes() for path in finished(folder)}


def kill_all(folder: Path) -> None:
    """SIGKILL for starter and workers, each in a session of its own: whoever has the folder as argument."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def kill(options: argparse.Namespace, place: Path) -> None:
    """Kill a moment after the next file is finished, restart, and compare with a job that nobody disturbed."""
    subprocess.run(job(options, place / "calm"), check=True, stdout=subprocess.DEVNULL)
    wanted = contents(place / "calm")
    print(f"undisturbed: {len(wanted)} files")
    moments, folder = random.Random(0), place / "rough"
    for i in range(options.kills):
        before = contents(folder)
        with subprocess.Popen(
            job(options, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and len(finished(folder)) == len(before):
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            running = process.poll() is None
            kill_all(folder)
        after = contents(folder)
        kept = all(after.get(name) == data for name, data in before.items())
        print(
            f"kill {i + 1}: running {running}; {len(before)} files before, {len(after)} after; kept {kept}",
            flush=True,
        )
    last = len(finished(folder))
    subprocess.run(job(options, folder), check=True, stdout=subprocess.DEVNULL)
    found = contents(folder)
    print(f"the last run made {len(found) - last} files; all bytes as undisturbed: {found == wanted}")


def main(argv: Sequence[str] | None = None) -> None:
    """Fill and read back, or kill."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--fill", type=Path, help="only fill this folder")
    options = parser.parse_args(argv)
    if options.fill is not None:
        fill(options.fill, options.rows, options.columns, options.tests)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            kill(options, Path(folder))
        else:
            fill(Path(folder), options.rows, options.columns, options.tests)
            read_back(Path(folder))
