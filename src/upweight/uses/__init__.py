"""What influence is used for: explanations, wrong labels, populations, decisions, attacks."""

from .attack import Attack, attack
from .box import Box
from .conclusions import Conclusion, MeanPrediction, NotReversed, Sign, Significant
from .diagnostics import Diagnostics, diagnostics
from .explain import Explanation, explain
from .fit_measures import inference_measure
from .flip_set import FlipSet, flip_set
from .inference import InferenceWithout, inference_without
from .mislabeled import Suspects, mislabeled
from .mismatch import Mismatch, mismatch
from .receipt import Receipt, removal_receipt
from .robustness import Robustness, robustness
from .robustness_table import RobustnessTable, robustness_table
from .stability import Stability, stability
from .standard_errors import Errors
from .tokens import TokenScores, token_scores
from .trust import Trust, trust
from .vulnerability import vulnerability, vulnerable_targets

__all__ = [
    "Attack",
    "Box",
    "Conclusion",
    "Diagnostics",
    "Errors",
    "Explanation",
    "FlipSet",
    "InferenceWithout",
    "MeanPrediction",
    "Mismatch",
    "NotReversed",
    "Receipt",
    "Robustness",
    "RobustnessTable",
    "Sign",
    "Significant",
    "Stability",
    "Suspects",
    "TokenScores",
    "Trust",
    "attack",
    "diagnostics",
    "explain",
    "flip_set",
    "inference_measure",
    "inference_without",
    "mislabeled",
    "mismatch",
    "removal_receipt",
    "robustness",
    "robustness_table",
    "stability",
    "token_scores",
    "trust",
    "vulnerability",
    "vulnerable_targets",
]
