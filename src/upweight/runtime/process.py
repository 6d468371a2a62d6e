"""Which of several processes this is, known without loading torch."""

from __future__ import annotations

import os
import sys

STARTED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""


def started_with_others() -> bool:
    """Whether torchrun started this process and others with it; its environment says so.

    >>> started_with_others()
    False
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and all(name in os.environ for name in STARTED_BY)


def rank() -> int:
    """The number of this process in its job, from 0; the first one speaks on the terminal, all others are silent.

    >>> rank()
    0
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ["RANK"]) if started_with_others() else 0
