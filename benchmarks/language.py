# ruff: noqa: E402
"""EKFAC scores of a small GPT-2 on real text, upweight beside kronfluence, each against an exact Gauss-Newton solve.

    python benchmarks/language.py --data enron1.parquet
    python benchmarks/language.py --data enron1.parquet --methods upweight kronfluence    without the exact solve
    python benchmarks/language.py --data enron1.parquet --n 100 --steps 20      a trial run

A GPT-2 of 4 layers and width 64 is trained on characters of Enron's mails, in sequences of 32; the parameters that
count are those of the dense layers of its blocks (p = 198,912), the loss is the mean over a sequence's tokens. 20
sequences of other mails are asked about 5,000 training sequences. Both draw one label per token for the factors;
kronfluence gets the model with its `Conv1D` layers as `Linear`, without which it finds none. The exact scores of the
first four queries are conjugate gradients with the Gauss-Newton matrix, to a residual of 1e-2. The damping is the
same for all.

Every measurement is a process of its own. Printed are seconds, peak memory, the lowest and the median cosine with the
exact scores, and the lines that a user writes. Needs benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The peers bring PyPI's torchvision, which does not load beside a CPU build of torch; no model here needs it.
sys.modules["torchvision"] = None  # type: ignore[assignment]

import numpy as np
import peers
import torch
import transformers
from softmax import spawn
from torch.nn import functional as F

import upweight as uw
from upweight.losses import next_token

LENGTH, WORDS, QUERIES, JUDGED = 32, 97, 20, 4
PARAMS = ["transformer.h.*.attn.c_*", "transformer.h.*.mlp.c_*"]


def sequences(path: str, n: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """n training sequences and those asked about, of characters: the first mails' and the last ones'."""
    import pyarrow.parquet

    texts = pyarrow.parquet.read_table(path, columns=["text"]).column("text").to_pylist()

    def cut(mails: Iterator[str], count: int) -> dict[str, torch.Tensor]:
        codes: list[int] = []
        while len(codes) < count * LENGTH:
            codes += [min(max(ord(letter) - 31, 0), WORDS - 1) for letter in next(mails)]
        words = torch.tensor(codes[: count * LENGTH]).view(count, LENGTH)
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": words}

    return cut(iter(texts), n), cut(iter(texts[::-1]), QUERIES)


def trained(texts: dict[str, torch.Tensor], steps: int) -> transformers.GPT2LMHeadModel:
    """By Adam, batches of 64."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=64, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()  # no dropout
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(texts["labels"]), (64,))
        batch = {name: part[rows] for name, part in texts.items()}
        optimiser.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
    print(f"trained to a loss of {float(loss.detach()):.2f} per character", file=sys.stderr, flush=True)
    return model


def upweight(model: Any, texts: Any, queries: Any, damping: float, autocast: Any = None) -> Iterator[Any]:
    """What a user writes; it stops when the factors are there, and again with the scores."""
    params = [f"{name}.*" for name in PARAMS]
    problem = uw.Problem(model, next_token, texts, params=params, autocast=autocast)
    influence = uw.Influence(problem, curvature=uw.EKFAC(problem, damping, samples=1))
    yield influence.inverse
    yield influence.on_loss(queries).values


def kronfluence(model: Any, texts: Any, queries: Any, damping: float) -> Iterator[Any]:
    """The same, after its own example of a language model."""
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
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
                :, :-1
            ]
            labels = batch["labels"][:, 1:]
            if sample:
                labels = torch.multinomial(logits.detach().softmax(2).flatten(0, 1), 1).view(labels.shape)
            return F.cross_entropy(logits.mT, labels, reduction="none").mean(1).sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            ends = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            return [name for name, _ in model.named_modules() if name.endswith(ends)]

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                linear = torch.nn.Linear(*layer.weight.shape)
                linear.weight.data, linear.bias.data = layer.weight.data.T.contiguous(), layer.bias.data
                setattr(parent, name, linear)
    task, train, asked = NextToken(), Texts(texts), Texts(queries)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "gpt2", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder
        )
        factors = {"factors_name": "factors", "factor_args": FactorArguments(strategy="ekfac")}
        analyzer.fit_covariance_matrices(dataset=train, per_device_batch_size=500, **factors)
        analyzer.perform_eigendecomposition(**factors)
        analyzer.fit_lambda_matrices(dataset=train, per_device_batch_size=100, **factors)
        yield None
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="factors",
            query_dataset=asked,
            train_dataset=train,
            per_device_query_batch_size=QUERIES,
            per_device_train_batch_size=250,
            score_args=ScoreArguments(damping_factor=damping),
        )
        yield -analyzer.load_pairwise_scores("scores")["all_modules"].double()


def exact(model: Any, texts: Any, queries: Any, damping: float) -> Iterator[Any]:
    """By conjugate gradients, which a low-rank inverse of a tenth of the rows helps along."""
    problem = uw.Problem(model, next_token, texts, params=[f"{name}.*" for name in PARAMS])
    tenth = problem.subset(torch.arange(0, problem.n, 10))
    helper = uw.Nystrom(uw.GaussNewton(tenth, damping), rank=100)
    solver = uw.ConjugateGradient(rtol=1e-2, preconditioner=helper)
    influence = uw.Influence(problem, curvature=uw.GaussNewton(problem, damping), solver=solver)
    yield helper.factor()
    yield influence.on_loss({name: part[:JUDGED] for name, part in queries.items()}).values


def rounded(model: Any, texts: Any, queries: Any, damping: float) -> Iterator[Any]:
    """Ours, the model computing in bfloat16."""
    yield from upweight(model, texts, queries, damping, torch.bfloat16)


METHODS = {"exact": exact, "upweight": upweight, "upweight-bfloat16": rounded, "kronfluence": kronfluence}


def measure(options: argparse.Namespace) -> None:
    """One method in this process; its scores go to a file, its line to standard output."""
    peers.silence()
    texts, queries = sequences(options.data, options.n)

    def stages(n: int) -> Iterator[Any]:
        model = torch.load(options.out / "gpt2.pt", weights_only=False).eval()
        few = {name: part[:n] for name, part in texts.items()}
        return METHODS[options.one](model, few, queries, options.damping)

    if options.one != "exact":
        list(stages(2 * QUERIES))  # what torch imports on first use is not timed

    steps = stages(options.n)
    _, setup = peers.timed(next, steps)
    scores, seconds = peers.timed(next, steps)
    np.save(options.out / f"{options.one}.npy", scores.double().numpy())
    print(json.dumps({"setup_s": setup, "query_s": seconds, "peak_mib": peers.peak_mib()}))


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="enron1.parquet")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--timeout", type=float, default=3600)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "gpt2.pt").exists():
        texts, _ = sequences(options.data, options.n)
        torch.save(trained(texts, options.steps), options.out / "gpt2.pt")
    print(
        "| | factors s | scores s | MiB | lowest cosine | median cosine | lines |\n|---|---|---|---|---|---|---|"
    )
    for method in options.methods:
        function = METHODS[method]
        command = [__file__, "--one", method, "--data", options.data, "--n", str(options.n)]
        command += ["--damping", str(options.damping), "--out", str(options.out)]
        line = spawn(command, options.timeout)
        if line is None:
            print(f"| {method} | failed or over {options.timeout:.0f} s | | | | | |")
            continue
        cosine = np.full(1, np.nan)
        if "exact" in options.methods:
            truth, scores = (np.load(options.out / f"{name}.npy")[:JUDGED] for name in ("exact", method))
            cosine = (truth * scores).sum(1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(scores, axis=1)
        own = upweight if function is rounded else function
        body = [text for text in inspect.getsource(own).splitlines()[2:] if text.strip()]
        print(
            f"| {method} | {line['setup_s']:.1f} | {line['query_s']:.1f} | {line['peak_mib']} | "
            f"{cosine.min():.4f} | {np.median(cosine):.4f} | {len(body)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
