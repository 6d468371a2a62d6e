"""Language models and classifiers of transformers against autograd on the model itself, one unpadded text at a time."""

import functools
import zlib

import pandas as pd
import pytest
import torch
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.support.compare import assert_close_per_row
from upweight import EKFAC, ConjugateGradient, Exact, GaussNewton, Hessian, Influence, Problem
from upweight.linalg.kronecker import BlocksFactor
from upweight.losses import next_token
from upweight.network import output_curvature as jacobians

reason = "needs the extra: pip install 'upweight[transformers]'"
transformers = pytest.importorskip("transformers", reason=reason)
peft = pytest.importorskip("peft", reason=reason)

# peft asks transformers for what it has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WORDS, LENGTH, N = 23, 6, 10
SIZES = {"vocab_size": WORDS, "pad_token_id": 0, "num_labels": 3}
GPT2 = {**SIZES, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
BERT = {
    **SIZES,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}
LLAMA = {
    **SIZES,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}


def gpt2(kind="GPT2LMHeadModel", **settings):
    config = transformers.GPT2Config(**{**GPT2, **settings}, bos_token_id=1, eos_token_id=1)
    return getattr(transformers, kind)(config)


def lora():
    settings = peft.LoraConfig(
        r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, init_lora_weights=False
    )
    return peft.get_peft_model(gpt2(), settings)


def classes(outputs, batch):
    return F.cross_entropy(outputs.logits, batch["labels"], reduction="none")


CASES = {
    "gpt2": (gpt2, next_token, None),
    "gpt2 untied": (lambda: gpt2(tie_word_embeddings=False), next_token, None),
    "gpt2 eager, sum": (
        lambda: gpt2(attn_implementation="eager"),
        functools.partial(next_token, reduction="sum"),
        None,
    ),
    "gpt2 last block": (lambda: gpt2(n_layer=2), next_token, "transformer.h.1.*"),
    "gpt2 classifier": (lambda: gpt2("GPT2ForSequenceClassification"), classes, None),
    "bert classifier": (
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)),
        classes,
        None,
    ),
    "llama": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), next_token, None),
    "lora": (lora, next_token, "*lora_*"),
}
every_case = pytest.mark.parametrize("name", CASES)


def texts(loss) -> dict[str, torch.Tensor]:
    """Random texts of several lengths, padded at the end."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, LENGTH + 1, (N,), generator=generator)
    lengths[0] = LENGTH
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    words = torch.randint(2, WORDS, (N, LENGTH), generator=generator) * mask
    labels = torch.arange(N) % 3 if loss is classes else torch.where(mask == 1, words, -100)
    return {"input_ids": words, "attention_mask": mask, "labels": labels}


@functools.cache
def problem_of(name: str) -> Problem:
    """A model of random weights, large enough that everything bends."""
    torch.manual_seed(0)
    build, loss, params = CASES[name]
    model = build().double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return Problem(model, loss, texts(loss), l2=0.02, params=params)


def everything(problem: Problem):
    return problem.train_batch(torch.arange(problem.n))


def unpadded(problem: Problem, i: int):
    """Example i as the user would have it alone."""
    batch = {key: leaf[None] for key, leaf in zip(everything(problem), _row(problem, i), strict=True)}
    keep = int(batch["attention_mask"].sum())
    return {key: leaf[:, :keep] if leaf.ndim > 1 else leaf for key, leaf in batch.items()}


def _row(problem: Problem, i: int):
    return [leaf[i] for leaf in everything(problem).values()]


@sdpa_kernel(SDPBackend.MATH)
def naive_gradients(problem: Problem) -> torch.Tensor:
    """By the user's own model and loss, one text after the other."""
    model, found = problem.evaluation.model, []
    chosen = [value for key, value in model.named_parameters() if key in problem.layout.names]
    for i in range(problem.n):
        batch = unpadded(problem, i)
        outputs = model(input_ids=batch["input_ids"])
        loss = problem.evaluation.loss(outputs, batch).sum()
        slopes = torch.autograd.grad(loss, chosen, materialize_grads=True)
        found.append(torch.cat([slope.flatten() for slope in slopes]))
    return torch.stack(found)


@functools.cache
@sdpa_kernel(SDPBackend.MATH)
def dense_gauss_newton(name: str) -> torch.Tensor:
    """sum_i J_i^T H_i J_i / n, one unpadded text at a time, without penalty."""
    problem = problem_of(name)
    of, total = problem.evaluation, torch.zeros(problem.p, problem.p, dtype=torch.float64)
    for i in range(problem.n):
        batch = unpadded(problem, i)

        def outputs(theta, batch=batch):
            state = {**of.fixed, **problem.layout.unpack(theta)}
            return functional_call(of.model, state, (), {"input_ids": batch["input_ids"]}).logits

        there = outputs(problem.theta).detach()

        def loss(logits, batch=batch):
            made = transformers.modeling_outputs.CausalLMOutput(logits=logits)
            return of.loss(made, batch).sum()

        J = jacrev(outputs)(problem.theta).flatten(0, -2)
        H = hessian(loss)(there).reshape(len(J), len(J))
        total += J.T @ H @ J / problem.n
    return total


@every_case
def test_gradients_are_those_of_the_model_on_each_text_alone(name):
    problem = problem_of(name)
    assert problem.evaluation.strategy == "batch"
    assert problem.layers.together
    assert len(problem.layers.layered.rest.loose) == 0
    assert_close_per_row(problem.test_gradients(everything(problem)), naive_gradients(problem), 1e-9)


def test_what_covers_which_parameter():
    coverage = EKFAC(problem_of("gpt2")).coverage
    assert {key for key, how in coverage.items() if how != "Kronecker"} == {
        key for key in coverage if ".ln_" in key
    }
    assert coverage["transformer.wte.weight"] == "Kronecker"  # tied to the head
    assert set(problem_of("lora").layout.names) == {
        key for key, value in problem_of("lora").evaluation.model.named_parameters() if value.requires_grad
    }


@every_case
def test_gauss_newton_is_the_dense_one(name):
    problem = problem_of(name)
    curvature = GaussNewton(problem, 0.1)
    rows = torch.randn(5, problem.p, dtype=torch.float64)
    wanted = dense_gauss_newton(name) @ rows.T + 0.12 * rows.T
    # Llama's norms work in float32.
    rtol = 1e-6 if name == "llama" else 1e-9
    assert_close_per_row(curvature.operator()(rows), wanted.T, rtol)


@pytest.mark.parametrize("name", ["gpt2", "bert classifier", "lora"])
def test_ekfac_with_every_direction_of_a_layer_is_its_gauss_newton_block(name):
    problem = problem_of(name)
    curvature = EKFAC(problem, 0.1, leading=1000)
    E = curvature.operator()(torch.eye(problem.p, dtype=torch.float64))
    factor = curvature.factor()
    assert isinstance(factor, BlocksFactor)
    seen = 0
    for index, _ in factor.parts:
        block = dense_gauss_newton(name)[index][:, index] + 0.12 * torch.eye(len(index)).double()
        assert_close_per_row(E[index][:, index], block, 1e-8)
        seen += len(index)
    assert seen == problem.p


@every_case
def test_hessian_products(name):
    problem = problem_of(name)
    row = torch.randn(problem.p, dtype=torch.float64)
    model, total = problem.evaluation.model, torch.zeros(problem.p, dtype=torch.float64)
    chosen = [value for key, value in model.named_parameters() if key in problem.layout.names]
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(problem.n):
            batch = unpadded(problem, i)
            loss = problem.evaluation.loss(model(input_ids=batch["input_ids"]), batch).sum()
            slopes = torch.autograd.grad(loss, chosen, create_graph=True)
            along = torch.cat([slope.flatten() for slope in slopes]) @ row
            second = torch.autograd.grad(along, chosen, materialize_grads=True)
            total += torch.cat([part.flatten() for part in second]) / problem.n
    found = Hessian(problem, 0.1).operator()(row[None])
    assert_close_per_row(found, (total + 0.12 * row)[None], 1e-8)


@pytest.mark.parametrize("name", ["gpt2", "gpt2 classifier", "bert classifier", "lora"])
def test_scores(name):
    problem = problem_of(name)
    gradients = naive_gradients(problem)
    A = dense_gauss_newton(name) + 0.12 * torch.eye(problem.p).double()
    test = {key: leaf[:3] for key, leaf in everything(problem).items()}
    wanted = -gradients[:3] @ torch.linalg.solve(A, (gradients + problem.folded_penalty).T)
    solver = ConjugateGradient(rtol=1e-10)
    found = Influence(problem, curvature=GaussNewton(problem, 0.1), solver=solver).on_loss(test)
    assert_close_per_row(found.values, wanted, 1e-7)


@pytest.mark.parametrize("name", ["gpt2", "gpt2 eager, sum", "bert classifier"])
def test_random_cotangents_of_cross_entropies_have_their_curvature(name, monkeypatch):
    """With every unit vector in place of random signs their outer products sum to the curvature itself."""
    problem = problem_of(name)
    batch = problem.train_batch(torch.arange(4))

    def units(shape, generator):
        return shape[0] ** 0.5 * torch.eye(shape[0]).double().view(shape[0], 1, *shape[2:]).expand(shape)

    roots = jacobians.convex_roots(problem.evaluation, problem.theta, batch)
    monkeypatch.setattr(jacobians, "_signs", units)
    V = jacobians.cotangents(problem.evaluation, problem.theta, batch, len(roots), None)
    found, wanted = (torch.einsum("kbo,kbq->boq", side, side) for side in (V, roots))
    assert float((found - wanted).abs().max()) < 1e-12 * float(wanted.abs().max())


# -- trained on real text ----------------------------------------------------------------------------------------------


def mails(data_dir):
    """Enron's, as (text, whether it is spam), in a mixed order."""
    table = pd.read_parquet(data_dir / "enron1.parquet", columns=["text", "spam"]).sample(
        frac=1, random_state=0
    )
    return table.text.tolist(), torch.tensor(table.spam.to_numpy()).long()


def trained(model, loss, batch, steps):
    """By Adam on all of it."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        loss(outputs, batch).mean().backward()
        optimiser.step()
    return float(loss(outputs, batch).detach().mean())


def test_a_language_model_of_mails(data_dir):
    texts, _ = mails(data_dir)
    codes = [min(max(ord(letter) - 31, 1), 96) for letter in " ".join(texts[:40])][: 70 * 16]
    words = torch.tensor(codes).view(70, 16)
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": words}
    torch.manual_seed(0)
    model = gpt2(vocab_size=97, n_positions=16, n_embd=16).eval()
    assert trained(model, next_token, batch, 150) < 3.0  # from log(97) = 4.6
    train, test = ({key: leaf[part] for key, leaf in batch.items()} for part in (slice(60), slice(60, None)))
    problem = Problem(model.double(), next_token, train, params="transformer.h.0.mlp.*")
    gauss_newton = GaussNewton(problem, 0.01)
    wanted = Influence(problem, curvature=gauss_newton, solver=Exact()).on_loss(test).values
    found = Influence(problem, curvature=gauss_newton, solver=ConjugateGradient(rtol=1e-6)).on_loss(test)
    assert_close_per_row(found.values, wanted, 1e-4)
    for seed in range(3):
        near = Influence(problem, curvature=EKFAC(problem, 0.01, samples=8, seed=seed)).on_loss(test).values
        assert float(F.cosine_similarity(near, wanted).median()) > 0.8


def test_a_classifier_of_mails_finds_its_wrong_labels(data_dir):
    texts, spam = mails(data_dir)
    n, length = 300, 48
    words = [[2 + zlib.crc32(word.encode()) % 998 for word in text.split()][:length] for text in texts[:n]]
    padded = torch.tensor([row + [0] * (length - len(row)) for row in words])
    flipped = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: n // 10]
    labels = spam[:n].clone()
    labels[flipped] = 1 - labels[flipped]
    batch = {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": labels}
    torch.manual_seed(0)
    config = {
        **BERT,
        "vocab_size": 1000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": length,
    }
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**config, "num_labels": 2})
    ).eval()
    trained(model, classes, batch, 25)
    problem = Problem(model, classes, batch, params=["bert.encoder.*", "classifier.*"])
    own = -Influence(problem, curvature=EKFAC(problem, relative=0.1)).on_self().values[0]
    wrong = torch.zeros(n, dtype=torch.bool)
    wrong[flipped] = True
    auc = (own[wrong][:, None] > own[~wrong]).double().mean()
    assert float(auc) > 0.8
