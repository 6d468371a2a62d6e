"""Data that an estimator was not fitted on: said in multiples of one example's share, wherever effects are shown."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import upweight as uw
from upweight.errors import NotStationaryWarning

X, Y = load_breast_cancer(return_X_y=True)
Z = StandardScaler().fit_transform(X)
WEIGHTS = np.linspace(0.1, 4, len(Y))


def raw_table():
    return LogisticRegression().fit(Z, Y), X, Y


def forgotten_weights():
    return LogisticRegression().fit(Z, Y, sample_weight=WEIGHTS), Z, Y


def other_rows():
    return LogisticRegression().fit(Z[:300], Y[:300]), Z[300:], Y[300:]


def raw_table_of_a_ridge():
    return Ridge().fit(Z, Y), X, Y


@pytest.mark.parametrize("made", [raw_table, forgotten_weights, other_rows, raw_table_of_a_ridge])
def test_it_is_said_wherever_effects_are_shown(made):
    estimator, rows, targets = made()
    with pytest.warns(NotStationaryWarning, match=r"\d+\.\d times what one example contributes"):
        problem = uw.from_estimator(estimator, rows, targets)
    influence, batch = uw.Influence(problem), (rows[:2], targets[:2])
    times = problem.facts.away
    assert "times what one example contributes" in times
    groups = np.arange(len(targets)) % 3
    shown: list[Any] = [
        influence.on_loss(batch),
        influence.of_each_removal(batch),
        influence.of_removal(groups, batch),
        uw.explain(influence, (rows[:1], targets[:1]), k=2, resamples=0),
        uw.mismatch(influence, batch, by=groups),
    ]
    for text in [*map(repr, shown), *(found._repr_html_() for found in shown)]:
        assert times in text
        assert "Are X, y and weights those that it was fitted on" in text
        assert "0% of the effects are smaller" not in text
    found = uw.trust(influence, batch)
    assert found.level == "do not trust"
    assert times in found.reasons[0]


def test_where_the_data_are_right_nothing_is_said(tmp_path):
    estimator, rows, _ = forgotten_weights()
    problem = uw.from_estimator(estimator, rows, Y, sample_weight=WEIGHTS)
    scores = uw.Influence(problem).on_loss((rows[:2], Y[:2]))
    assert problem.facts.away == ""
    assert "Beware" not in " ".join(scores.remarks)
    assert uw.trust(uw.Influence(problem), (rows[:2], Y[:2])).level == "trust"


def test_saved_scores_keep_it_and_a_finished_training_ends_it(tmp_path):
    estimator, rows, targets = other_rows()
    with pytest.warns(NotStationaryWarning):
        problem = uw.from_estimator(estimator, rows, targets)
    scores = uw.Influence(problem).on_loss((rows[:2], targets[:2]))
    scores.save(tmp_path / "scores.safetensors")
    again = uw.Scores.load(tmp_path / "scores.safetensors")
    assert again.remarks == scores.remarks
    assert "Beware" in again.remarks[0]
    polished = uw.from_estimator(estimator, rows, targets, polish=True)
    assert polished.facts.away == ""
    assert torch.equal(scores.values, again.values)
