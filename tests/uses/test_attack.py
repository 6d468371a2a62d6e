"""Training-set attacks and frozen networks: input derivatives against refits, boxes kept, retraining exact."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.compare import assert_close_per_row
from upweight import Influence, LinearProblem, Logistic, Softmax, Squared
from upweight.data.user_terms import Terms
from upweight.frozen import features, pull_back
from upweight.uses.attack import attack
from upweight.uses.box import Box, to_pixels
from upweight.uses.vulnerability import vulnerability
from upweight.vision import InceptionV3


def trunk(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 5, 2), nn.Tanh(), nn.Flatten())
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def images(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes whose mean tells the class, but not always."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=generator)
    pixels = 110 + 25 * y[:, None, None, None] + 60 * torch.randn(n, 1, 7, 7, generator=generator)
    return pixels.round().clamp(0, 255).to(torch.uint8), y


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.double() - 127.5) / 127.5


def problem_of(n: int = 40, l2: float = 0.02, **settings):
    network = trunk()
    pixels, y = images(n)
    problem = LinearProblem.fit(
        features(network, scaled(pixels)).double(),
        y,
        loss=Logistic(),
        l2=l2,
        intercept=True,
        terms=Terms(network=network),
        **settings,
    )
    return problem, pixels, y


def targets(problem, count: int):
    """Test images that are right, least certain first."""
    pixels, y = images(60, seed=5)
    x = scaled(pixels)
    margin = problem.outputs(problem.prepared((x, y))[0])[:, 0] * (2 * y - 1)
    order = margin.argsort()
    chosen = order[margin[order] > 0][:count]
    return x[chosen], y[chosen]


def test_input_influence_through_a_network_is_the_derivative_of_refits():
    problem, pixels, y = problem_of(keep="mean")
    test, x = targets(problem, 2), scaled(pixels)
    found = Influence(problem).on_inputs((x[:3], y[:3]), test)
    assert found.shape == (2, 3, 1, 7, 7)
    network, step = problem.terms.network, 1e-4
    for row in range(3):
        for place in ((0, 1, 2), (0, 3, 3)):
            losses = []
            for sign in (1, -1):
                moved = x.clone()
                moved[row][place] += sign * step
                X = network(moved)
                refit = LinearProblem.fit(X, y, loss=Logistic(), l2=0.02, intercept=True, tolerance=1e-13)
                losses.append(refit.evaluate((network(test[0]), test[1])))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert_close_per_row(found[:, row].movedim(0, -1)[place] / problem.n, slope, 1e-4)


def test_pull_back_is_the_vector_jacobian_product_whatever_the_batch():
    network, x = trunk(), torch.randn(5, 1, 7, 7).double()
    d = network(x).shape[1]
    V = torch.randn(2, 5, d).double()
    J = torch.stack([torch.autograd.functional.jacobian(lambda z: network(z[None])[0], z) for z in x])
    wanted = torch.einsum("kbd,bdcij->kbcij", V, J)
    for batch in (1, 3, 5):
        found = pull_back(network, x, V, batch=batch)
        assert_close_per_row(found.flatten(0, 1), wanted.flatten(0, 1), 1e-11)


def test_features_are_kept_by_what_they_are_made_of(tmp_path):
    network, x = trunk(), torch.randn(5, 1, 7, 7).double()
    first = features(network, x, batch=2, cache=tmp_path)
    assert_close_per_row(first, network(x), 1e-6)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(features(network, x, cache=tmp_path), first)
    assert calls == []
    features(network, x + 1, cache=tmp_path)
    assert len(calls) == 1
    other = trunk(1)
    features(other, x, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("loss", [Logistic(), Softmax()])
def test_an_attack_flips_its_target_by_images_that_are_the_same_bytes(loss):
    network = trunk()
    pixels, y = images(40)
    problem = LinearProblem.fit(
        features(network, scaled(pixels)).double(),
        y,
        loss=loss,
        outputs=2 if isinstance(loss, Softmax) else 1,
        l2=0.002,
        terms=Terms(network=network),
    )
    before = [value.clone() for value in network.state_dict().values()]
    test_pixels, test_y = images(200, seed=5)
    outputs = problem.outputs(problem.prepared((scaled(test_pixels), test_y))[0])
    margin = (
        outputs[:, 0] * (2 * test_y - 1)
        if outputs.shape[1] == 1
        else (outputs[:, 1] - outputs[:, 0]) * (2 * test_y - 1)
    )
    order = margin.argsort()
    index = order[margin[order] > 0][:1]
    target = (scaled(test_pixels[index]), test_y[index])
    table = vulnerability(Influence(problem), scaled(pixels), target, rows=range(40), radius=0.5 / 127.5)
    rows = table["row"].tolist()[:5]
    box = Box.same_pixels(pixels[rows])
    found = attack(
        problem, scaled(pixels[rows]), target, rows=rows, box=box, step=0.05 / 127.5, iterations=40
    )
    assert bool(found.flipped.all())
    assert torch.equal(to_pixels(found.inputs), pixels[rows])
    assert not torch.equal(found.inputs, scaled(pixels[rows]))
    assert float(found.problem.gradient().norm()) <= 1e-9
    assert float(problem.gradient().norm()) <= 1e-8
    assert list(found.log.columns)[:3] == ["loss", "smallest margin", "flipped"]
    assert found.log["loss"].is_monotonic_increasing
    # Trained from scratch on what the attacker would put there, the model says the same.
    X = features(network, scaled(pixels)).double()
    X[rows] = features(network, found.inputs).double()
    again = LinearProblem.fit(X, y, loss=loss, outputs=problem.c, l2=0.002)
    assert_close_per_row(again.theta[None], found.problem.theta[None], 1e-6)
    for value, old in zip(network.state_dict().values(), before, strict=True):
        assert torch.equal(value, old)


def test_columns_that_may_not_move_do_not():
    torch.manual_seed(0)
    X = torch.randn(30, 4).double()
    y = (X[:, 0] > 0).long()
    problem = LinearProblem.fit(X, y, loss=Logistic(), l2=0.01, intercept=True)
    outputs = problem.outputs(problem.prepared((X, y))[0])[:, 0]
    row = int((outputs * (2 * y - 1)).clamp(min=0).masked_fill(outputs * (2 * y - 1) <= 0, 99).argmin())
    rows = [i for i in range(8) if i != row][:4]
    box = Box.around(X[rows], torch.tensor([0.0, 3.0, 3.0, 0.0]).double())
    found = attack(problem, X[rows], (X[[row]], y[[row]]), rows=rows, box=box, step=0.1, iterations=30)
    assert torch.equal(found.inputs[:, [0, 3]], X[rows][:, [0, 3]])
    assert float(found.log["loss"].iloc[-1]) > float(found.log["loss"].iloc[0])


def certain(count: int, seed: int = 0) -> tuple[LinearProblem, torch.Tensor, torch.Tensor, Any]:
    """A classifier of 30 rows, its data, and targets that it gets right, the least certain first."""
    X = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = (X[:, 0] + 0.3 * X[:, 1] > 0).long()
    problem = LinearProblem.fit(X, y, loss=Logistic(), l2=0.01, intercept=True)
    margin = problem.outputs()[:, 0] * (2 * y - 1)
    rows = margin.argsort()[margin.sort().values > 0][:count]
    return problem, X, y, (X[rows], y[rows])


def test_the_log_says_what_happened_at_each_step():
    problem, X, _, test = certain(2)
    rows = [20, 21]
    box = Box.around(X[rows], 0.15)
    found = attack(problem, X[rows], test, rows=rows, box=box, step=0.1, iterations=3)
    log, columns = found.log, ["smallest margin", "flipped", "input distance", "largest input change"]
    assert len(log) <= 4
    assert log[columns[2:]].iloc[0].tolist() == [0.0, 0.0]
    moved = (found.inputs - X[rows]).abs()
    assert float(log["largest input change"].iloc[-1]) == pytest.approx(float(moved.max()))
    assert float(log["input distance"].iloc[-1]) == pytest.approx(float(moved.norm()))
    assert float(log["feature distance"].iloc[-1]) == pytest.approx(float(moved.norm()))
    assert float(moved.max()) <= 0.15 + 1e-12  # clamped in the second step
    margin = found.problem.outputs(found.problem.prepared(test)[0])[:, 0] * (2 * test[1] - 1)
    assert float(log["smallest margin"].iloc[-1]) == pytest.approx(float(margin.min()))
    assert int(log["flipped"].iloc[-1]) == int(found.flipped.sum()) == int((margin <= 0).sum())
    assert f"{int(found.flipped.sum())} of 2 targets flipped after {len(log) - 1} iterations" in repr(found)
    assert torch.equal(found.rows, torch.tensor(rows))


@pytest.mark.parametrize("contraction", [0.0, 1e-3, 0.3])
def test_when_factors_are_renewed_does_not_matter(contraction: float, monkeypatch: pytest.MonkeyPatch):
    problem, X, y, test = certain(1)
    module, rows = importlib.import_module("upweight.uses.attack"), [20, 21, 22]
    monkeypatch.setattr(module, "CONTRACTION", contraction)
    box = Box.around(X[rows], 2.0)
    found = attack(problem, X[rows], test, rows=rows, box=box, step=0.3, iterations=4)
    # Trained from scratch on what stands in place of the rows.
    edited = X.clone()
    edited[rows] = found.inputs
    again = LinearProblem.fit(edited, y, loss=Logistic(), l2=0.01, intercept=True, tolerance=1e-11)
    assert_close_per_row(found.problem.theta[None], again.theta[None], 1e-7)
    assert float(found.problem.gradient().norm()) <= 1e-9


def test_the_first_step_follows_the_sign_of_input_influence():
    problem, X, y, test = certain(2)
    rows, step = [20, 21], 0.01
    box = Box.around(X[rows], 1.0)
    found = attack(problem, X[rows], test, rows=rows, box=box, step=step, iterations=1)
    direction = Influence(problem).on_inputs((X[rows], y[rows]), test).mean(0).sign()
    assert_close_per_row(found.inputs - X[rows], step * direction, 1e-9)


def test_a_target_that_is_flipped_ends_the_attack():
    problem, X, _, test = certain(1)
    box = Box.around(X[[20, 21, 22]], 50.0)
    found = attack(problem, X[[20, 21, 22]], test, rows=[20, 21, 22], box=box, step=2.0, iterations=40)
    assert bool(found.flipped.all())
    assert found.log["flipped"].tolist() == [0] * (len(found.log) - 1) + [1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": lambda p, x: p}, TypeError, "real numbers"),
        ({"rows": [5, 6]}, ValueError, "not those that rows"),
        ({"rows": [1, 1]}, ValueError, "distinct"),
        ({"rows": [1, 99]}, ValueError, "must lie in 0..39"),
        ({"step": 0.0}, ValueError, "step must be > 0"),
        ({"wrong": True}, ValueError, "misclassified before the attack"),
    ],
)
def test_bad_input(change, error, message):
    problem, pixels, _ = problem_of()
    rows = [1, 2]
    x = scaled(pixels[rows])
    test = targets(problem, 1)
    if change.get("wrong"):
        test = test[0], 1 - test[1]
    inputs = change["inputs"](pixels[rows], x) if "inputs" in change else x
    box = Box.same_pixels(pixels[rows])
    with pytest.raises(error, match=message):
        attack(problem, inputs, test, rows=change.get("rows", rows), box=box, step=change.get("step", 0.01))


def test_models_and_networks_that_cannot_be_attacked():
    X = torch.randn(9, 2).double()
    regression = LinearProblem.fit(X, X[:, 0], loss=Squared(), l2=0.1)
    with pytest.raises(TypeError, match="linear classifiers"):
        attack(regression, X[:1], (X[:1], X[:1, 0]), rows=[0], box=Box.around(X[:1], 1.0), step=0.1)
    with pytest.raises(TypeError, match="must be uint8"):
        Box.same_pixels(X)
    with pytest.raises(ValueError, match="1 numbers of the inputs lie outside the box"):
        Box.around(torch.zeros(1, 2), 1.0).check(torch.tensor([[0.5, 1.5]]))
    with pytest.raises(ValueError, match="the box has shape"):
        Box.around(torch.zeros(1, 2), 1.0).check(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="radius"):
        Box.around(X, -1.0)
    with pytest.raises(ValueError, match="do not depend differentiably"):
        pull_back(nn.Sequential(_Rounded(), nn.Flatten()), X, torch.ones(1, 9, 2).double())
    with pytest.raises(TypeError, match="real numbers"):
        pull_back(nn.Flatten(), torch.ones(2, 3, dtype=torch.uint8), torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match=r"features of shape \(2, d\)"):
        features(nn.Identity(), torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        features(nn.Sequential(nn.Flatten(), nn.Dropout()), X)
    with pytest.raises(ValueError, match="NaN or infinity"):
        features(nn.Flatten(), torch.full((2, 3), torch.nan))


class _Rounded(nn.Module):
    def forward(self, x):
        return x.detach().round()


def test_inception_is_made_of_the_published_blocks(tmp_path):
    network = InceptionV3()
    arrays: dict[str, Any] = {}
    for name, module in network.convolutions.items():
        layer: Any = module
        arrays[f"weights_{name}"] = layer.weight.detach().permute(0, 2, 3, 1).numpy().astype(np.float16)
        arrays[f"bias_{name}"] = layer.bias.detach().numpy()
    np.savez(tmp_path / "weights.npz", **arrays)
    loaded = InceptionV3.load(tmp_path / "weights.npz")
    assert not any(value.requires_grad for value in loaded.parameters())
    x = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        assert loaded(x).shape == (1, 1280)
        assert_close_per_row(loaded(x), network(x), 1e-2)
    arrays["weights_conv"] = arrays["weights_conv"][:5]
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match=r"weights_conv has shape \(5, 3, 3, 3\), expected \(32, 3, 3, 3\)"):
        InceptionV3.load(tmp_path / "other.npz")
