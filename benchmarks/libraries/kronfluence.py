"""kronfluence: EKFAC of a network, with sampled labels.

Its scores are +grad^T A^-1 grad with a mean over examples in A and sums in neither gradient, if the losses are summed
over a batch: ours with the opposite sign. With a mean loss they would depend on the batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.libraries.base import Answers, InMemory, Library, as_it_is, temporary_folder
from benchmarks.problems import Task


@dataclass(frozen=True)
class Ekfac(Library):
    """EKFAC of the Fisher matrix with sampled labels; the penalty has no place in it.

    Batch sizes are given: its own search takes the largest that runs (from 4,096) and on a processor learns that one
    was too large when the process is killed. All test points in one pass over the training data, which is what
    `query_gradient_accumulation_steps` is for: every group of test batches passes over it once. Factors and scores go
    through files in a temporary folder, which is its only way.
    """

    package = "kronfluence"
    rank: int | None = None
    """`query_gradient_low_rank`: preconditioned gradients of the test points are cut to so many singular values."""
    rows: int | None = None
    """A bound on the examples that the factors are made of."""
    draws: int = 1
    """How often the label of each is drawn. With many draws the tables are those of upweight's `EKFAC`, which takes the
    expectation over labels in closed form (see `check_libraries network`)."""
    covariance: int = 5500
    eigenvalues: int = 25
    query: int = 100
    train: int = 1000
    """Batch sizes."""

    def prepare(self, task: Task) -> Answers:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import ScoreArguments
        from kronfluence.utils.dataset import DataLoaderKwargs

        torch.manual_seed(0)
        classes, loading = _classification(), DataLoaderKwargs(collate_fn=as_it_is)
        network, folder = prepare_model(task.network(), classes), temporary_folder()
        analyzer = Analyzer("network", network, classes, cpu=True, disable_tqdm=True, output_dir=folder)
        self._fit(analyzer, InMemory(task.X.repeat(self.draws, 1), task.y.repeat(self.draws)), loading)

        def answers(X_test: Tensor, y_test: Tensor) -> Tensor:
            score = ScoreArguments(
                damping_factor=task.damping,
                query_gradient_low_rank=self.rank,
                query_gradient_accumulation_steps=math.ceil(len(X_test) / self.query),
            )
            analyzer.compute_pairwise_scores(
                scores_name="scores",
                factors_name="factors",
                query_dataset=InMemory(X_test, y_test),
                train_dataset=InMemory(task.X, task.y),
                per_device_query_batch_size=self.query,
                per_device_train_batch_size=self.train,
                dataloader_kwargs=loading,
                score_args=score,
            )
            return -analyzer.load_pairwise_scores("scores")["all_modules"].double()

        return answers

    def _fit(self, analyzer: Any, seen: InMemory, loading: Any) -> None:
        """The factors, in the three steps of `fit_all_factors`, each with a batch size of its own."""
        from kronfluence.arguments import FactorArguments

        factors = FactorArguments(
            strategy="ekfac", covariance_max_examples=self.rows, lambda_max_examples=self.rows
        )
        shared = {"factors_name": "factors", "factor_args": factors}
        data = {"dataset": seen, "dataloader_kwargs": loading}
        analyzer.fit_covariance_matrices(per_device_batch_size=self.covariance, **shared, **data)
        analyzer.perform_eigendecomposition(**shared)
        analyzer.fit_lambda_matrices(per_device_batch_size=self.eigenvalues, **shared, **data)


def _classification() -> Any:
    """Cross entropy, summed: kronfluence reads every example's gradient from the gradient of the batch's loss."""
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:
            x, y = batch
            outputs = model(x)
            if sample:  # labels of the model's own, for the true Fisher matrix
                y = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return F.cross_entropy(outputs, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:
            return self.compute_train_loss(batch, model)

    return Classification()


@dataclass(frozen=True)
class LanguageModel(Library):
    """EKFAC of a language model after its own example of one: its lines are counted, so it shares nothing.

    The model's `Conv1D` layers are replaced by `Linear`, without which it finds none.
    """

    package = "kronfluence"

    def prepare(self, task: Task) -> Answers:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task
        from torch.utils.data import Dataset
        from transformers.pytorch_utils import Conv1D

        class Texts(Dataset):
            def __init__(self, columns):
                self.columns = columns

            def __len__(self):
                return len(self.columns["labels"])

            def __getitem__(self, i):
                return {name: column[i] for name, column in self.columns.items()}

        class NextToken(Task):
            def compute_train_loss(self, batch, model, sample=False):
                logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
                labels = batch["labels"][:, 1:]
                if sample:
                    labels = torch.multinomial(logits.detach().softmax(2).flatten(0, 1), 1).view(labels.shape)
                return F.cross_entropy(logits.mT, labels, reduction="none").mean(1).sum()

            def compute_measurement(self, batch, model):
                return self.compute_train_loss(batch, model)

            def get_influence_tracked_modules(self):
                ends = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
                return [name for name, _ in model.named_modules() if name.endswith(ends)]

        model, train = task.model, Texts(task.X)
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, Conv1D):
                    linear = torch.nn.Linear(*layer.weight.shape)
                    linear.weight.data, linear.bias.data = layer.weight.data.T.contiguous(), layer.bias.data
                    setattr(parent, name, linear)
        tokens, folder = NextToken(), temporary_folder()
        network = prepare_model(model, tokens)
        analyzer = Analyzer("gpt2", network, tokens, cpu=True, disable_tqdm=True, output_dir=folder)
        factors = {"factors_name": "factors", "factor_args": FactorArguments(strategy="ekfac")}
        analyzer.fit_covariance_matrices(dataset=train, per_device_batch_size=500, **factors)
        analyzer.perform_eigendecomposition(**factors)
        analyzer.fit_lambda_matrices(dataset=train, per_device_batch_size=100, **factors)

        def answers(texts: Any, labels: Tensor) -> Tensor:
            analyzer.compute_pairwise_scores(
                scores_name="scores",
                factors_name="factors",
                query_dataset=Texts(texts),
                train_dataset=train,
                per_device_query_batch_size=20,
                per_device_train_batch_size=250,
                score_args=ScoreArguments(damping_factor=task.damping),
            )
            return -analyzer.load_pairwise_scores("scores")["all_modules"].double()

        return answers


LIBRARIES = {
    "kronfluence": {"mlp": Ekfac(), "text": LanguageModel()},
    "kronfluence-lowrank": {"mlp": Ekfac(rank=16)},
}
