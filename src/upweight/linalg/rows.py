"""Roots of matrices, dense or sparse: U (r, p), and the few products with it that an inverse needs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.linalg import blas

from ..types import Tensor

BLOCK = 512
"""Rows of a sparse root that are written out at once."""


class Rows(ABC):
    """A root U (r, p): its products, its columns, and the Gram matrix of its rows."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Rows:
        """U in another precision."""

    @abstractmethod
    def forward(self, vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k r"]:
        """V U^T, for k vectors V."""

    @abstractmethod
    def backward(self, Z: Float[Tensor, "k r"]) -> Float[Tensor, "k p"]:
        """Z U, for k rows of numbers, one for each row of U."""

    @abstractmethod
    def squares(self) -> Float[Tensor, " p"]:
        """The sum of the squares of every column."""

    @abstractmethod
    def columns(self, index: Int[Tensor, " q"]) -> Rows:
        """Some of the columns, in that order."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "r p"]:
        """U written out."""

    @abstractmethod
    def gram(self, scale: Float[Tensor, " p"]) -> Float[Tensor, "r r"]:
        """The lower triangle of S S^T, S = U / scale, which is all that a Cholesky factor reads."""


class DenseRows(Rows):
    """A root held as a tensor (r, p).

    >>> DenseRows(torch.tensor([[1.0, 2.0]])).gram(torch.ones(2))
    tensor([[5.]])
    """

    def __init__(self, U: Float[Tensor, "r p"]) -> None:
        self.U = U

    def to(self, dtype: torch.dtype) -> Rows:
        return DenseRows(self.U.to(dtype))

    def forward(self, vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k r"]:
        return vectors @ self.U.T.to(vectors)

    def backward(self, Z: Float[Tensor, "k r"]) -> Float[Tensor, "k p"]:
        return Z @ self.U.to(Z)

    def squares(self) -> Float[Tensor, " p"]:
        return self.U.square().sum(0)

    def columns(self, index: Int[Tensor, " q"]) -> Rows:
        return DenseRows(self.U[:, index])

    def dense(self) -> Float[Tensor, "r p"]:
        return self.U

    def gram(self, scale: Float[Tensor, " p"]) -> Float[Tensor, "r r"]:
        rows = self.U / scale
        if rows.device.type != "cpu" or not rows.shape[1]:
            return rows @ rows.T
        name = "dsyrk" if rows.dtype == torch.float64 else "ssyrk"  # half the work of a product
        return torch.from_numpy(getattr(blas, name)(1.0, rows.numpy().T, trans=1, lower=1))


class SparseRows(Rows):
    """A root held as a SciPy CSR matrix: products, and the Gram matrix, take time by the entries that are not zero.

    >>> SparseRows(sparse.csr_array([[1.0, 2.0]])).gram(torch.ones(2).double())
    tensor([[5.]], dtype=torch.float64)
    """

    def __init__(self, U: sparse.csr_array) -> None:
        self.U = U

    def to(self, dtype: torch.dtype) -> Rows:
        return SparseRows(self.U.astype(np.float64 if dtype == torch.float64 else np.float32))

    def forward(self, vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k r"]:
        return torch.from_numpy((self.U @ vectors.T.numpy()).T).to(vectors)

    def backward(self, Z: Float[Tensor, "k r"]) -> Float[Tensor, "k p"]:
        return torch.from_numpy((self.U.T @ Z.T.numpy()).T).to(Z)

    def squares(self) -> Float[Tensor, " p"]:
        return torch.from_numpy(self.U.power(2).sum(axis=0))

    def columns(self, index: Int[Tensor, " q"]) -> Rows:
        return SparseRows(self.U[:, index.numpy()])

    def dense(self) -> Float[Tensor, "r p"]:
        return torch.from_numpy(self.U.toarray())

    def gram(self, scale: Float[Tensor, " p"]) -> Float[Tensor, "r r"]:
        S = self.U.copy()
        S.data /= scale.numpy()[S.indices]
        found = np.zeros((S.shape[0], S.shape[0]), dtype=S.dtype)
        for start in range(0, len(found), BLOCK):
            own = slice(start, start + BLOCK)
            found[start:, own] = S[start:] @ np.ascontiguousarray(S[own].toarray().T)
        return torch.from_numpy(found)


def as_rows(root: Float[Tensor, "r p"] | Rows) -> Rows:
    """A root as `Rows`; a tensor is one."""
    return DenseRows(root) if isinstance(root, torch.Tensor) else root
