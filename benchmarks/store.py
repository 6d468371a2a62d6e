"""Scores to disk: 1,000 x 1,000,000 with the strongest 100 in memory, and jobs that are killed.

    python benchmarks/store.py
    python benchmarks/store.py --kills 10 --rows 100000 --tests 200    two processes, killed at random moments

Logistic regression on generated data. Printed are seconds, peak memory of the process, the size of the folder and the
time to read one test row back; with --kills what was finished at each kill, and whether the folder that the restarts
leave has the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import upweight as uw

KEPT = 100


def fill(folder: Path, rows: int, columns: int, m: int) -> None:
    """The job."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, columns, generator=generator)
    y = (X[:, 0] + torch.randn(rows, generator=generator) > 0).long()
    # Not at the optimum: nothing here depends on it.
    problem = uw.LinearProblem(X, y, 0.1 * torch.ones(columns), loss=uw.Logistic(), l2=1e-3)
    solver = uw.ConjugateGradient(rtol=1e-9)
    began = time.perf_counter()
    uw.Influence(problem, solver=solver).on_loss((X[:m], y[:m]), top=KEPT, store=folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{m} x {rows} scores: {seconds:.1f} s, peak {peak:.2f} GiB with the data", flush=True)


def read_back(folder: Path) -> None:
    """One row after the other."""
    store = uw.ScoreStore(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    seconds = []
    for row in torch.randint(len(store), (20,), generator=torch.Generator().manual_seed(0)).tolist():
        began = time.perf_counter()
        assert store[row].values.isfinite().all()
        seconds.append(time.perf_counter() - began)
    middle, most = sorted(seconds)[10], max(seconds)
    print(
        f"folder {size / 2**30:.2f} GiB; a row read back in {1e3 * middle:.0f} ms (median), {1e3 * most:.0f} ms (most)"
    )


def job(options: argparse.Namespace, folder: Path) -> list[str]:
    """Two processes that fill a folder."""
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    sizes = [
        f"--rows={options.rows}",
        f"--columns={options.columns}",
        f"--tests={options.tests}",
        f"--fill={folder}",
    ]
    return [sys.executable, *starter, __file__, *sizes]


def contents(folder: Path) -> dict[str, bytes]:
    """All that is finished."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix != ".part"}


def kill(options: argparse.Namespace, place: Path) -> None:
    """Kill at random moments, restart, and compare with a job that nobody disturbed."""
    began = time.monotonic()
    subprocess.run(job(options, place / "calm"), check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.1f} s, {len(contents(place / 'calm'))} files")
    moments, kept = random.Random(0), 0
    for i in range(options.kills):
        before = contents(place / "rough")
        with subprocess.Popen(
            job(options, place / "rough"),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(moments.uniform(0.3, 1) * whole)
            os.killpg(process.pid, signal.SIGKILL)
        after = contents(place / "rough")
        assert all(after.get(name) == data for name, data in before.items()), (
            "a finished file was written again"
        )
        kept = len(after)
        print(f"kill {i + 1}: {len(before)} files were finished before, {kept} after", flush=True)
    subprocess.run(job(options, place / "rough"), check=True, stdout=subprocess.DEVNULL)
    same = contents(place / "rough") == contents(place / "calm")
    print(
        f"the last run made {len(contents(place / 'rough')) - kept} files; all bytes as undisturbed: {same}"
    )


def main() -> None:
    """Fill and read back, or kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--fill", type=Path, help="only fill this folder")
    options = parser.parse_args()
    if options.fill is not None:
        fill(options.fill, options.rows, options.columns, options.tests)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            kill(options, Path(folder))
        else:
            fill(Path(folder), options.rows, options.columns, options.tests)
            read_back(Path(folder))


if __name__ == "__main__":
    main()
