"""Two processes give what one gives, and a job that cannot go on ends on all of them with words."""

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests import questions
from tests.support import files
from tests.support.ranks import ROOT, Group, script, torchrun
from upweight.errors import RankError
from upweight.runtime import distributed
from upweight.runtime.distributed import agree, alone, gather_objects, gather_rows, shard, sum_across
from upweight.runtime.tensor_files import read


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    """The answers of one process."""
    return questions.answers()


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_answer_is_that_of_one_process(
    tmp_path: Path, group: Callable[[int], Group], wanted: dict[str, torch.Tensor], ranks: int
):
    for ended in group(ranks).run(ROOT / "tests" / "questions.py", tmp_path / "more"):
        assert ended.returncode == 0, ended.stderr
    found, words = read(tmp_path / "more", "answers")
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
def test_other_data_or_weights_on_one_rank(
    tmp_path: Path, group: Callable[[int], Group], change: str, said: str
):
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
    for rank, ended in enumerate(group(2).run(job)):
        assert ended.returncode != 0
        assert said in ended.stderr
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
    ended = torchrun(job)  # fails if it takes a third of the time for which ranks wait for each other
    assert ended.returncode != 0
    assert "what went wrong here" in ended.stderr


def test_trouble_of_one_rank_is_raised_on_all(tmp_path: Path, group: Callable[[int], Group]):
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
    for ended in group(2).run(job):
        assert ended.stdout.count("RankError rank 1: no space left") == 1


def test_the_command_line_speaks_once(tmp_path: Path, group: Callable[[int], Group]):
    table = tmp_path / "t.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 7},{'yes' if i % 3 else 'no'}\n" for i in range(40)))
    asked = ("explain", table, "--target", "y", "--row", "3")
    one = files.run(*asked)
    first, second = group(2).run("-m", "upweight", *asked)
    assert first.returncode == second.returncode == one.exit_code == 0, first.stderr
    tables = [pd.read_csv(io.StringIO(job.stdout)) for job in (one, first)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    assert second.stdout == ""
    for wrong in group(2).run("-m", "upweight", "explain", table, "--target", "z", "--row", "3"):
        assert wrong.returncode != 0
        assert "Error:" in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_a_program_that_ends_its_processes_is_named_with_their_last_words(tmp_path: Path):
    job = script(tmp_path, "print('what went wrong', file=sys.__stderr__, flush=True)\nos._exit(3)")
    (tmp_path / "group").mkdir()
    with closing(Group(1, tmp_path / "group")) as own:
        (ended,) = own.run(script(tmp_path / "group", "sys.exit('no')"))
        assert (ended.returncode, ended.stdout) == (1, "")
        with pytest.raises(RuntimeError, match=r"(?s)died of .*job\.py.*what went wrong"):
            own.run(job)
        assert own.ended
