"""All scores of a trained network, upweight beside the peers, each against the reference of the matrix it solves with.

    python benchmarks/networks.py cnn --weights cnn.pt --data mnist.npz --m 1 16 --damping 0.25
    python benchmarks/networks.py mlp --data mnist.npz --m 100 1000 --damping 0.01
    python benchmarks/networks.py mlp --data mnist.npz --rows 500 --m 4        a trial run

`cnn` is the paper's network (p = 2,616; --weights is what `experiments/fig2_cnn.py` keeps) on 5,500 digits, l2 = 0.001
on weights: all methods here are exact, and a row's error is ||scores - reference|| / ||reference||, the reference
being that of the same matrix in float64, for the first 16 test digits. With a damping of 0.01 the Hessian is
indefinite: ours refuses, peers answer.
`mlp` is 784-512-256-10 (p = 535,818; trained here and kept) on 55,000 digits: EKFAC is an approximation, and a row is
judged by its cosine with the exact Gauss-Newton scores, of the first 4 test digits.

Every measurement is a process of its own, so that its peak memory is its own; times are from trained weights to
factors (set-up) and to scores (query), imports and loading apart. References are kept in --out and found by the next
run. Peers need benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks_peers
import numpy as np
import peers
import torch
from softmax import spawn
from torch import nn
from torch.nn import functional as F

import upweight as uw

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import fig2_cnn

HERE = Path(__file__).parent
JUDGED = {"cnn": 16, "mlp": 4}
"""Test digits, from the first, whose exact scores are known."""
RESIDUAL = 1e-2
"""To which residual, for the MLP."""
EPOCHS, BATCH, RATE = 5, 128, 1e-3

OURS_CNN: dict[str, Callable[[uw.Problem, float], uw.Influence]] = {
    "gauss-newton": lambda problem, damping: uw.Influence(
        problem, curvature=uw.GaussNewton(problem, damping), solver=uw.Exact()
    ),
    "hessian": lambda problem, damping: uw.Influence(problem, curvature=uw.Hessian(problem, damping)),
}


def ekfac(problem: uw.Problem, damping: float) -> uw.Influence:
    """The output curvature in closed form."""
    return uw.Influence(problem, curvature=uw.EKFAC(problem, damping))


def sampled(problem: uw.Problem, damping: float) -> uw.Influence:
    """One random combination of the outputs per example."""
    return uw.Influence(problem, curvature=uw.EKFAC(problem, damping, samples=1))


OURS_MLP = {"ekfac": ekfac, "ekfac-compressed": ekfac, "ekfac-sampled-compressed": sampled}
COMPRESS = 1e-2
"""Relative error of the answers of methods whose name says that they are compressed."""
OURS = {"cnn": OURS_CNN, "mlp": OURS_MLP}


# ---------------------------------------------------------------------------------------------------- networks


def build_mlp(widths: tuple[int, ...] = (784, 512, 256, 10), seed: int = 0) -> nn.Sequential:
    """The untrained perceptron; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_mlp(model: nn.Module, X: torch.Tensor, y: torch.Tensor, epochs: int = EPOCHS) -> nn.Module:
    """A few epochs of Adam without weight decay, in an order of its own seed."""
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=generator).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(X[rows]), y[rows]).backward()
            optimiser.step()
    return model


def network(options: argparse.Namespace) -> Path:
    """The trained network as a file that holds the whole module, for this process's children."""
    if options.problem == "cnn":
        if options.weights is None:
            raise SystemExit("cnn needs --weights: the file cnn_*.pt that experiments/fig2_cnn.py keeps")
        model: nn.Module = fig2_cnn.build()
        fig2_cnn.load_into(model, torch.load(options.weights).flatten())
        path = options.out / "cnn.pt"
    else:
        path = options.weights or options.out / f"mlp-{options.rows or 'all'}.pt"
        if path.exists():
            return path
        X, y, _, _ = networks_peers.load("mlp", 1, options.rows, options.data)
        model = train_mlp(build_mlp(), X, y)
    torch.save(model.eval(), path)
    return path


def problem_of(kind: str, model: nn.Module, data: Any) -> uw.Problem:
    """The objective: only the CNN has a penalty."""
    return uw.Problem(model, F.cross_entropy, data, l2=fig2_cnn.penalties(model) if kind == "cnn" else 0.0)


# -------------------------------------------------------------------------------------------------- references


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from its file, or made and written."""
    if not path.exists():
        began = time.perf_counter()
        np.save(path, make())
        print(f"{path.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return np.load(path)


def solved_in_subspace(
    product: Callable[[torch.Tensor], torch.Tensor], near: torch.Tensor, v: torch.Tensor, steps: int = 100
) -> torch.Tensor | None:
    """A^-1 v to a residual of 1e-8 by least squares in a growing space, or None if `steps` blocks do not suffice.

    `near` is the Cholesky factor of a matrix close to A. All rows of v share the space.
    """
    space = image = v.new_zeros(0, v.shape[1])
    left = v
    for _ in range(steps):
        new = torch.cholesky_solve(left.T, near).T
        for _ in range(2):  # once leaves too much of the space in it
            new = new - (new @ space.T) @ space
        new = torch.linalg.qr(new.T)[0].T
        space, image = torch.cat([space, new]), torch.cat([image, product(new)])
        found = torch.linalg.lstsq(image.T, v.T).solution.T
        left = v - found @ image
        if bool((left.norm(dim=1) <= 1e-8 * v.norm(dim=1)).all()):
            return found @ space
    return None


class ExactReferences:
    """Exact scores of a small network in float64, for every matrix and convention that a table may be in.

    The Gauss-Newton matrix is formed and solved directly. The Hessian takes p products to form, hours for all digits:
    where it is positive definite the Gauss-Newton matrix is close enough for some twenty products per test digit.
    """

    def __init__(self, model: nn.Module, data: Any, out: Path) -> None:
        wide = model.double()
        self.problem = uw.Problem(wide, F.cross_entropy, (data[0].double(), data[1]))
        self.penalty = fig2_cnn.penalties(wide).double()
        self.out = out
        self.gradients = self.problem.train_gradients(torch.arange(self.problem.n))

    def file(self, words: str) -> Path:
        """Where something about this problem is kept."""
        return self.out / f"{words}-{self.problem.fingerprint()}.npy"

    def matrix(self, gauss_newton: bool) -> torch.Tensor:
        """The mean over examples, without penalty and damping."""
        curvature = (uw.GaussNewton if gauss_newton else uw.Hessian)(self.problem)
        path = self.file(type(curvature).__name__)
        return torch.from_numpy(kept(path, lambda: curvature.matrix(torch.float64).numpy()))

    def solve(self, v: torch.Tensor, added: torch.Tensor, gauss_newton: bool) -> torch.Tensor:
        """A^-1 v, A the mean over examples with `added` on the diagonal."""
        near = self.matrix(gauss_newton=True) + added.diag()
        found = None
        if not gauss_newton and not self.file("Hessian").exists():
            product = uw.Hessian(self.problem).operator()
            found = solved_in_subspace(
                lambda rows: product(rows) + rows * added, torch.linalg.cholesky(near), v
            )
        if found is None:
            A = near if gauss_newton else self.matrix(gauss_newton=False) + added.diag()
            found = torch.linalg.solve(A, v.T).T
        return found

    def scores(
        self, test: Any, damping: float, *, gauss_newton: bool = False, penalty_in_loss: bool = True
    ) -> np.ndarray:
        """-v^T A^-1 g; the penalty in A on weights and in g, or on A's whole diagonal and not in g."""
        added, gradients = torch.full_like(self.penalty, fig2_cnn.L2 + damping), self.gradients
        if penalty_in_loss:
            added, gradients = self.penalty + damping, gradients + self.penalty * self.problem.theta
        v = self.problem.test_gradients((test[0].double(), test[1]))
        kind = f"{'gn' if gauss_newton else 'hessian'}-{'weights' if penalty_in_loss else 'all'}"
        path = self.file(f"{kind}-{damping:g}-{len(v)}")
        return kept(path, lambda: -(self.solve(v, added, gauss_newton) @ gradients.T).numpy())


def gauss_newton_scores(problem: uw.Problem, test: Any, damping: float, out: Path) -> np.ndarray:
    """Scores by conjugate gradients with the Gauss-Newton matrix + damping, to a residual that no cosine sees."""

    def solved() -> np.ndarray:
        tenth = torch.linspace(0, problem.n - 1, min(problem.n, max(2000, problem.n // 10))).long()
        helper = uw.Nystrom(uw.GaussNewton(problem.subset(tenth), damping), rank=100)
        solver = uw.ConjugateGradient(rtol=RESIDUAL, preconditioner=helper)
        exact = uw.Influence(problem, curvature=uw.GaussNewton(problem, damping), solver=solver)
        return exact.on_loss(test).values.numpy()

    return kept(out / f"exact-{problem.fingerprint()}-{damping:g}-{len(test[1])}.npy", solved)


def errors(scores: np.ndarray, truth: np.ndarray) -> str:
    """The worst and the median row's relative error, as two cells."""
    off = np.linalg.norm(scores - truth, axis=1) / np.linalg.norm(truth, axis=1)
    return f"{off.max():.1e} | {np.median(off):.1e}"


def cosines(scores: np.ndarray, truth: np.ndarray) -> str:
    """The worst and the median row's cosine, as two cells."""
    scores = scores[: len(truth)]
    found = (scores * truth).sum(1) / np.linalg.norm(scores, axis=1) / np.linalg.norm(truth, axis=1)
    return f"{found.min():.4f} | {np.median(found):.4f}"


class Judge:
    """What stands in a table's last two cells."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.kind, self.options = options.problem, options
        count = min(max(options.m), JUDGED[self.kind])
        X, y, *self.test = networks_peers.load(self.kind, count, options.rows, options.data)
        network = torch.load(options.model, weights_only=False)
        if self.kind == "cnn":
            self.exact = ExactReferences(network, (X, y), options.out)
        else:
            self.problem = problem_of(self.kind, network, (X, y))

    def cells(self, method: str, path: Path) -> str:
        """Two numbers of the table in a file; a shorter list of test points starts a longer one."""
        found, damping = np.load(path), self.options.damping
        scores = found["scores"][: JUDGED[self.kind]]
        if self.kind == "mlp":
            truth = gauss_newton_scores(self.problem, tuple(self.test), damping, self.options.out)
            return cosines(scores, truth[: len(scores)])
        # Ours have the penalty in both places; a peer says where it has it.
        truth = self.exact.scores(
            self.test,
            damping,
            gauss_newton=method == "gauss-newton",
            penalty_in_loss=bool(found.get("penalty_in_train_gradient", True)),
        )
        return errors(scores, truth[: len(scores)])


# -------------------------------------------------------------------------------------------------- measuring


def ready(influence: uw.Influence) -> None:
    """Do all that does not depend on the test points."""
    assert influence.inverse
    solver = influence.settings.solver
    if isinstance(solver, uw.ConjugateGradient) and solver.preconditioner is not None:
        solver.preconditioner.factor()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one of our methods in this process; its scores go to a file."""
    method, m = options.one, options.m[0]
    X, y, *test = networks_peers.load(options.problem, m, options.rows, options.data)
    model = torch.load(options.model, weights_only=False)
    line = {"library": f"upweight {method}", "m": m}
    compress = COMPRESS if method.endswith("compressed") else None

    def asked(rows: slice) -> uw.Influence:
        problem = problem_of(options.problem, model, (X[rows], y[rows]))
        return OURS[options.problem][method](problem, options.damping)

    with contextlib.suppress(uw.InfluenceError):  # what torch imports on first use is not timed
        asked(slice(64)).on_loss(tuple(part[:1] for part in test), compress=compress)
    began = time.perf_counter()
    try:
        influence = asked(slice(None))
        ready(influence)
        setup, began = time.perf_counter() - began, time.perf_counter()
        scores = influence.on_loss(tuple(test), compress=compress)
    except uw.InfluenceError as refusal:
        return line | {"refused": f"{refusal} ({time.perf_counter() - began:.0f} s)"}
    query = time.perf_counter() - began
    np.savez(file_of(options, method, m), scores=scores.values.numpy())
    return line | {"setup_s": setup, "query_s": query, "peak_mib": peers.peak_mib()}


def file_of(options: argparse.Namespace, method: str, m: int) -> Path:
    """Where the scores of one measurement go."""
    return options.out / f"{options.problem}-{method}-{m}.npz"


def run(options: argparse.Namespace, method: str, m: int, judge: Judge) -> str:
    """Measure in a child process; its line of the table."""
    shared = [options.problem, "--m", m, "--data", options.data, "--damping", options.damping]
    shared += ["--model", options.model, *(["--rows", options.rows] if options.rows else [])]
    if method in OURS[options.problem]:
        command = [__file__, "--one", method, "--out", options.out]
    else:
        command = [HERE / "networks_peers.py", "--library", method, "--out", file_of(options, method, m)]
    line = spawn([str(word) for word in [*command, *shared]], options.timeout)
    if line is None:
        return f"| {method} | {m} | failed or over {options.timeout:.0f} s | | | | |"
    if "refused" in line:
        return f"| {line['library']} | {m} | refused: {line['refused']} | | | | |"
    numbers = f"{line['setup_s']:.2f} | {line['query_s']:.2f} | {line['peak_mib']}"
    return f"| {line['library']} | {m} | {numbers} | {judge.cells(method, file_of(options, method, m))} |"


def parse() -> argparse.Namespace:
    """The options; those without help are for the children."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", choices=list(OURS))
    parser.add_argument("--m", type=int, nargs="+", default=[16])
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--ours", nargs="*")
    parser.add_argument("--peers", nargs="*")
    parser.add_argument("--weights", type=Path, help="cnn: (p,) or (1, p) tensor file")
    parser.add_argument("--data", required=True, help="mnist.npz")
    parser.add_argument("--rows", type=int, help="only the first rows of the training set")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one measurement")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """The table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        print(json.dumps(measure(options)))
        return
    options.model = network(options)
    ours = OURS[options.problem] if options.ours is None else options.ours
    others = networks_peers.LIBRARIES[options.problem] if options.peers is None else options.peers
    judge = Judge(options)
    judged = "error" if options.problem == "cnn" else "cosine"
    print(
        f"| | m | set-up s | query s | MiB | worst {judged} | median {judged} |\n|---|---|---|---|---|---|---|"
    )
    for m in options.m:
        for method in (*ours, *others):
            print(run(options, method, m, judge), flush=True)


if __name__ == "__main__":
    main()
