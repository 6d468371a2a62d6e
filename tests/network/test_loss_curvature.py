"""Losses without curvature in the outputs are refused by name, and no others."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close
from upweight import EKFAC, DerivativeError, DerivativeWarning, GaussNewton, Hessian, Influence, Problem

DATA = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.randn(40, 1, generator=torch.Generator().manual_seed(1)).double()
FLAT = {
    "L1": F.l1_loss,
    "pinball": lambda o, y: torch.maximum(0.9 * (y - o), -0.1 * (y - o)).mean(),
    "hinge": lambda o, y: (1 - o * y.sign()).clamp(min=0).mean(),
}
CURVATURES = {
    "default": lambda problem: None,
    "GaussNewton": lambda problem: GaussNewton(problem, 0.1),
    "EKFAC": lambda problem: EKFAC(problem, 0.1),
    "Hessian": lambda problem: Hessian(problem, 1.0),
}


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 1).double()


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("loss", FLAT)
@pytest.mark.parametrize("build", [linear, lambda: nn.Sequential(linear(), nn.Tanh()).double()])
def test_losses_that_are_linear_piece_by_piece_are_refused(build, loss, curvature):
    problem = Problem(build(), FLAT[loss], (DATA, TARGETS), l2=0.01)
    with pytest.raises(DerivativeError, match=r"no curvature in the model's outputs.*smooth_l1_loss"):
        Influence(problem, curvature=CURVATURES[curvature](problem)).on_loss((DATA[:2], TARGETS[:2]))
    assert problem.test_gradients((DATA[:2], TARGETS[:2])).shape == (2, 6)  # these do not need it


def test_a_loss_that_is_curved_for_one_example_only_is_answered():
    """The eight examples that are looked at first are all in the linear part."""
    model = linear()
    near = torch.full((40, 1), 50.0).double()
    near[5] = model(DATA[5:6]).detach() + 0.1
    problem = Problem(model, F.huber_loss, (DATA, near), l2=0.01)
    assert Influence(problem).on_loss((DATA[:2], near[:2])).values.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_loss_without_a_second_derivative_is_named():
    model = nn.Linear(5, 3).double()
    problem = Problem(
        model, lambda o, y: F.multi_margin_loss(o, y, p=2), (DATA, torch.arange(40) % 3), l2=0.01
    )
    with pytest.raises(DerivativeError, match=r"no second derivative of the loss.*multi_margin"):
        Influence(problem).on_loss((DATA[:2], torch.arange(2)))


class Square(torch.autograd.Function):
    """A square whose rule for vmap has twice the derivative."""

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope

    @staticmethod
    def vmap(info, in_dims, x):
        return 2 * x.square() - x.square().detach(), in_dims[0]


def test_a_loss_that_is_wrong_under_vmap_is_taken_example_by_example():
    with pytest.warns(DerivativeWarning, match="the loss is differentiated example by example"):
        problem = Problem(linear(), lambda o, y: Square.apply(o - y).sum(), (DATA, TARGETS), l2=0.01)
    twin, test = Problem(linear(), F.mse_loss, (DATA, TARGETS), l2=0.01), (DATA[:3], TARGETS[:3])
    close(problem.test_gradients(test), twin.test_gradients(test))
    close(Influence(problem).on_loss(test).values, Influence(twin).on_loss(test).values)


def test_a_loss_that_passes_on_less_than_it_is_is_told():
    def focal(outputs, targets):
        right = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
        return ((1 - right.detach()) ** 2 * F.cross_entropy(outputs, targets, reduction="none")).mean()

    model, y = nn.Linear(5, 3).double(), torch.arange(40) % 3
    problem = Problem(model, focal, (DATA, y), l2=0.01)
    with pytest.warns(DerivativeWarning) as said:
        scores = Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((DATA[:2], y[:2]))
    assert any("second derivative in the outputs" in str(w.message) for w in said)
    assert "not the derivatives of its loss" in scores.verdict


def log_probabilities(width: int = 6) -> tuple[nn.Module, nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A model that ends in LogSoftmax, the same without it, and data of three classes."""
    torch.manual_seed(0)
    logits = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double()
    return nn.Sequential(*logits, nn.LogSoftmax(1)), logits, (DATA, torch.arange(40) % 3)


@pytest.mark.parametrize("width", [6, 80])  # one factorisation, conjugate gradients
def test_a_loss_of_log_probabilities_has_the_hessian_of_the_cross_entropy(width):
    model, logits, data = log_probabilities(width)
    mine, twin = (
        Problem(m, loss, data, l2=0.3) for m, loss in ((model, F.nll_loss), (logits, F.cross_entropy))
    )
    test = data[0][:4], data[1][:4]
    found, wanted = (Influence(p, curvature=Hessian(p, 1.0)) for p in (mine, twin))
    close(found.on_loss(test).values, wanted.on_loss(test).values, 1e-4)
    close(found.on_self().values, wanted.on_self().values, 1e-4)
    assert isinstance(Influence(mine).settings.curvature, Hessian)


@pytest.mark.parametrize("kind", [GaussNewton, EKFAC])
def test_a_loss_of_log_probabilities_has_no_gauss_newton_matrix(kind):
    model, _, data = log_probabilities()
    problem = Problem(model, F.nll_loss, data, l2=0.3)
    with pytest.raises(DerivativeError, match=r"linear in the model's outputs.*use Hessian"):
        Influence(problem, curvature=kind(problem, 0.1)).on_loss((data[0][:2], data[1][:2]))


def test_a_linear_loss_of_a_linear_model_has_the_curvature_of_the_penalty():
    problem = Problem(linear(), lambda o, y: -(o * y).sum(1), (DATA, TARGETS), l2=0.5)
    test = DATA[:3], TARGETS[:3]
    wanted = -problem.test_gradients(test) @ problem.train_gradients(torch.arange(40)).T / 0.5
    close(Influence(problem).on_loss(test).values, wanted, 1e-8)
