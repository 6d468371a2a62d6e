"""Modules that have moved into packages: old names still import, with a warning that says where things are now."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MOVED = {
    "ahead": "runtime.prefetch",
    "checks": "influence.checks",
    "choices": "influence.defaults",
    "compression": "curvature.compression",
    "convolutions": "network.convolutions",
    "derivatives": "network.evaluation",
    "design": "data.design",
    "distributed": "runtime.distributed",
    "ekfac": "curvature.ekfac",
    "enclosure": "influence.removal_bounds",
    "extremes": "influence.top_k",
    "factor": "linalg.factorizations",
    "files": "runtime.tensor_files",
    "gathering": "curvature.kronecker_statistics",
    "groups": "data.row_sets",
    "jacobians": "network.output_curvature",
    "kernels": "linear.kernel_features",
    "layered": "network.layers.gradients",
    "layers": "network.layers.layer",
    "models": "network.modules",
    "notebook": "runtime.notebook",
    "nystrom": "curvature.nystrom",
    "optimum": "linear.diagnostics",
    "pipelines": "tables.default_models",
    "pretrained": "network.transformers",
    "problem": "network.problem",
    "progress": "runtime.progress",
    "readers": "estimators.readers",
    "reduced": "linear.reduced_gradients",
    "removal": "influence.removal",
    "rows": "data.examples",
    "scales": "network.layers.norm",
    "scores": "influence.scores",
    "store": "influence.score_store",
    "streams": "data.design_on_disk",
    "terms": "data.user_terms",
    "vectors": "linalg.flat_vectors",
}
"""Old name at the root of the package -> where the module is now."""


class MovedFinder(MetaPathFinder, Loader):
    """Finds a module under its old name: a stand-in that has the attributes of the new one.

    It stands last among the finders of `sys.meta_path`, so that it is asked only for what nobody else has.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question: a spec for old names, None for all others.

        Args:
            fullname: the module's dotted name.
            path: where its package looks for modules; not used.
            target: a module that is loaded again; not used.
        """
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def exec_module(self, module: types.ModuleType) -> None:
        """Warn that the module has moved, and hand every attribute through to where it is now."""
        now = f"{__package__}.{MOVED[module.__name__.rpartition('.')[2]]}"
        warnings.warn(f"{module.__name__} is {now} now", DeprecationWarning, stacklevel=2)
        there = importlib.import_module(now)
        module.__doc__ = there.__doc__
        module.__getattr__ = lambda name: getattr(there, name)  # type: ignore[method-assign]


def install() -> None:
    """Let old names be found, after everything else; a second call changes nothing."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
