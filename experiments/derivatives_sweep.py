"""Derivatives of models of every kind against plain loops in float64: what is wrong without a word, what is refused.

    python -m experiments derivatives_sweep            every case, minutes; needs transformers, peft
    python -m experiments derivatives_sweep --small    some operations and layers, seconds

Each case is a tiny model of 12 examples. Compared, row by row, with `torch.autograd.grad` example by example: the
gradients, their products with 2 and with 20 vectors, products with the Gauss-Newton matrix (from Jacobians by a
backward pass per output) and the Hessian (from central differences of the gradients), the trace of EKFAC (that of the
Gauss-Newton matrix, which its eigenvalues keep) and the answers of `on_loss` with both matrices by `Exact`. A case is
"right", "told" (wrong or of a pseudo-gradient, and a warning says so), "refused" (a sentence of the library), "silent"
(wrong without a word) or "raw" (somebody else's error).

Writes derivatives_sweep.json and derivatives_sweep.png.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import upweight as uw
from experiments import common
from experiments.derivatives_cases import ARCHITECTURES, METHODS, SMALL, Through, layers, operations

BARS = {"Hessian products": 1e-3}
"""The largest relative error of a row that counts as right, 1e-4 elsewhere: some models compute in float32 inside."""
LARGEST = 1500
"""Parameters up to which answers are compared, which take a matrix."""
SOME = 8
"""Every which case is looked at with --small."""
Case = tuple[nn.Module, Any, Any]
"""A model, its loss and its data."""


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options(common.parser(__name__, __doc__, "a few operations and layers"), argv)
    rows = []
    for group, name, make in cases(args.small):
        verdict, detail = judged(make)
        rows.append({"group": group, "name": name, "verdict": verdict, "detail": detail})
        if verdict != "right":
            print(f"{group:12} {name:24} {verdict:8} {detail}")
    counts = Counter(row["verdict"] for row in rows)
    common.publish({"counts": counts, "cases": rows}, args.out / "derivatives_sweep.json", ["cases"])
    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    axes.bar(list(counts), list(counts.values()))
    axes.set_ylabel("models")
    figure.savefig(args.out / "derivatives_sweep.png", dpi=150, bbox_inches="tight")


def cases(small: bool) -> Iterator[tuple[str, str, Callable[[], Case]]]:
    """The cases: their group, their name, and what makes them."""
    every: list[tuple[str, str, Callable[[], Case]]] = [
        ("operation", name, lambda o=operation: simple(lambda: Through(o), (4,)))
        for name, operation in operations().items()
    ]
    every += [("layer", name, lambda m=make: simple(m, (3, 4))) for name, make in layers().items()]
    if small:
        yield from every[::SOME]
        return
    yield from every
    for module, group, names, make in (
        ("transformers", "architecture", ARCHITECTURES, architecture),
        ("peft", "method", METHODS, method),
    ):
        if importlib.util.find_spec(module) is not None:
            yield from ((group, name, lambda n=name, m=make: m(n)) for name in names)


def simple(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Case:
    """A classifier of random inputs of three classes."""
    torch.manual_seed(0)
    X, y = torch.randn(12, *shape).double(), torch.arange(12) % 3
    return make().double().eval(), F.cross_entropy, (X, y)


def architecture(name: str) -> Case:
    """A small classifier of sequences of words."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    kind = getattr(transformers, f"{name}Config")
    known = inspect.signature(kind).parameters
    config = kind(**{key: value for key, value in SMALL.items() if key in known or key == "num_labels"})
    config.decoder_start_token_id = 0
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).double().eval()
    words = torch.randint(2, 12, (12, 6))
    words[:, -1] = 12
    data = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": torch.arange(12) % 3}
    return model, lambda out, batch: F.cross_entropy(out.logits, batch["labels"]), data


def method(name: str) -> Case:
    """A small Llama with the parameters that a method adds."""
    peft = importlib.import_module("peft")
    model, loss, data = architecture("Llama")
    settings: dict[str, Any] = {"task_type": "SEQ_CLS"}
    kind = getattr(peft, "LoraConfig" if name == "DoRA" else name)
    known = inspect.signature(kind).parameters
    wanted = {
        "r": 2, "target_modules": ["q_proj", "v_proj"], "num_virtual_tokens": 2, "use_dora": name == "DoRA",
        "feedforward_modules": [], "n_frequency": 5, "vector_length": 4, "num_vectors": 4, "total_step": 10,
        "oft_block_size": 0, "boft_block_size": 4, "block_size": 4, "encoder_hidden_size": 4, "lora_alpha": 4,
    }  # fmt: skip
    if name in ("LNTuningConfig",):
        wanted["target_modules"] = ["input_layernorm"]
    model = peft.get_peft_model(model, kind(**settings, **{k: v for k, v in wanted.items() if k in known}))
    model = model.double().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
    return model, loss, data


def judged(make: Callable[[], Case]) -> tuple[str, str]:
    """The verdict on a case, and what it rests on."""
    try:
        model, loss, data = make()
    except Exception as error:  # this version of the library has no such model, or it is called otherwise
        return "not made", f"{type(error).__name__}: {str(error)[:90]}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            errors = compared(model, loss, data)
        except (uw.InfluenceError, ValueError, TypeError) as error:
            ours = "upweight" in (type(error).__module__ or "") or isinstance(error, (ValueError, TypeError))
            return ("refused" if ours else "raw"), f"{type(error).__name__}: {str(error)[:110]}"
        except Exception as error:
            return "raw", f"{type(error).__name__}: {str(error)[:110]}"
    told = [str(w.message) for w in said if w.category is uw.DerivativeWarning]
    wrong = {name: error for name, error in errors.items() if not error <= BARS.get(name, 1e-4)}
    if wrong:
        detail = ", ".join(f"{name} {error:.0e}" for name, error in wrong.items())
        pseudo = any("not the derivatives" in words or "second derivative in" in words for words in told)
        return ("told" if pseudo else "silent"), detail
    return "right", "; ".join(told)


def compared(model: nn.Module, loss: Any, data: Any) -> dict[str, float]:
    """The largest relative error of a row of everything that is compared."""
    problem = uw.Problem(model, loss, data, l2=0.01)
    truth = Loops(model, loss, data, problem.layout.names)
    p, generator = problem.p, torch.Generator().manual_seed(0)
    rows = torch.randn(20, p, generator=generator).double()
    G = truth.gradients
    penalty = 0.01 * truth.theta
    few, test = rows[:2], head(data, 3)
    found = {"gradients": off(problem.test_gradients(data), G)}
    for k in (2, 20):
        found[f"products with {k}"] = off(problem.all_products(rows[:k]), rows[:k] @ (G + penalty).T)
    found["GaussNewton products"] = off(
        problem.gauss_newton.product()(few), truth.gauss_newton(few) + 0.01 * few
    )
    if p <= LARGEST:
        eye = torch.eye(p).double()
        M = truth.gauss_newton(eye) + 0.01 * eye
        found["GaussNewton matrix"] = off(problem.gauss_newton.matrix(), M)
        ekfac = uw.EKFAC(problem, 0.1)
        trace = ekfac.operator()(eye).trace() - 0.1 * p
        found["EKFAC's trace"] = float((trace - M.trace()).abs() / M.trace())
        scores = uw.Influence(problem, curvature=uw.GaussNewton(problem, 0.1), solver=uw.Exact()).on_loss(
            test
        )
        wanted = -G[:3] @ torch.linalg.solve(M + 0.1 * eye, (G + penalty).T)
        found["on_loss"] = off(scores.values, wanted)
    moved = (G != 0).any(0)
    few = few * moved  # what has no gradient is never moved: padding, what an operation passes nothing on to
    # Kinks and norms that compute in float32 want different steps.
    products = problem.hessian.product()(few) * moved
    wanted = [(truth.hessian(few, step) + 0.01 * few) * moved for step in (1e-5, 1e-4, 1e-3)]
    found["Hessian products"] = min(off(products, right) for right in wanted)
    return found


class Loops:
    """Derivatives by plain backward passes, one example after the other."""

    def __init__(self, model: nn.Module, loss: Any, data: Any, names: Sequence[str]) -> None:
        self.model, self.loss, self.data = model, loss, data
        own = dict(model.named_parameters())
        self.parts = [own[name] for name in names]
        self.theta = torch.cat([part.detach().flatten() for part in self.parts])
        self.gradients = torch.stack([self.flat(loss(*self.called(z))) for z in self.examples()])

    def examples(self) -> list[Any]:
        """Batches of one."""
        n = len(next(iter(self.data.values())) if isinstance(self.data, dict) else self.data[0])
        return [picked(self.data, slice(i, i + 1)) for i in range(n)]

    def called(self, z: Any) -> tuple[Any, Any]:
        """Outputs and targets of a batch."""
        if isinstance(z, dict):
            return self.model(**{key: leaf for key, leaf in z.items() if key != "labels"}), z
        return self.model(z[0]), z[1]

    def flat(self, value: torch.Tensor, **options: Any) -> torch.Tensor:
        """The gradient of a number in the parameters."""
        found = torch.autograd.grad(value, self.parts, allow_unused=True, **options)
        pairs = zip(found, self.parts, strict=True)
        return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs]).detach()

    def gauss_newton(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows times the mean of J^T H J, with H = diag(p) - p p^T of the cross entropy."""
        total, every = torch.zeros_like(rows), self.examples()
        for z in every:
            outputs = self.called(z)[0]
            logits = (outputs if isinstance(outputs, torch.Tensor) else outputs.logits)[0]
            J = torch.stack([self.flat(o, retain_graph=True) for o in logits])
            probability = logits.detach().softmax(0)
            H = probability.diag() - probability[:, None] * probability
            total += rows @ J.T @ H @ J / len(every)
        return total

    def hessian(self, rows: torch.Tensor, step: float) -> torch.Tensor:
        """Rows times the Hessian of the mean loss, by central differences of its gradient."""

        def at(theta: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                for part, values in zip(
                    self.parts, theta.split([w.numel() for w in self.parts]), strict=True
                ):
                    part.copy_(values.view_as(part))
            return torch.stack([self.flat(self.loss(*self.called(z))) for z in self.examples()]).mean(0)

        try:
            ends = [[at(self.theta + sign * step * row) for sign in (1, -1)] for row in rows]
        finally:
            at(self.theta)
        return torch.stack([(up - down) / (2 * step) for up, down in ends])


def picked(data: Any, index: slice) -> Any:
    """Some examples."""
    if isinstance(data, dict):
        return {key: leaf[index] for key, leaf in data.items()}
    return tuple(leaf[index] for leaf in data)


def head(data: Any, k: int) -> Any:
    """The first k examples."""
    return picked(data, slice(0, k))


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative error of a row."""
    size = wanted.norm(dim=1).clamp(min=1e-12)
    return float(((found - wanted).norm(dim=1) / size).max())
