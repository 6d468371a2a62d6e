"""Gradients layer by layer against differentiation example by example, on networks of every kind."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.networks import MODELS, Places, problem_of
from upweight import EKFAC, Influence, Problem, measures
from upweight.capabilities import SidesPlan
from upweight.linalg.outer_products import Outer, joined
from upweight.measures import as_measure
from upweight.network.example_gradients import example_gradients
from upweight.types import Tensor

every_model = pytest.mark.parametrize("name", MODELS)
# Of the others the layers do not see examples one by one.
TOGETHER = {
    "mlp", "twice", "sequence", "patch", "signal", "words", "tied", "loose", "places", "flat", "windows",
}  # fmt: skip
COSTLY = {
    "time first": "layer 'layer' (Linear) does not see one example after the other",
    "choices": "layer 'places' (Embedding) does not see one example after the other",
    "branches": "the model does not take several examples at once",
    "loose": "'layer.weight' in layer 'layer' (Linear)",
}
"""What is said of models that are taken example by example."""


def naive(problem: Problem, batch, measure=None) -> Tensor:
    return example_gradients(problem.evaluation, problem.theta, batch, measure)


def whole(problem: Problem):
    return problem.train_batch(torch.arange(problem.n))


@every_model
def test_which_models_are_taken_layer_by_layer(name):
    layers = problem_of(name).layers
    assert layers.layered.example_first == (name in TOGETHER)
    # What is outside the layers of "loose" is too much of it to be worth it.
    assert layers.together == (name in TOGETHER - {"loose"})


@every_model
def test_what_costs_a_model_the_fast_way_is_said(name):
    problem = problem_of(name)
    _ = problem.layers.together
    assert [words for words in COSTLY.values() if words in " ".join(problem.remarks)] == (
        [COSTLY[name]] if name in COSTLY else []
    )
    assert len(problem.remarks) == (name in COSTLY)


def test_bases_of_a_model_that_is_taken_example_by_example_say_so():
    problem = problem_of("time first")
    influence = Influence(problem, curvature=EKFAC(problem, 0.1))
    influence.on_loss(whole(problem))
    assert COSTLY["time first"] in str(influence.settings)


def test_a_model_that_does_not_bear_positions_of_every_text_is_taken_example_by_example():
    class Unsqueezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(7, 4), nn.Embedding(6, 4), nn.Linear(4, 3)

        def forward(self, words):
            h = self.words(words) + self.places(torch.arange(words.shape[1])).unsqueeze(0)
            b, t, d = h.shape
            return self.head(torch.tanh(h.view(b, t, d)).mean(1))

    torch.manual_seed(0)
    batch = torch.randint(0, 7, (20, 6)), torch.arange(20) % 3
    problem = Problem(Unsqueezed().double(), F.cross_entropy, batch, l2=0.1)
    assert_close_per_row(problem.test_gradients(batch), naive(problem, batch), 1e-12)
    assert "layer 'places' (Embedding)" in problem.remarks[0]


@pytest.mark.parametrize("t", [1, 6])  # of one word positions look as if they were an example's own
def test_as_many_examples_as_positions(t):
    torch.manual_seed(0)
    batch = torch.randint(0, 7, (6, t)), torch.arange(6) % 3
    problem = Problem(Places().double(), F.cross_entropy, batch, l2=0.1)
    assert problem.layers.together
    assert_close_per_row(problem.test_gradients(batch), naive(problem, batch), 1e-12)
    one = tuple(leaf[:1] for leaf in batch)
    assert_close_per_row(problem.test_gradients(one), naive(problem, one), 1e-12)


def test_a_class_of_every_example_is_its_own():
    class Classes(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, kind):
            return self.head(torch.tanh(self.table(kind)))

    torch.manual_seed(0)
    batch = torch.tensor([2] * 8), torch.arange(8) % 3  # all the same, as positions are
    problem = Problem(Classes().double(), F.cross_entropy, batch, l2=0.1)
    assert problem.layers.together
    assert_close_per_row(problem.test_gradients(batch), naive(problem, batch), 1e-12)


@every_model
def test_every_entry_of_theta_is_in_one_place(name):
    problem = problem_of(name)
    layout = problem.layers.layout
    index = torch.cat([*(matrix.index for matrix in layout.matrices), layout.rest])
    assert index.sort()[0].tolist() == list(range(problem.p))
    held = {
        key
        for key, places in problem.layout.unpack(torch.arange(problem.p).double()).items()
        if not torch.isin(places.long(), layout.rest).any()
    }
    assert problem.layers.parameters == held


@every_model
@pytest.mark.parametrize("measure", [None, measures.margin])
def test_gradients(name, measure):
    problem = problem_of(name)
    assert_close_per_row(
        problem.test_gradients(whole(problem), measure), naive(problem, whole(problem), measure), 1e-12
    )


@every_model
@pytest.mark.parametrize("k", [1, 40])
def test_products(name, k):
    problem = problem_of(name)
    rows = torch.randn(k, problem.p).double()
    found = torch.cat([values for _, values in problem.products(rows)], dim=1)
    bare = naive(problem, whole(problem)) * problem.weights[:, None] + problem.folded_penalty
    assert_close_per_row(found, rows @ bare.T, 1e-11)


def outer_of(problem: Problem) -> Outer:
    """Three random vectors, each two outer products per weight matrix."""
    layout = problem.layers.layout
    layers = [
        (
            torch.randn(2, 3, matrix.rows).double(),
            torch.randn(2, 3, matrix.columns + matrix.intercept).double(),
        )
        for matrix in layout.matrices
    ]
    return Outer(layout, layers, torch.randn(3, len(layout.rest)).double())


@pytest.mark.parametrize("name", sorted(TOGETHER))
def test_jacobians_and_sums_of_outer_products(name):
    problem = problem_of(name)
    layered, layout = problem.layers.layered, problem.layers.layout
    batch = whole(problem)
    V = torch.randn(problem.n, 4, problem.c).double()
    wanted = torch.stack(
        [
            naive(problem, (batch[0], V[:, j]), lambda o, v: (o.flatten() * v.flatten()).sum())
            for j in range(4)
        ],
        1,
    )
    assert_close_per_row(layered.jacobians(batch, V).flatten(0, 1), wanted.flatten(0, 1), 1e-11)
    outer = outer_of(problem)
    flat = torch.zeros(3, problem.p).double()
    flat[:, layout.rest] = outer.rest
    for matrix, (U, W) in zip(layout.matrices, outer.layers, strict=True):
        flat[:, matrix.index] = matrix.flat(torch.einsum("Rkr,Rks->krs", U, W))
    gradients = naive(problem, batch)
    assert_close_per_row(outer.products(layered.pairs(batch)), flat @ gradients.T, 1e-11)
    assert_close_per_row((outer @ gradients[0])[:, None], (flat @ gradients[0])[:, None], 1e-11)
    parts = [layered.pairs(tuple(side[rows] for side in batch)) for rows in torch.arange(problem.n).split(7)]
    assert_close_per_row(outer.products(joined(parts)), flat @ gradients.T, 1e-11)


@every_model
def test_outer_products_are_taken_in_place_of_vectors(name):
    problem = problem_of(name)
    outer = outer_of(problem)
    bare = naive(problem, whole(problem)) * problem.weights[:, None] + problem.folded_penalty
    found = torch.cat([values for _, values in problem.products(outer)], dim=1)
    assert_close_per_row(found, outer.flat() @ bare.T, 1e-11)


@pytest.mark.parametrize("name", sorted(TOGETHER - {"loose"}))
def test_pairs_are_the_gradients(name):
    problem = problem_of(name)
    layers, rows = problem.layers, torch.randn(2, problem.p).double()
    wanted = naive(problem, whole(problem))
    for part, pairs, values in layers.train_pairs(rows, slice(3, 17)):
        assert_close_per_row(layers.layout.join(pairs), wanted[part], 1e-12)
        assert_close_per_row(values, rows @ wanted[part].T, 1e-11)
    found = joined(list(layers.test_pairs(whole(problem), as_measure(measures.margin))))
    wanted = naive(problem, whole(problem), measures.margin)
    assert_close_per_row(layers.layout.join(found), wanted, 1e-12)


def test_pairs_of_examples_that_are_not_seen_one_by_one_are_refused():
    problem = problem_of("branches")
    with pytest.raises(TypeError, match="not taken layer by layer"):
        list(problem.layers.test_pairs(whole(problem)))


@every_model
@pytest.mark.parametrize("samples", [None, 3])
def test_cotangents_pulled_back_add_up_to_the_gauss_newton_matrix(name, samples):
    """Exactly with every output; with samples it is that of these samples: once more from the same seed."""
    problem = problem_of(name)
    layers = problem.layers
    layout = layers.layout

    def total() -> Tensor:
        G = torch.zeros(problem.p, problem.p, dtype=torch.float64)
        for cotangents, w in layers.pulled_back(SidesPlan(samples, 5, problem.dtype), "pass"):
            for sides in cotangents:
                J = torch.zeros(len(w), problem.p, dtype=torch.float64)
                J[:, layout.rest] = sides.rest()
                for i, matrix in enumerate(layout.matrices):
                    J[:, matrix.index] = matrix.flat(sides.left(i).mT @ sides.right(i))
                G += J.T @ (J * w[:, None]) / problem.n
        return G

    found, exact = total(), problem.gauss_newton.matrix() - torch.diag(problem.l2)
    if samples is None:
        assert_close_per_row(found, exact, 1e-9)
    else:
        assert torch.equal(found, total())
        assert not torch.allclose(found, exact)


@pytest.mark.parametrize("name", ["mlp", "words", "tied"])
def test_right_sides_are_shared_where_it_says_so(name):
    problem = problem_of(name)
    layers = problem.layers
    cotangents, _ = next(layers.pulled_back(SidesPlan(None, 0, problem.dtype), "pass"))
    first, second, *_ = cotangents
    same = [torch.equal(first.right(i), second.right(i)) for i in range(len(layers.layout.matrices))]
    assert same == [layers.shares_right(i) for i in range(len(same))]
    assert all(same) == (name == "mlp")


def test_sides_have_the_precision_that_is_asked_for():
    problem = problem_of("signal")
    cotangents, _ = next(problem.layers.pulled_back(SidesPlan(None, 0, torch.float32), "pass"))
    sides = next(cotangents)
    assert {sides.left(0).dtype, sides.right(0).dtype, sides.rest().dtype} == {torch.float32}


class Borrowed(nn.Module):
    """A weight that is also used by itself, but only for inputs that are rare."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        rare = torch.relu(x[:, :1] - 50)
        return self.head(torch.tanh(self.layer(x)) + rare * (x @ self.layer.weight.T))


def test_a_weight_that_is_secretly_used_elsewhere_is_noticed_on_more_examples():
    torch.manual_seed(0)
    X, y = torch.randn(300, 4).double(), torch.randint(0, 3, (300,))
    X[5, 0] = 60.0
    problem = Problem(Borrowed().double(), F.cross_entropy, (X, y))
    assert not bool((problem.trial.batch[0] > 50).any())
    assert len(problem.layers.layout.rest) == 0  # a few examples do not show it
    assert not problem.layers.together
    assert_close_per_row(problem.test_gradients((X, y)), naive(problem, (X, y)), 1e-12)


def test_precision_of_single_precision_models():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    X, y = torch.randn(30, 1, 5, 5), torch.randint(0, 3, (30,))
    problem, wide = (
        Problem(model, F.cross_entropy, (X, y)),
        Problem(model.double(), F.cross_entropy, (X.double(), y)),
    )
    assert problem.layers.together
    assert_close_per_row(problem.test_gradients((X, y)), naive(wide, (X.double(), y)), 1e-5)


@every_model
def test_a_measure_that_does_not_depend_on_the_model_has_no_gradient(name):
    problem = problem_of(name)
    found = problem.test_gradients(whole(problem), lambda outputs, targets: torch.zeros(()).double())
    assert found.shape == (problem.n, problem.p)
    assert not bool(found.any())


def test_a_layered_model_is_not_changed_by_rounding_it():
    layered = problem_of("mlp").layers.layered
    assert layered.rounded(torch.bfloat16).of.autocast == torch.bfloat16
    assert layered.of.autocast is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        layered.of = layered.of  # type: ignore[misc]
