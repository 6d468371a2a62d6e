"""How benchmarks measure: seconds, memory, and processes of their own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
OUT = Path(__file__).parent / "out"


def timed(work: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """What the work gives, and the seconds that it takes."""
    began = time.perf_counter()
    value = work(*arguments)
    return value, time.perf_counter() - began


def best(
    work: Callable[[], Any],
    times: int = 5,
    *,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The least of several times in seconds, after one call to warm up."""
    if warm:
        work()
    seconds = []
    for _ in range(times):
        began = clock()
        work()
        seconds.append(clock() - began)
    return min(seconds)


def kib(name: str) -> int:
    """A line of Linux's account of this process, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_mib() -> int:
    """The most memory that this program has held (Linux).

    Not `resource.getrusage`: its `ru_maxrss` survives exec, so a child would report the larger peak of its parent.
    """
    return round(kib("VmHWM") / 1024)


def silence() -> None:
    """Hide the libraries' warnings: they are about us not shuffling, or about themselves."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def child(arguments: list[Any], timeout: float) -> dict[str, Any] | None:
    """The last line, JSON, of `python -m benchmarks ARGUMENTS` in a process of its own.

    None if it failed or took longer than `timeout` seconds.
    """
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        print(*done.stderr.strip().splitlines()[-1:], file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def job(processes: int, arguments: list[Any]) -> list[str]:
    """The command of torchrun for `python -m benchmarks ARGUMENTS` on that many processes."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*starter, "--module", "benchmarks", *map(str, arguments)]
