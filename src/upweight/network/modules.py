"""What a problem takes of a user's model and batches: its parameters as they are now, its words, its real inputs."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..data.examples import HALF
from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .transformers import masks_in_full


class Precisions(TorchDispatchMode):
    """Inside it the coarsest precision of real numbers that torch computes is looked for, at whatever depth.

    A model that casts inside and back again does not show it in its outputs.

    >>> with Precisions() as seen:
    ...     _ = (torch.ones(2).bfloat16() + 1).float()
    >>> seen.coarsest == torch.finfo(torch.bfloat16).eps
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.coarsest = max(self.coarsest, torch.finfo(leaf.dtype).eps)
        return found


MISSING = object()
"""Where a module has no such attribute."""


def snapshot(
    model: torch.nn.Module, patterns: Sequence[str] | str | None
) -> tuple[Layout, Tensor, dict[str, Tensor]]:
    """The chosen parameters as layout and flat copy, and copies of all other parameters and buffers.

    Parameters in half precision are copied to float32, and so is what stands beside them.
    """
    everything = dict(model.named_parameters())
    names = _chosen(everything, patterns)
    for name, value in [*everything.items(), *model.named_buffers()]:
        if value.is_floating_point() and not bool(value.detach().isfinite().all()):
            raise ValueError(f"the model's {name!r} has a NaN or infinity: was training stable?")
    for what, found in (
        ("precision", {everything[n].dtype for n in names}),
        ("device", {everything[n].device for n in names}),
    ):
        if len(found) > 1:
            raise ValueError(
                f"the model's parameters have more than one {what} ({', '.join(map(str, found))}): convert them with "
                "model.to(...), or choose some with params="
            )
    layout = Layout(tuple(names), tuple(tuple(everything[name].shape) for name in names))
    theta = torch.cat([everything[name].detach().flatten() for name in names]).clone()
    rest = {name: value for name, value in everything.items() if name not in names}
    fixed = {name: value.detach().clone() for name, value in [*rest.items(), *model.named_buffers()]}
    if theta.dtype in HALF:
        fixed = {name: value.float() if value.dtype in HALF else value for name, value in fixed.items()}
        return layout, theta.float(), fixed
    return layout, theta, fixed


def precision_remark(model: torch.nn.Module, layout: Layout, theta: Tensor) -> tuple[str, ...]:
    """A sentence, where the model's parameters have another precision than their copies.

    Args:
        model: what was trained.
        layout: the parameters in question.
        theta: their copies (p,).
    """
    held = {str(v.dtype).removeprefix("torch.") for n, v in model.named_parameters() if n in layout.names}
    own = str(theta.dtype).removeprefix("torch.")
    return () if held == {own} else (f"computed in {own}: the model's parameters are {', '.join(held)}",)


def _chosen(everything: dict[str, torch.nn.Parameter], patterns: Sequence[str] | str | None) -> list[str]:
    if patterns is None:
        names = [name for name, value in everything.items() if value.requires_grad]
        if not names:
            raise ValueError("the model has no parameters that require a gradient: name some with params=")
        return names
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in everything):
            close = difflib.get_close_matches(pattern, everything, 3, 0.0)
            raise ValueError(f"params: the model has no parameter {pattern!r}; closest: {', '.join(close)}")
    names = [name for name in everything if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        raise ValueError("params is empty: name at least one parameter, or leave it out for all")
    return names


def real_inputs(batch: Any) -> tuple[Tensor, Callable[[Any], Any]]:
    """The one tensor of inputs that can be differentiated, and how a batch is made with another in its place."""
    if not isinstance(batch, dict):
        inputs = batch[0]
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(
                f"input gradients need inputs of real numbers, got {kind}: ask for those of a layer's outputs with "
                'at="embedding", say, or compare edited inputs with of_change'
            )
        return inputs, lambda x: (x, batch[1])
    real = [key for key, leaf in batch.items() if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if len(real) != 1:
        kinds = ", ".join(
            f"{key}: {getattr(leaf, 'dtype', type(leaf).__name__)}" for key, leaf in batch.items()
        )
        raise TypeError(f"input gradients need exactly one entry of real numbers in the mapping, got {kinds}")
    return batch[real[0]], lambda x: {**batch, real[0]: x}


def layer_called(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The layer that `named_modules` calls so. Raises ValueError where there is none, with the closest names."""
    layers = dict(model.named_modules())
    if name not in layers:
        close = difflib.get_close_matches(name, layers, 3, 0.0)
        raise ValueError(f"at: the model has no layer {name!r}; closest: {', '.join(close)}")
    return layers[name]


@contextmanager
def layer_inputs(
    model: torch.nn.Module, name: str, batch: Any, call: Callable[[], Any]
) -> Iterator[tuple[Tensor, Callable[[Any], Any]]]:
    """What a layer gives for a batch, and how the model is made to go on from something else in its place.

    Args:
        model: the model, which has its hooks inside only.
        name: the layer, as `named_modules` calls it.
        batch: some examples.
        call: runs the model on the batch.

    Returns:
        The layer's outputs, and a function that takes something in their place and gives the batch, unchanged.

    Raises:
        ValueError: for a layer that is not there or does not run once.
        TypeError: for one that does not give one tensor of real numbers.
    """
    layer = layer_called(model, name)
    given: list[Any] = []
    instead: Any = None

    def exchange(_: Any, __: Any, output: Any) -> Any:
        if instead is not None:
            return instead
        given.append(output)
        return None

    def rebuild(x: Any) -> Any:
        nonlocal instead
        instead = x
        return batch

    hook = layer.register_forward_hook(exchange)
    try:
        with torch.no_grad():
            call()
        if len(given) != 1:
            raise ValueError(
                f"at: layer {name!r} must run once when the model does, it ran {len(given)} times"
            )
        if not isinstance(given[0], Tensor) or not given[0].is_floating_point():
            raise TypeError(f"at: layer {name!r} must give one tensor of real numbers")
        yield given[0].detach(), rebuild
    finally:
        hook.remove()


def rebound(model: torch.nn.Module, call: Callable[[], Any]) -> tuple[tuple[torch.nn.Module, str], ...]:
    """The attributes in which a call of the model leaves tensors: weights that pruning computes, what it remembers.

    The model is as before when this returns.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    call()
    places = []
    for module, old in before.items():
        now = vars(module)
        for name in [name for name, value in now.items() if value is not old.get(name, MISSING)]:
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(now[name])):
                places.append((module, name))
                _put(module, name, old.get(name, MISSING))
    return tuple(places)


@contextmanager
def put_back(places: Sequence[tuple[torch.nn.Module, str]]) -> Iterator[None]:
    """These attributes are afterwards what they were before."""
    before = [(module, name, vars(module).get(name, MISSING)) for module, name in places]
    try:
        yield
    finally:
        for module, name, value in before:
            _put(module, name, value)


def _put(module: torch.nn.Module, name: str, value: Any) -> None:
    if value is MISSING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = value


def unwrapped(model: Any) -> Any:
    """The model inside of what torch.compile, DataParallel or DistributedDataParallel put around it.

    Its layers are seen, and its parameters have the names that they had.
    """
    around = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    while type(model).__module__.startswith("torch.") and type(model).__name__ in around:
        model = getattr(model, around[type(model).__name__])
    return model


@contextmanager
def _plain_look_up(module: Any) -> Iterator[None]:
    """A look-up whose gradient is a plain tensor, and that does not shorten its rows in place (see `check_norms`)."""
    before = module.sparse, module.max_norm
    module.sparse, module.max_norm = False, None
    try:
        yield
    finally:
        module.sparse, module.max_norm = before


def check_norms(model: torch.nn.Module) -> None:
    """Refuse an embedding with rows longer than its `max_norm`: the next call of the model would shorten them.

    Raises ValueError, which names the module and says what to do.
    """
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)) or module.max_norm is None:
            continue
        longest = float(module.weight.detach().norm(module.norm_type, dim=1).max())
        if longest > module.max_norm * (1 + 1e-4):
            raise ValueError(
                f"{name or 'the model'} has rows of norm {longest:.6g} and max_norm={module.max_norm}, so each call "
                "changes its weights: shorten them first, as a call would (with torch.no_grad(): "
                "torch.renorm(weight, norm_type, 0, max_norm)), and make the Problem then"
            )


@contextmanager
def twice_differentiable(model: torch.nn.Module) -> Iterator[None]:
    """Only kernels that have second derivatives: fused attention and fused recurrent layers have none."""
    modules = list(model.modules())
    recurrent = any(isinstance(module, torch.nn.RNNBase) for module in modules)
    attention, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(masks_in_full())
        if "torch._dynamo" in sys.modules:  # compiled parts run as they were written: their layers are seen
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, attention)
        torch.backends.mha.set_fastpath_enabled(False)
        for module in modules:
            if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
                stack.enter_context(_plain_look_up(module))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            # `torch.backends.mkldnn.flags` also sets TF32, which warns on processors without it.
            stack.callback(torch._C._set_mkldnn_enabled, onednn)
            torch._C._set_mkldnn_enabled(False)
        yield
