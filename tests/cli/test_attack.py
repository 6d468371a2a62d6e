"""Which predictions one row could turn."""

import json

from tests.support.files import people, run


def test_attack_says_which_predictions_one_row_could_turn(people_file):
    arguments = (
        "attack",
        people_file,
        "--target",
        "opinion",
        "--drop",
        "said",
        "--format",
        "json",
        "--k",
        200,
    )
    flips = []
    for radius in (0, 3):
        result = run(*arguments, "--radius", radius)
        assert result.exit_code == 0, result.output
        lines = json.loads(result.stdout)
        assert all(line["margin"] > 0 for line in lines)
        for line in lines:  # the row, its own class, its rival, and the training row that could turn it
            assert line["class"] == people()["opinion"][line["row"]] != line["rival"]
            assert line["training row"] != line["row"]
        assert "a fifth of the rows is held out" in result.stderr
        assert "Finishing the training would change the margin" in result.stderr
        flips.append(sum(line["flips"] for line in lines))
    assert flips[0] == 0 < flips[1]
    assert run("attack", people_file, "--target", "opinion", "--drop", "age").exit_code == 2
