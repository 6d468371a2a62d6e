"""The demo explains a wrong prediction and verifies it; its report is self-contained."""

import base64
import hashlib
import re

import numpy as np
import pytest

from tests.support.files import run
from upweight import LinearProblem, Softmax
from upweight.cli import demo, digits


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run of the demo on fewer digits of fewer pixels: its output and its folder."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    train, train_labels, test, test_labels = digits.embedded_digits()
    few = digits.Digits(train[:1000, ::2, ::2], train_labels[:1000], test[:, ::2, ::2], test_labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "embedded_digits", lambda: few)
        return run("demo", "--k", "3", "--out", str(out)), out


def test_the_demo_explains_and_verifies(ran):
    result, out = ran
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


def test_the_report_is_self_contained_and_accessible(ran):
    _, out = ran
    html = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"/|<link|@import|url\(", html)
    assert html.count("<img ") == html.count('src="data:image/') == 2 + 2 * demo.SHOWN
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
    few = digits.Digits(*(part[:300] for part in digits.embedded_digits()))
    X, y = few.train.reshape(300, -1) / 255.0, few.train_labels
    problem = LinearProblem.fit(X, y, loss=Softmax(), outputs=10, l2=1.0)
    wrong = digits.most_confident_error(problem, few)
    scores = (few.test.reshape(300, -1) / 255.0) @ problem.theta.view(10, -1).numpy().T
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    missed = probability.argmax(1) != few.test_labels
    assert missed[wrong.row]
    assert wrong.label == few.test_labels[wrong.row] != wrong.predicted
    # The demo reads the pixels in single precision.
    assert wrong.probability == pytest.approx(probability[missed].max(), rel=1e-5)
