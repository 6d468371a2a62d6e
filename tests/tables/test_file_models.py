"""Models that come with a file: what runs code is refused, and a user's own function keeps its promise."""

import importlib
import io
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tests.support.files import NETWORK, people, run
from upweight import Influence


def test_a_model_that_could_run_code_is_not_loaded(people_file, tmp_path):
    skops = pytest.importorskip("skops.io")
    table = people().dropna()
    saved = tmp_path / "model.skops"
    skops.dump(
        make_pipeline(
            FunctionTransformer(json.dumps),  # any function that skops does not know
            LogisticRegression().fit(table[["age"]], table["opinion"]),
        ),
        saved,
    )
    result = run("mislabeled", people_file, "--target", "opinion", "--model", saved)
    assert result.exit_code == 2
    assert "json.dumps" in result.output
    assert "--trust json.dumps" in result.output


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A folder with mine.py, a network of two columns, and the file people.csv with names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(NETWORK)
    table = people().assign(size=np.random.default_rng(1).normal(170, 10, 120)).fillna({"age": 40.0})
    table.to_csv("people.csv", index=False)
    yield "people.csv", "--target", "opinion", "--id", "name", "--problem"
    sys.modules.pop("mine", None)
    assert "" not in sys.path


def test_a_network_answers_as_the_library_does(network, tmp_path):
    result = run("explain", *network, "mine:problem", "--row", "person 7", "--format", "json")
    assert result.exit_code == 0, result.output
    found = pd.read_json(io.StringIO(result.stdout)).set_index("train row").filter(like="effect").iloc[:, 0]
    sys.path.insert(0, str(tmp_path))
    try:
        mine = importlib.import_module("mine")
    finally:
        sys.path.pop(0)
    made, batches, _ = mine.problem(pd.read_csv("people.csv"))
    effect = Influence(made).on_loss(batches(pd.read_csv("people.csv").loc[[7]])).effect()[0]
    rows = [int(str(name).split()[1]) for name in found.index]
    np.testing.assert_allclose(found.to_numpy(), effect[rows].numpy(), rtol=1e-6)

    checked = run("verify", *network, "mine:problem", "--row", "person 7", "--k", 3, "--format", "json")
    assert checked.exit_code == 0, checked.output
    table = pd.read_json(io.StringIO(checked.stdout))
    assert np.corrcoef(table["predicted"], table["actual"])[0, 1] > 0.9

    suspects = run("mislabeled", *network, "mine:problem", "--k", 5, "--format", "json")
    assert suspects.exit_code == 0, suspects.output
    assert set(pd.read_json(io.StringIO(suspects.stdout))["label"]) <= {"likes", "dislikes"}
    page = run("report", *network, "mine:problem", "--row", "person 7", "--checked", 2, "--out", "page.html")
    assert page.exit_code == 0, page.output
    assert "mine:problem: 120 examples" in (tmp_path / "page.html").read_text()


RUN = """
import functools, torch, upweight as uw

def problem(table):
    def batches(rows):
        X = torch.tensor(rows[["age", "size"]].to_numpy(), dtype=torch.float32)
        return (X - torch.tensor([40.0, 170.0])) / 10, torch.tensor((rows["opinion"] == "likes").to_numpy().astype(int))

    torch.manual_seed(0)
    run = uw.TrainingRun.train(
        torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss(), batches(table),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1), epochs=5, batch_size=20,
    )
    return run, batches
"""


def test_a_recorded_run_takes_the_place_of_a_problem(network, tmp_path):
    (tmp_path / "mine.py").write_text(RUN)
    found = run("explain", *network, "mine:problem", "--row", "person 7", "--format", "json")
    assert found.exit_code == 0, found.output
    assert "person" in found.stdout
    checked = run("verify", *network, "mine:problem", "--row", "person 7", "--k", 3, "--format", "json")
    assert checked.exit_code == 0, checked.output
    table = pd.read_json(io.StringIO(checked.stdout))
    np.testing.assert_allclose(table["predicted"], table["actual"], rtol=0.1, atol=1e-5)
    judged = run("trust", *network, "mine:problem", "--row", "person 7", "--format", "json")
    assert judged.exit_code == 0, judged.output
    assert "24 rows removed and training replayed" in judged.stdout
    suspects = run("mislabeled", *network, "mine:problem", "--k", 5, "--format", "json")
    assert suspects.exit_code == 0, suspects.output
    page = run("report", *network, "mine:problem", "--row", "person 7", "--checked", 2, "--out", "page.html")
    assert page.exit_code == 0, page.output
    assert "through training: TrainingRun of 30 steps of SGD" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "write MODULE:FUNCTION"),
        (["mine:absent"], "has no attribute 'absent'"),
        (["missing:problem"], "No module named 'missing'"),
        (["mine:fails"], r"KeyError: 'nothing here' \(mine.py, line \d+\)"),
        (["mine:nothing"], "it returned int"),
        (["mine:problem", "--model", "some.skops"], "leave one out"),
        (["mine:problem", "--fail-over", "0.1"], "for linear models"),
    ],
)
def test_bad_problems_get_one_sentence(network, arguments, message):
    result = run("mislabeled", *network, *arguments)
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
