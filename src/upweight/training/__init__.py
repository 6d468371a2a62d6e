"""Recorded runs of training: replayed step by step, and differentiated from the last step to the first."""

from .recorder import Recorder
from .rules import OptimizerRule, register_optimizer
from .run import TrainingRun
from .segments import Segments
from .trainer import TrainerRecorder, from_trainer

__all__ = [
    "OptimizerRule",
    "Recorder",
    "Segments",
    "TrainerRecorder",
    "TrainingRun",
    "from_trainer",
    "register_optimizer",
]
