"""Run other influence-function libraries on one problem: softmax regression on MNIST.

    python benchmarks/peers.py --library pydvl --m 16 --theta theta.pt --out scores.npz

prints one JSON line. Run it once per measurement: the peak memory is that of the whole process.

The problem: `nn.Linear(784, 10, bias=False)` in float32, rows 5,000..59,999 of MNIST divided by 255, and

    R(theta) = (1/n) sum_i cross_entropy(theta x_i, y_i) + 1/2 l2 ||theta||^2,        l2 = 0.01.

Every function here takes (model, X, y, X_test, y_test, l2) and returns a `Result` whose scores are, whatever
the peer's own sign and scale, the (m, n) float64 table

    -grad loss(test)^T H^-1 (grad loss(train_i) [+ l2 theta]),       H = Hessian of R, the penalty included.

The term in brackets is there only where the peer has a place for it: `penalty_in_train_gradient` says so, and
`check_peers.py` compares each table with the reference of its own kind.

Settings are chosen in the peers' favour: data in memory is handed over without copying, one call for all test
points where that is possible, tolerances and steps just enough for a relative error of about 1e-3 per row.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import tempfile
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

MNIST = os.path.join(os.environ.get("UPWEIGHT_DATA_DIR", "."), "mnist.npz")
L2 = 0.01


@dataclasses.dataclass
class Result:
    """Scores of one peer, the seconds it took and how it was asked."""

    scores: torch.Tensor  # (m, n) float64, in our convention
    setup_s: float  # work that does not depend on the test points
    query_s: float
    settings: dict
    penalty_in_train_gradient: bool


# ------------------------------------------------------------------------------------------ data and loaders


def load(m, rows=None, path=MNIST):
    """MNIST as (X, y, X_test, y_test): rows 5,000..59,999, and m test points, test index 8 first."""
    with np.load(path) as f:
        images = {
            name: torch.from_numpy(f[f"x_{name}"].reshape(-1, 784)).float() / 255
            for name in ("train", "test")
        }
        labels = {name: torch.from_numpy(f[f"y_{name}"]).long() for name in ("train", "test")}
    kept = slice(5000, 60000 if rows is None else 5000 + rows)
    # Index 8 once only: two equal right-hand sides would be an unfair trap for a block solver.
    tests = [8, *(i for i in range(m) if i != 8)][:m]
    return (
        images["train"][kept].clone(),
        labels["train"][kept].clone(),
        images["test"][tests],
        labels["test"][tests],
    )


def linear_model(theta):
    """A bias-free linear layer in float32 with the weights `theta` (classes, features)."""
    model = nn.Linear(theta.shape[1], theta.shape[0], bias=False)
    with torch.no_grad():
        model.weight.copy_(theta)
    return model.eval()


class InMemory(Dataset):
    """Tensors that a DataLoader reads a batch at a time, as a view: its usual way copies row by row."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitems__(self, rows):
        # A list and not a tuple: dattri's Arnoldi assigns to its elements.
        return [t[rows[0] : rows[-1] + 1] for t in self.tensors]


def loader(X, y, batch):
    return DataLoader(InMemory(X, y), batch_size=batch, shuffle=False, collate_fn=lambda views: views)


def equal_batches(n, largest):
    """The largest batch size up to `largest` that divides n."""
    return next(b for b in range(min(n, largest), 0, -1) if n % b == 0)


def timed(function, *args):
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


# ----------------------------------------------------------------------------------------------------- pyDVL


def _nystroem(rank):
    """pyDVL's Nystroem preconditioner, repaired.

    In pyDVL 0.10.0 `Preconditioner.fit` returns what `_fit` returns, which is None, and `CgInfluence` then
    goes on without a preconditioner and without a word.
    """
    from pydvl.influence.torch.preconditioner import NystroemPreconditioner

    class Repaired(NystroemPreconditioner):
        def fit(self, operator, regularization=None):
            super().fit(operator, regularization)
            return self

    return Repaired(rank=rank)


def pydvl(model, X, y, X_test, y_test, l2, rtol=5e-4, maxiter=200, rank=0, batch=5500):
    """pyDVL: `CgInfluence`, block conjugate gradients for all test points at once.

    Its loss sees outputs and labels only, so the penalty goes in as `regularization` and is missing from the
    training gradient. Three of its ways need a setting that its defaults do not have:
    - It stops when ||r|| <= rtol^2 ||b|| (not rtol ||b||), so it is given the square root. The default, 1e-4,
      asks for 1e-8, which float32 cannot reach.
    - maxiter is by default 10 times the number of test points (len(rhs)): 10 steps for one.
    - Batches are averaged with equal weights, so they must have equal sizes.
    """
    from pydvl.influence.torch import CgInfluence

    batch = equal_batches(len(X), batch)
    influence = CgInfluence(
        model,
        F.cross_entropy,
        regularization=l2,
        rtol=rtol**0.5,
        atol=1e-10,
        maxiter=maxiter,
        solve_simultaneously=True,
        preconditioner=_nystroem(rank) if rank else None,
    )
    # Fitting computes the preconditioner, and nothing if there is none.
    influence, setup = timed(influence.fit, loader(X, y, batch))

    def query():
        factors = influence.influence_factors(X_test, y_test)
        # In blocks: all per-example gradients at once are 1.7 GB and slower.
        rows = zip(X.split(1000), y.split(1000), strict=True)
        return torch.cat([influence.influences_from_factors(factors, a, b) for a, b in rows], dim=1)

    scores, seconds = timed(query)
    settings = {
        "class": "CgInfluence",
        "regularization": l2,
        "rtol": rtol**0.5,
        "atol": 1e-10,
        "maxiter": maxiter,
    }
    settings |= {"solve_simultaneously": True, "nystroem_rank": rank, "batch": batch}
    return Result(-scores.double(), setup, seconds, settings, penalty_in_train_gradient=False)


# ---------------------------------------------------------------------------------------------------- dattri


def _dattri_task(model, shape, l2, penalty_in_loss=True):
    """The loss of inputs of the shape `shape` each; the penalty, if it is part of it, is on weights alone."""
    from dattri.task import AttributionTask

    def cross_entropy(params, data):
        x, y = data
        # reshape: one example arrives without its batch axis, and its label without any axis.
        return F.cross_entropy(
            torch.func.functional_call(model, params, (x.reshape(-1, *shape),)), y.reshape(-1)
        )

    def penalised(params, data):
        weights = sum(value.square().sum() for value in params.values() if value.ndim > 1)
        return cross_entropy(params, data) + 0.5 * l2 * weights

    loss = penalised if penalty_in_loss else cross_entropy
    return AttributionTask(
        loss_func=loss, target_func=cross_entropy, model=model, checkpoints=model.state_dict()
    )


def _run_dattri(attributor, X, y, X_test, y_test, test_batch=None):
    """(m, n) scores, seconds of `cache` and of `attribute`; all test points at once, or in batches.

    All rows in one batch: `cache` sums the solutions of its batches (so two batches give a wrong answer), and
    `attribute` solves again for every pair of a training and a test batch.
    """
    train, test = loader(X, y, len(X)), loader(X_test, y_test, test_batch or len(X_test))
    _, setup = timed(attributor.cache, train)
    # no_grad: without it the products of the solve record a graph that nobody reads.
    with torch.no_grad():
        scores, query = timed(attributor.attribute, train, test)
    return -scores.T.double(), setup, query


def dattri(
    model,
    X,
    y,
    X_test,
    y_test,
    l2,
    damping=0.0,
    max_iter=40,
    mode="rev-rev",
    penalty_in_loss=False,
    test_batch=None,
):
    """dattri: `IFAttributorCG`, with the penalty as `regularization`, to which `damping` is added.

    Its loss sees the parameters, so `penalty_in_loss=True` gives our problem exactly, the penalty in the
    training gradient included. That is not the default because it makes one query 2.3 times slower (medians
    of three fresh processes: 8.5 s and 3.7 s), which is our wish and not dattri's doing. It has a `tol`, but
    no code reads it: the number of steps is all there is to choose. 40 serve the worst row of 16; 36 do not.
    """
    from dattri.algorithm.influence_function import IFAttributorCG

    task = _dattri_task(model, X.shape[1:], l2, penalty_in_loss)
    regularization = damping + (0.0 if penalty_in_loss else l2)
    attributor = IFAttributorCG(task, max_iter=max_iter, mode=mode, regularization=regularization)
    scores, setup, query = _run_dattri(attributor, X, y, X_test, y_test, test_batch)
    settings = {"class": "IFAttributorCG", "max_iter": max_iter, "mode": mode, "batch": len(X)}
    settings |= {"regularization": regularization, "penalty_in_loss": penalty_in_loss}
    settings |= {"test_batch": test_batch or len(X_test)}
    return Result(scores, setup, query, settings, penalty_in_train_gradient=penalty_in_loss)


def dattri_explicit(model, X, y, X_test, y_test, l2):
    """dattri: `IFAttributorExplicit`, the dense Hessian by `torch.func.hessian`: 4 p n c bytes and more."""
    from dattri.algorithm.influence_function import IFAttributorExplicit

    attributor = IFAttributorExplicit(_dattri_task(model, X.shape[1:], l2))
    scores, setup, query = _run_dattri(attributor, X, y, X_test, y_test)
    settings = {"class": "IFAttributorExplicit", "batch": len(X), "penalty": "in the loss"}
    return Result(scores, setup, query, settings, penalty_in_train_gradient=True)


def dattri_arnoldi(model, X, y, X_test, y_test, l2, dim=200):
    """dattri: `IFAttributorArnoldi`, the inverse on the Krylov space of one random vector."""
    from dattri.algorithm.influence_function import IFAttributorArnoldi

    attributor = IFAttributorArnoldi(_dattri_task(model, X.shape[1:], l2), proj_dim=dim, max_iter=dim + 1)
    scores, setup, query = _run_dattri(attributor, X, y, X_test, y_test)
    settings = {
        "class": "IFAttributorArnoldi",
        "proj_dim": dim,
        "max_iter": dim + 1,
        "penalty": "in the loss",
    }
    return Result(scores, setup, query, settings, penalty_in_train_gradient=True)


# ---------------------------------------------------------------------------------------------------- captum


def _run_captum(build, model, X, y, X_test, y_test, batch, hessian_batch=None):
    """(m, n) scores, seconds to construct and to query; `build` takes captum's common arguments.

    captum's Hessian is that of the *sum* of the losses, so its scores are 1/n of ours.
    """
    with tempfile.NamedTemporaryFile(suffix=".pt") as checkpoint:
        torch.save(model.state_dict(), checkpoint.name)
        common = {
            "model": model,
            "train_dataset": loader(X, y, batch),
            "hessian_dataset": loader(X, y, hessian_batch or len(X)),
            "checkpoint": checkpoint.name,
            "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
            "sample_wise_grads_per_batch": True,
        }
        influence, setup = timed(lambda: build(**common))
    scores, query = timed(influence.influence, (X_test, y_test))
    return -len(X) * scores.detach().double(), setup, query


def captum(model, X, y, X_test, y_test, l2, dim=200, batch=500, hessian_batch=None):
    """captum: `ArnoldiInfluenceFunction`. The penalty is `hessian_reg`, n times, for the sum of the losses.

    The inverse is kept on the Krylov space of one random vector only, and taken to be 0 outside it.
    """
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    settings = {"arnoldi_dim": dim, "projection_dim": dim, "hessian_reg": l2 * len(X), "seed": 0}
    build = functools.partial(ArnoldiInfluenceFunction, **settings)
    scores, setup, query = _run_captum(build, model, X, y, X_test, y_test, batch, hessian_batch)
    settings = {"class": "ArnoldiInfluenceFunction", **settings, "batch": batch}
    return Result(scores, setup, query, settings, penalty_in_train_gradient=False)


def captum_naive(model, X, y, X_test, y_test, l2, batch=500):
    """captum: `NaiveInfluenceFunction`, the dense Hessian and its eigenvectors, no direction dropped."""
    from captum.influence._core.influence_function import NaiveInfluenceFunction

    settings = {
        "projection_dim": model.weight.numel(),
        "hessian_reg": l2 * len(X),
        "hessian_inverse_tol": 0.0,
    }
    build = functools.partial(NaiveInfluenceFunction, **settings)
    scores, setup, query = _run_captum(build, model, X, y, X_test, y_test, batch)
    settings = {"class": "NaiveInfluenceFunction", **settings, "batch": batch}
    return Result(scores, setup, query, settings, penalty_in_train_gradient=False)


# ---------------------------------------------------------------------------------------------- command line

LIBRARIES = {
    "pydvl": pydvl,  # as shipped: a preconditioner has no effect there, see _nystroem
    "pydvl-repaired": functools.partial(pydvl, rank=50),
    "dattri": dattri,
    "dattri-explicit": dattri_explicit,
    "dattri-arnoldi": dattri_arnoldi,
    "captum": captum,
    "captum-naive": captum_naive,
}


def version(library):
    return importlib.metadata.version(library.split("-")[0])


def warm_up(library, theta, data):
    """Run on 64 rows of 240 pixels, so that what torch imports on first use is not timed."""
    X, y, X_test, y_test = data
    pixels = slice(300, 540)
    LIBRARIES[library](
        linear_model(theta[:, pixels]), X[:64, pixels], y[:64], X_test[:1, pixels], y_test[:1], L2
    )


def parser(libraries, description):
    """The options that every script has that runs one peer and prints one line."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--library", choices=libraries, required=True)
    found.add_argument("--m", type=int, default=1, help="test points")
    found.add_argument("--out", help="npz file for the scores")
    found.add_argument("--data", default=MNIST, help="mnist.npz")
    found.add_argument("--rows", type=int, help="only the first rows of the training set")
    found.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings, as JSON values"
    )
    return found


def settings(args):
    """What `--set` says."""
    return {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}


def silence():
    """Their warnings are about us not shuffling, or about themselves; the JSON line must stand alone."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def peak_mib():
    """The most memory that this program has held (Linux).

    Not `resource.getrusage`: its `ru_maxrss` survives exec, so a child would report the larger peak of its parent.
    """
    with open("/proc/self/status") as f:
        return round(int(next(line for line in f if line.startswith("VmHWM")).split()[1]) / 1024)


def report(args, n, run):
    """Run and print the JSON line; the scores go to the file `args.out`."""
    data_mib = peak_mib()
    result = run()
    line = {"library": args.library, "version": version(args.library), "m": args.m, "n": n}
    line |= {"setup_s": round(result.setup_s, 3), "query_s": round(result.query_s, 3)}
    line |= {"peak_mib": peak_mib(), "data_mib": data_mib}
    line |= {"settings": result.settings, "penalty_in_train_gradient": result.penalty_in_train_gradient}
    if args.out:
        np.savez(
            args.out, scores=result.scores.numpy(), penalty_in_train_gradient=result.penalty_in_train_gradient
        )
    print(json.dumps(line))


def main(argv=None):
    options = parser(LIBRARIES, __doc__.splitlines()[0])
    options.add_argument("--theta", required=True, help="(10, 784) tensor file: the optimum")
    args = options.parse_args(argv)
    silence()
    data = load(args.m, args.rows, args.data)
    theta = torch.load(args.theta)
    warm_up(args.library, theta, data)
    model = linear_model(theta)
    report(args, len(data[0]), lambda: LIBRARIES[args.library](model, *data, L2, **settings(args)))


if __name__ == "__main__":
    main()
