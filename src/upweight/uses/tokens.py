"""Which tokens of a text are responsible: a training text's effect on a question, taken apart by its tokens."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..influence.given_rows import given_rows, numbered
from ..influence.influence import Influence
from ..influence.shown import sides
from ..losses.language import IGNORED, next_token, token_losses
from ..measures import MeasureLike
from ..network.example_gradients import directional_terms
from ..network.problem import Problem
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor

CLOSE = 1e-3
"""How far, relative to the losses, terms may be from adding up to them."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """The influence of single tokens of training texts, or on single tokens of test texts, as `token_scores` found it.

    `values` (m, k, t) have the sign and scale of `Scores.values`: derivatives of the question about test text q as
    training text i is up-weighted, of which -1/n is the effect of leaving it out. They are taken apart by the t tokens
    of the training text (`side` "train": what up-weighting this token's loss alone does), or of the test text ("test":
    what up-weighting the training text does to this token's loss); over the tokens they add up to the whole.

    Args:
        values: (m, k, t).
        rows: the numbers of the k training texts.
        ids: what tables call them.
        tokens: the tokens by number (k, t), of the test texts (m, t) where the side is theirs; -1 where none counts.
        n: the number of training texts.
        side: whose tokens these are.
        decode: from the number of a token to its letters.
    """

    values: Float[Tensor, "m k t"]
    rows: Int[Tensor, " k"]
    ids: pd.Index | None
    tokens: Int[Tensor, "b t"]
    n: int
    side: str
    decode: Callable[[int], str]

    def effect(self) -> Float[Tensor, "m k t"]:
        """The predicted change of each question if the token's loss (or the text) had not been trained on: -values/n.

        Positive = the loss asked about would rise: the token helps.
        """
        return -self.values / self.n

    @property
    def names(self) -> list[Any]:
        """What the k training texts are called."""
        return self.rows.tolist() if self.ids is None else self.ids.tolist()

    def text(self, q: int, place: int) -> Int[Tensor, " t"]:
        """The tokens that the effects of a question on a training text are about, -1 where none counts."""
        return self.tokens[place if self.side == "train" else q]

    def top(self, k: int = 10, *, test: int = 0) -> pd.DataFrame:
        """The k tokens of strongest effect on one question, the strongest first.

        Args:
            k: lines, at most.
            test: which test text.

        Returns:
            A line per token: training text, position, token, effect (positive = without it the loss would rise).
        """
        effect = self.effect()[test]
        lines = [
            (self.names[place], position, self.decode(int(token)), float(effect[place, position]))
            for place in range(len(self.rows))
            for position, token in enumerate(self.text(test, place))
            if token >= 0
        ]
        frame = pd.DataFrame(lines, columns=["train text", "position", "token", "effect"])
        order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:k]
        return frame.loc[order].reset_index(drop=True)

    def __repr__(self) -> str:
        whose = "training" if self.side == "train" else "test"
        return (
            f"TokenScores: {self.values.shape[0]} test texts, {self.values.shape[1]} training texts, by the tokens "
            f"of the {whose} text. Positive effect = without it the loss asked about would rise.\n{self.top()}"
        )

    def _repr_html_(self) -> str:
        return "".join(self.to_html(test=q) for q in range(len(self.values)))

    def to_html(self, *, test: int = 0) -> str:
        """The texts with their tokens coloured: blue helps (without it the loss would rise), orange harms.

        Args:
            test: which test text is asked about.

        Returns:
            HTML, a paragraph per training text, in their order; every token's effect is its title. Text is escaped.
        """
        effect = self.effect()[test]
        most = float(effect.abs().max()) or 1.0
        paragraphs = []
        for place, name in enumerate(self.names):
            words = []
            for token, value in zip(self.text(test, place).tolist(), effect[place].tolist(), strict=True):
                if token < 0:
                    continue
                colour = "0, 114, 178" if value > 0 else "213, 94, 0"
                style = f"background: rgba({colour}, {abs(value) / most:.2f}); white-space: pre-wrap"
                letters = html.escape(self.decode(token))
                words.append(f'<span title="{value:.3g}" style="{style}">{letters}</span>')
            whole = float(effect[place].sum())
            head = html.escape(f"text {name} ({whole:+.3g}): ")
            paragraphs.append(f"<p>{head}{''.join(words)}</p>")
        return "".join(paragraphs)


def token_scores(
    influence: Influence,
    test: Any,
    rows: Any = None,
    *,
    side: str = "train",
    measure: MeasureLike | None = None,
    terms: Callable[[Any, Any], Tensor] | None = None,
    decode: Callable[[int], str] = str,
    k: int = 5,
) -> TokenScores:
    """Which tokens of which training text are responsible for what a language model says of a test text.

    A text's loss is a sum over its tokens, and so is its influence -grad L(test) . H^-1 grad L(text) (Eq. 2): one pass
    in forward mode along the solved directions gives the part of every token. The penalty belongs to no token.

    Args:
        influence: of a network, a language model mostly.
        test: m test texts, as the problem takes them.
        rows: numbers of the training texts that are looked at; None: the k strongest of either sign of each test text,
            which takes a pass over the training data.
        side: "train" takes the training texts apart, "test" the test texts: which of their tokens a training text
            makes likelier. That takes a solve for each training text.
        measure: what is asked about, default the loss; only with side "train".
        terms: from outputs and targets to the parts of the loss (b, t); None: of `losses.next_token` and of what
            `token_mean` gives, which are known.
        decode: from a token's number to its letters, such as `tokenizer.decode`.
        k: texts of either sign where `rows` is None.

    Raises:
        TypeError: for models that are no network, and answers that solve nothing (a run of training).
        ValueError: for a loss whose parts are not known, terms that do not add up to it, and rows that are not there.

    >>> from types import SimpleNamespace
    >>> import torch, upweight as uw
    >>> _ = torch.manual_seed(0)
    >>> class Bigrams(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = torch.nn.Embedding(4, 4)
    ...
    ...     def forward(self, input_ids, labels):
    ...         return SimpleNamespace(logits=self.table(input_ids))
    >>> words = torch.tensor([[0, 1, 2, 3], [2, 1, 0, 1], [0, 1, 3, 3]])
    >>> texts = {"input_ids": words, "labels": words}
    >>> problem = uw.Problem(Bigrams(), uw.losses.next_token, texts, l2=0.1)
    >>> influence = uw.Influence(problem, curvature=uw.GaussNewton(problem))
    >>> found = uw.token_scores(influence, {name: part[:1] for name, part in texts.items()}, [1])
    >>> found.top()["position"].tolist()[0]  # "1 after 0" is in both
    3
    """
    problem = cast(Problem, influence.problem)
    if not hasattr(problem, "evaluation") or not hasattr(influence, "solve"):
        raise TypeError(
            f"token_scores takes the loss of a network apart, along solves with its curvature: got "
            f"{type(influence).__name__} of a {type(problem).__name__}; make uw.Influence(uw.Problem(...))"
        )
    if side not in ("train", "test"):
        raise ValueError(f"side must be 'train' or 'test', got {side!r}")
    if side == "test" and measure is not None:
        raise ValueError("tokens of test texts are parts of their loss: leave measure out")
    parts = terms or terms_of(problem.evaluation.loss)
    chosen = _strongest(influence, test, measure, k) if rows is None else numbered(rows, problem.n)
    if chosen is None:
        raise ValueError("rows are numbers of training texts, which a batch has not: give their numbers")
    given = given_rows(problem, chosen)
    batch = given.batch if side == "train" else test
    check_terms(problem, batch, parts)
    if side == "train":
        solved = influence.solve(problem.test_gradients(test, measure)).value
        values = given.weighed(-_products(problem, batch, solved, parts))
    else:
        values = _products(problem, batch, influence.on_params(chosen), parts).transpose(0, 1)
    tokens = _tokens(batch, values.shape[-1])
    if tokens.shape[0] != (values.shape[1] if side == "train" else values.shape[0]):
        tokens = tokens.expand(values.shape[1] if side == "train" else values.shape[0], -1)
    return TokenScores(values.double(), chosen, given.ids, tokens, problem.n, side, decode)


def terms_of(loss: Any) -> Callable[[Any, Any], Tensor]:
    """The function that gives a loss by tokens. Raises ValueError for losses whose parts are not known."""
    if loss is next_token:
        return token_losses
    if isinstance(loss, partial) and loss.func is next_token:
        return partial(token_losses, *loss.args, **loss.keywords)
    if (tokens := getattr(loss, "tokens", None)) is not None:
        return tokens
    raise ValueError(
        "the parts of this loss are not known: give terms=, a function from outputs and targets to the numbers (b, t) "
        "that add up to it for each text"
    )


def check_terms(problem: Objective, batch: Any, terms: Callable[[Any, Any], Tensor]) -> None:
    """Raises ValueError where terms do not add up to the losses of a batch.

    Args:
        problem: a network's.
        batch: b texts.
        terms: from outputs and targets to (b, t).
    """
    losses = problem.evaluate(batch)
    added = problem.evaluate(batch, lambda outputs, targets: terms(outputs, targets).sum(1))
    off = float((added - losses).norm() / losses.norm().clamp(min=1e-30))
    if not off <= CLOSE:
        raise ValueError(
            f"the terms add up to something else than the loss, {off:.1%} off: they must be its parts"
        )


def _products(
    problem: Problem, batch: Any, rows: Tensor, terms: Callable[[Any, Any], Tensor]
) -> Float[Tensor, "k b t"]:
    """The numbers s . grad of each term of the losses of b texts, for k rows s.

    Args:
        problem: a network's.
        batch: b texts.
        rows: directions s (k, p).
        terms: from outputs and targets to (b, t).
    """
    texts, size = problem.passes.test_rows(batch), problem.memory.size
    of, theta, rows = problem.evaluation, problem.theta, rows.to(problem.theta)
    blocks, total = texts.blocks(size), math.ceil(len(texts) / size)
    found = [directional_terms(of, theta, part, rows, terms) for _, part in track(blocks, "tokens", total)]
    return torch.cat(found, dim=1)


def _strongest(influence: Influence, test: Any, measure: MeasureLike | None, k: int) -> Int[Tensor, " j"]:
    """The numbers of the training texts of strongest effect on each test text, k of either sign."""
    values = influence.on_loss(test, measure=measure).values
    return torch.cat([torch.cat(sides(line, k)) for line in values]).unique()


def _tokens(batch: Any, count: int) -> Int[Tensor, "b t"]:
    """The tokens of a batch by number (b, t), -1 where none counts; positions alone where the batch has no labels."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if labels is None:
        return torch.arange(count)[None]
    labels = torch.as_tensor(labels).clone()
    return labels.masked_fill(labels == IGNORED, -1).cpu()
