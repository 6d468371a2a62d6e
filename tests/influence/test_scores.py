"""`Scores` on made-up tables: sign, unit, order, round trip; no model in sight."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.compare import assert_close_per_row
from upweight import Scores, StaleError
from upweight.runtime.tensor_files import read, write

VALUES = torch.tensor([[-4.0, 8.0, 0.0, 2.0], [1.0, -2.0, 3.0, -40.0]], dtype=torch.float64)


def made_up(**fields) -> Scores:
    fields = {
        "drift": torch.tensor([1e-9, 2e-9]).double(),
        "residual": torch.tensor([1e-8, 3e-8]).double(),
        **fields,
    }
    return Scores(
        VALUES, 4, verdict="2 solves converged", provenance={"fingerprint": "abc", "keep": "mean"}, **fields
    )


def test_removal_is_minus_one_nth_and_replacement_plus_one_nth():
    assert_close_per_row(made_up().removal_effect(), -VALUES / 4, 1e-15)
    assert_close_per_row(made_up(edit="replaced").effect(), VALUES / 4, 1e-15)
    with pytest.raises(ValueError, match="replaced, not removed"):
        made_up(edit="replaced").removal_effect()


def test_helpful_harmful_and_top():
    first = made_up()[0]
    assert first.helpful(2).index.tolist() == [0, 2]
    assert first.harmful(2).index.tolist() == [1, 3]
    assert first.top(2).index.tolist() == [1, 0]
    assert first.helpful(1)["removal effect on the loss"].tolist() == [1.0]
    assert first.harmful(1)["influence"].tolist() == [8.0]
    assert made_up()[1].helpful(1).index.tolist() == [3]  # each test row its own
    assert len(first.helpful(100)) == 4
    assert first.helpful(1).index.name == "train row"


def test_rows_kept_by_top_have_their_own_ids():
    scores = made_up(columns=torch.tensor([[9, 8, 7, 6], [1, 2, 3, 4]]))
    assert scores[0].helpful(1).index.tolist() == [9]
    assert scores[1].helpful(1).index.tolist() == [4]
    assert scores.to_frame()["train row"].tolist() == [9, 8, 7, 6, 1, 2, 3, 4]


@pytest.mark.parametrize("k", [0, -2])
@pytest.mark.parametrize("table", ["helpful", "harmful", "top"])
def test_k_must_be_positive(table: str, k: int):
    with pytest.raises(ValueError, match=f"k must be >= 1, got {k}"):
        getattr(made_up()[0], table)(k)


def test_tables_are_about_one_test_row():
    for ask in (made_up().helpful, made_up().top, lambda k: made_up().table(torch.arange(k))):
        with pytest.raises(ValueError, match=r"2 test rows; choose one, as in scores\[0\]"):
            ask(1)
    found = made_up()[1].table(torch.tensor([3, 0]))
    assert found["influence"].to_dict() == {3: -40.0, 0: 1.0}
    assert found["removal effect on the loss"].to_dict() == {3: 10.0, 0: -0.25}


def test_indexing():
    scores = made_up()
    assert len(scores) == 2
    assert [row.values.tolist() for row in scores] == [VALUES[:1].tolist(), VALUES[1:].tolist()]
    assert torch.equal(scores[-1].values, VALUES[1:])
    assert torch.equal(scores[-2].values, VALUES[:1])
    for row in (2, -3):
        with pytest.raises(IndexError, match="of 2"):
            scores[row]


def test_numpy_and_frame():
    scores = made_up()
    assert np.array_equal(np.asarray(scores), VALUES.numpy())
    assert np.asarray(scores, dtype=np.float32).dtype == np.float32
    frame = scores.to_frame()
    assert frame.columns.tolist() == ["test row", "train row", "influence", "removal effect on the loss"]
    assert frame["test row"].tolist() == [0] * 4 + [1] * 4
    assert frame["train row"].tolist() == [0, 1, 2, 3] * 2
    assert_close_per_row(frame["removal effect on the loss"].to_numpy(), (-VALUES / 4).flatten(), 1e-15)


@pytest.mark.parametrize("edit", ["removed", "replaced"])
def test_both_reprs_say_the_sign(edit: str):
    for scores in (made_up(edit=edit), made_up(edit=edit)[0], made_up(edit=edit, measure="margin")[1]):
        sentence = f"Positive effect = the {scores.measure} would rise if the training example were {edit}"
        assert sentence in repr(scores)
        assert sentence in scores._repr_html_()
        assert "2 solves converged" in repr(scores)
    heading = "removal effect on the loss" if edit == "removed" else "effect on the loss"
    assert heading in repr(made_up(edit=edit)[0])
    assert heading in made_up(edit=edit)[0]._repr_html_()


def test_the_html_repr_escapes_what_the_user_named():
    assert "<script>" not in made_up(measure="<script>alert(1)</script>")[0]._repr_html_()


def test_round_trip(tmp_path):
    for scores in (
        made_up(),
        made_up(columns=torch.arange(8).view(2, 4), drift=None),
        made_up(edit="replaced")[1],
    ):
        path = tmp_path / "scores.safetensors"
        scores.save(path)
        found = Scores.load(path, fingerprint="abc")
        for name in ("values", "columns", "drift", "residual"):
            left, right = getattr(scores, name), getattr(found, name)
            assert (left is None) == (right is None)
            assert left is None or torch.equal(left, right)
        for name in ("n", "edit", "measure", "verdict", "provenance"):
            assert getattr(scores, name) == getattr(found, name)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-written stays


def test_another_fingerprint_is_stale(tmp_path):
    made_up().save(tmp_path / "s")
    assert len(Scores.load(tmp_path / "s")) == 2
    with pytest.raises(StaleError, match=r"other weights, data or settings.*abc.*xyz"):
        Scores.load(tmp_path / "s", fingerprint="xyz")


def test_foreign_files(tmp_path):
    save_file({"values": VALUES}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="not a score file of upweight"):
        Scores.load(tmp_path / "foreign")
    save_file(
        {"values": VALUES}, tmp_path / "other", metadata={"upweight": json.dumps({"n": 4, "colour": "red"})}
    )
    with pytest.raises(ValueError, match="score file"):
        Scores.load(tmp_path / "other")
    (tmp_path / "text").write_text("row,influence\n0,1.5\n")
    with pytest.raises(ValueError, match="not a score file of upweight"):
        Scores.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        Scores.load(tmp_path / "nowhere")


def test_the_summary_says_which_share_of_the_effects_lies_below_the_drift():
    values = torch.tensor([[8.0, -8.0, 80.0, 800.0]], dtype=torch.float64)  # effects of 2, 2, 20 and 200
    scores = Scores(values, n=4, drift=torch.tensor([-5.0], dtype=torch.float64))
    assert "up to 5.0e+00: 50% of the effects are smaller" in repr(scores)


def test_the_mean_over_models():
    first, second = made_up(), made_up(drift=torch.tensor([3e-9, 2e-9]).double())
    found = Scores.mean([first, second, first])
    assert_close_per_row(found.values, VALUES, 1e-15)
    assert found.drift is not None
    assert float(found.drift[0]) == pytest.approx(5e-9 / 3)
    assert "mean of 3 models" in found.verdict
    assert found.provenance["fingerprint"] != "abc"
    assert found.provenance["members"] == ["abc"] * 3
    half = Scores.mean([first, Scores(3 * VALUES, 4)])
    assert_close_per_row(half.values, 2 * VALUES, 1e-15)
    assert half.drift is None


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "no scores"),
        ([Scores(VALUES[:1], 4)], r"scores 0 have shape \(1, 4\), the first \(2, 4\)|shape"),
        ([Scores(VALUES, 5)], "scores 1 have training rows 5, the first 4"),
        ([Scores(VALUES, 4, edit="replaced")], "edit replaced"),
        ([Scores(VALUES, 4, measure="margin")], "measure margin"),
        ([Scores(VALUES, 4, columns=torch.zeros(2, 4).long())], "kept only the strongest rows"),
    ],
)
def test_models_that_do_not_match_have_no_mean(others, message: str):
    with pytest.raises(ValueError, match=message):
        Scores.mean([Scores(VALUES, 4), *others] if others else [])


@pytest.mark.parametrize(
    ("words", "tensors", "said"),
    [
        ({"n": -30}, {}, "n is -30"),
        ({"n": True}, {}, "n is True"),
        ({"n": 7}, {}, "4 columns for n = 7"),
        ({"edit": "added"}, {}, "edit is 'added'"),
        ({"ids": ["a"]}, {}, "lengths are"),
        ({}, {"drift": torch.zeros(5)}, "lengths are"),
        ({}, {"values": torch.zeros(2, 4)}, "values are torch.float32"),
        ({}, {"columns": torch.full((2, 4), -1)}, "columns are no training rows"),
    ],
)
def test_crafted_files_are_refused(tmp_path, words, tensors, said):
    """What no scores have, in a file with a checksum that is right."""
    scores = Scores(torch.zeros(2, 4, dtype=torch.float64), n=4)
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    held, known = read(path, "a score file")
    write(path, {**held, **tensors}, {**known, **words})
    with pytest.raises(ValueError, match=f"is not a score file of upweight.*{said}"):
        Scores.load(path)


def test_the_mean_keeps_the_largest_residual():
    """A mean is as sure as its least sure member."""
    values = torch.zeros(2, 3, dtype=torch.float64)
    residuals = [torch.tensor([1e-3, 1e-9]), torch.tensor([1e-9, 1e-2]), torch.tensor([1e-6, 1e-6])]
    found = Scores.mean([Scores(values, n=3, residual=residual) for residual in residuals])
    assert found.residual is not None
    assert found.residual.tolist() == torch.tensor([1e-3, 1e-2]).tolist()
