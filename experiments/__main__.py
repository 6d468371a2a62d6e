"""`python -m experiments` lists the experiments, `python -m experiments NAME --small` runs one at its small size."""

import sys
from pathlib import Path

from experiments.commands import run

if __name__ == "__main__":
    run(Path(__file__).parent, sys.argv[1:])
