"""A user's file: its columns understood, a model of it, and the rows that are asked about."""

from .asked import Asked, asked_about, default_measure
from .columns import Table, understood
from .conditions import fulfilling, row_label
from .default_models import described, photograph, sensible
from .file_models import FileModel, fitted_here, from_function, from_skops, read_skops
from .fitted_file import FittedFile
from .held_out import Unseen, unseen
from .kinds import Kind, is_kind, is_quantity, kind_of
from .reading import INPUT, FileError, FileRead, Options, check_column, inside, opened, read, row_ids
from .spreadsheet import inert

__all__ = [
    "INPUT",
    "Asked",
    "FileError",
    "FileModel",
    "FileRead",
    "FittedFile",
    "Kind",
    "Options",
    "Table",
    "Unseen",
    "asked_about",
    "check_column",
    "default_measure",
    "described",
    "fitted_here",
    "from_function",
    "from_skops",
    "fulfilling",
    "inert",
    "inside",
    "is_kind",
    "is_quantity",
    "kind_of",
    "opened",
    "photograph",
    "read",
    "read_skops",
    "row_ids",
    "row_label",
    "sensible",
    "understood",
    "unseen",
]
