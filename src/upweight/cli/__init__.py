"""The command line. What a command needs is imported when it runs, so that `--help` is quick."""

from . import ask, demo
from .app import app

__all__ = ["app", "ask", "demo"]
