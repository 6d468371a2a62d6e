"""Run other influence-function libraries on a trained network.

    python benchmarks/networks_peers.py cnn --library pydvl --m 16 --model cnn.pt --damping 0.25 --out scores.npz
    python benchmarks/networks_peers.py mlp --library kronfluence --m 100 --model mlp.pt --damping 0.01

prints one JSON line, as `peers.py` does. `--model` is a whole `nn.Module` that `networks.py` saved (this process thus
imports nothing of upweight, whose memory is not the peer's). Two problems, both on MNIST divided by 255:

- `cnn`: the paper's network (p = 2,616), rows 5,000..10,499, l2 = 0.001 on weights and not on biases. The peers
  solve with the Hessian. Those whose loss sees the parameters (dattri) have the penalty in it: their matrix is the
  objective's Hessian + damping, and their training gradients contain l2 theta. The others (pyDVL, captum) take one
  number for the whole diagonal, damping + l2: biases are penalised too, and training gradients have no penalty.
  `penalty_in_train_gradient` says which of the two a table is, and `networks.py` compares with that one's reference.
- `mlp`: 784-512-256-10 (p = 535,818), rows 5,000..59,999, no penalty. kronfluence's EKFAC + damping.

Scores are -grad loss(test)^T A^-1 grad loss(train_i), A the *mean* over the training set, whatever the peer's
convention. Not here: torch-influence (conjugate gradients with the Gauss-Newton matrix), which is not on PyPI, and
pyDVL's `SecondOrderMode.GAUSS_NEWTON`, which is not the Gauss-Newton matrix but the mean outer product of gradients.
"""

import functools
import math
import tempfile

import peers
import torch
import torch.nn.functional as F
from peers import Result, timed

L2 = 0.001  # of the CNN, on weights
SHAPES = {"cnn": (1, 28, 28), "mlp": (784,)}
ROWS = {"cnn": 5500, "mlp": 55000}


# ------------------------------------------------------------------------------------------- cnn: the Hessian


def pydvl(model, X, y, X_test, y_test, damping, maxiter=200, batch=50, **settings):
    """pyDVL: block conjugate gradients, the Hessian + (damping + l2) on the whole diagonal."""
    return peers.pydvl(model, X, y, X_test, y_test, damping + L2, maxiter=maxiter, batch=batch, **settings)


def dattri(model, X, y, X_test, y_test, damping, **settings):
    """dattri: conjugate gradients, the penalty in the loss.

    One test point at a time: all at once take no less time, and memory, 0.15 MiB per training digit, for each of them.
    Steps by trial, since it looks at no residual: on 500 digits the worst row of 4 is off by 6e-2 after 30, by 1e-3
    after 40, and still by 4e-4 after 150.
    """
    settings = {"max_iter": 45, "test_batch": 1, "penalty_in_loss": True} | settings
    settings["damping"] = damping
    return peers.dattri(model, X, y, X_test, y_test, L2, **settings)


def captum(model, X, y, X_test, y_test, damping, dim=200, batch=500):
    """captum: the Hessian + (damping + l2) on a Krylov space of `dim` vectors, and 0 outside it."""
    batches = {"batch": batch, "hessian_batch": batch}
    return peers.captum(model, X, y, X_test, y_test, damping + L2, dim=dim, **batches)


# ------------------------------------------------------------------------------------------------ mlp: EKFAC


def _kronfluence_task():
    """Cross entropy, summed: kronfluence reads every example's gradient from the gradient of the batch's loss."""
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            x, y = batch
            outputs = model(x)
            if sample:  # labels of the model's own, for the true Fisher matrix
                y = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return F.cross_entropy(outputs, y, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    return Classification()


def _fit_kronfluence(analyzer, train, loading, batches, rows):
    """The factors, in the three steps of `fit_all_factors`, each with a batch size of its own."""
    from kronfluence.arguments import FactorArguments

    factors = FactorArguments(strategy="ekfac", covariance_max_examples=rows, lambda_max_examples=rows)
    shared = {"factors_name": "factors", "factor_args": factors}
    data = {"dataset": train, "dataloader_kwargs": loading}
    analyzer.fit_covariance_matrices(per_device_batch_size=batches["covariance"], **shared, **data)
    analyzer.perform_eigendecomposition(**shared)
    analyzer.fit_lambda_matrices(per_device_batch_size=batches["eigenvalues"], **shared, **data)


def kronfluence(model, X, y, X_test, y_test, damping, rank=None, rows=None, draws=1, **batches):
    """kronfluence: EKFAC of the Fisher matrix with sampled labels; `damping=None` is its heuristic, layer by layer.

    The heuristic is a tenth of a layer's mean eigenvalue. `rank` is `query_gradient_low_rank`: the preconditioned
    gradients of the test points are cut to that many singular values. `rows` bounds the examples that the factors are
    made of, `draws` is how often the label of each is drawn: with many draws the tables are those of upweight's
    `EKFAC`, which takes the expectation over labels in closed form (see `check_peers.py network`).

    Its scores are +grad^T A^-1 grad with a mean over examples in A and sums in neither gradient, if the losses are
    summed over a batch: ours with the opposite sign. With a mean loss they would depend on the batch size.
    Batch sizes are given: its own search takes the largest that runs (from 4,096) and on a processor learns that one
    was too large when the process is killed. All test points in one pass over the training data, which is what
    `query_gradient_accumulation_steps` is for: every group of test batches passes over it once. Factors and scores go
    through files in a temporary folder, which is its only way.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import ScoreArguments
    from kronfluence.utils.dataset import DataLoaderKwargs

    batches = {"covariance": 5500, "eigenvalues": 25, "query": 100, "train": 1000} | batches
    torch.manual_seed(0)
    task, loading = _kronfluence_task(), DataLoaderKwargs(collate_fn=lambda views: views)
    train, test = peers.InMemory(X, y), peers.InMemory(X_test, y_test)
    seen = train if draws == 1 else peers.InMemory(X.repeat(draws, 1), y.repeat(draws))
    score = ScoreArguments(
        damping_factor=damping,
        query_gradient_low_rank=rank,
        query_gradient_accumulation_steps=math.ceil(len(X_test) / batches["query"]),
    )
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "network", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=folder
        )
        _, setup = timed(_fit_kronfluence, analyzer, seen, loading, batches, rows)

        def query():
            analyzer.compute_pairwise_scores(
                scores_name="scores",
                factors_name="factors",
                query_dataset=test,
                train_dataset=train,
                per_device_query_batch_size=batches["query"],
                per_device_train_batch_size=batches["train"],
                dataloader_kwargs=loading,
                score_args=score,
            )
            return analyzer.load_pairwise_scores("scores")["all_modules"]

        scores, seconds = timed(query)
    settings = {"strategy": "ekfac", "damping": damping, "rank": rank, "rows": rows, "draws": draws}
    return Result(-scores.double(), setup, seconds, settings | batches, penalty_in_train_gradient=False)


# ---------------------------------------------------------------------------------------------- command line

LIBRARIES = {
    "cnn": {
        "pydvl": pydvl,
        "pydvl-repaired": functools.partial(pydvl, rank=50),  # with a preconditioner, see peers._nystroem
        "dattri": dattri,
        "captum": captum,
    },
    "mlp": {
        "kronfluence": kronfluence,
        "kronfluence-lowrank": functools.partial(kronfluence, rank=16),
    },
}


def load(problem, m, rows=None, path=peers.MNIST):
    """The problem's digits as (X, y, X_test, y_test), in the shape that its network takes."""
    X, y, X_test, y_test = peers.load(m, rows or ROWS[problem], path)
    return X.view(-1, *SHAPES[problem]), y, X_test.view(-1, *SHAPES[problem]), y_test


def main(argv=None):
    names = dict.fromkeys(name for libraries in LIBRARIES.values() for name in libraries)
    options = peers.parser(names, __doc__.splitlines()[0])
    options.add_argument("problem", choices=LIBRARIES)
    options.add_argument("--model", required=True, help="the trained network: a whole module, saved by torch")
    options.add_argument("--damping", type=float, default=0.01)
    args = options.parse_args(argv)
    peers.silence()
    data = load(args.problem, args.m, args.rows, args.data)
    run = functools.partial(LIBRARIES[args.problem][args.library], **peers.settings(args))

    def model():
        # Anew for every run: kronfluence replaces the layers of the one it is given.
        return torch.load(args.model, weights_only=False).eval()

    # What torch imports on first use is not timed.
    X, y, X_test, y_test = data
    run(model(), X[:20], y[:20], X_test[:1], y_test[:1], args.damping)
    peers.report(args, len(data[0]), lambda: run(model(), *data, args.damping))


if __name__ == "__main__":
    main()
