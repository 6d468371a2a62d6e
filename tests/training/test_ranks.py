"""Several processes on one run: one replays and writes states, all read them, and each goes back for its test rows."""

from collections.abc import Callable
from pathlib import Path

from tests import questions
from tests.support.ranks import Group, script
from upweight import ScoreStore
from upweight.runtime.tensor_files import read


def test_processes_share_states_and_divide_test_rows(tmp_path: Path, group: Callable[[int], Group]):
    job = script(
        tmp_path,
        f"""
from pathlib import Path
from tests import questions
from upweight.runtime.tensor_files import write
from upweight.training import run as runs

steps, pulled_back = [], runs.pulled_back
runs.pulled_back = lambda *args: steps.append(len(args[3].theta)) or pulled_back(*args)
unrolled, test = questions.unrolled(Path({str(tmp_path / "states")!r}))
found = unrolled.on_loss(test, store={str(tmp_path / "states")!r}).values
assert set(steps) == {{2}}, steps
again = unrolled.on_loss(test, store={str(tmp_path / "states")!r}).values
assert torch.equal(again, found)
assert len(steps) == len(unrolled.run.steps)
runs.pulled_back = pulled_back
write({str(tmp_path / "found")!r}, {{"scores": found}}, {{}})
""",
    )
    for ended in group(2).run(job):
        assert ended.returncode == 0, ended.stderr
    unrolled, test = questions.unrolled()
    wanted, found = unrolled.on_loss(test).values, read(tmp_path / "found", "scores")[0]["scores"]
    assert float((found - wanted).norm()) <= 1e-10 * float(wanted.norm())
    kept = [path.name for path in (tmp_path / "states").iterdir()]
    assert len(ScoreStore(tmp_path / "states")) == len(wanted)
    assert not any(name.startswith("through_") for name in kept)
    assert sum(name.startswith("state_") for name in kept) >= 3


def test_processes_that_hold_different_runs_are_refused(tmp_path: Path, group: Callable[[int], Group]):
    job = script(
        tmp_path,
        """
from functools import partial
from upweight.errors import RankError
from tests.support.runs import sgd, trained
from upweight.runtime.distributed import rank

for fields, words in (
    ({"seed": rank()}, "order of batches"),
    ({"optimizer": sgd(lr=0.1 + 0.1 * rank())}, "learning rates, seeds or other settings"),
    ({"optimizer": (torch.optim.Adam, torch.optim.AdamW)[rank()]}, "with other optimiser"),
    ({"clip": 1.0 + rank()}, "clipping or meaning of a weight"),
    ({"weights": torch.full((24,), 1.0 + rank())}, "training data, model or starting weights"),
):
    try:
        trained(**fields)
    except RankError as error:
        assert f"rank 1 holds another run than rank 0, with other" in str(error)
        assert words in str(error), error
    else:
        raise AssertionError(fields)
assert len(trained().steps) == 12
""",
    )
    for ended in group(2).run(job):
        assert ended.returncode == 0, ended.stderr
