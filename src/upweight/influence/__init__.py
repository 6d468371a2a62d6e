"""The paper's formulas, and the scores that they give."""

from .defaults import Settings
from .gradient_index import GradientIndex
from .index_recorder import IndexRecorder
from .influence import Influence
from .leave_one_out import LeaveOneOut
from .removal import Removal
from .score_store import ScoreStore
from .scores import Scores
from .unrolled import Unrolled

__all__ = [
    "GradientIndex",
    "IndexRecorder",
    "Influence",
    "LeaveOneOut",
    "Removal",
    "ScoreStore",
    "Scores",
    "Settings",
    "Unrolled",
]
