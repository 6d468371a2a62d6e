"""Two processes give what one gives, and a job that cannot go on ends on all of them with words."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from upweight.errors import RankError
from upweight.runtime import distributed
from upweight.runtime.distributed import agree, alone, gather_objects, gather_rows, shard, sum_across
from upweight.runtime.tensor_files import read

HERE = Path(__file__).parents[1]


def run(*command: str | Path, ranks: int = 2, **options: str) -> subprocess.CompletedProcess[str]:
    """`command` on so many processes."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    switches = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return subprocess.run(
        [*starter, *switches, *map(str, command)], capture_output=True, text=True, cwd=HERE, timeout=300
    )


def script(tmp_path: Path, text: str) -> Path:
    """A program that knows the models of `questions`."""
    path = tmp_path / "job.py"
    path.write_text(f"import os, sys, torch\nsys.path.insert(0, {str(HERE.parent)!r})\n{text}")
    return path


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_answer_is_that_of_one_process(tmp_path: Path, ranks: int):
    one, more = tmp_path / "one", tmp_path / "more"
    subprocess.run([sys.executable, HERE / "questions.py", one], check=True, cwd=HERE, timeout=300)
    job = run("questions.py", more, ranks=ranks)
    assert job.returncode == 0, job.stderr
    (wanted, _), (found, words) = read(one, "answers"), read(more, "answers")
    assert words["ranks"] == ranks
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        # Ends of the spectrum are found in float32.
        rtol = 1e-6 if "spectrum" in name else 1e-8
        assert found[name].shape == values.shape, name
        assert float((found[name] - values).double().norm()) <= rtol * float(values.double().norm()), name


def test_on_one_process_all_of_it_is_the_identity():
    values = torch.arange(3.0)
    assert sum_across(values) is values
    assert gather_rows(values) is values
    assert gather_objects("a") == ["a"]
    assert shard(3) == slice(0, 3)
    agree()
    with pytest.raises(RankError, match="full"):
        agree("full")
    with pytest.raises(OSError, match="disk"):
        agree(OSError("disk"))
    with alone():
        assert distributed.ranks() == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data[0][5] += rank", "rank 1 has data and settings"),
        (
            "data = data[0][: 20 - rank], data[1][: 20 - rank]",
            "rank 1 has 19 training examples, rank 0 has 20",
        ),
        ("model.weight.data += rank", "rank 1 has parameters"),
        ("data = data[0][:1], data[1][:1]", "1 training examples cannot be divided over 2 processes"),
    ],
)
def test_other_data_or_weights_on_one_rank(tmp_path: Path, change: str, said: str):
    job = script(
        tmp_path,
        f"""
import upweight as uw
rank = int(os.environ["RANK"])
torch.manual_seed(0)
model = torch.nn.Linear(3, 2).double()
data = torch.randn(20, 3).double(), torch.randint(2, (20,))
{change}
problem = uw.Problem(model, torch.nn.functional.cross_entropy, data, l2=0.1)
try:
    uw.Influence(problem).on_loss(data)
except uw.InfluenceError as error:
    print(f"from {{rank}}: {{error}}", flush=True)
    raise
""",
    )
    ended = run(job)
    assert ended.returncode != 0
    assert said in ended.stderr
    for rank in (0, 1):
        assert f"from {rank}: {said}" in ended.stdout


def test_a_rank_that_dies_ends_the_job_with_its_traceback(tmp_path: Path):
    job = script(
        tmp_path,
        """
from tests import questions
problem, test = questions.network()
if os.environ["RANK"] == "1":
    raise FloatingPointError("what went wrong here")
import upweight as uw
uw.Influence(problem).on_loss(test)
""",
    )
    began = time.monotonic()
    ended = run(job)
    assert ended.returncode != 0
    assert "what went wrong here" in ended.stderr
    assert time.monotonic() - began < 120


def test_trouble_of_one_rank_is_raised_on_all(tmp_path: Path):
    job = script(
        tmp_path,
        """
from upweight.runtime.distributed import agree, rank
try:
    agree(OSError("no space left") if rank() == 1 else None)
except Exception as error:
    print(f"{type(error).__name__} {error}", flush=True)
""",
    )
    ended = run(job)
    assert ended.stdout.count("RankError rank 1: no space left") == 2


def test_the_command_line_speaks_once(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 7},{'yes' if i % 3 else 'no'}\n" for i in range(40)))
    asked = ("-m", "upweight", "explain", table, "--target", "y", "--row", "3")
    alone_ = subprocess.run([sys.executable, *map(str, asked)], capture_output=True, text=True, check=True)
    together = run(*asked)
    assert together.returncode == 0, together.stderr
    tables = [pd.read_csv(io.StringIO(job.stdout)) for job in (alone_, together)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    wrong = run("-m", "upweight", "explain", table, "--target", "z", "--row", "3")
    assert wrong.returncode != 0
    assert "Error:" in wrong.stderr
    assert 'Traceback (most recent call last):\n  File "' + str(HERE.parent / "src") not in wrong.stderr
