"""Models of few parameters by their whole likelihood, where it is no sum of losses of single linear outputs."""

from .counts import NegativeBinomial
from .cox import PartialLikelihood
from .likelihood import Likelihood
from .partialled import PartialledSquares
from .problem import LikelihoodProblem

__all__ = ["Likelihood", "LikelihoodProblem", "NegativeBinomial", "PartialLikelihood", "PartialledSquares"]
