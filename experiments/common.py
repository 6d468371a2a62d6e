"""What every experiment does with its options and its results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import commands
from upweight.evaluation import LDS


def parser(name: str, doc: str | None, small: str) -> argparse.ArgumentParser:
    """The parser of an experiment, made of its `__name__` and `__doc__`; `small` says what its small size is."""
    found = commands.parser(name, doc)
    found.add_argument("--small", action="store_true", help=small)
    found.add_argument("--out", type=Path, default=Path("experiments/out"), help="folder of the results")
    return found


def options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the folder of the results in place."""
    found = parser.parse_args(argv)
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def publish(result: dict[str, Any], path: Path, silent: Sequence[str] = ()) -> None:
    """Print a result as JSON, without the long lists named in `silent`, and write all of it to a file."""
    shown = {name: value for name, value in result.items() if name not in silent}
    print(json.dumps(shown, indent=1), flush=True)
    path.write_text(json.dumps(result, indent=1))


def told(found: LDS) -> dict[str, Any]:
    """A linear datamodeling score as JSON."""
    return {"lds": found.value, "interval": found.interval, "ceiling": found.ceiling}


def diagonal(axis: Any, *values: Any, **style: Any) -> None:
    """The line where prediction and retraining agree, as long as the values reach."""
    ends = [min(min(part) for part in values), max(max(part) for part in values)]
    axis.plot(ends, ends, color="0.6", linewidth=1, **style)
