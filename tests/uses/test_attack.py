"""Training-set attacks and frozen networks: input derivatives against refits, boxes kept, retraining exact."""

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
from upweight.uses.vulnerability import vulnerability, vulnerable_targets
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


def test_vulnerability_bounds_what_small_boxes_allow():
    torch.manual_seed(0)
    X = torch.randn(30, 4).double()
    y = (X[:, 0] + 0.3 * torch.randn(30).double() > 0).long()
    settings: dict[str, Any] = {
        "loss": Logistic(),
        "l2": 0.01,
        "intercept": True,
        "weights": torch.rand(30) + 0.2,
    }
    problem = LinearProblem.fit(X, y, **settings)
    test, radius = (X[:3], y[:3]), torch.tensor([1e-4, 0.0, 3e-4, 1e-4]).double()
    table = vulnerability(Influence(problem), X[3:9], test, rows=range(3, 9), radius=radius)
    assert table["worst effect"].is_monotonic_decreasing
    before = problem.evaluate(test).mean()
    for row, worst in zip(table["row"], table["worst effect"], strict=True):
        gradient = Influence(problem).on_inputs((X[[row]], y[[row]]), test).mean(0)[0]
        reached = []
        for direction in (gradient.sign(), torch.randn(4).double().sign()):
            moved = X.clone()
            moved[row] += radius * direction
            refit = LinearProblem.fit(moved, y, tolerance=1e-12, **settings)
            reached.append(float(refit.evaluate(test).mean() - before))
        assert abs(reached[0] - worst) < 1e-2 * worst
        assert reached[1] <= 1.01 * worst


@pytest.mark.parametrize("loss", [Logistic(), Softmax()])
def test_vulnerable_targets_say_what_refits_do_to_margins(loss):
    torch.manual_seed(0)
    X = torch.randn(30, 4).double()
    y = (X[:, 0] + 0.5 * torch.randn(30) > 0).long()
    settings: dict[str, Any] = {"loss": loss, "outputs": 1 if loss == Logistic() else 2, "l2": 0.01}
    problem = LinearProblem.fit(X, y, tolerance=1e-12, **settings)
    rows, test, radius = [4, 7, 9], (X[:6], y[:6]), 1e-4
    table = vulnerable_targets(Influence(problem), X[rows], test, rows=rows, radius=radius)
    assert sorted(table.index) == list(range(6))
    assert (table["margin"] - table["worst effect"]).is_monotonic_increasing
    assert (table["flips"] == (table["worst effect"] > table["margin"])).all()

    def margin(of: LinearProblem, t: int) -> float:
        outputs = of.outputs(of.prepared((X[[t]], y[[t]]))[0])[0]
        sign = 2 * int(y[t]) - 1
        return float(outputs[0] if len(outputs) == 1 else outputs[1] - outputs[0]) * sign

    for t, line in table.iterrows():
        assert abs(line["margin"] - margin(problem, t)) < 1e-9
        row, falls = line["row"], []
        for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).double():
            moved = X.clone()
            moved[row] += radius * signs
            falls.append(line["margin"] - margin(LinearProblem.fit(moved, y, tolerance=1e-12, **settings), t))
        assert abs(max(falls) - line["worst effect"]) < 1e-2 * line["worst effect"]


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
