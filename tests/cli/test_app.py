"""The command line: the demo's report is self-contained, and bad options get one clear answer."""

import base64
import hashlib
import re
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from upweight import LinearProblem, Softmax, cli
from upweight.report import in_words
from upweight.validation.verify import Verification, agreement


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the demo: its output and its folder."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return run("demo", "--k", "3", "--out", str(out)), out


def test_the_demo_explains_and_verifies(demo):
    result, out = demo
    assert result.exit_code == 0, result.output
    for words in (
        "Which training digits",
        "removal effect on the test loss (nats)",
        "Positive effect =",
        "Total time",
    ):
        assert words in " ".join(result.output.split())
    assert "The explanation holds" in result.output
    assert (out / "verification.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_self_contained_and_accessible(demo):
    _, out = demo
    html = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"/|<link|@import|url\(", html)
    assert html.count("<img ") == html.count('src="data:image/') == 2 + 2 * cli.demo.SHOWN
    assert all("alt=" in tag for tag in re.findall(r"<img [^>]*>", html))
    assert "prefers-color-scheme: dark" in html
    (script,), (style,) = (
        re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.S) for tag in ("script", "style")
    )
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in html  # the policy lets in this very text
    assert html.count("<tr>") == 1 + 3 + 3  # the head, and what was retrained
    assert "The explanation holds" in html
    assert "solve converged" in html
    assert "Finishing the training would change the test loss by" in html


def test_the_chosen_digit_is_wrong_and_the_most_confident():
    digits = cli.demo.embedded_digits()
    few = cli.demo.Digits(*(part[:300] for part in digits))
    X, y = few.train.reshape(300, -1) / 255.0, few.train_labels
    problem = LinearProblem.fit(X, y, loss=Softmax(), outputs=10, l2=1.0)
    wrong = cli.demo.most_confident_error(problem, few)
    scores = (few.test.reshape(300, -1) / 255.0) @ problem.theta.view(10, -1).numpy().T
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    missed = probability.argmax(1) != few.test_labels
    assert missed[wrong.row]
    assert wrong.label == few.test_labels[wrong.row] != wrong.predicted
    # The demo reads the pixels in single precision.
    assert wrong.probability == pytest.approx(probability[missed].max(), rel=1e-5)


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        ([1.0, 2.0, 3.1], "The explanation holds:"),
        ([1.0, 2.6, 3.0], "The explanation holds roughly:"),
        ([3.0, 6.0, 9.0], "The ranking holds, the sizes do not:"),
        ([2.0, 1.0, 0.0], "The explanation does not hold:"),
    ],
)
def test_the_verdict_follows_the_numbers(actual, words):
    top = agreement([1.0, 2.0, 3.0], actual)
    text = in_words(Verification(pd.DataFrame(), top, None))
    assert text.startswith(words)
    assert "random" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--k", "1"],
        ["demo", "--k", "many"],
        ["demo", "--seed", "-1"],
        ["demo", "--colour"],
        ["demo", "--out", __file__],
        ["demo", "--out", f"{__file__}/below"],
        ["explain"],
    ],
)
def test_a_bad_option_is_refused_in_words(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "Error" in result.output


def test_help_and_version():
    assert "demo" in run("--help").output
    assert "retraining" in run("demo", "--help").output
    assert run("--version").output.strip() == f"upweight {version('upweight')}"
