"""Models of the transformers library: what they are called with, and what of their outputs counts.

The library is not imported here: whoever has such a model has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..types import Tensor


def _kind(module: str, name: str) -> tuple[Any, ...]:
    """That class of transformers, if it is loaded, for `isinstance`."""
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)


def transposed() -> tuple[Any, ...]:
    """The dense layer whose weight is (in, out): GPT-2's `Conv1D`."""
    return _kind("transformers.pytorch_utils", "Conv1D")


def arguments(model: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as the model is called: without labels, from which it would compute one loss for all examples.

    An encoder-decoder keeps them: it makes the decoder's inputs of them.
    """
    kind = _kind("transformers.modeling_utils", "PreTrainedModel")
    own = [module for module in model.modules() if isinstance(module, kind)]
    if not own or getattr(own[0].config, "is_encoder_decoder", False):
        return batch
    return {key: leaf for key, leaf in batch.items() if key != "labels"}


def counted(outputs: Any) -> Any:
    """Outputs without the loss of the whole batch that a model gives beside them, as the Trainer wants it.

    A `ModelOutput` is cut to its logits, or to its tensors where it has none; of a dict or tuple the one loss is left
    out, and of what then is a single tensor the tuple too.

    >>> counted((torch.tensor(0.5), torch.zeros(1, 2)))
    tensor([[0., 0.]])
    """
    if isinstance(outputs, _kind("transformers.utils.generic", "ModelOutput")):
        tensors = {key: leaf for key, leaf in outputs.items() if isinstance(leaf, Tensor) and key != "loss"}
        logits = {key: leaf for key, leaf in tensors.items() if key.endswith("logits")}
        return type(outputs)(**(logits or tensors))
    if isinstance(outputs, dict) and _one(outputs.get("loss")) and len(outputs) > 1:
        return {key: leaf for key, leaf in outputs.items() if key != "loss"}
    if type(outputs) is tuple and len(outputs) > 1 and _one(outputs[0]):
        return outputs[1] if len(outputs) == 2 else outputs[1:]
    return outputs


def _one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


@contextmanager
def masks_in_full() -> Iterator[None]:
    """Attention masks are made without a look whether nothing is masked, which vmap cannot take: same numbers."""
    masking: Any = sys.modules.get("transformers.masking_utils")
    looks = getattr(masking, "is_tracing", None)
    if looks is None:
        yield
        return
    masking.is_tracing = lambda *_: True
    try:
        yield
    finally:
        masking.is_tracing = looks
