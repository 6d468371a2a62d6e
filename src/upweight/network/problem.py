"""Any torch model with its loss and training data: the objective that training minimised, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int

from ..capabilities import Facts, Replays
from ..data.examples import Rows, as_rows, count, targets_of
from ..data.per_example import Loss
from ..data.user_terms import Terms
from ..data.watch import MOVED, Watch
from ..errors import StaleError
from ..frozen import check_eval
from ..linalg.flat_vectors import Layout
from ..linalg.outer_products import Outer, written_out
from ..measures import Measure, MeasureLike, as_measure
from ..objective import Objective
from ..penalty import Penalty
from ..runtime.alone import alone
from ..runtime.distributed import gather_rows, sum_across
from ..runtime.unchanging import derived
from ..types import Params, Tensor
from .arguments import check_arguments, computed, weights_of
from .company import check_padding
from .comparisons import differentiated, plain_gradient
from .evaluation import ROWS_AT_ONCE, Evaluation, with_strategy
from .example_gradients import directional, example_gradients
from .input_derivatives import input_gradients
from .layers.gradients import NetworkLayers
from .loss_curvature import check_convex_curvature, check_curved, is_straight
from .memory import MemoryPlan, bytes_per_example, patient
from .modules import check_norms, precision_remark, snapshot, unwrapped
from .output_curvature import flat_outputs
from .passes import Passes
from .second_derivatives import NetworkGaussNewton, NetworkHessian
from .trial import Trial, tried


class Problem(Objective):
    """Any model and loss: R(theta) = (1/n) sum_i w_i l(z_i, theta) + 1/2 sum_j l2_j theta_j^2, at the model's theta.

    The parameters are copied now and the model is never modified. Data are moved to the model's device. Gradients of
    training examples carry weight and folded penalty, those of test examples neither. A problem does not change:
    `changed` makes a copy with other weights, penalty or parameters.

    Args:
        model: what was trained. A model of transformers is called without "labels", and of its outputs there are the
            logits. One in half precision is computed with in float32.
        loss: `loss(outputs, targets)` gives one number per example, or is reduced: it is evaluated on batches of one.
        train: (inputs, targets) as tensors or arrays, a mapping of tensors (then `model(**batch)` and
            `loss(outputs, batch)`), a map-style Dataset or a DataLoader that does not shuffle, whose sampler
            says which rows are training rows, and how often each counts.
        l2: the strength of the penalty on the mean loss, a number or one per parameter (p,): the weight decay of SGD
            and Adam. That of AdamW is no penalty, see "What l2 is" in the documentation of networks.
        weights: the w_i, one per training example (n,), default 1.
        params: the names (or patterns like "head.*") of the parameters that count, default all that require a gradient.
        keep: which retraining is predicted: "mean" (the paper) or "total" (scikit-learn with the same C).
        batch_size: examples of a block of all passes over the data, default as many as fit well.
        autocast: what the model computes in while EKFAC's factors are gathered and training examples are scored layer
            by layer, torch.bfloat16 or torch.float16; curvature products and test gradients stay in its own precision.
            `autocast_error` says what that does to gradients.

    Raises:
        ValueError: for empty or unequal data, NaN or infinity (with the first example or the parameter), dropout or
            batch norm in train mode, a loss or model that mixes examples.
        TypeError: for what is no model, loss or data, or data in another precision than the model's.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> train = torch.eye(4, 3), torch.tensor([0, 1, 0, 1])
    >>> problem = Problem(model, torch.nn.functional.cross_entropy, train, l2=0.1)
    >>> problem.n, problem.p, problem.gradient().shape
    (4, 8, torch.Size([8]))
    """

    evaluation: Evaluation
    """The model with its loss, at any theta."""
    data: Rows
    """The training examples."""
    trial: Trial
    """A few training examples, to try things on."""
    memory: MemoryPlan
    """Block sizes, which copies share: they change no answer."""
    autocast: torch.dtype | None
    """What the model computes in where training examples are taken layer by layer."""
    seen: Params
    """The model's parameters and buffers as they were when the problem was made."""
    watch: Watch
    """What tells whether the training data moved."""
    computes: dict[str, str]
    """Model and loss in words, by the place inside them."""

    @alone
    def __init__(
        self,
        model: Any,
        loss: Any,
        train: Any,
        *,
        l2: Any = 0.0,
        weights: Any = None,
        params: Any = None,
        keep: Any = "mean",
        batch_size: Any = None,
        autocast: Any = None,
    ) -> None:
        model = unwrapped(model)
        check_arguments(model, loss, batch_size, autocast)
        check_norms(model)
        computes = computed(model, loss)
        layout, theta, fixed = snapshot(model, params)
        data = as_rows(train, theta.device, theta.dtype)
        batch = tried(data)
        penalty, w = Penalty.of(l2, theta, keep), weights_of(weights, data).to(theta.device)
        with torch.no_grad():
            evaluation = with_strategy(Evaluation(model, loss, layout, fixed), theta, batch)
            evaluation = differentiated(evaluation, theta, batch)
            c = flat_outputs(evaluation.outputs(theta, batch), count(batch)).shape[1]
        check_padding(evaluation, theta, data)
        example, gradient = bytes_per_example(evaluation, theta, batch), len(theta) * theta.element_size()
        super().__init__(
            layout=layout,
            theta=theta,
            weights=w,
            penalty=penalty,
            terms=Terms(train_index=data.names),
            evaluation=evaluation,
            data=data,
            trial=Trial(evaluation, theta, batch, c),
            memory=MemoryPlan(example, gradient, theta.device.type == "cpu", batch_size),
            autocast=autocast,
            seen={**fixed, **layout.unpack(theta)},
            watch=data.watched(),
            computes=computes,
        )
        _ = self._own_losses  # looked at now: what is wrong with a loss shows in any example
        # What a model or loss notes of a call, a count say, is nothing that it computes with.
        after, names = computed(model, loss), {module: name for name, module in model.named_modules()}
        noted = [place for place, words in computes.items() if after.get(place) != words]
        noted += [".".join(filter(None, ("model", names[at], name))) for at, name in evaluation.leaves]
        inside = tuple(f"{place}." for place in noted)
        for place in [place for place in computes if f"{place}.".startswith(inside)]:
            del computes[place]

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return len(self.data)

    @property
    def c(self) -> int:
        """Outputs per example."""
        return self.trial.c

    @property
    def _tried(self) -> Trial:
        """The trial at the problem's own parameters."""
        return self.trial.at(self.theta)

    @derived
    @alone
    def facts(self) -> Facts:
        """What defaults need to know; looks at the trial examples."""
        caution, linear = self._tried.caution, self._tried.linear
        straight = is_straight(self._tried)
        return Facts(
            self.n,
            self.p,
            self.c,
            convex=False,
            linear=linear and not straight,
            closed_form=False,
            straight=straight,
            caution=caution,
        )

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (self.dtype,)

    @property
    def gauge(self) -> None:
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        said = precision_remark(self.evaluation.model, self.layout, self.theta)
        said += tuple(self.evaluation.shortcuts.remarks)
        if self.autocast is None:
            return said
        return (
            *said,
            f"autocast: {str(self.autocast).removeprefix('torch.')} for EKFAC's factors and training examples, whose "
            f"gradients it changes by up to {self.autocast_error:.1%}",
        )

    @derived
    def autocast_error(self) -> float:
        """The largest relative error that `autocast` makes in the gradient of one of a few training examples.

        0 where it is not used, since the model's layers do not see examples together; infinite where numbers overflow.
        """
        return self.layers.rounding_error

    # -- capabilities ----------------------------------------------------------------------------------------------

    @property
    def linear(self) -> None:
        return None

    @derived
    def passes(self) -> Passes:
        """The training examples at theta, gone through block by block."""
        return Passes(self.evaluation, self.theta, self.data, self.weights, self.memory, self.terms.prepare)

    @derived
    def layers(self) -> NetworkLayers:
        """The model's layers, found when something is first asked of them."""
        return NetworkLayers(self.passes, self._tried, self.autocast)

    @derived
    def hessian(self) -> NetworkHessian:
        _ = self._tried.caution  # what differences of gradients mean depends on it
        check_curved(self._tried, self.passes)
        return NetworkHessian(self.passes, self.l2)

    @derived
    def gauss_newton(self) -> NetworkGaussNewton:
        check_convex_curvature(self._tried, self.passes)
        return NetworkGaussNewton(self.passes, self.l2, self.layers, self.c)

    # -- the objective ---------------------------------------------------------------------------------------------

    def gradient(self) -> Float[Tensor, " p"]:
        total = sum_across(self.passes.gradient())
        return (total / self.n + self.l2.double() * self.theta.double()).to(self.dtype)

    def train_losses(self) -> Float[Tensor, " n"]:
        return gather_rows(self._own_losses)

    @derived
    def _own_losses(self) -> Float[Tensor, " s"]:
        """The losses of this process's share of the training examples."""
        return self.passes.losses()

    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        return self.data.take(index)

    @patient
    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        parts = index.split(self.memory.gradient_size)
        found = [self._gradients(self.data.take(part)) for part in parts if len(part)]
        plain = torch.cat([self.theta.new_zeros(0, self.p), *found])
        return plain.mul_(self.passes.weights_of(index)[:, None]).add_(self.folded_penalty)

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        rows = rows.to(self.theta)
        constant = (rows @ self.folded_penalty)[:, None]
        for part, values in self._bare_products(rows, within):
            yield part, values * self.passes.weights_of(part) + constant

    def _bare_products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        """Without weights and penalty: layer by layer, else in forward mode for few rows, else from gradients."""
        if self.layers.together:
            for part, _, values in self.layers.train_pairs(rows, within):
                yield part, values
            return
        flat, few = written_out(rows), len(rows) <= ROWS_AT_ONCE

        def work(batch: Any) -> Tensor:
            if few:
                return directional(self.evaluation, self.theta, batch, flat)
            return flat @ example_gradients(self.evaluation, self.theta, batch).T

        yield from self.passes.streamed(
            work, lambda: self.memory.size if few else self.memory.gradient_size, within
        )

    def _gradients(self, batch: Any, function: Loss | None = None) -> Float[Tensor, "b p"]:
        """The gradient of every example's loss (or measure), layer by layer where that goes."""
        if self.layers.together:
            return self.layers.gradients(batch, function)
        return example_gradients(self.evaluation, self.theta, batch, function)

    @property
    def sample_weights(self) -> Float[Tensor, " n"]:
        return self.weights

    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        return torch.ones(len(self.passes.test_rows(batch)), dtype=torch.float64, device=self.device)

    # -- test examples ---------------------------------------------------------------------------------------------

    @patient
    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        at = self.theta if theta is None else theta.detach().to(self.theta)
        asked = as_measure(measure)
        with torch.no_grad():
            if asked is not None and asked.single:
                return self._single(batch, asked)(at).view(1)
            function = None if asked is None else asked.function
            blocks = self.passes.test_rows(batch).blocks(self.memory.size)
            return torch.cat([self.evaluation.losses(at, part, function) for _, part in blocks])

    @patient
    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        asked = as_measure(measure)
        if asked is not None and asked.single:
            asked.check_smooth()
            return plain_gradient(self._single(batch, asked), self.theta).view(1, -1)
        function = None if asked is None else asked.function
        blocks = self.passes.test_rows(batch).blocks(self.memory.gradient_size)
        return torch.cat([self._gradients(part, function) for _, part in blocks])

    def _single(self, batch: Any, measure: Measure) -> Callable[[Tensor], Tensor]:
        """A measure that is one number, as a function of theta."""

        def value(theta: Tensor) -> Tensor:
            def look() -> tuple[Any, Any]:
                rows = self.passes.test_rows(batch)
                whole = rows.take(slice(0, len(rows)))
                return self.evaluation.joint_outputs(theta, whole), targets_of(whole)

            return measure.number(self.layout.unpack(theta), look)

        return value

    @patient
    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        # A layer's outputs stand in for all examples at once, or for one.
        alone = at is not None and self.evaluation.strategy != "batch"
        blocks = self.passes.test_rows(batch).blocks(1 if alone else self.memory.size)
        rows = rows.to(self.theta)
        found = [input_gradients(self.evaluation, self.theta, block, rows, at) for _, block in blocks]
        return torch.cat(found, dim=1)

    def retrained(self, module: torch.nn.Module) -> Problem:
        module = unwrapped(module)
        parts: Params = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        theta = self.layout.taken(parts).to(self.theta)
        held = self.evaluation.fixed
        shapes = Layout(tuple(held), tuple(tuple(part.shape) for part in held.values()))
        fixed = {name: part.to(held[name]) for name, part in shapes.found(parts).items()}
        evaluation = replace(self.evaluation, fixed=fixed)
        return self._copy(
            theta=theta, evaluation=evaluation, trial=replace(self.trial, of=evaluation, theta=theta)
        )

    def replayed(self, replays: Replays) -> Problem:
        """The problem of a model whose training was recorded: `verify` then needs no retraining by the user."""
        return self._copy(replays=replays)

    def subset(self, index: Int[Tensor, " b"]) -> Problem:
        if len(index) == 0:
            raise ValueError("a subset needs at least one example")
        return self._copy(
            data=self.data.subset(index),
            weights=self.weights[index.to(self.device)],
            terms=self.terms.take(index.cpu()),
        )

    # -- what tells that it is still the one that was asked about --------------------------------------------------

    def check_data(self) -> None:
        check_eval(self.evaluation.model, StaleError)
        live = dict(self.evaluation.model.named_parameters())
        for name, then in self.seen.items():
            if name in live and not torch.equal(live[name].detach().to(then.dtype), then):
                raise StaleError(
                    f"the model's parameter {name!r} changed since this problem was made: make the Problem anew"
                )
        if self.watch.moved():
            raise StaleError(MOVED)

    def hashed(self) -> list[Tensor]:
        words = f"{self.computes!r} {self.autocast}"
        settings = torch.tensor(list(words.encode()), dtype=torch.uint8)
        return [*self.evaluation.fixed.values(), self.weights, self.data.digest(), settings]
