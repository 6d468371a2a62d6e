"""The demo explains a wrong prediction and verifies it; its report is self-contained."""

import base64
import hashlib
import re

import pytest

from tests.support.files import run
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
