"""Whether answers can be trusted at all: a verdict with its reasons, and an exit code."""

import json

import pytest

from tests.support.files import NETWORK, people, run

UNFINISHED = NETWORK.replace("max_iter=300", "max_iter=1")


@pytest.mark.parametrize("row", [None, 7])
def test_a_model_that_is_trained_is_trusted(people_file, row):
    asked = ("--target", "opinion", "--format", "json", *(() if row is None else ("--row", row)))
    result = run("trust", people_file, *asked)
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert {line["verdict"] for line in lines} == {"trust"}
    counted = "1 solve converged" if row is not None else "20 solves converged"
    assert any(counted in line["reason"] for line in lines)


def test_a_network_in_the_middle_of_its_training_is_not_however_well_systems_are_solved(
    tmp_path, monkeypatch
):
    people().assign(size=1.5).fillna({"age": 40.0}).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "unfinished_network.py").write_text(UNFINISHED)
    monkeypatch.chdir(tmp_path)
    asked = ("a.csv", "--target", "opinion", "--problem", "unfinished_network:problem")
    result = run("trust", *asked)
    assert result.exit_code == 1, result.output
    assert result.stdout.splitlines()[1].startswith("do not trust,")
    assert "Error: do not trust answers about this model: training is not finished" in result.stderr
    for command, *more in (
        ("verify", "--row", 7),
        ("report", "--row", 7),
        ("remove", "--where", "age < 30", "--row", 7),
    ):
        (tmp_path / "no_refit.py").write_text(
            UNFINISHED
            + "\n\nproblem_and_refit = problem\ndef problem(t):\n    return problem_and_refit(t)[:2]\n"
        )
        judged = run(command, *asked[:4], "no_refit:problem", *more, *["--verify"] * (command == "remove"))
        assert judged.exit_code == 2
        assert "the function of --problem must return (problem, batches, refit)" in judged.stderr
    explained = run("explain", *asked, "--row", 7).stderr
    assert "Beware: training is not finished" in explained
    assert explained.index("Beware") < explained.index(
        "The linear system behind the effects: 1 solve converged"
    )
