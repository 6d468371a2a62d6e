"""The label-review page: suspicious rows one by one, decisions by keyboard, a journal that loses none of them.

It is served with starlette: `pip install "upweight[review]"`.
"""

from .access import Guard, Keys
from .export import corrected_file
from .journal import ACTIONS, Decision, Journal
from .pages import Export, Pages, State
from .server import application, serve
from .session import Fit, Session

__all__ = [
    "ACTIONS",
    "Decision",
    "Export",
    "Fit",
    "Guard",
    "Journal",
    "Keys",
    "Pages",
    "Session",
    "State",
    "application",
    "corrected_file",
    "serve",
]
