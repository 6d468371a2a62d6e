"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME` runs one."""

import sys
from pathlib import Path

from experiments.commands import run

if __name__ == "__main__":
    run(Path(__file__).parent, sys.argv[1:])
