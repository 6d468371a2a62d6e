"""Influence through the training of a small GPT-2 on real text, judged by replays of that training.

    python -m experiments unrolled_gpt2            384 texts, 20 queries, about 20 minutes of one processor
    python -m experiments unrolled_gpt2 --small    64 texts, 4 queries, seconds

A GPT-2 of 208,320 parameters reads characters of Enron's mails, 32 at a time. It is trained on some mails first, as
language models are, and what is recorded is its further training on 384 texts of others: the same AdamW, three epochs,
batches of 32, dropout 0.1, a rate that rises and falls, gradients clipped to 1, as the Trainer of transformers does it.
Queries are further texts of the same mails. The run is replayed without random tenths and halves of its texts, and, for
fewer queries, without the 1 % that each method says help that query most, and 1 % at random: same start, batches and
dropout.

Methods: derivatives through the run; Gauss-Newton by conjugate gradients (of fewer queries) and EKFAC, both of the last
weights, EKFAC at the damping that is best for these very outcomes; the cosine of gradients; BM25 of the words. A second
run begins with a new AdamW, whose first steps are the signs of gradients: no derivative tells how these flip. Where
bergson is installed its MAGIC goes backwards through one epoch, for the time of each query. Writes unrolled_gpt2.png
and unrolled_gpt2.json; scores and outcomes are kept in the folder and found by the next run. Needs transformers, and
UPWEIGHT_DATA_DIR with enron1.parquet.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common, magic
from experiments.texts import TEXT, Columns, Texts, without_torchvision
from experiments.unrolled_mnist import best, judged, kept_in, replayed
from upweight.evaluation import random_subsets

SHARES = {"10 %": 0.1, "50 %": 0.5}
ASKED, BEFORE = 536, 6400
"""Texts that the run's and the queries are drawn from, and later ones that the model read before."""
BATCH, WARM_UP, CLIP, RATE, EPS, DECAY = 32, 0.1, 1.0, 1e-3, 1e-8, 0.01
GAUSS_NEWTON_DAMPINGS = (1e-2,)


@dataclass(frozen=True)
class Size:
    """How much is done.

    Args:
        texts: n, that the run trains on.
        epochs: of the run.
        before: steps of training on other mails before it.
        queries: m, texts that are asked about.
        few: queries of Gauss-Newton, and of removals of the strongest.
        count: replays of each share.
        layers: of the model.
        dampings: of EKFAC.
    """

    texts: int
    epochs: int
    before: int
    queries: int
    few: int
    count: int
    layers: int = 4
    dampings: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)


FULL, SMALL = Size(384, 3, 600, 20, 6, 40), Size(64, 1, 20, 4, 2, 8, layers=1, dampings=(1e-2,))


def texts_of(size: Size) -> tuple[Columns, Columns, Columns]:
    """Texts of the run and queries, both drawn from the same mails, and texts of the mails after these."""
    every, _, _ = Texts(ASKED + BEFORE, length=TEXT.length, words=TEXT.words, queries=1).load(1)
    order = torch.randperm(ASKED, generator=torch.Generator().manual_seed(0))

    def at(rows: Any) -> Columns:
        return {name: part[rows] for name, part in every.items()}

    return at(order[: size.texts]), at(order[-size.queries :]), at(slice(ASKED, None))


def trained_before(texts: Columns, size: Size) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A GPT-2 after steps of AdamW on other mails, and what AdamW remembers."""
    without_torchvision()
    import transformers

    torch.manual_seed(0)
    layers = {"n_positions": TEXT.length, "n_embd": 64, "n_layer": size.layers, "n_head": 4}
    config = transformers.GPT2Config(vocab_size=TEXT.words, bos_token_id=0, eos_token_id=0, **layers)
    model = transformers.GPT2LMHeadModel(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(size.before):
        rows = torch.randint(len(texts["labels"]), (64,))
        loss = model(**{name: part[rows] for name, part in texts.items()}).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
    return model, optimiser.state_dict()


def started(texts: Columns, size: Size, path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model before the recorded run with the memory of its AdamW, from a file where it was trained already."""
    without_torchvision()
    if not path.exists():
        torch.save(trained_before(texts, size), path)
    model, memory = torch.load(path, weights_only=False)
    return model.train(), memory


def rate(step: int, steps: int) -> float:
    """What the rate is multiplied by: it rises for a tenth of the steps, then falls."""
    rising = max(1, round(WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / (steps - rising + 1))


def run_of(
    model: torch.nn.Module, texts: Columns, size: Size, memory: dict[str, Any] | None = None
) -> uw.TrainingRun:
    """The recorded run, of the AdamW that trained before or, without its memory, of a new one."""
    steps = math.ceil(size.texts / BATCH) * size.epochs
    optimiser = torch.optim.AdamW(model.parameters())
    if memory is not None:
        optimiser.load_state_dict(memory)
    optimiser.param_groups[0] |= {"lr": RATE, "eps": EPS, "weight_decay": DECAY}
    return uw.TrainingRun.train(
        model,
        uw.losses.next_token,
        texts,
        optimizer=optimiser,
        epochs=size.epochs,
        batch_size=BATCH,
        schedule=lambda step: rate(step, steps),
        clip=CLIP,
    )


def words(row: torch.Tensor) -> list[str]:
    """The words of a text."""
    return "".join(chr(int(code) + 31) for code in row).lower().split()


def bm25(texts: Columns, queries: Columns, k: float = 1.5, b: float = 0.75) -> torch.Tensor:
    """How well each text answers each query by its words alone (m, n): Okapi BM25."""
    held = [Counter(words(row)) for row in texts["input_ids"]]
    lengths = torch.tensor([float(sum(one.values())) for one in held])
    shrink = k * (1 - b + b * lengths / lengths.mean())
    found = torch.zeros(len(queries["input_ids"]), len(held), dtype=torch.float64)
    for scores, row in zip(found, queries["input_ids"], strict=True):
        for word in words(row):
            often = torch.tensor([float(one[word]) for one in held])
            rare = math.log(
                1 + (len(held) - (often > 0).sum().item() + 0.5) / ((often > 0).sum().item() + 0.5)
            )
            scores += rare * often * (k + 1) / (often + shrink)
    return found


def cosine(problem: uw.Problem, queries: Columns) -> torch.Tensor:
    """Cosines of the gradients of queries and of texts (m, n)."""
    asked = torch.nn.functional.normalize(problem.test_gradients(queries))
    blocks = [problem.train_gradients(part) for part in torch.arange(problem.n).split(64)]
    return torch.cat([asked @ torch.nn.functional.normalize(block).T for block in blocks], 1).double()


def of_last_weights(run: uw.TrainingRun, queries: Columns, size: Size, folder: Path) -> dict[str, Any]:
    """Removal effects by the last weights alone, by damping: EKFAC of all queries, Gauss-Newton of few."""
    problem = run.problem
    ekfac = uw.EKFAC(problem, samples=1)
    found: dict[str, Any] = {"Gauss-Newton": {}, "EKFAC": {}}

    def asked(influence: uw.Influence, m: int) -> torch.Tensor:
        return influence.on_loss({name: part[:m] for name, part in queries.items()}).removal_effect()

    for damping in size.dampings:
        influence = uw.Influence(problem, curvature=ekfac.damped(damping), solver=uw.Exact())
        found["EKFAC"][f"{damping:g}"] = kept_in(
            folder / f"ekfac_{damping:g}.npy", partial(asked, influence, len(queries["labels"]))
        )
    for damping in GAUSS_NEWTON_DAMPINGS:
        solver = uw.ConjugateGradient(rtol=1e-2, preconditioner=ekfac.damped(damping))
        influence = uw.Influence(problem, curvature=uw.GaussNewton(problem, damping=damping), solver=solver)
        found["Gauss-Newton"][f"{damping:g}"] = kept_in(
            folder / f"gauss_newton_{damping:g}.npy", partial(asked, influence, size.few)
        )
    return found


def without_strongest(
    run: uw.TrainingRun, effects: dict[str, torch.Tensor], queries: Columns, few: int, folder: Path
) -> dict[str, Any]:
    """What the loss of each of few queries rises by without the 1 % that help it most, and without 1 % at random."""
    n, share = run.n, max(1, round(run.n / 100))
    chosen = {name: found[:few].topk(share).indices for name, found in effects.items()}
    generator = torch.Generator().manual_seed(1)
    chosen["at random"] = torch.stack([torch.randperm(n, generator=generator)[:share] for _ in range(few)])
    before = run.problem.evaluate(queries)[:few].double()
    result = {}
    for name, rows in chosen.items():
        left = torch.ones(few, n, dtype=torch.bool).scatter_(1, rows, False)
        after = kept_in(folder / f"without_{name}.npy", partial(replayed, run, left, queries))
        rises = (after[:, 0, :few].diagonal() - before).numpy()
        drawn = np.random.default_rng(0).choice(rises, (10_000, few)).mean(1)
        result[name] = {
            "rise": float(rises.mean()),
            "interval": np.quantile(drawn, [0.025, 0.975]).tolist(),
            "each": rises.tolist(),
        }
    return result


def outcomes_of(run: uw.TrainingRun, queries: Columns, size: Size, folder: Path) -> dict[str, Any]:
    """Subsets and losses after replays on them, for each share that is dropped."""
    found = {}
    for share, dropped in SHARES.items():
        subsets = random_subsets(run.n, size.count, share=1 - dropped)
        found[share] = (
            subsets,
            kept_in(folder / f"dropped_{dropped:g}.npy", partial(replayed, run, subsets, queries)),
        )
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a function gives, and the seconds of the processor that it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def through(run: uw.TrainingRun, queries: Columns, folder: Path) -> tuple[torch.Tensor, float]:
    """Removal effects through the run, and the seconds of the processor when they were computed."""
    path = folder / "seconds.json"

    def scores() -> torch.Tensor:
        found, seconds = timed(lambda: uw.Unrolled(run).on_loss(queries).removal_effect())
        path.write_text(json.dumps({"all_queries": seconds}))
        return found

    return kept_in(folder / "through.npy", scores), json.loads(path.read_text())["all_queries"]


def beside_magic(model: torch.nn.Module, texts: Columns, queries: Columns, size: Size) -> dict[str, Any]:
    """Seconds of the processor per query beside bergson's MAGIC, one epoch without dropout, and whether both agree."""
    plain, once = magic.without_dropout(model), replace(size, epochs=1)
    run, training = timed(lambda: run_of(plain, texts, once))
    found, together = timed(lambda: uw.Unrolled(run).on_loss(queries).values / run.n)
    _, alone = timed(lambda: uw.Unrolled(run).on_loss({name: part[:1] for name, part in queries.items()}))
    order = torch.cat([step.index for step in run.steps])
    theirs, seconds = magic.one_query(
        plain,
        {name: part[order] for name, part in texts.items()},
        {name: part[:1] for name, part in queries.items()},
        lambda step: RATE * rate(step, len(run.steps)),
        batch=BATCH,
        clip=CLIP,
        eps=EPS,
        weight_decay=DECAY,
    )
    ours, each = found[0, order], together / size.queries
    return {
        "steps": len(run.steps),
        "upweight": {"training": training, "each_query": each, "one_query_alone": alone},
        "bergson": seconds,
        "bergson_over_upweight": seconds["each_query"] / each,
        "relative_difference": float((theirs - ours).norm() / ours.norm()),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """LDS by share and method, and what removing the strongest 1 % does."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (name, found) in enumerate(result["lds"].items()):
        left.bar(np.arange(len(SHARES)) + 0.16 * k, [found[s]["lds"] for s in SHARES], 0.16, label=name)
    left.set(title="same seed: LDS by share removed", ylim=(0, 1))
    left.set_xticks(np.arange(len(SHARES)) + 0.32, list(SHARES))
    left.legend(fontsize=7)
    known = result["without_strongest"]
    heights = [known[name]["rise"] for name in known]
    ends = np.abs(np.array([known[name]["interval"] for name in known]).T - heights)
    right.barh(list(known), heights, xerr=ends, color="#0072B2")
    right.set(title="without the 1 % that help most", xlabel="rise of the query's loss")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    parser = common.parser(__name__, __doc__, "64 texts, 4 queries, 8 replays of each share, 1 layer")
    options = common.options(parser, argv)
    size = SMALL if options.small else FULL
    texts, queries, other = texts_of(size)
    folder = options.out / f"unrolled_gpt2_{size.texts}_{size.epochs}"
    folder.mkdir(exist_ok=True)
    model, memory = started(other, size, folder / "before.pt")
    run, training = timed(lambda: run_of(model, texts, size, memory))
    effects, seconds = through(run, queries, folder)
    outcomes = outcomes_of(run, queries, size, folder)
    result: dict[str, Any] = {
        "n": run.n,
        "p": run.problem.p,
        "steps": len(run.steps),
        "queries": size.queries,
        "loss_of_queries": [float(one.evaluate(queries).mean()) for one in (run.start.base, run.problem)],
        "seconds": {"training": training, "each_query": seconds / size.queries},
        "lds": {"through training": judged(effects, outcomes)},
    }
    known = of_last_weights(run, queries, size, folder)
    for name, by in known.items():
        result["lds"][name] = best({d: judged(e, outcomes) for d, e in by.items()})
    single = {"cosine": cosine(run.problem, queries), "BM25": bm25(texts, queries)}
    result["lds"] |= {name: judged(e, outcomes) for name, e in single.items()}
    result["lds_of_few"] = {
        "through training": judged(effects[: size.few], outcomes),
        "EKFAC": best({d: judged(e[: size.few], outcomes) for d, e in known["EKFAC"].items()}),
    }
    chosen = {name: by[str(result["lds"][name]["10 %"]["damping"])] for name, by in known.items()}
    methods = {"through training": effects, **chosen, **single}
    result["without_strongest"] = without_strongest(run, methods, queries, size.few, folder)
    fresh, anew = folder / "anew", run_of(model, texts, size)
    found, _ = through(anew, queries, fresh)
    result["lds_of_a_new_adam"] = judged(found, outcomes_of(anew, queries, size, fresh))
    if find_spec("bergson") is not None:
        result["beside_magic"] = beside_magic(model, texts, queries, size)
    common.publish(result, options.out / "unrolled_gpt2.json")
    draw(result, options.out / "unrolled_gpt2.png")
