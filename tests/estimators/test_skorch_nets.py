"""Nets of skorch are read with the objective that they trained on, rows held out left out; refits are of the net."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from upweight import Influence, explain, from_estimator, verify

skorch = pytest.importorskip("skorch")
pytest.importorskip("skorch.dataset")
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor  # noqa: E402
from skorch.dataset import ValidSplit  # noqa: E402
from skorch.helper import predefined_split  # noqa: E402


class Net(nn.Module):
    """A linear layer, in float64 so that training gets to its end; logits, or probabilities."""

    def __init__(
        self, columns: int = 13, outputs: int = 3, probabilities: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.out = nn.Linear(columns, outputs, dtype=torch.float64)
        self.probabilities, self.dropout = probabilities, nn.Dropout(dropout)

    def forward(self, X):
        outputs = self.out(self.dropout(X))
        return outputs.softmax(1) if self.probabilities else outputs


def data(load=load_wine) -> tuple[np.ndarray, np.ndarray]:
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))[:120]
    return ((X - X.mean(0)) / X.std(0)).astype(np.float64)[order], y.astype(np.int64)[order]


X, Y = data()
STEADY: dict[str, Any] = {
    "verbose": 0,
    "max_epochs": 300,
    "lr": 0.3,
    "batch_size": -1,
    "optimizer__weight_decay": 0.05,
    "train_split": None,
}


def trained(kind=NeuralNetClassifier, target=Y, **settings: Any) -> Any:
    torch.manual_seed(0)
    return kind(Net, **{**STEADY, "criterion": nn.CrossEntropyLoss, **settings}).fit(X, target)


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_objective_is_the_nets_own(probabilities):
    criterion = nn.NLLLoss if probabilities else nn.CrossEntropyLoss
    net = trained(criterion=criterion, module__probabilities=probabilities, max_epochs=700)
    before = copy.deepcopy(net.module_.state_dict())
    problem = from_estimator(net, X, Y)
    outputs = torch.from_numpy(net.predict_proba(X)) if probabilities else net.forward(X)
    own = net.get_loss(outputs, torch.from_numpy(Y))
    assert float(problem.train_losses().mean()) == pytest.approx(float(own), rel=1e-5)
    assert problem.keep == "mean"
    assert problem.l2.unique().tolist() == pytest.approx([0.05])
    # At the end of training nothing is left of the gradient, with the decay and not without it.
    assert float(problem.gradient().norm()) < 1e-4
    assert float(problem.changed(l2=0.0).gradient().norm()) > 1e-2
    assert all(torch.equal(before[name], value) for name, value in net.module_.state_dict().items())


def test_rows_that_are_held_out_are_left_out():
    net = trained(train_split=ValidSplit(5, stratified=True), max_epochs=2)
    problem = from_estimator(net, X, Y)
    of_class = [np.flatnonzero(np.equal(Y, k)) for k in range(3)]
    held = np.concatenate([rows[: len(rows) // 5] for rows in of_class])
    index = problem.terms.train_index
    assert index is not None
    assert problem.n == len(index)
    assert abs(120 - problem.n - len(held)) <= 3
    assert not set(held) & set(index)
    assert (problem.train_batch(torch.arange(problem.n))[0].numpy() == X[index]).all()
    assert "held out by train_split and did not train" in "\n".join(problem.terms.notes)
    named = from_estimator(net, pd.DataFrame(X).to_numpy(), Y)
    assert named.n == problem.n
    whole = from_estimator(
        trained(train_split=predefined_split(skorch.dataset.Dataset(X, Y)), max_epochs=2), X, Y
    )
    assert whole.n == 120
    fixed = trained(train_split=ValidSplit(0.3, random_state=1), max_epochs=2)
    assert from_estimator(fixed, X, Y).n == 84
    with pytest.raises(ValueError, match="draws other rows at each fit"):
        from_estimator(trained(train_split=ValidSplit(0.3), max_epochs=2), X, Y)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer], ids=["wine", "breast cancer"])
@pytest.mark.parametrize("kind", [NeuralNetClassifier, NeuralNetRegressor])
def test_effects_are_those_of_refits_from_first_weights(load, kind):
    """Of a linear net, which has one optimum: fitted anew without the row, from weights drawn anew."""
    inputs, y = data(load)
    settings = {**STEADY, "module__columns": inputs.shape[1], "module__outputs": int(y.max()) + 1}
    if kind is NeuralNetRegressor:
        y, inputs = inputs[:, :1].copy(), inputs[:, 1:].copy()
        settings |= {"module__outputs": 1, "module__columns": inputs.shape[1], "lr": 0.02}
        settings |= {"optimizer__weight_decay": 1.0, "max_epochs": 400}
    else:
        settings |= {"criterion": nn.CrossEntropyLoss, "optimizer__weight_decay": 0.1}
    train, test = (inputs[:100], y[:100]), (inputs[100:], y[100:])
    net = kind(Net, **settings).fit(*train)
    problem = from_estimator(net, *train)
    predicted = Influence(problem).on_loss(test).removal_effect()
    rows, base = [0, 33, 66], problem.evaluate(test)
    actual = []
    for row in rows:
        kept = np.delete(np.arange(100), row)
        again = kind(Net, **settings).fit(train[0][kept], train[1][kept])
        actual.append(from_estimator(again, train[0][kept], train[1][kept]).evaluate(test) - base)
    ours, own = predicted[:, rows].flatten(), torch.stack(actual, 1).flatten()
    assert float(torch.corrcoef(torch.stack([ours, own]))[0, 1]) > 0.99
    assert (
        1.0 < float((ours * own).sum() / ours.square().sum()) < 1.5
    )  # of first order: too small by the leverage


def test_effects_are_those_of_training_further():
    influence = Influence(from_estimator(trained(), X, Y))
    found = verify(influence, (X[:3], Y[:3]), k=2, random=2)
    assert found.top.pearson > 0.95
    assert 0.8 < found.top.slope < 1.4
    assert "removal effect" in repr(explain(influence, (X[:1], Y[:1]), k=2))


def test_two_classes_by_one_output_and_pipelines():
    two = (Y > 0).astype(np.float64)
    net = trained(
        NeuralNetBinaryClassifier, two, criterion=nn.BCEWithLogitsLoss, module__outputs=1, max_epochs=50
    )
    problem = from_estimator(net, X, two)
    p = net.predict_proba(X)[:, 1]
    own = -np.where(two > 0, np.log(p), np.log(1 - p)).mean()
    assert float(problem.train_losses().mean()) == pytest.approx(own, rel=1e-4)
    raw = load_wine(return_X_y=True)[0][:100]
    labels = load_wine(return_X_y=True)[1][:100]
    torch.manual_seed(0)
    last = NeuralNetClassifier(Net, **{**STEADY, "criterion": nn.CrossEntropyLoss, "max_epochs": 20})
    pipeline = make_pipeline(StandardScaler(), FunctionTransformer(np.float64), last).fit(raw, labels)
    there = from_estimator(pipeline, raw, labels)
    logits = pipeline[-1].forward(pipeline[:-1].transform(raw))
    own_loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    assert float(there.evaluate((raw, labels)).mean()) == pytest.approx(float(own_loss), rel=1e-6)


class Own(NeuralNetClassifier):
    """With a loss of its own."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred, y_true, *args, **kwargs) + 1


@pytest.mark.parametrize(
    ("settings", "target", "said"),
    [
        ({"kind": Own}, Y, "get_loss of its own"),
        ({"criterion__weight": torch.tensor([1.0, 2.0, 3.0]).double()}, Y, "is not the mean of its examples"),
        ({"criterion__reduction": "sum", "lr": 1e-3}, Y, "is not the mean of its examples"),
        ({"optimizer": torch.optim.AdamW, "lr": 1e-2}, Y, "AdamW shrinks weights beside the loss"),
    ],
)
def test_nets_that_are_refused(settings, target, said):
    net = trained(target=target, max_epochs=2, **settings)
    with pytest.raises(ValueError, match=said):
        from_estimator(net, X, target)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_else_is_refused():
    net = trained(max_epochs=2)
    with pytest.raises(ValueError, match="hands sample_weight to the module"):
        from_estimator(net, X, Y, sample_weight=np.ones(120))
    with pytest.raises(TypeError, match="inputs of a net must be an array or a tensor, got DataFrame"):
        from_estimator(net, pd.DataFrame(X), Y)
    flat = X[:, 0].copy()  # outputs (n, 1) beside targets (n,): skorch trains on all pairs
    broadcast = trained(NeuralNetRegressor, flat, criterion=nn.MSELoss, module__outputs=1, max_epochs=2)
    with pytest.raises(ValueError, match=r"y\.reshape\(-1, 1\)"):
        from_estimator(broadcast, X, flat)
    dropped = trained(module__dropout=0.2, max_epochs=2)
    assert "as in prediction" in "\n".join(from_estimator(dropped, X, Y).terms.notes)
    adam = trained(optimizer=torch.optim.Adam, lr=1e-2, max_epochs=2)
    assert float(from_estimator(adam, X, Y).l2.max()) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="is not fitted"):
        from_estimator(NeuralNetClassifier(Net), X, Y)


class Hidden(nn.Module):
    """A hidden layer of three units, in float64."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()

    def forward(self, X):
        return self.out(torch.tanh(self.inner(X)))


def test_removals_from_a_net_with_a_hidden_layer_are_those_of_its_own_refits_to_first_order():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(403, 3))
    y = (X[:, 0] * X[:, 1] + X[:, 2] + 0.7 * generator.normal(size=403) > 0).astype(np.int64)
    torch.manual_seed(0)
    fields = {"optimizer__momentum": 0.9, "optimizer__weight_decay": 1e-2, "lr": 0.1, "max_epochs": 1500}
    net = NeuralNetClassifier(
        Hidden, criterion=nn.CrossEntropyLoss, verbose=0, batch_size=-1, train_split=None, **fields
    ).fit(X[:400], y[:400])
    influence = Influence(from_estimator(net, X[:400], y[:400]))
    found = verify(influence, (X[400:], y[400:]), k=1, random=3, own=0).random
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.05)
    assert found.relative_error < 0.05
