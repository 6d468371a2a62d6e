"""The design matrix X (n, d) of a linear problem: dense or sparse, read in blocks of rows.

Only this file knows how X is stored. A block offers the three products that a linear problem is made of: X V^T, Z^T X
and X^T diag(w) X. Every pass over the data goes block by block, so that a block is still in the processor's cache when
its second product reads it.

A block of precision bfloat16 takes and gives float32: only its matrix products are rounded.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from ..linalg.rows import DenseRows, Rows, SparseRows
from ..types import ArrayLike, Tensor, as_tensor

SMALL_BYTES = 4 << 20
"""Data up to this size are compared whole where somebody looks whether they were changed: half a millisecond."""
SAMPLE_ROWS = 64
"""Rows of larger data that are compared."""
CACHE_BYTES = 2 << 30
"""A copy of X in a lower precision is kept if it is at most this large, else blocks are converted as they are read."""


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware: twice (AVX-512 BF16) to six times (AMX) float32's speed.

    >>> has_fast_bfloat16() in (True, False)
    True
    """
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


class Block(ABC):
    """Some rows of X (b, d), in the precision of the vectors they are multiplied with.

    Three products are all that a linear model does with its data; whoever stores X in a new way writes these.
    """

    @abstractmethod
    def forward(self, V: Float[Tensor, "q d"]) -> Float[Tensor, "b q"]:
        """X V^T (b, q): the outputs of these rows for q weight vectors V."""

    @abstractmethod
    def backward(self, Z: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        """Z^T X (q, d): the sum of these rows, weighted in q ways, which gradients and curvature products end with."""

    @abstractmethod
    def gram(self, w: Float[Tensor, " b"], out: Float[Tensor, "d d"]) -> None:
        """Add X^T diag(w) X to the upper triangle of `out` (more of it may be filled): the Hessian's sum over rows."""

    @abstractmethod
    def squares(self, w: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        """w^T X^2 (q, d): the sum of the squares of these rows, weighted in q ways."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "b d"]:
        """The rows written out as a dense tensor, in the precision of the block."""

    @abstractmethod
    def weighted(self, w: Float[Tensor, " b"], ones: bool) -> Rows:
        """The root of X^T diag(w^2) X: the rows, each times its number; with `ones`, X has a last column of ones."""


class Design(ABC):
    """The design matrix X (n, d) of a linear model, one row per example, wherever its numbers are kept.

    A class per way of keeping them: dense or sparse in memory, on disk. Everything above reads `blocks` and takes rows,
    and does not know which it has.
    """

    shape: tuple[int, int]
    """(n, d)."""
    precisions: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    """Those worth having, from the fastest to the most accurate."""
    is_sparse: bool = False
    """Whether blocks hold few numbers, so that writing them out densely is dear."""

    @abstractmethod
    def block(self, rows: slice, dtype: torch.dtype) -> Block:
        """Consecutive rows, ready for products with vectors of that precision."""

    @abstractmethod
    def take(self, index: Tensor) -> Design:
        """The design of some rows (b,), in the order of the index; rows may come twice."""

    @abstractmethod
    def buffers(self) -> Sequence[Tensor]:
        """The tensors that a content hash must cover, so that equal hashes are equal X."""

    @abstractmethod
    def sample(self) -> Sequence[Tensor]:
        """All numbers of small data (`SMALL_BYTES`), or of some rows: what a look for changes in place compares."""

    @property
    @abstractmethod
    def versioned(self) -> Sequence[Tensor]:
        """Tensors whose count of changes, kept by torch, tells a change in place; none where NumPy holds the data."""

    def blocks(
        self, size: int, dtype: torch.dtype, within: slice | None = None
    ) -> Iterator[tuple[slice, Block]]:
        """Read all rows in order, block by block: one pass over the data.

        Args:
            size: the most rows of a block.
            dtype: the precision of the vectors that blocks will be multiplied with; bfloat16 rounds products alone.
            within: the rows to read, by default all.

        Returns:
            An iterator of the place of each block and the block.
        """
        start, stop, _ = (within or slice(None)).indices(self.shape[0])
        for first in range(start, stop, size):
            rows = slice(first, min(first + size, stop))
            yield rows, self.block(rows, dtype)


def distinct_rows(design: Design) -> tuple[Int[Tensor, " u"], Int[Tensor, " m"]]:
    """The first of each kind of equal rows (u,), in their order, and for every row the place (m,) of its kind in them.

    A product computed once for each kind is the same to the last digit for all of it, which a matrix product is not.

    >>> first, place = distinct_rows(as_design([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0]]))
    >>> first.tolist(), place.tolist()
    ([0, 1], [0, 1, 0])
    """
    first: list[int] = []
    seen: dict[bytes, int] = {}
    place = []
    for part, block in design.blocks(SAMPLE_ROWS, torch.float64):
        for row, numbers in enumerate(
            block.dense().numpy() + 0.0, part.start
        ):  # + 0.0 makes -0.0 the same as 0.0
            place.append(seen.setdefault(numbers.tobytes(), len(first)))
            if place[-1] == len(first):
                first.append(row)
    return torch.tensor(first), torch.tensor(place)


class DenseBlock(Block):
    """Rows held as a dense tensor, of any strides.

    In bfloat16 vectors are rounded on the way into a product and come back in their own precision.
    """

    STRIPS = 4
    """Column strips that a symmetric product is made of: each more saves work and makes products smaller."""
    FEW = range(8, 33)
    """So many vectors are faster on the left: 28 in place of 44 ms for ten (55,000 x 784, float32, one thread)."""

    def __init__(self, X: Tensor) -> None:
        self.X = X

    def forward(self, V: Float[Tensor, "q d"]) -> Float[Tensor, "b q"]:
        own = V.to(self.X.dtype)
        if self.X.dtype != torch.bfloat16 and len(V) in self.FEW:
            return (own @ self.X.T).T.to(V.dtype)
        return (self.X @ own.T).to(V.dtype)

    def backward(self, Z: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        return (Z.T.to(self.X.dtype) @ self.X).to(Z.dtype)

    def gram(self, w: Float[Tensor, " b"], out: Float[Tensor, "d d"]) -> None:
        # Symmetric: strip j of the columns meets only the columns from j on, 5/8 of the full product.
        weighted = w[:, None] * self.X
        edges = [self.X.shape[1] * j // self.STRIPS for j in range(self.STRIPS + 1)]
        for lo, hi in itertools.pairwise(edges):
            out[lo:hi, lo:].addmm_(self.X[:, lo:hi].T, weighted[:, lo:])

    def squares(self, w: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        return (w.T.to(self.X.dtype) @ self.X.square()).to(w.dtype)

    def dense(self) -> Float[Tensor, "b d"]:
        return self.X

    def weighted(self, w: Float[Tensor, " b"], ones: bool) -> Rows:
        weighted = w[:, None] * self.X
        return DenseRows(torch.cat([weighted, w[:, None]], dim=1) if ones else weighted)


class DenseDesign(Design):
    """X as a dense tensor, in whatever float precision it came; the user's own memory where that could be shared.

    Blocks of a lower precision come from a copy that is made at the first use, if it is at most `CACHE_BYTES`; all
    others are converted as they are read.
    """

    def __init__(self, X: Tensor) -> None:
        self.X = X
        self.shape = (X.shape[0], X.shape[1])
        if has_fast_bfloat16():
            self.precisions = (torch.bfloat16, *self.precisions)
        self._copies: dict[torch.dtype, Tensor] = {}

    def block(self, rows: slice, dtype: torch.dtype) -> Block:
        # Reading a copy costs as much as converting a block in cache unless the copy is smaller.
        size = self.X.numel() * dtype.itemsize
        if dtype not in self._copies and dtype.itemsize < self.X.dtype.itemsize and size <= CACHE_BYTES:
            self._copies[dtype] = self.X.to(dtype)
        return DenseBlock(self._copies.get(dtype, self.X)[rows].to(dtype))

    def take(self, index: Tensor) -> Design:
        return DenseDesign(self.X[index])

    def buffers(self) -> Sequence[Tensor]:
        return [self.X]

    def sample(self) -> Sequence[Tensor]:
        return [_sampled(self.X)]

    @property
    def versioned(self) -> Sequence[Tensor]:
        return [self.X]


class CentredDesign(Design):
    """Another design with a number subtracted from every column: read densely, block by block, and never held.

    Args:
        base: X (n, d).
        center: what is subtracted from its columns (d,), in float64.
    """

    def __init__(self, base: Design, center: Float[Tensor, " d"]) -> None:
        self.base, self.center, self.shape = base, center, base.shape

    def block(self, rows: slice, dtype: torch.dtype) -> Block:
        return DenseBlock((self.base.block(rows, torch.float64).dense() - self.center).to(dtype))

    def take(self, index: Tensor) -> Design:
        return CentredDesign(self.base.take(index), self.center)

    def buffers(self) -> Sequence[Tensor]:
        return [*self.base.buffers(), self.center]

    def sample(self) -> Sequence[Tensor]:
        return self.base.sample()

    @property
    def versioned(self) -> Sequence[Tensor]:
        return self.base.versioned


class SparseBlock(Block):
    """Rows held as a SciPy CSR matrix: products take time in proportion to the entries that are not zero."""

    def __init__(self, X: sparse.csr_array) -> None:
        self.X = X

    def forward(self, V: Float[Tensor, "q d"]) -> Float[Tensor, "b q"]:
        return torch.from_numpy(self.X @ V.T.numpy())

    def backward(self, Z: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        return torch.from_numpy(np.ascontiguousarray((self.X.T @ Z.numpy()).T))

    def gram(self, w: Float[Tensor, " b"], out: Float[Tensor, "d d"]) -> None:
        product = (self.X.T @ (sparse.diags_array(w.numpy()) @ self.X)).tocoo()
        out.index_put_(
            (torch.from_numpy(product.row).long(), torch.from_numpy(product.col).long()),
            torch.from_numpy(product.data).to(out),
            accumulate=True,
        )

    def squares(self, w: Float[Tensor, "b q"]) -> Float[Tensor, "q d"]:
        return torch.from_numpy(np.ascontiguousarray((self.X.multiply(self.X).T @ w.numpy()).T))

    def dense(self) -> Float[Tensor, "b d"]:
        return torch.from_numpy(self.X.toarray())

    def weighted(self, w: Float[Tensor, " b"], ones: bool) -> Rows:
        weighted = sparse.diags_array(w.numpy()) @ self.X
        return SparseRows(sparse.hstack([weighted, w.numpy()[:, None]] if ones else [weighted], format="csr"))


class SparseDesign(Design):
    """X as a SciPy CSR matrix, for words and one-hot columns; it is never written out as a whole.

    A converted copy is kept for each precision that is asked for.
    """

    is_sparse = True

    def __init__(self, X: sparse.csr_array) -> None:
        self.X = X
        self.shape = (X.shape[0], X.shape[1])
        self._copies: dict[torch.dtype, sparse.csr_array] = {}

    def block(self, rows: slice, dtype: torch.dtype) -> Block:
        if dtype not in self._copies:
            self._copies[dtype] = self.X.astype(np.float64 if dtype == torch.float64 else np.float32)
        return SparseBlock(self._copies[dtype][rows])

    def take(self, index: Tensor) -> Design:
        return SparseDesign(self.X[index.numpy()])

    def buffers(self) -> Sequence[Tensor]:
        return [torch.from_numpy(part) for part in (self.X.data, self.X.indices, self.X.indptr)]

    def sample(self) -> Sequence[Tensor]:
        return [_sampled(part) for part in self.buffers()]

    @property
    def versioned(self) -> Sequence[Tensor]:
        return []


def _sampled(values: Tensor) -> Tensor:
    """The whole of a small tensor, some entries of the first dimension of a large one."""
    if values.numel() * values.element_size() <= SMALL_BYTES:
        return values
    return values[torch.linspace(0, len(values) - 1, SAMPLE_ROWS, dtype=torch.float64).long()]


def as_design(X: ArrayLike | sparse.sparray | sparse.spmatrix, what: str = "X") -> Design:
    """Make a `Design` of a matrix (n, d) as users have it; whole numbers and booleans become float64.

    Args:
        X: a tensor, array, DataFrame, list of rows or SciPy sparse matrix. Dense float32 and float64 are not copied
            where they lie row by row.
        what: what X is called in errors.

    Raises:
        ValueError: for another shape, no rows, and a NaN or infinity, with the first example's number.

    >>> as_design([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    if sparse.issparse(X):
        csr = sparse.csr_array(X)
        csr = csr if csr.dtype in (np.float32, np.float64) else csr.astype(np.float64)
        if not np.isfinite(csr.data).all():
            row = int(np.searchsorted(csr.indptr, np.flatnonzero(~np.isfinite(csr.data))[0], "right") - 1)
            raise ValueError(
                f"{what} has a NaN or infinity, first in example {row}; impute or drop such examples"
            )
        check_shape(csr.shape, what)
        return SparseDesign(csr)
    dense = as_tensor(X)
    dense = dense if dense.dtype in (torch.float32, torch.float64) else dense.double()
    check_shape(tuple(dense.shape), what)
    check_finite(dense, what)
    return DenseDesign(dense.contiguous())


def as_inputs(inputs: ArrayLike | Design) -> Tensor | Design:
    """Inputs as a tensor; rows of a design stay as they are: they are what the model computes with already."""
    return inputs if isinstance(inputs, Design) else as_tensor(inputs)


def check_finite(X: Tensor, what: str, first: int = 0) -> None:
    """Refuse a matrix that holds a NaN or infinity.

    Args:
        X: rows (b, d).
        what: what they are called in the error.
        first: the number of the example that row 0 is, where X is a piece of more.

    Raises:
        ValueError: with the number of the first such example.
    """
    # The extremes see a NaN or infinity at the price of one read; a table of booleans costs fifty times that.
    if X.numel() and not all(extreme.isfinite() for extreme in X.aminmax()):
        row = first + int((~X.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(
            f"{what} has a NaN or infinity, first in example {row}; impute or drop such examples"
        )


def check_shape(shape: tuple[int, ...], what: str) -> None:
    """Refuse any shape but (n, d) with n > 0. Raises ValueError, which says what `what` is called and what arrived."""
    if len(shape) != 2:
        raise ValueError(f"{what} must have shape (n, d), got {tuple(shape)}")
    if shape[0] == 0:
        raise ValueError(f"{what} is empty: shape {tuple(shape)}; at least one example is needed")
