"""How many faults put into the source the tests notice: mutants of the places where numbers, files and access are made.

Run by `make mutants`, outside the checks: each mutant costs a run of the tests of its module. cosmic-ray makes them, in
a copy of the tree. The sample takes places of the source at random and one mutant of each, so that a sum, of which
there are many mutants, weighs no more than a comparison.

    python -m tests.mutants --sample 10 --seed 0 solvers/exact.py
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/upweight"
MODULES = {
    "solvers/exact.py": "",
    "solvers/cg.py": "",
    "solvers/base.py": "",
    "solvers/lissa.py": "",
    "solvers/arnoldi.py": "",
    "solvers/accuracy.py": "",
    "influence/removal.py": "",
    "influence/woodbury.py": "",
    "influence/leave_one_out.py": "",
    "influence/self_influence.py": "",
    "influence/scores.py": "",
    "influence/top_k.py": "",
    "influence/passes.py": "tests/runtime/test_distributed.py",
    "influence/score_store.py": "-k 'not killed and not torchrun and not one_rank'",
    "influence/stored_pass.py": "",
    "runtime/tensor_files.py": "",
    "review/access.py": "",
    "review/journal.py": "tests/review/test_faults.py",
    "review/server.py": "tests/review/test_serving.py tests/review/test_faults.py",
    "review/session.py": "tests/review/test_faults.py",
    "review/pages.py": "tests/review/test_access.py",
    "review/export.py": "",
    "tables/spreadsheet.py": "tests/tables/test_spreadsheet_words.py",
}
"""The modules that are mutated, with what is given to pytest beside the module and the tests named after it."""
LEFT_ALONE = re.compile(
    r"_BitOr_\w+$|(Add|Sub|Mul|Div|Mod|Pow)_(LShift|RShift|Bit\w+|Mod|Pow|FloorDiv)$|_Is$|_IsNot$"
)
"""Mutations of annotations, and those that are errors of types wherever they are run."""
CHOICES = re.compile(r"@dataclass|[A-Z_]+ = [\d.<e -]+$")
"""Lines that are left alone: what a decorator asks of Python, and tolerances and sizes, of which another would do."""
PATIENCE = 180
"""Seconds after which a mutant that does not end counts as noticed."""
BAR = 0.9
"""The share of mutants that has to be noticed."""


def survivors(copy: Path, module: str, sample: int, seed: int) -> tuple[int, list[str]]:
    """How many mutants of a module were tried, and those that no test noticed, as differences.

    Args:
        copy: a copy of the tree, which is written into.
        module: the module, below the package.
        sample: how many mutants are tried at most.
        seed: of the choice among them.

    Raises:
        RuntimeError: where the tests fail without any mutant.
    """
    config, session = copy / "mutants.toml", copy / "mutants.sqlite"
    package, _, name = module.rpartition("/")
    tests = f"tests/{package}/test_{name} {PACKAGE}/{module} {MODULES[module]}"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{PACKAGE}/{module}"\ntimeout = {PATIENCE}\nexcluded-modules = []\n'
        f'test-command = "{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session.unlink(missing_ok=True)
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    env |= {
        "CI": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }  # hypothesis tries the same for each; imports are half the time

    def tool(*words: str | Path) -> int:
        return subprocess.run(
            [Path(sys.executable).with_name("cosmic-ray"), *words], cwd=copy, env=env
        ).returncode

    if tool("baseline", config):
        raise RuntimeError(f"the tests of {module} fail without a mutant")
    tool("init", config, session)
    with sqlite3.connect(session) as jobs:
        specs = "SELECT start_pos_row, start_pos_col, operator_name, occurrence, job_id FROM mutation_specs"
        lines = (copy / PACKAGE / module).read_text(encoding="utf-8").splitlines()
        places: dict[tuple[int, int], list[str]] = {}
        for row, column, operator, _, job in sorted(jobs.execute(specs)):
            if not LEFT_ALONE.search(operator) and not CHOICES.match(lines[row - 1]):
                places.setdefault((row, column), []).append(job)
        draw = random.Random(seed)
        chosen = [draw.choice(places[at]) for at in draw.sample(list(places), min(sample, len(places)))]
        for table in ("mutation_specs", "work_items"):
            jobs.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({','.join('?' * len(chosen))})", chosen)
    tool("exec", config, session)
    with sqlite3.connect(session) as jobs:
        results = list(jobs.execute("SELECT test_outcome, diff FROM work_results"))
    return len(results), [diff for outcome, diff in results if outcome == "SURVIVED"]


def main() -> int:
    """Mutate every module, print what survived and the share that was noticed; 1 where that is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=10, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among them")
    parser.add_argument("modules", nargs="*", help="by default all")
    asked = parser.parse_args()
    tried = lived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "upweight"
        unwanted = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "site", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=unwanted)
        for module in asked.modules or MODULES:
            count, alive = survivors(copy, module, asked.sample, asked.seed)
            tried, lived = tried + count, lived + len(alive)
            print(f"{module}: {count - len(alive)} of {count} noticed", flush=True)
            for diff in alive:
                print(diff, flush=True)
    share = (tried - lived) / max(tried, 1)
    print(f"{tried - lived} of {tried} mutants noticed ({share:.0%}; at least {BAR:.0%} is wanted)")
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
