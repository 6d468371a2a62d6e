"""Options that several commands share: they are the same everywhere, explained, and checked in one way."""

import re

import pytest

from tests.support.files import run

FILE_COMMANDS = [
    "explain",
    "verify",
    "report",
    "mislabeled",
    "review",
    "mismatch",
    "remove",
    "flip-set",
    "robustness",
    "attack",
    "trust",
]
READING = {"--target", "--text", "--image", "--drop", "--id", "--encoding", "--model", "--trust", "--problem"}
LEFT_OUT = {
    "attack": {"--model", "--trust", "--image", "--problem"},
    "review": {"--problem"},
    "flip-set": {"--problem"},
    "robustness": {"--model", "--trust", "--problem"},
}


def helped(command: str) -> dict[str, str]:
    """The options of a command with their help, each on one line."""
    text = run(command, "--help").output
    parts = re.split(r"\n\s+(?=--[a-z])", text)[1:]
    return {part.split()[0]: " ".join(part.split()[1:]) for part in parts}


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_every_command_reads_a_file_by_the_same_options(command: str):
    found = helped(command)
    assert READING - LEFT_OUT.get(command, set()) <= found.keys()
    assert not LEFT_OUT.get(command, set()) & found.keys()
    for option in READING & found.keys():
        assert found[option] == helped("explain")[option]  # one help text for all
    assert all(len(words.split()) >= 3 for words in found.values())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("explain", ["--row", "1", "--k", "0"]),
        ("verify", ["--row", "1", "--k", "1"]),
        ("report", ["--row", "1", "--checked", "1"]),
        ("mislabeled", ["--fail-over", "1.5"]),
        ("mislabeled", ["--format", "xml"]),
        ("review", ["--held", "0"]),
        ("review", ["--port", "70000"]),
        ("attack", ["--radius", "-1"]),
        ("explain", []),
        ("mismatch", []),
        ("remove", []),
        ("flip-set", []),
        ("explain", ["--row", "1", "--relativ"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_an_option_cannot_be_ends_before_anything_is_read(
    command: str, arguments: list[str], people_file
):
    result = run(command, people_file, "--target", "opinion", *arguments)
    assert result.exit_code == 2
    assert "Error" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_a_file_that_is_not_there_is_named(command: str, tmp_path):
    needed: dict[str, list[object]] = {
        "explain": ["--row", 1],
        "verify": ["--row", 1],
        "report": ["--row", 1],
        "mismatch": ["--by", "town"],
        "remove": ["--where", "age < 3"],
        "flip-set": ["--row", 1],
        "robustness": ["--coef", "age"],
    }
    result = run(command, tmp_path / "nowhere.csv", "--target", "opinion", *needed.get(command, []))
    assert result.exit_code == 2
    assert "nowhere.csv" in result.output
