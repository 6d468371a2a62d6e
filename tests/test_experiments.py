"""The experiments run at their small size, end to end, and their bars that hold there."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_fig2_linear_small(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "experiments" / "fig2_linear.py"),
        "--small",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (digit,) = json.loads((tmp_path / "fig2_linear.json").read_text())["digits"]
    assert digit["left_top"]["pearson"] > 0.99
    assert digit["largest_gradient_norm"] <= 1e-9
    assert (tmp_path / "fig2_linear.png").stat().st_size > 1000
