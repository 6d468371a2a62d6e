"""States of a run: within a stated budget, on disk, and after a process was killed."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import upweight as uw
from tests.support.runs import data, sgd, trained

ROOT = Path(__file__).parents[2]
RULES = [sgd(momentum=0.9), partial(torch.optim.Adam, lr=0.01)]


def asked(m: int = 3):
    return data(n=m, seed=1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("states", [0, 3, 5, 40])
def test_no_answer_depends_on_the_room_for_states(tmp_path, rule, seed, states):
    torch.manual_seed(1)
    run = trained(rule, epochs=6, seed=0) if seed is not None else unseeded(rule)
    wanted = uw.Unrolled(run).on_loss(asked()).values
    state = run.states.end
    size = sum(one.nbytes for one in (state.theta, *state.memory))
    for folder in (None, tmp_path):
        found = run.within(memory=states * size + 1, folder=folder)
        assert torch.equal(found.end.theta, run.end.theta)
        assert torch.equal(uw.Unrolled(found).on_loss(asked()).values, wanted)
        assert found.fingerprint() == run.fingerprint()
    assert list(tmp_path.glob("state_*.safetensors"))


def unseeded(rule):
    run = trained(rule, epochs=6)
    batches = [step.index for step in run.steps]
    base = run.start.base
    return uw.TrainingRun(
        base.evaluation.model, torch.nn.functional.cross_entropy, data(), optimizer=rule, batches=batches
    )


def test_no_more_states_are_held_than_there_is_room_for(monkeypatch):
    run = trained(epochs=20).within(memory=1)
    held: list[int] = []
    from upweight.training import states

    walked = states.States._walked

    def counted(self, state, first, stop, room):
        held.append(stop - first if stop - first <= max(1, room) else 1)
        yield from walked(self, state, first, stop, room)

    monkeypatch.setattr(states.States, "_walked", counted)
    uw.Unrolled(run).on_loss(asked())
    assert run.states.length == len(run.steps)  # nothing is kept between the start and the end
    assert max(held) == 1
    with pytest.raises(ValueError, match="positive number of bytes"):
        run.within(memory=0)


def test_the_replay_goes_on_from_the_last_state_on_disk(tmp_path, monkeypatch):
    run = trained(epochs=6)
    first, again, steps = run.within(folder=tmp_path), run.within(folder=tmp_path), []
    assert torch.equal(first.end.theta, run.end.theta)
    from upweight.training.forward import Forward

    looked = Forward.looked_at

    def counted(self, *args):
        steps.append(args)
        return looked(self, *args)

    monkeypatch.setattr(Forward, "looked_at", counted)
    assert torch.equal(again.end.theta, run.end.theta)
    assert not steps
    files = sorted(tmp_path.glob("state_*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it and compute it again"):
        uw.Unrolled(run.within(folder=tmp_path)).on_loss(asked())


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import torch
import upweight as uw
from tests.support.runs import data, sgd, trained
from upweight.runtime import whole_files

folder, test = Path(sys.argv[1]), data(n=3, seed=1)


def scores():
    run = trained(sgd(momentum=0.9), epochs=6).within(folder=folder)
    return uw.Unrolled(run).on_loss(test, store=folder).values


def contents():
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


wanted, files = scores(), contents()
count, replace = 0, os.replace
moments = len(files) - 1 + 5  # states, and writes of one journal
for moment in range(0, moments, 2):
    shutil.rmtree(folder)
    pid = os.fork()
    if pid == 0:
        calls = 0

        def dying(*args, **fields):
            global calls
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return replace(*args, **fields)

        os.replace = Path.replace = dying
        scores()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    count += os.WIFSIGNALED(status)
    assert torch.equal(scores(), wanted), moment
    left = {name: part for name, part in contents().items() if name in files}
    assert left == files, moment
print(f"killed {count} times")
"""


def test_what_was_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) >= 4
