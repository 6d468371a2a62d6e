"""What the sweep of derivatives goes through: operations and layers of torch, architectures, methods of peft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
Operation = Callable[[Tensor], Tensor]


def words(text: str) -> list[str]:
    """The words of a text, one name each."""
    return text.split()


def inside(h: Tensor) -> Tensor:
    """Numbers between 0.1 and 0.9, for operations that are not defined everywhere."""
    return 0.1 + 0.8 * torch.sigmoid(h)


def square(h: Tensor) -> Tensor:
    """Matrices (b, 3, 3) that are symmetric and positive definite."""
    a = h[:, :6].unflatten(1, (2, 3))
    return a.mT @ a + torch.eye(3, dtype=h.dtype)


def points(h: Tensor) -> Tensor:
    """Two points (b, 2, 3) of each example."""
    return h.unflatten(1, (2, 3))


EVERYWHERE = words(
    "abs atan asinh cos cosh erf erfc exp exp2 expm1 neg positive sigmoid sin sinc sinh softmax:1 log_softmax:1 square "
    "tan tanh nan_to_num relu cumsum:1 flip:1 logcumsumexp:1 trunc round frac sign floor"
)
"""Operations of torch that are defined everywhere, with a dimension after a colon where they take one."""
WITHIN = words(
    "acos asin atanh log log10 log1p log2 logit reciprocal rsqrt sqrt lgamma digamma erfinv i0 cumprod:1"
)
"""Operations that are taken of numbers between 0.1 and 0.9."""
REDUCTIONS = words("sum mean prod std var norm logsumexp amax amin median nansum nanmean")
SPECIAL = words("entr erfcx i0e i1 i1e ndtr log_ndtr bessel_j0 bessel_j1 gammaln psi expit")
ACTIVATIONS = words(
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 rrelu selu silu softplus "
    "softshrink softsign softmin tanhshrink threshold glu normalize"
)
GIVEN: dict[str, dict[str, Any]] = {"softmin": {"dim": 1}, "threshold": {"threshold": 0.1, "value": 0.0}}
LINALG: dict[str, Operation] = {
    "det": lambda a: torch.linalg.det(a)[:, None],
    "slogdet": lambda a: torch.linalg.slogdet(a)[1][:, None],
    "inv": torch.linalg.inv,
    "solve": lambda a: torch.linalg.solve(a, a[:, :, :1].sin()),
    "cholesky": torch.linalg.cholesky,
    "qr": lambda a: torch.linalg.qr(a)[1],
    "eigvalsh": torch.linalg.eigvalsh,
    "svdvals": torch.linalg.svdvals,
    "matrix_exp": lambda a: torch.linalg.matrix_exp(0.1 * a),
    "matrix_power": lambda a: torch.linalg.matrix_power(0.3 * a, 3),
    "pinv": torch.linalg.pinv,
    "matrix_norm": lambda a: torch.linalg.matrix_norm(a)[:, None],
    "trace": lambda a: a.diagonal(dim1=1, dim2=2).sum(1, keepdim=True),
    "triu": torch.triu,
    "bmm": lambda a: torch.bmm(a, a),
    "baddbmm": lambda a: torch.baddbmm(a, a, a),
    "einsum": lambda a: torch.einsum("bij,bjk->bik", a, a.sin()),
}


def scattered(reduce: str) -> Operation:
    """Columns brought together in twos by `scatter_reduce`."""

    def operation(h: Tensor) -> Tensor:
        index = (torch.arange(6) % 3).expand(len(h), 6)
        return torch.ones(len(h), 3, dtype=h.dtype).scatter_reduce(1, index, h, reduce)

    return operation


OTHERS: dict[str, Operation] = {
    **{f"scatter_reduce {r}": scattered(r) for r in ("sum", "prod", "mean", "amax", "amin")},
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(1, (torch.arange(6) % 3).expand(len(h), 6), h),
    "roll": lambda h: h.roll(1, 1) * h,
    "index_add": lambda h: torch.zeros(len(h), 3, dtype=h.dtype).index_add(1, torch.arange(6) % 3, h),
    "gather": lambda h: h.gather(1, torch.tensor([0, 0, 5]).expand(len(h), 3)),
    "take_along_dim": lambda h: h.take_along_dim(h.argsort(1), 1),
    "sort": lambda h: h.sort(1).values,
    "topk": lambda h: h.topk(3, 1).values,
    "kthvalue": lambda h: h.kthvalue(2, 1, keepdim=True).values,
    "cummax": lambda h: h.cummax(1).values,
    "atan2": lambda h: torch.atan2(h, h.roll(1, 1) + 3),
    "hypot": lambda h: torch.hypot(h, h.roll(1, 1)),
    "logaddexp": lambda h: torch.logaddexp(h, h.roll(1, 1)),
    "xlogy": lambda h: torch.xlogy(h, inside(h)),
    "pow": lambda h: inside(h) ** h.roll(1, 1),
    "maximum": lambda h: torch.maximum(h, h.roll(1, 1)),
    "fmod": lambda h: torch.fmod(h, 0.7),
    "lerp": lambda h: torch.lerp(h, h.roll(1, 1), 0.3),
    "addcmul": lambda h: torch.addcmul(h, h, h),
    "addcdiv": lambda h: torch.addcdiv(h, h, inside(h)),
    "clamp": lambda h: h.clamp(-0.5, 0.5),
    "where": lambda h: torch.where(h > 0, h.sin(), h.cos()),
    "masked_fill": lambda h: h.masked_fill(h > 0.3, 0.0).square(),
    "cross": lambda h: torch.linalg.cross(points(h)[:, 0], points(h)[:, 1]),
    "cosine_similarity": lambda h: F.cosine_similarity(points(h)[:, 0], points(h)[:, 1])[:, None],
    "pairwise_distance": lambda h: F.pairwise_distance(points(h)[:, 0], points(h)[:, 1])[:, None],
    "cdist": lambda h: torch.cdist(points(h), points(h).roll(1, 2)),
    "cdist p=1": lambda h: torch.cdist(points(h), points(h).roll(1, 2), p=1.0),
    "kron": lambda h: h[:, :2, None] * h[:, None, 2:4],
    "renorm": lambda h: torch.renorm(h, 2, 0, 1.0),
    "trapezoid": lambda h: torch.trapezoid(h, dim=1)[:, None],
    "diff": lambda h: torch.diff(h, dim=1),
    "rfft": lambda h: torch.view_as_real(torch.fft.rfft(h, dim=1)),
    "fft abs": lambda h: torch.fft.fft(h, dim=1).abs(),
    "complex": lambda h: torch.view_as_real(torch.polar(inside(h), h)),
    "unfold": lambda h: h.unfold(1, 3, 1),
    "im2col": lambda h: F.unfold(h[:, None, None], (1, 3)),
    "interpolate": lambda h: F.interpolate(h[:, None], 9, mode="linear"),
    "grid_sample": lambda h: F.grid_sample(
        h.view(-1, 1, 2, 3), h.tanh().view(-1, 3, 1, 2), align_corners=False
    ),
    "pixel_shuffle": lambda h: F.pixel_shuffle(h[:, :4, None, None], 2),
    "pad reflect": lambda h: F.pad(h[:, None], (2, 2), mode="reflect"),
    "conv1d": lambda h: F.conv1d(h[:, None], h.new_tensor([[[1.0, -2.0, 1.0]]])),
    "conv_transpose1d": lambda h: F.conv_transpose1d(h[:, None], h.new_tensor([[[1.0, -2.0, 1.0]]])),
    "max_pool1d": lambda h: F.max_pool1d(h[:, None], 2),
    "avg_pool1d": lambda h: F.avg_pool1d(h[:, None], 2),
    "lp_pool1d": lambda h: F.lp_pool1d(h[:, None], 2, 2),
    "adaptive_avg_pool1d": lambda h: F.adaptive_avg_pool1d(h[:, None], 4),
    "layer_norm": lambda h: F.layer_norm(h, (6,)),
    "rms_norm": lambda h: F.rms_norm(h, (6,)),
    "group_norm": lambda h: F.group_norm(h, 2),
    "local_response_norm": lambda h: F.local_response_norm(h[:, :, None], 2),
    "attention": lambda h: F.scaled_dot_product_attention(points(h), points(h), points(h)),
    "bilinear": lambda h: F.bilinear(h, h, torch.linspace(-1, 1, 72, dtype=h.dtype).view(2, 6, 6)),
    "detach": lambda h: h * h.detach(),
    "straight through": lambda h: h + (h.round() - h).detach(),
}


def operations() -> dict[str, Operation]:
    """Every operation by its name: of hidden numbers (b, 6), example by example."""
    found: dict[str, Operation] = {}
    for names, change in ((EVERYWHERE, lambda h: h), (WITHIN, inside)):
        for entry in names:
            name, _, dim = entry.partition(":")
            options = (int(dim),) if dim else ()
            found[name] = lambda h, n=name, o=options, c=change: getattr(torch, n)(
                c(h), *((o,) if n == "flip" else o)
            )
    for name in REDUCTIONS:
        found[name] = lambda h, n=name: _values(getattr(torch, n)(inside(h), dim=1))[:, None]
    for name in SPECIAL:
        found[f"special.{name}"] = lambda h, n=name: getattr(torch.special, n)(inside(h))
    for name in ACTIVATIONS:
        found[f"F.{name}"] = lambda h, n=name: getattr(F, n)(h, **GIVEN.get(n, {}))
    for name, operation in LINALG.items():
        found[f"linalg.{name}"] = lambda h, o=operation: o(square(h))
    return found | OTHERS


def _values(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.values


class Through(nn.Module):
    """Layers around an operation; `scale` keeps hidden numbers moderate."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation
        self.layer = nn.Linear(4, 6)
        with torch.no_grad():
            width = operation(self.layer(torch.randn(2, 4))).flatten(1).shape[1]
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.layer(x)).flatten(1))


def layers() -> dict[str, Callable[[], nn.Module]]:
    """Layers of torch between two others, on sequences (b, 3, 4)."""

    def wrapped(
        make: Callable[[], nn.Module], width: int = 12, first: bool = False
    ) -> Callable[[], nn.Module]:
        class Around(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.head = make(), nn.Linear(width, 3)

            def forward(self, x: Tensor) -> Tensor:
                found = self.layer(x[:, 0] if first else x)
                return self.head((found[0] if isinstance(found, tuple) else found).flatten(1))

        return Around

    parametrized = nn.utils.parametrizations
    return {
        "Linear": wrapped(lambda: nn.Linear(4, 4)),
        "Conv1d": wrapped(lambda: nn.Conv1d(3, 4, 3, padding=1), 16),
        "Conv1d groups": wrapped(lambda: nn.Conv1d(3, 6, 3, padding=1, groups=3), 24),
        "ConvTranspose1d": wrapped(lambda: nn.ConvTranspose1d(3, 2, 3), 12),
        "LayerNorm": wrapped(lambda: nn.LayerNorm(4)),
        "RMSNorm": wrapped(lambda: nn.RMSNorm(4)),
        "GroupNorm": wrapped(lambda: nn.GroupNorm(3, 3)),
        "BatchNorm1d": wrapped(lambda: nn.BatchNorm1d(3)),
        "InstanceNorm1d": wrapped(lambda: nn.InstanceNorm1d(3, affine=True)),
        "PReLU": wrapped(nn.PReLU),
        "RNN": wrapped(lambda: nn.RNN(4, 3, batch_first=True), 9),
        "GRU": wrapped(lambda: nn.GRU(4, 3, batch_first=True), 9),
        "LSTM": wrapped(lambda: nn.LSTM(4, 3, batch_first=True), 9),
        "MultiheadAttention": wrapped(lambda: _Attention(4, 2)),
        "TransformerEncoderLayer": wrapped(
            lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
        ),
        "Bilinear": wrapped(lambda: _Bilinear(4, 4, 3), 9),
        "weight_norm": wrapped(lambda: parametrized.weight_norm(nn.Linear(4, 4))),
        "spectral_norm": wrapped(lambda: parametrized.spectral_norm(nn.Linear(4, 4))),
        "orthogonal": wrapped(lambda: parametrized.orthogonal(nn.Linear(4, 4))),
        "AdaptiveMaxPool": wrapped(lambda: nn.Sequential(nn.Linear(4, 4), nn.AdaptiveMaxPool1d(2)), 6),
    }


class _Attention(nn.MultiheadAttention):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


class _Bilinear(nn.Bilinear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


ARCHITECTURES = words(
    "Bert Roberta Electra DistilBert Albert MPNet Deberta DebertaV2 Ernie XLMRoberta Camembert GPT2 GPTNeo GPTNeoX OPT "
    "Llama Mistral Qwen2 Phi Gemma Falcon Bloom T5 Bart MBart RoFormer Funnel SqueezeBert ConvBert"
)
"""Models of transformers that classify sequences."""
# fmt: off
SMALL: dict[str, Any] = {
    "vocab_size": 13, "hidden_size": 8, "d_model": 8, "n_embd": 8, "dim": 8, "embedding_size": 8,
    "word_embed_proj_dim": 8,
    "num_hidden_layers": 1, "n_layer": 1, "n_layers": 1, "num_layers": 1, "encoder_layers": 1, "decoder_layers": 1,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "num_key_value_heads": 2, "head_dim": 4,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "intermediate_size": 8, "hidden_dim": 8, "d_ff": 8,
    "d_kv": 4, "ffn_dim": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "n_inner": 8, "max_position_embeddings": 16,
    "n_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 12, "num_labels": 3,
    "num_decoder_layers": 1,
    "attention_types": [[["global"], 1]], "block_sizes": [1], "num_landmarks": 2, "segment_means_seq_len": 8,
    "q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1, "intermediate_groups": 1,
    "output_groups": 1,
    "conv_kernel_size": 3, "head_ratio": 1, "d_head": 4, "d_inner": 8, "decoder_start_token_id": 0,
}
# fmt: on
"""Settings that make a model of any of these kinds small; each takes those that it knows."""
METHODS = words(
    "LoraConfig AdaLoraConfig LoHaConfig LoKrConfig OFTConfig BOFTConfig IA3Config VeraConfig FourierFTConfig "
    "HRAConfig VBLoRAConfig LNTuningConfig RandLoraConfig PromptTuningConfig PrefixTuningConfig PromptEncoderConfig "
    "C3AConfig DoRA"
)
"""Methods of peft, by their configurations."""
