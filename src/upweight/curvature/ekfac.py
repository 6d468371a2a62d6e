"""EKFAC: the curvature of a layer as a Kronecker product of input and output bases with corrected eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float

from ..errors import StaleError
from ..linalg.kronecker import BlocksFactor
from ..linalg.outer_products import Pairs
from ..objective import Objective
from ..runtime.distributed import gather_objects, together
from ..runtime.fingerprint import content_hash
from ..runtime.tensor_files import read, write
from ..types import Operator, Tensor
from .base import Compressed, OuterInverse, ProblemCurvature, check_damping
from .compression import compress
from .eigenbases import Eigenbases, of_factor
from .kronecker_statistics import Added, Gathered, Recipe, coverage, gather, restore


@dataclass(frozen=True, eq=False)
class Shared:
    """Statistics that were gathered from the training data: one object that copies at every damping have in common.

    Args:
        gathered: bases and eigenvalues, by the problem they are of and the recipe they were gathered by.
    """

    gathered: dict[tuple[Objective, Recipe], Gathered] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EKFAC(ProblemCurvature, OuterInverse):
    """Eigenvalue-corrected Kronecker-factored curvature (George et al., 2018) of the Gauss-Newton matrix.

    For each layer the bases are the eigenvectors of the mean x x^T of its inputs and of the mean outer product of its
    output derivatives; the eigenvalues are the diagonal of the layer's Gauss-Newton block in that basis. A linear model
    is one layer. Covered are Linear, Conv1d, Conv2d and Embedding, used once or often (sequences, shared weights), each
    with its intercept as a constant input column. All other parameters share one dense block, or a diagonal if there
    are more than 512; what is covered how is in `coverage`. The penalty of a layer is the mean over its weights.

    Args:
        problem: the problem whose Gauss-Newton matrix is approximated.
        damping: what is added to every eigenvalue, >= 0. `damped` gives another one without another look at the data.
        rows: bounds the training examples that are read (evenly spaced), for use as a preconditioner.
        leading: of so many input directions of largest variance the curvature is kept whole, across directions and
            outputs: (c leading)^2 numbers and one Cholesky factor, which a preconditioner pays back severalfold.
        samples: None takes the curvature in the outputs exactly, one backward pass per output; k takes k random
            combinations of them, equal in expectation.
        seed: of those combinations.
        relative: damps each layer by that multiple of its own mean eigenvalue as well (0.1 is customary).

    Raises:
        ValueError: for numbers out of range.
        TypeError: for a problem whose gradients are not taken apart by weight matrices.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(4, 2), torch.zeros(4), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> EKFAC(problem).factor().solve(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1.3333, 1.3333]], dtype=torch.float64)
    """

    rows: int | None = None
    leading: int = 0
    samples: int | None = None
    seed: int = 0
    relative: float = 0.0
    shared: Shared = field(default_factory=Shared, repr=False)
    """What was gathered from the data, at any damping."""
    cache: dict[torch.dtype, BlocksFactor] = field(default_factory=dict, init=False, repr=False)
    """Factors at this damping, by their precision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_damping(self.relative)
        if self.leading < 0 or (self.rows is not None and self.rows < 1):
            raise ValueError(f"leading must be >= 0 and rows >= 1, got {self.leading} and {self.rows}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be >= 1, or None for the exact curvature, got {self.samples}")
        if not isinstance(self.problem, Objective):
            raise TypeError(f"EKFAC needs a Problem or LinearProblem, got {type(self.problem).__name__}")

    @property
    def semidefinite(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return True

    @property
    def outer(self) -> OuterInverse:
        return self

    @property
    def coverage(self) -> dict[str, str]:
        """What covers each parameter, by its name: "Kronecker" for weight matrices, else "dense" or "diagonal".

        Parameters in different layers are taken for independent in any case.
        """
        return coverage(self.problem)

    def damped(self, damping: float) -> EKFAC:
        return replace(self, damping=damping)

    def scaled(self, factor: float) -> EKFAC:
        return replace(self, damping=factor * self.damping, relative=factor * self.relative)

    @property
    def remarks(self) -> tuple[str, ...]:
        sizes: dict[str, int] = {}
        for name, kind in self.coverage.items():
            sizes[kind] = sizes.get(kind, 0) + self.problem.layout.of(name)
        shares = [f"{size / self.p:.1%} {kind}" for kind, size in sorted(sizes.items())]
        outside = "" if set(sizes) == {"Kronecker"} else "; see EKFAC.coverage for which"
        return (f"EKFAC covers its {self.p} parameters: {', '.join(shares)}{outside}",)

    # -- what is gathered from the data ----------------------------------------------------------------------------

    def recipe(self, dtype: torch.dtype) -> Recipe:
        """The recipe by which the data are looked at for factors of one precision.

        Below the problem's precision the data are read in the fastest one: that serves a preconditioner.

        Args:
            dtype: the precision of the factors.
        """
        precision = self.problem.precisions[0] if dtype.itemsize < self.dtype.itemsize else self.dtype
        return Recipe(self.rows, self.leading, self.samples, self.seed, precision)

    def _gathered(self, dtype: torch.dtype) -> Gathered:
        key, known = (self.problem, self.recipe(dtype)), self.shared.gathered
        if key not in known:
            known[key] = gather(*key)
        return known[key]

    def save(self, path: str | Path) -> None:
        """Write what was gathered from the training data: one safetensors file, good for any damping, no pickle.

        It is gathered now if that has not happened, and its file names the weights, data and settings by a hash.

        Args:
            path: the file, which is replaced if it is there.
        """
        gathered = self._gathered(self.dtype)
        words = {"kind": "EKFAC", "n": gathered.n, "settings": self._settings()}
        write(path, gathered.tensors(), {**words, "fingerprint": self.undamped_fingerprint()})

    def _settings(self) -> dict[str, int | None]:
        return {"rows": self.rows, "leading": self.leading, "samples": self.samples, "seed": self.seed}

    def undamped_fingerprint(self) -> str:
        """The content hash of what is gathered from the data, whatever the damping: of weights, data and settings."""
        return replace(self, damping=0.0, relative=0.0).fingerprint()

    @classmethod
    def load(cls, path: str | Path, problem: Objective, damping: float = 0.0, relative: float = 0.0) -> EKFAC:
        """Read what `save` wrote, for the same problem: no pass over the data but the one that hashes them.

        Args:
            path: the file.
            problem: a problem with the same weights, data and settings as then.
            damping: any damping, >= 0.
            relative: any relative damping, >= 0.

        Raises:
            ValueError: for a file of another kind.
            StaleError: for other weights, data or settings.
        """
        tensors, words = read(path, "a curvature file", "kind", "settings", "fingerprint", "n", "rest")
        if words["kind"] != "EKFAC" or type(words["n"]) is not int or not 1 <= words["n"] <= problem.n:
            raise ValueError(f"{path} is not a curvature file of upweight")
        curvature = cls(problem, damping, **words["settings"], relative=relative)
        found = curvature.undamped_fingerprint()
        if found != words["fingerprint"]:
            raise StaleError(
                f"{path} was gathered from other weights, data or settings ({words['fingerprint']}; this problem: "
                f"{found}): make the EKFAC anew"
            )
        recipe = curvature.recipe(curvature.dtype)
        try:
            curvature.shared.gathered[(problem, recipe)] = restore(problem, recipe, tensors, words["n"])
        except (KeyError, ValueError) as failure:
            raise ValueError(f"{path} is not a curvature file of this problem ({failure})") from failure
        return curvature

    def keep(self, folder: Path) -> None:
        if self.problem.facts.closed_form:
            return  # its factors take less time to compute than to read
        path = folder / f"factors-{content_hash([], self.undamped_fingerprint())}.safetensors"
        if not gather_objects(path.exists())[0]:
            with together():
                self.save(path)
        # Read also what was just written: tensors in the same layout give the same bits.
        self.shared.gathered.update(EKFAC.load(path, self.problem).shared.gathered)

    # -- the inverse -----------------------------------------------------------------------------------------------

    def factor(self, dtype: torch.dtype | None = None) -> BlocksFactor:
        # As an answer, not a preconditioner: bases orthogonal in float32 only would cost digits by the condition.
        dtype = dtype or torch.float64
        if dtype not in self.cache:
            added = Added(self.damping, self.relative)
            self.cache[dtype] = self._gathered(dtype).factor(self.problem.l2, added, dtype)
        return self.cache[dtype]

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        product = self.factor(dtype).product
        assert product is not None
        return product

    @property
    def sums(self) -> bool:
        return self.leading == 0

    def compress(self, pairs: Pairs, tolerance: float) -> Compressed:
        assert self.problem.layers is not None
        return compress(self.factor(), self.problem.layers.layout, pairs, tolerance)

    def eigenbases(self) -> Eigenbases:
        return of_factor(self.factor())

    def quadratic(self, pairs: Pairs) -> Float[Tensor, " b"]:
        return self.factor().quadratic_outer(pairs)

    def fingerprint(self) -> str:
        return f"EKFAC({self.problem.fingerprint()}, damping={self.damping!r}, rows={self.rows}, " + (
            f"leading={self.leading}, samples={self.samples}, seed={self.seed}, relative={self.relative!r})"
        )
