"""Programs on several processes: started by torchrun for one test, or by a group that is started once for many.

A start takes seconds, since every process imports torch. What processes do together is tested on a group (the fixture
`group`); what is said of their start, their death or their restart is tested on processes of their own (`torchrun`).
"""

import io
import itertools
import json
import os
import runpy
import select
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 600
"""Seconds until a program counts as one that never ends; ranks wait for each other three times as long."""
PAUSE = 0.02
"""Seconds between two looks for a file."""

Ended = subprocess.CompletedProcess[str]


def starter(*command: str | Path, ranks: int = 2, **options: str) -> list[str]:
    """The words that start `command`, a file or `-m` and a module, on so many processes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [*words, *map(str, command)]


def torchrun(*command: str | Path, ranks: int = 2, **options: str) -> Ended:
    """What became of `command` on processes of its own."""
    return subprocess.run(
        starter(*command, ranks=ranks, **options), capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE
    )


def script(folder: Path, text: str) -> Path:
    """A program that can import the tests' own modules."""
    path = folder / "job.py"
    path.write_text(f"import os, sys, torch\nsys.path.insert(0, {str(ROOT)!r})\n{text}")
    return path


class Group:
    """Processes that wait for programs and run them all, each the same one, until `close`.

    Every program is a file of `folder`, and so is what became of it on each rank: a file appears by its last name when
    it is whole. A program finds the modules as the one before left them.
    """

    def __init__(self, ranks: int, folder: Path) -> None:
        self.ranks, self.folder = ranks, folder
        self._numbers = itertools.count()
        self._words = folder / "words.txt"
        with self._words.open("w") as words:
            self._process = subprocess.Popen(
                starter("-m", __name__, folder, ranks=ranks),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
            )

    @property
    def ended(self) -> bool:
        """Whether the processes are gone."""
        return self._process.poll() is not None

    def run(self, *command: str | Path) -> list[Ended]:
        """What became of `command`, a file or `-m` and a module, on each rank.

        Raises RuntimeError with the processes' last words if they die of it, or do not end it in time.
        """
        number, asked = next(self._numbers), list(map(str, command))
        answers = [self.folder / f"{number}.{rank}.json" for rank in range(self.ranks)]
        put(self.folder / f"{number}.json", asked)
        began = time.monotonic()
        while not all(answer.exists() for answer in answers):
            if self.ended:
                raise RuntimeError(f"the group has died of {asked}:\n{self._words.read_text()}")
            if time.monotonic() - began > PATIENCE:
                self._process.terminate()  # torchrun ends the others
                raise RuntimeError(f"no end of {asked} in {PATIENCE} s:\n{self._words.read_text()}")
            time.sleep(PAUSE)
        return [subprocess.CompletedProcess(asked, *json.loads(answer.read_text())) for answer in answers]

    def close(self) -> None:
        """End the processes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def put(path: Path, thing: object) -> None:
    """Write a file that is whole as soon as it can be seen."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(thing))
    unfinished.rename(path)


# -- on each rank -----------------------------------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Run one program after the other until the standard input ends: whoever asked has finished, or is gone."""
    for number in itertools.count():
        program = folder / f"{number}.json"
        while not program.exists():
            if select.select([sys.stdin], [], [], PAUSE)[0]:
                return
        put(folder / f"{number}.{os.environ['RANK']}.json", executed(json.loads(program.read_text())))


def executed(command: list[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a program run in this process."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = _status(command)
    return status, out.getvalue(), errors.getvalue()


def _status(command: list[str]) -> int:
    module = command[0] == "-m"
    sys.argv = command[module:]
    try:
        if module:
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
