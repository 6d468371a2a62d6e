"""EKFAC scores of a small GPT-2 on real text, upweight beside kronfluence, each against an exact Gauss-Newton solve.

    python -m benchmarks language
    python -m benchmarks language --libraries upweight-ekfac kronfluence    without the exact solve
    python -m benchmarks language --rows 100 --steps 20                     a trial run

A GPT-2 of 4 layers and width 64 is trained on characters of Enron's mails, in sequences of 32; the parameters that
count are those of the dense layers of its blocks (p = 198,912), the loss is the mean over a sequence's tokens. 20
sequences of other mails are asked about 5,000 training sequences. Both draw one label per token for the factors;
kronfluence gets the model with its `Conv1D` layers as `Linear`, without which it finds none. The exact scores of the
first four queries are conjugate gradients with the Gauss-Newton matrix, to a residual of 1e-2. The damping is the
same for all.

Every measurement is a process of its own. Printed are seconds, peak memory, the lowest and the median cosine with the
exact scores, and the lines that a user writes. Needs benchmarks/requirements.txt, and UPWEIGHT_DATA_DIR with
enron1.parquet.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks import comparing
from benchmarks.judging import row_cosines
from benchmarks.libraries import library
from experiments.texts import TEXT, Columns, without_torchvision

EXACT = "upweight-exact"


def train(texts: Columns, steps: int) -> torch.nn.Module:
    """A GPT-2 after so many steps of Adam, batches of 64."""
    without_torchvision()
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=TEXT.words,
        n_positions=TEXT.length,
        n_embd=64,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
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


def lines_of(name: str) -> int:
    """What a user writes."""
    body = inspect.getsource(type(library(name, "text")).prepare).splitlines()[1:]
    return len([line for line in body if line.strip()])


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = comparing.parser(__name__, __doc__, [TEXT.queries], timeout=3600)
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--damping", type=float, default=0.01)
    options = comparing.options(parser, argv)
    path = options.out / f"gpt2-{options.steps}.pt"
    if not path.exists():
        texts, _, _ = TEXT.load(1, path=options.data)  # all of them, however few are asked about
        comparing.keep_model(train(texts, options.steps), path)
    measurements = comparing.Measurements("text", path, options, options.damping)
    asked = sorted(comparing.chosen(options, "text"), key=lambda name: name != EXACT)
    print(
        "| | factors s | scores s | MiB | lowest cosine | median cosine | lines |\n|---|---|---|---|---|---|---|"
    )
    for m in options.m:
        known = False
        for name in asked:
            line = measurements.line(name, m)
            if why := line.get("failed"):
                print(f"| {name} | {why} | | | | | |", flush=True)
                continue
            known, cosine = known or name == EXACT, np.full(1, np.nan)
            if known:
                truth, scores = (np.load(measurements.scores(who, m))["scores"] for who in (EXACT, name))
                cosine = row_cosines(scores[: len(truth)], truth)
            print(
                f"| {name} | {line['setup_s']:.1f} | {line['query_s']:.1f} | {line['peak_mib']} | "
                f"{cosine.min():.4f} | {np.median(cosine):.4f} | {lines_of(name)} |",
                flush=True,
            )
