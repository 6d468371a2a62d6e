"""Check the peers' scores against a float64 solution, row by row.

    python benchmarks/check_peers.py small                                every peer, p = 1,960, dense solve
    python benchmarks/check_peers.py full --theta theta.pt --tables *.npz  tables that peers.py wrote
    python benchmarks/check_peers.py network                              kronfluence and upweight's EKFAC

The reference of the first two shares no code with the peers nor with upweight: the Hessian of softmax regression
written out. The last establishes kronfluence's sign and scale and that its tables are upweight's but for the labels
that it draws: with more draws they come together.
The error of a row is ||scores - reference|| / ||reference|| over the training examples.
"""

import argparse
import contextlib
import copy
import io
import json
import warnings

import numpy as np
import peers
import torch


class Reference:
    """Softmax regression in float64 at theta (c, d): its Hessian and the scores that follow from it."""

    def __init__(self, X, y, theta, l2):
        self.X, self.y, self.theta, self.l2 = X.double(), y, theta.double(), l2
        self.P = (self.X @ self.theta.T).softmax(1)

    def residuals(self, X, y):
        """Gradients with respect to the outputs: an example's gradient is residual (x) input."""
        return (X @ self.theta.T).softmax(1) - torch.nn.functional.one_hot(y, len(self.theta))

    def gradients(self, X, y):
        return self.residuals(X.double(), y)[:, :, None] * X.double()[:, None, :]

    def dense(self):
        """The Hessian, (p, p)."""
        c, d = self.theta.shape
        H = torch.zeros(c, d, c, d, dtype=torch.float64)
        for i in range(c):
            for j in range(c):
                w = self.P[:, i] * (float(i == j) - self.P[:, j])
                H[i, :, j] = self.X.T @ (w[:, None] * self.X) / len(self.X)
        return H.reshape(c * d, c * d) + self.l2 * torch.eye(c * d, dtype=torch.float64)

    def product(self, V, block=8):
        """Hessian times V (k, c, d), a few vectors at a time: all at once does not fit for many."""
        n, (c, d) = len(self.X), self.theta.shape
        out = []
        for v in V.split(block):
            Z = (self.X @ v.reshape(-1, d).T).view(n, -1, c)
            P = self.P[:, None]
            Z = P * (Z - (P * Z).sum(2, keepdim=True))
            out.append((Z.view(n, -1).T @ self.X).view(-1, c, d) / n)
        return torch.cat(out) + self.l2 * V

    def conjugate_gradients(self, b, rtol=1e-7, steps=500):
        """H^-1 b for (k, c, d), preconditioned by the eigenvectors of X^T X; float64."""
        values, vectors = torch.linalg.eigh(self.X.T @ self.X / len(self.X))
        scale = 1 / (values.clamp(min=0) * (self.P * (1 - self.P)).mean() + self.l2)
        x, r, p, rz = torch.zeros_like(b), b.clone(), None, None
        for _ in range(steps):
            z = ((r @ vectors) * scale) @ vectors.T
            previous, rz = rz, (r * z).sum((1, 2), keepdim=True)
            p = z if p is None else z + rz / previous * p
            Hp = self.product(p)
            alpha = rz / (p * Hp).sum((1, 2), keepdim=True)
            x, r = x + alpha * p, r - alpha * Hp
            if (r.flatten(1).norm(dim=1) <= rtol * b.flatten(1).norm(dim=1)).all():
                return x
        raise RuntimeError("the reference did not converge")

    def scores(self, solution, penalty):
        """-solution . (gradient of train_i [+ l2 theta]), (m, n), for solution = H^-1 g_test (m, c, d)."""
        R = self.residuals(self.X, self.y)
        scores = torch.stack([((self.X @ s.T) * R).sum(1) for s in solution])
        if penalty:
            scores = scores + self.l2 * (solution * self.theta).sum((1, 2))[:, None]
        return -scores


def errors(scores, reference):
    return (scores - reference).norm(dim=1) / reference.norm(dim=1)


def report(name, scores, references):
    """Errors of one table against both references, with and without the penalty in the training gradient."""
    line = {"table": name}
    for kind, reference in references.items():
        e = errors(scores, reference)
        line[kind] = {"worst": float(f"{e.max():.2e}"), "median": float(f"{e.median():.2e}")}
    print(json.dumps(line), flush=True)


def fit(X, y, l2, steps=30):
    """The optimum by Newton's method, (10, d) in float64."""
    theta = torch.zeros(10, X.shape[1], dtype=torch.float64)
    for _ in range(steps):
        r = Reference(X, y, theta, l2)
        gradient = r.residuals(r.X, y).T @ r.X / len(X) + l2 * theta
        if gradient.norm() < 1e-12:
            break
        theta = theta - torch.linalg.solve(r.dense(), gradient.flatten()).view_as(theta)
    return theta


def small(m, rows, names):
    """Every peer on 14 x 14 images."""
    X, y, X_test, y_test = peers.load(m, rows)
    X, X_test = (torch.nn.functional.avg_pool2d(a.view(-1, 28, 28), 2).flatten(1) for a in (X, X_test))
    # The reference is taken at the float32 weights that the peers get.
    theta = fit(X, y, peers.L2).float()
    reference = Reference(X, y, theta, peers.L2)
    gradients = reference.gradients(X_test, y_test)
    solution = torch.linalg.solve(reference.dense(), gradients.flatten(1).T).T.view_as(gradients)
    references = {
        kind: reference.scores(solution, kind == "with_penalty")
        for kind in ("without_penalty", "with_penalty")
    }
    for name in names:
        with contextlib.redirect_stderr(io.StringIO()):
            result = peers.LIBRARIES[name](peers.linear_model(theta), X, y, X_test, y_test, peers.L2)
        label = f"{name} {result.setup_s:.2f} + {result.query_s:.2f} s {result.settings}"
        report(label, result.scores, references)


def full(theta, files, rows):
    """Tables written by peers.py, whose test points start one list: the longest reference serves all."""
    tables = {name: torch.from_numpy(np.load(name)["scores"]) for name in files}
    X, y, X_test, y_test = peers.load(max(len(t) for t in tables.values()), rows)
    reference = Reference(X, y, torch.load(theta).float(), peers.L2)
    solution = reference.conjugate_gradients(reference.gradients(X_test, y_test))
    for name, scores in tables.items():
        kinds = ("without_penalty", "with_penalty")
        report(
            name, scores, {k: reference.scores(solution[: len(scores)], k == "with_penalty") for k in kinds}
        )


def network(m, rows, damping=0.01):
    """kronfluence's EKFAC on a trained perceptron 196-32-10, labels drawn 1 to 1,000 times: lowest, highest row."""
    import networks
    import networks_peers

    import upweight as uw

    X, y, X_test, y_test = peers.load(m, rows)
    X, X_test = (torch.nn.functional.avg_pool2d(a.view(-1, 28, 28), 2).flatten(1) for a in (X, X_test))
    model = networks.train_mlp(networks.build_mlp((196, 32, 10)), X, y, epochs=100).eval()
    problem = uw.Problem(model, torch.nn.functional.cross_entropy, (X, y))
    ours = uw.Influence(problem, curvature=uw.EKFAC(problem, damping)).on_loss((X_test, y_test)).values
    for draws in (1, 10, 100, 1000):
        found = networks_peers.kronfluence(
            copy.deepcopy(model), X, y, X_test, y_test, damping, draws=draws, eigenvalues=1000
        ).scores
        inner = (found * ours).sum(1)
        columns = {
            "cosine": inner / found.norm(dim=1) / ours.norm(dim=1),
            "slope": inner / ours.square().sum(1),
            "error": errors(found, ours),
        }
        ranges = {name: [round(float(v.min()), 5), round(float(v.max()), 5)] for name, v in columns.items()}
        print(json.dumps({"draws": draws, **ranges}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("small", "full", "network"))
    parser.add_argument("--tables", nargs="+", default=[])
    parser.add_argument("--theta")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--library", nargs="*", default=list(peers.LIBRARIES))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.what == "small":
        small(args.m, args.rows or 2000, args.library)
    elif args.what == "network":
        peers.silence()
        network(args.m, args.rows or 200)
    else:
        full(args.theta, args.tables, args.rows)


if __name__ == "__main__":
    main()
