"""How many faults put into the source the tests notice: mutants of the places where numbers, files and access are made.

Run by `make mutants`, outside the checks: each mutant costs a run of the tests of its module. cosmic-ray makes them, in
a copy of the tree; types in annotations, which change nothing, are left alone.

    python -m tests.mutants --sample 10 --seed 0
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/upweight"
MODULES = {
    "solvers/exact.py": "tests/solvers/test_exact.py",
    "solvers/cg.py": "tests/solvers/test_cg.py tests/solvers/test_base.py",
    "solvers/base.py": "tests/solvers/test_base.py",
    "influence/removal.py": "tests/influence/test_removal.py",
    "influence/woodbury.py": "tests/influence/test_woodbury.py tests/influence/test_removal.py",
    "influence/leave_one_out.py": "tests/influence/test_leave_one_out.py",
    "influence/scores.py": "tests/influence/test_scores.py",
    "influence/score_store.py": "tests/influence/test_score_store.py",
    "runtime/tensor_files.py": "tests/runtime/test_tensor_files.py",
    "data/row_sets.py": "tests/data/test_row_sets.py",
    "data/names.py": "tests/data/test_names.py",
    "review/access.py": "tests/review/test_access.py",
    "review/journal.py": "tests/review",
    "review/server.py": "tests/review/test_serving.py tests/review/test_access.py",
    "tables/spreadsheet.py": "tests/tables",
}
"""The modules that are mutated, each with the tests that have to notice."""
LEFT_ALONE = ("ReplaceBinaryOperator_BitOr",)
"""Beginnings of the names of mutations that only change annotations."""
BAR = 0.9
"""The share of mutants that has to be noticed."""


def survivors(copy: Path, module: str, tests: str, sample: int, seed: int) -> tuple[int, list[str]]:
    """How many mutants of a module were tried, and those that no test noticed, as differences.

    Args:
        copy: a copy of the tree, which is written into.
        module: the module, below the package.
        tests: files and folders of tests, with spaces between them.
        sample: how many mutants are tried at most.
        seed: of the choice among them.
    """
    config, session = copy / "mutants.toml", copy / "mutants.sqlite"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{PACKAGE}/{module}"\ntimeout = 600.0\nexcluded-modules = []\n'
        f'test-command = "{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session.unlink(missing_ok=True)
    tool = Path(sys.executable).with_name("cosmic-ray")
    env = {**os.environ, "PYTHONPATH": str(copy / "src")}
    subprocess.run([tool, "init", config, session], cwd=copy, env=env, check=True, capture_output=True)
    with sqlite3.connect(session) as jobs:
        found = sorted(
            jobs.execute("SELECT job_id, operator_name, occurrence FROM mutation_specs"),
            key=lambda job: job[1:],
        )
        found = [job for job in found if not job[1].split("/")[-1].startswith(LEFT_ALONE)]
        chosen = {job[0] for job in random.Random(seed).sample(found, min(sample, len(found)))}
        for table in ("mutation_specs", "work_items"):
            every = [row[0] for row in jobs.execute(f"SELECT job_id FROM {table}")]
            jobs.executemany(
                f"DELETE FROM {table} WHERE job_id = ?", [(job,) for job in every if job not in chosen]
            )
    subprocess.run([tool, "exec", config, session], cwd=copy, env=env, check=True)
    with sqlite3.connect(session) as jobs:
        results = list(jobs.execute("SELECT test_outcome, diff FROM work_results"))
    return len(results), [diff for outcome, diff in results if outcome == "SURVIVED"]


def main() -> int:
    """Mutate every module, print what survived and the share that was noticed; 1 where that is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=20, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among them")
    parser.add_argument("modules", nargs="*", help="by default all")
    asked = parser.parse_args()
    tried = lived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "upweight"
        unwanted = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "site", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=unwanted)
        for module in asked.modules or MODULES:
            count, alive = survivors(copy, module, MODULES[module], asked.sample, asked.seed)
            tried, lived = tried + count, lived + len(alive)
            print(f"{module}: {count - len(alive)} of {count} noticed", flush=True)
            for diff in alive:
                print(diff, flush=True)
    share = (tried - lived) / max(tried, 1)
    print(f"{tried - lived} of {tried} mutants noticed ({share:.0%}; at least {BAR:.0%} is wanted)")
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
