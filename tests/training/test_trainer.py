"""Runs of transformers' Trainer: the replay ends in the trainer's weights, whatever the model's class averages over."""

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.runs import differences
from upweight import EKFAC, Influence, TrainerRecorder, Unrolled, from_trainer
from upweight.network.trained import TokenSum

transformers = pytest.importorskip(
    "transformers", reason="needs the extra: pip install 'upweight[transformers]'"
)
pytest.importorskip("accelerate", reason="Trainer needs accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = 30
DRAW = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(3, 9, (13,), generator=DRAW).tolist()
TEXTS = [torch.randint(1, WORDS, (length,), generator=DRAW) for length in LENGTHS]
CLASSES = torch.randint(0, 3, (13,), generator=DRAW)
SIZES = {"vocab_size": WORDS, "num_labels": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def collate(rows):
    def padded(value, key="input_ids"):
        texts = [row[key] for row in rows]
        return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=value)

    labels = (
        torch.stack([row["labels"] for row in rows])
        if rows[0]["labels"].ndim == 0
        else padded(-100, "labels")
    )
    return {"input_ids": padded(0), "attention_mask": (padded(-1) >= 0).long(), "labels": labels}


def gpt2(kind="GPT2LMHeadModel", drop=0.1, **settings):
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 16}
    drops = {"resid_pdrop": drop, "embd_pdrop": drop, "attn_pdrop": drop}
    return getattr(transformers, kind)(transformers.GPT2Config(**{**SIZES, **shape, **drops, **settings}))


def llama(kind="LlamaForCausalLM", **settings):
    shape = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 16,
    }
    return getattr(transformers, kind)(transformers.LlamaConfig(**{**SIZES, **shape, **settings}))


class Own(torch.nn.Module):
    """A module of one's own, as people write them for the Trainer."""

    def __init__(self):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(WORDS, 6), torch.nn.Linear(6, 3)
        self.drop = torch.nn.Dropout(0.1)

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.out(self.drop((self.words(input_ids) * attention_mask[..., None]).sum(1)))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Pair(Own):
    def forward(self, input_ids, attention_mask, labels=None):
        return tuple(super().forward(input_ids, attention_mask, labels).values())


def trainer_of(folder, model, labels=TEXTS, dtype=torch.float64, **settings):
    torch.manual_seed(7)
    model = model().to(dtype)
    rows = [{"input_ids": text, "labels": label} for text, label in zip(TEXTS, labels, strict=True)]
    told = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "max_grad_norm": 0.65,
        "weight_decay": 0.1,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    args = transformers.TrainingArguments(str(folder), **{**told, **settings})
    return transformers.Trainer(model, args, train_dataset=rows, data_collator=collate)


def recorded(folder, model, **settings) -> Any:
    trainer = trainer_of(folder, model, **settings)
    recorder = TrainerRecorder(trainer)
    trainer.train()
    run = recorder.finish()
    assert run.gap is not None
    return run


VALUES = torch.randn(13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "GPT-2": ({"model": gpt2}, "together"),
    "Llama": ({"model": llama}, "together"),
    "GPT-2, classes": (
        {"model": functools.partial(gpt2, "GPT2ForSequenceClassification"), "labels": CLASSES},
        "sum",
    ),
    "Llama, classes": (
        {"model": functools.partial(llama, "LlamaForSequenceClassification"), "labels": CLASSES},
        "sum",
    ),
    "GPT-2, values": (
        {"model": functools.partial(gpt2, "GPT2ForSequenceClassification", num_labels=1), "labels": VALUES},
        "sum",
    ),
    "a module of one's own": ({"model": Own, "labels": CLASSES}, "mean"),
    "one that gives a pair": ({"model": Pair, "labels": CLASSES}, "mean"),
    "no accumulation": ({"model": gpt2, "gradient_accumulation_steps": 1, "max_grad_norm": 0.0}, "together"),
    "sorted by length": ({"model": llama, "train_sampling_strategy": "group_by_length"}, "together"),
    "stopped within an epoch": ({"model": gpt2, "max_steps": 4}, "together"),
    "SGD, cosine": ({"model": llama, "optim": "sgd", "lr_scheduler_type": "cosine"}, "together"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_replay_ends_in_the_trainers_weights(tmp_path, name):
    settings, accumulation = CASES[name]
    run = recorded(tmp_path, **settings)
    assert run.gap < 1e-12  # float64
    assert run.start.objective.averaging.accumulation == accumulation


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "GPT-2, classes", "a module of one's own"])
def test_the_objective_is_the_trainers_mean_over_all_examples(tmp_path, name):
    trainer = trainer_of(tmp_path, **CASES[name][0], max_steps=2)
    trainer.train()
    problem = from_trainer(trainer)
    every = collate(list(trainer.train_dataset))
    _, items = trainer.get_batch_samples(iter([every]), 1, torch.device("cpu"))
    told = trainer.compute_loss(trainer.model, dict(every), num_items_in_batch=items)
    ours = (problem.weights.double() * problem.train_losses()).mean()
    torch.testing.assert_close(ours, told.detach().double(), rtol=1e-6, atol=0)
    scores = Influence(problem, curvature=EKFAC(problem, damping=0.1)).on_loss(
        collate(trainer.train_dataset[:2])
    )
    assert scores.values.shape == (2, 13)


def test_in_single_precision_with_smoothed_labels(tmp_path):
    run = recorded(tmp_path, llama, dtype=torch.float32, label_smoothing_factor=0.1)
    assert run.gap < 1e-5
    assert run.start.objective.plain == TokenSum(shift=True, single=True, smoothing=0.1)


def test_gpt2_counts_first_tokens_too_and_llama_does_not(tmp_path):
    """The Trainer divides by all labels of GPT-2, whose first tokens are no targets: its steps are too small."""
    counts = [recorded(tmp_path, one).start.objective.averaging.counts for one in (gpt2, llama)]
    assert counts[0].tolist() == [float(length) for length in LENGTHS]
    assert counts[1].tolist() == [length - 1.0 for length in LENGTHS]


def test_a_run_that_goes_on_within_an_epoch(tmp_path):
    first = trainer_of(tmp_path, gpt2, save_strategy="steps", save_steps=2)
    first.train()
    again = trainer_of(tmp_path, gpt2)
    recorder = TrainerRecorder(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    run: Any = recorder.finish()
    assert (len(run.steps), run.gap < 1e-12) == (4, True)


def test_labels_of_minus_100_are_the_lowered_denominator(tmp_path):
    """What `removal="lowered"` replays is what the Trainer does where a text's labels all are -100."""
    trainer = trainer_of(tmp_path, llama)
    recorder = TrainerRecorder(trainer, removal="lowered")
    trainer.train()
    run = recorder.finish()
    without = [torch.full_like(text, -100) if i == 4 else text for i, text in enumerate(TEXTS)]
    other = trainer_of(tmp_path, llama, labels=without)
    other.train()
    after = next(run.replays.without([torch.tensor([4])]))
    expected = run.problem.layout.taken(dict(other.model.named_parameters()))
    assert_close_per_row((after.theta - run.problem.theta)[None], (expected - run.problem.theta)[None], 1e-6)


@pytest.mark.parametrize(
    "name", ["GPT-2, classes", "a module of one's own"]
)  # Llama computes in float32 inside
def test_answers_are_derivatives_of_replays(tmp_path, name):
    run = recorded(tmp_path, **CASES[name][0])
    test = run.problem.train_batch(torch.arange(3))
    rows = [0, 4, 9]
    found = Unrolled(run).on_loss(test).values[:, rows] / run.n
    assert_close_per_row(found, differences(run, test, rows), 1e-6)


def test_what_cannot_be_replayed_is_refused(tmp_path):
    for settings, words in (
        ({"bf16": True}, "bfloat16"),
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "earlier model"),
        ({"dataloader_in_order": False}, "dataloader_in_order"),
    ):
        trainer = trainer_of(tmp_path, llama)
        for key, value in settings.items():
            setattr(trainer.args, key, value)
        with pytest.raises(ValueError, match=words):
            TrainerRecorder(trainer)
    trainer = trainer_of(tmp_path, llama)
    trainer.train_dataset = type("Endless", (torch.utils.data.IterableDataset,), {"__iter__": None})()
    with pytest.raises(ValueError, match="whose examples have no numbers"):
        TrainerRecorder(trainer)
    trainer = trainer_of(tmp_path, llama, train_sampling_strategy="batch_rebalance")
    TrainerRecorder(trainer)
    with pytest.raises(ValueError, match="BatchRebalanceSampler"):
        trainer.train()
    with pytest.raises(ValueError, match=r"call trainer\.train"):
        TrainerRecorder(trainer_of(tmp_path, llama)).finish()


def test_a_loss_that_is_not_known_is_asked_for(tmp_path):
    class Other(Own):
        def forward(self, input_ids, attention_mask, labels=None):
            found = super().forward(input_ids, attention_mask, labels)
            return {**found, "loss": (found["logits"].logsumexp(1) * (1 + labels)).mean()}

    trainer = trainer_of(tmp_path, Other, labels=CLASSES)
    TrainerRecorder(trainer)
    with pytest.raises(ValueError, match="give loss="):
        trainer.train()
    trainer = trainer_of(tmp_path, Other, labels=CLASSES)
    recorder = TrainerRecorder(trainer, lambda o, b: (o["logits"].logsumexp(1) * (1 + b["labels"])).mean())
    trainer.train()
    run: Any = recorder.finish()
    assert run.gap < 1e-12


def test_adapters_of_peft_are_recorded_and_differentiated(tmp_path):
    peft = pytest.importorskip("peft", reason="LoRA needs peft")

    def adapted():
        settings = peft.LoraConfig(
            r=2, lora_dropout=0.1, target_modules=["c_attn"], fan_in_fan_out=True, task_type="SEQ_CLS"
        )
        return peft.get_peft_model(gpt2("GPT2ForSequenceClassification"), settings)

    run = recorded(tmp_path, adapted, labels=CLASSES)
    assert run.gap < 1e-13
    assert all("lora_" in name or "score" in name for name in run.problem.layout.names)
    test, rows = run.problem.train_batch(torch.arange(3)), [0, 4, 9]
    found = Unrolled(run).on_loss(test).values[:, rows] / run.n
    assert_close_per_row(found, differences(run, test, rows), 1e-6)
