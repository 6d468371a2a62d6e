"""The session: the model follows the decisions as a fit from scratch would."""

import numpy as np
import pytest
import torch

from tests.support.reviews import client, labelled, session_of
from upweight import LinearProblem
from upweight.review.journal import Decision
from upweight.tables import FileError, FittedFile


@pytest.mark.parametrize("classes", [2, 3])
def test_the_model_follows_as_a_fit_from_scratch(tmp_path, classes):
    file = tmp_path / "kinds.csv"
    labelled(classes=classes).to_csv(file, index=False)
    session = session_of(FittedFile.of(file, "kind"))
    held = set(session.held.tolist())
    train = [row for row in range(90) if row not in held]
    changed, dropped, test = train[3], train[7], session.held[:2].tolist()
    other = next(label for label in session.labels if label != session.own_labels[changed])
    for decision in (
        Decision(changed, "relabel", other),
        Decision(dropped, "drop"),
        Decision(test[0], "relabel", "bee"),
        Decision(test[1], "drop"),
        Decision(train[1], "keep"),
    ):
        session.decide(decision)
    session.catch_up()

    whole = session.problem
    y, rows = whole.y.clone(), [row for row in train if row != dropped]
    y[changed] = session.codes([other])[0]
    scale = len(y) / len(rows)  # scikit-learn's C: the penalty's share grows as rows go
    twin = LinearProblem.fit(
        whole.design.take(torch.tensor(rows)), y[rows], loss=whole.loss, outputs=whole.c, intercept=True,
        l2=float(whole.l2[0]) * scale,
    )  # fmt: skip
    found = session.fit.influence.problem.theta
    # Softmax and its intercepts: a common shift changes nothing.
    X = whole.design.take(session.held)
    ours, theirs = (whole.outputs(X, theta).softmax(1) for theta in (found, twin.theta))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

    labels = dict(enumerate(session.own_labels)) | {test[0]: "bee"}
    left = [row for row in session.held.tolist() if row != test[1]]
    batch = whole.design.take(torch.tensor(left))
    outputs = twin.outputs(batch)
    said = (outputs[:, 0] > 0).long() if whole.c == 1 else outputs.argmax(1)
    right = [session.labels[code] == labels[row] for code, row in zip(said.tolist(), left, strict=True)]
    assert session.fit.accuracy == pytest.approx(np.mean(right))
    assert set(session.fit.ranking["row"]) == set(range(90)) - {dropped, test[1]}


def test_flipped_labels_come_first_and_accuracy_rises_as_they_are_mended(fitted):
    session = session_of(fitted)
    wrong = set(range(0, 90, 10))
    assert len(wrong & set(session.fit.ranking["row"][:12])) >= 8
    for row in wrong:
        session.decide(Decision(row, "relabel", "bee" if session.own_labels[row] == "ant" else "ant"))
    session.catch_up()
    assert session.fit.accuracy > session.first.accuracy
    assert not wrong & set(session.waiting())


@pytest.mark.parametrize("row", [0, 10, 41])
def test_evidence_is_other_rows_by_the_sign_of_their_effects(fitted, row):
    session = session_of(fitted)
    asked, helpful, harmful = session.evidence(row)
    assert (asked.id, asked.label, asked.effect) == (row, session.own_labels[row], None)
    for others, sign in ((helpful, 1), (harmful, -1)):
        assert 1 <= len(others) <= 3
        assert row not in [other.id for other in others]
        assert not set(session.held.tolist()) & {other.id for other in others}
        effects = [sign * float(other.effect) for other in others if other.effect is not None]
        assert len(effects) == len(others)
        assert min(effects) > 0
        assert [other.label for other in others] == [
            session.own_labels[int(str(other.id))] for other in others
        ]


def test_skipped_rows_come_again_at_the_end(fitted):
    session = session_of(fitted)
    first = next(session.waiting())
    session.decide(Decision(first, "skip"))
    session.catch_up()
    assert list(session.waiting())[-1] == first
    assert len(list(session.waiting())) == 90


def test_what_cannot_be_fitted_is_said_and_the_last_model_stays(fitted):
    session = session_of(fitted)
    for row in np.flatnonzero(session.own_labels == "ant"):
        session.journal.add(Decision(int(row), "drop"))
    session.decide(Decision(0, "drop"))
    session.catch_up()
    page = client(session).get("/")
    assert page.status_code == 200
    assert "cannot be fitted: one class is left" in page.text


def test_quantities_and_unknown_decisions_are_refused(fitted, tmp_path):
    session = session_of(fitted)
    for wrong in (Decision(90, "keep"), Decision(-1, "keep"), Decision(0, "relabel", "dog")):
        with pytest.raises(ValueError, match=r"no row|no label"):
            session.decide(wrong)
    assert not session.journal.decisions()
    table = labelled().assign(kind=np.linspace(0, 1, 90))
    table.to_csv(tmp_path / "numbers.csv", index=False)
    with pytest.raises(FileError, match="linear classifier"):
        session_of(FittedFile.of(tmp_path / "numbers.csv", "kind"))
