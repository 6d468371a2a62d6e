"""Which standard errors of least squares: the kind, and what each package multiplies it with and counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from ..types import Tensor

KINDS = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")


class Counts(NamedTuple):
    """Numbers of rows, coefficients, effects, effects that the factor counts, and clusters of k fits."""

    rows: Float[Tensor, " k"]
    coefficients: Float[Tensor, " k"]
    effects: Float[Tensor, " k"]
    counted: Float[Tensor, " k"]
    clusters: Float[Tensor, " k"]


@dataclass(frozen=True, eq=False)
class SmallSample:
    """What a variance is multiplied with, (N - a) / (N - K - E), G / (G - 1), and the distribution of t.

    Args:
        less_one: whether a is 1 and not 0.
        coefficients: whether K, the number of coefficients, is taken off.
        clusters: whether there is the factor of G clusters.
        t: degrees of freedom of Student's t: "rows" N less all coefficients and effects, "clusters" G - 1; "" normal.
        known: K where it does not follow from the columns: beside absorbed effects, a constant among it.
        groups: the group of each row in each absorbed effect (n, q).
        effects: whether effects are taken off (E): all but one group of each effect after the first (or constant).
        constant: whether K has a constant, which takes one effect's place.
        nested: of each effect whether it counts as one, since its groups lie in clusters.
        drops: whether rows that are alone in a group are not there, as feols has it in each fit.
    """

    less_one: bool = False
    coefficients: bool = False
    clusters: bool = False
    t: str = ""
    known: int | None = None
    groups: Int[Tensor, "n q"] | None = None
    effects: bool = False
    constant: bool = False
    nested: tuple[bool, ...] = ()
    drops: bool = False

    def kept(self, kept: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Which rows of k fits are there (1), with those taken out that are alone in a group, where they are dropped.

        One that leaves may leave another alone, so that this is repeated.
        """
        if self.groups is None or not self.drops:
            return kept
        while True:
            alone = torch.zeros_like(kept, dtype=torch.bool)
            for group in self.groups.T:
                alone |= (_sizes(group, kept) == 1)[group] & (kept > 0)
            if not bool(alone.any()):
                return kept
            kept = kept.masked_fill(alone, 0.0)

    def counts(
        self,
        kept: Float[Tensor, "n k"],
        clusters: Int[Tensor, " n"] | None,
        coefficients: Tensor,
        rows: Tensor,
    ) -> Counts:
        """The numbers of k fits.

        Args:
            kept: which rows are there.
            clusters: the cluster of each row, or None.
            coefficients: how many there are by the rank of the columns, one number or (k,).
            rows: what each row counts for (n,).
        """
        kept = self.kept(kept)
        none = kept.new_zeros(kept.shape[1])
        effects = counted = none
        if self.groups is not None:
            present = torch.stack([(_sizes(group, kept) > 0).double().sum(0) for group in self.groups.T])
            effects = present.sum(0) - (len(present) - 1) - int(self.constant)
            inside = [one for one, nested in zip(present, self.nested, strict=False) if nested]
            counted = effects - sum(inside, none) + len(inside) if self.effects else none
            coefficients = torch.tensor(float(self.known or 0)).double()
        found = none if clusters is None else (_sizes(clusters, kept) > 0).double().sum(0)
        return Counts((kept * rows[:, None]).sum(0), coefficients.expand(len(none)), effects, counted, found)

    def factor(self, of: Counts) -> Float[Tensor, " k"]:
        """What variances of k fits are multiplied with."""
        left = of.rows - of.counted - (of.coefficients if self.coefficients else 0)
        found = (of.rows - int(self.less_one)) / left
        return found * of.clusters / (of.clusters - 1) if self.clusters else found

    def freedom(self, of: Counts) -> Float[Tensor, " k"] | None:
        """The degrees of freedom of Student's t, or None for the normal distribution."""
        if self.t == "clusters":
            return of.clusters - 1
        return of.rows - of.coefficients - of.effects if self.t == "rows" else None


def _sizes(group: Int[Tensor, " n"], kept: Float[Tensor, "n k"]) -> Float[Tensor, "g k"]:
    """How many rows of each group are there, in k fits."""
    return kept.new_zeros(int(group.max()) + 1, kept.shape[1]).index_add(0, group, kept)


@dataclass(frozen=True, eq=False)
class Errors:
    """Which standard errors of least squares, with statsmodels' factors or those read from results.

    "nonrobust" is s^2 (X^T W X)^-1 with n - k degrees of freedom; "HC0" to "HC3" are White's, HC1 times n / (n - k),
    HC2 and HC3 with residuals over the root of 1 - h and over 1 - h; "cluster" sums scores in clusters, times
    G / (G - 1) (n - 1) / (n - k). `use_t` takes Student's t in place of the normal distribution: with n - k degrees of
    freedom, of clusters G - 1; None: as statsmodels, for "nonrobust" only. What a removal does to n, G and the number
    of absorbed effects is followed.

    Args:
        kind: the name.
        clusters: of "cluster", the cluster of each row (n,).
        use_t: the distribution.
        small: factors and counts of another package; None: those above.
    """

    kind: str = "nonrobust"
    clusters: Any = None
    use_t: bool | None = None
    small: SmallSample | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.clusters is not None) != (self.kind == "cluster"):
            raise ValueError('clusters go with kind="cluster", and with no other')

    @property
    def counting(self) -> SmallSample:
        """Factors, counts and the distribution of t: those of `small`, or statsmodels' of the kind."""
        if self.small is not None:
            return self.small
        clustered = self.kind == "cluster"
        by = "clusters" if clustered else "rows"
        t = by if (self.kind == "nonrobust" if self.use_t is None else self.use_t) else ""
        return SmallSample(clustered, self.kind in ("nonrobust", "HC1", "cluster"), clustered, t)

    @property
    def codes(self) -> Int[Tensor, " n"] | None:
        """The numbers of the clusters of all rows, or None where there are none."""
        if self.clusters is None:
            return None
        return torch.from_numpy(
            pd.factorize(np.asarray(self.clusters), use_na_sentinel=False)[0].astype(np.int64)
        )

    def check_length(self, n: int) -> None:
        """Nothing happens where clusters and effects are those of n rows; else ValueError."""
        if self.clusters is not None and len(self.clusters) != n:
            raise ValueError(f"clusters must name one for each of {n} rows, got {len(self.clusters)}")
        if self.small is not None and self.small.groups is not None and len(self.small.groups) != n:
            raise ValueError(f"these errors are of results with {len(self.small.groups)} rows, not {n}")

    @property
    def classical(self) -> bool:
        """Whether they are RSS / (N - K - effects) with Student's t, whose certificates are known."""
        of = self.counting
        plain = (of.less_one, of.coefficients, of.clusters, of.t, any(of.nested)) == (
            False,
            True,
            False,
            "rows",
            False,
        )
        return self.kind == "nonrobust" and plain and (of.groups is None or of.effects)

    @classmethod
    def of(cls, results: Any) -> Errors:
        """The errors of fitted results as their own covariance says: of statsmodels, linearmodels and feols.

        statsmodels: OLS and WLS. linearmodels: PanelOLS, PooledOLS, AbsorbingLS and IV2SLS. Each has its own factors.

        Raises:
            ValueError: for a covariance that is not among these, or has other corrections than the usual ones.
        """
        package = {kind.__module__.partition(".")[0] for kind in type(results).__mro__}
        if "linearmodels" in package:
            return (_of_panel if hasattr(results, "_deferred_cov") else _of_linearmodels)(results)
        if "pyfixest" in package:
            return _of_feols(results)
        kind, told = str(results.cov_type), dict(results.cov_kwds)
        if kind != "cluster":
            return cls(kind, use_t=bool(results.use_t))
        groups = np.asarray(told["groups"])
        if groups.ndim > 1 or not told.get("use_correction", True) or not told.get("df_correction", True):
            raise ValueError(
                "clusters in one direction, with their usual correction, are known: these are other ones"
            )
        return cls(kind, groups, bool(results.use_t))


LINEARMODELS = {
    "unadjusted": "nonrobust", "homoskedastic": "nonrobust", "conventional": "nonrobust",
    "robust": "HC0", "heteroskedastic": "HC0", "clustered": "cluster",
}  # fmt: skip
"""What covariances of linearmodels are called here."""


def _of_panel(results: Any) -> Errors:
    """The errors of PanelOLS and PooledOLS: effects count unless they are nested, or as `fit` was told."""
    model, covariance = results.model, results._deferred_cov.__self__
    kind = _kind(str(results._cov_type))
    clusters = _one_way(getattr(covariance, "_clusters", None)) if kind == "cluster" else None
    effects = pd.DataFrame(index=model.dependent.index)
    for level, name in enumerate(("entity_effects", "time_effects")):
        if getattr(model, name, False):
            effects[name] = model.dependent.index.get_level_values(level)
    if getattr(model, "other_effects", False):
        effects = effects.join(model._other_effect_cats.dataframe)
    corrected = kind == "cluster" and bool(covariance._group_debias)
    small = SmallSample(
        less_one=corrected,
        coefficients=bool(covariance._debiased),
        clusters=corrected,
        t="rows" if covariance._debiased else "",
    )
    return Errors(
        kind, clusters,
        small=_with_effects(small, effects, len(results.params), bool(model.has_constant), covariance._extra_df > 0),
    )  # fmt: skip


def _of_linearmodels(results: Any) -> Errors:
    """The errors of IV2SLS and AbsorbingLS: no factor unless debiased; a nested effect does not count."""
    config, kind = dict(results.cov_config), _kind(str(results.cov_type))
    clusters = _one_way(config.get("clusters")) if kind == "cluster" else None
    debiased = bool(config["debiased"])
    corrected = kind == "cluster" and debiased
    small = SmallSample(corrected, debiased, corrected, "rows" if debiased else "")
    absorbed = getattr(results.model, "_absorb_inter", None)
    if absorbed is None:
        return Errors(kind, clusters, small=small)
    inside = (
        clusters is not None and absorbed.cat.shape[1] == 1 and _nested(absorbed.cat.iloc[:, 0], clusters)
    )
    constant = bool(results.model._has_constant_exog)
    small = _with_effects(small, absorbed.cat, len(results.params), constant, debiased and not inside)
    return Errors(kind, clusters, small=small)


def _of_feols(results: Any) -> Errors:
    """The errors of feols: iid, hetero and CRV1 in one direction, with its usual factors."""
    kind = {"iid": "nonrobust", "hetero": "HC0", "CRV1": "cluster", "HC1": "HC0"}.get(
        results._vcov_type_detail
    )
    usual = {"k_adj": True, "k_fixef": "nonnested", "G_adj": True, "G_df": "min"}
    if kind is None or dict(results._ssc_dict) != usual:
        raise ValueError(
            "of feols iid, hetero and CRV1 errors are known, with its usual small-sample factors: these are "
            f"{results._vcov_type_detail} with {results._ssc_dict}"
        )
    if results._has_weights and results._weights_type == "fweights" and kind != "nonrobust":
        raise ValueError("robust errors with fweights are not known: repeat the rows, or ask with vcov='iid'")
    clusters = _one_way(results._cluster_df) if kind == "cluster" else None
    t = "clusters" if kind == "cluster" else "rows"
    small = SmallSample(kind == "cluster", True, kind == "cluster", t, drops=bool(results._drop_singletons))
    effects = pd.DataFrame() if results._fe is None else results._fe
    nested = tuple(clusters is not None and _nested(effects[name], clusters) for name in effects)
    small = _with_effects(small, effects, results._k, False, True)
    return Errors(kind, clusters, small=replace(small, nested=nested))


def _with_effects(
    small: SmallSample, effects: pd.DataFrame, known: int, constant: bool, counted: bool
) -> SmallSample:
    """A rule that knows absorbed effects.

    Args:
        small: the rule without them.
        effects: the group of each row in each.
        known: how many coefficients there are beside them.
        constant: whether a constant is among these.
        counted: whether effects count.
    """
    if not effects.shape[1]:
        return small
    groups = np.column_stack([pd.factorize(effects[name])[0] for name in effects]).astype(np.int64)
    return replace(
        small, groups=torch.from_numpy(groups), known=known, constant=constant, effects=counted,
    )  # fmt: skip


def _kind(name: str) -> str:
    if name.lower() not in LINEARMODELS:
        raise ValueError(
            f"{name} errors are not known: of linearmodels unadjusted, robust and clustered errors in one direction are"
        )
    return LINEARMODELS[name.lower()]


def _one_way(clusters: Any) -> np.ndarray:
    """Clusters in one direction (n,)."""
    found = np.asarray(clusters)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1:
        raise ValueError("clusters in one direction are known, these are in several: cluster by one of them")
    return found


def _nested(groups: Any, clusters: np.ndarray) -> bool:
    """Whether each group lies in one cluster."""
    return bool(pd.Series(clusters).groupby(np.asarray(groups)).nunique().max() == 1)
