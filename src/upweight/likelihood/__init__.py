"""Models of few parameters by their whole likelihood, where it is no sum of losses of single linear outputs."""

from .counts import NegativeBinomial
from .cox import PartialLikelihood
from .estimates import Estimates
from .likelihood import Likelihood, RiskShares
from .partialled import PartialledSquares
from .problem import LikelihoodProblem

__all__ = [
    "Estimates",
    "Likelihood",
    "LikelihoodProblem",
    "NegativeBinomial",
    "PartialLikelihood",
    "PartialledSquares",
    "RiskShares",
]
