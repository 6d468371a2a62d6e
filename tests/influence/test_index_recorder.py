"""Indexes written while a Trainer trains: it ends in the same weights, and they answer as an index made by hand."""

import warnings
from typing import Any

import pytest
import torch

import upweight as uw
from tests.support.compare import assert_close_per_row
from tests.training.test_trainer import collate, gpt2, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore")

WANTED: dict[str, Any] = {"error": 0.0, "params": "transformer.h.0.*"}


def trained(folder, **settings):
    """The state of a trainer after its training, all that is random in it too."""
    trainer = trainer_of(folder, gpt2, **settings)
    recorder = uw.IndexRecorder(trainer, folder / "index", moment=settings.pop("moment", "epoch"), **WANTED)
    trainer.train()
    return trainer, recorder


def test_training_is_what_it_was_without(tmp_path):
    plain = trainer_of(tmp_path / "plain", gpt2)
    plain.train()
    after = torch.rand(3)
    trainer, recorder = trained(tmp_path / "recorded")
    assert torch.equal(after, torch.rand(3))
    assert list(recorder.folders) == [3, 6]
    ours, theirs = trainer.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [entry for entry in trainer.state.log_history if "loss" in entry] == [
        entry for entry in plain.state.log_history if "loss" in entry
    ]
    assert trainer.model.training == plain.model.training


def test_answers_are_those_of_an_index_made_afterwards(tmp_path):
    trainer, recorder = trained(tmp_path)
    problem = uw.from_trainer(trainer, params=WANTED["params"])
    curvature = uw.EKFAC(problem, relative=0.1, samples=1)
    by_hand = uw.GradientIndex.build(
        uw.Influence(problem, curvature=curvature), tmp_path / "by hand", error=0.0
    )
    test = collate(trainer.train_dataset[:3])
    found = uw.GradientIndex.open(recorder.last, problem).on_loss(test)
    assert_close_per_row(found.values, by_hand.on_loss(test).values, 1e-9)
    with pytest.raises(uw.StaleError):  # of other weights
        uw.GradientIndex.open(recorder.folders[3], problem)


@pytest.mark.parametrize(("moment", "steps"), [("end", [6]), ("save", [2, 4, 6])])
def test_other_moments(moment, steps, tmp_path):
    trainer = trainer_of(tmp_path, gpt2, save_strategy="steps", save_steps=2)
    recorder = uw.IndexRecorder(trainer, tmp_path / "index", moment=moment, **WANTED)
    trainer.train()
    assert list(recorder.folders) == steps
    if moment == "save":  # an earlier checkpoint answers with its weights
        trainer.model.load_state_dict(gpt2().from_pretrained(tmp_path / "checkpoint-4").double().state_dict())
        problem = uw.from_trainer(trainer, params=WANTED["params"])
        test = collate(trainer.train_dataset[:1])
        assert uw.GradientIndex.open(recorder.folders[4], problem).on_loss(test).values.isfinite().all()


def test_a_training_that_goes_on_keeps_the_indexes_of_before(tmp_path):
    trainer = trainer_of(tmp_path, gpt2, save_strategy="steps", save_steps=2, max_steps=4)
    uw.IndexRecorder(trainer, tmp_path / "index", moment="save", **WANTED)
    trainer.train()
    again = trainer_of(tmp_path, gpt2, save_strategy="steps", save_steps=2)
    recorder = uw.IndexRecorder(again, tmp_path / "index", moment="save", **WANTED)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert list(recorder.folders) == [2, 4, 6]
    anew = trainer_of(tmp_path, gpt2)
    uw.IndexRecorder(anew, tmp_path / "index", **WANTED)
    with pytest.raises(ValueError, match="indexes of a training that went to step 6, this one begins at 0"):
        anew.train()


def test_what_cannot_be_written_does_not_end_the_training(tmp_path):
    trainer = trainer_of(tmp_path, gpt2)
    (tmp_path / "index").write_text("a file")
    recorder = uw.IndexRecorder(trainer, tmp_path / "index", **WANTED)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.train()
    assert any("the index of step 6 was not written" in str(one.message) for one in said)
    assert trainer.state.global_step == 6
    with pytest.raises(FileNotFoundError, match="no index stands in"):
        _ = recorder.last


def test_a_moment_that_is_not_known_is_named(tmp_path):
    with pytest.raises(ValueError, match="moment must be one of 'end', 'epoch', 'save', got 'step'"):
        uw.IndexRecorder(trainer_of(tmp_path, gpt2), tmp_path, moment="step")


def test_settings_that_no_index_can_have_do_not_end_the_training(tmp_path):
    trainer = trainer_of(tmp_path, gpt2)
    uw.IndexRecorder(trainer, tmp_path / "index", bytes_per_example=1, params=WANTED["params"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.train()
    assert any("bytes_per_example=1 is too little" in str(one.message) for one in said)
    assert trainer.state.global_step == 6
