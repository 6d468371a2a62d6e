"""MAGIC of bergson on the model of `unrolled_gpt2`: what one query takes there, and whether the derivatives agree.

bergson 2.5.1 is called as its command line does it: its trainer on a model in eval mode (its default; no dropout), the
AdamW of torchopt, every sqrt(T)-th state on disk, backwards for one query at a time. Two things differ: characters are
given as numbers, not by a tokenizer, and 1e-30 stands inside AdamW's square root in place of 1e-17, so that both
libraries differentiate the same training.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from experiments.texts import Columns


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that drops nothing."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def one_query(
    model: torch.nn.Module, texts: Columns, query: Columns, schedule: Callable[[int], float], **settings: Any
) -> tuple[torch.Tensor, dict[str, float]]:
    """The derivative of a query's loss in the weight of each text, in the order of training, and seconds.

    Args:
        model: at its start.
        texts: of one epoch, in the order in which they are trained on.
        query: one text.
        schedule: the rate of each step.
        settings: the size of a batch, the norm that gradients are clipped to, AdamW's eps and weight decay.
    """
    import torchopt
    from bergson.magic.cli import compute_query_gradients
    from bergson.magic.data_stream import DataStream
    from bergson.magic.trainer import BackwardState, Trainer
    from bergson.utils import weighted_causal_lm_ce
    from datasets import Dataset

    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")  # type: ignore[operator]
    model.loss_function = partial(weighted_causal_lm_ce, reduction="mean")
    optimiser = torchopt.adamw(
        schedule,
        betas=(0.9, 0.999),
        eps=settings["eps"],
        eps_root=1e-30,
        weight_decay=settings["weight_decay"],
    )
    trainer, state = Trainer.initialize(model, optimiser)  # type: ignore[arg-type]

    def stream(columns: Columns, batch: int) -> Any:
        return DataStream(
            Dataset.from_dict({"input_ids": columns["input_ids"].tolist()}), batch, device="cpu"
        )

    data = stream(texts, settings["batch"])
    clipped = {"inplace": True, "save_mode": "sqrt", "max_grad_norm": settings["clip"]}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        state = trainer.train(state, data, save_dir=folder, **clipped)
        trained = time.process_time()
        gradient, _ = compute_query_gradients(state, model, stream(query, 1), "mean")
        state.detach_()
        data.requires_grad = True
        memory = [torch.zeros_like(one) for one in state.differentiable_tensors()[len(gradient) :]]
        begun = BackwardState(gradient, memory, torch.zeros_like(data.weights))
        found = trainer.backward(folder, data, begun, state, cleanup=False, **clipped)
        ended = time.process_time()
    return found.weight_grads.double(), {"training": trained - began, "each_query": ended - trained}
