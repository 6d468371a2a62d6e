"""Reports: an explanation of a prediction, with its verification, as one HTML file that can be sent on."""

from .conclusions import RobustPart, robust_part, write_conclusions
from .examples import Example, file_example, training_examples
from .file_page import explained_row, explained_rows
from .page import Page, data_uri, figure_uri, image_uri, in_words, marked, sha256, templates, write

__all__ = [
    "Example",
    "Page",
    "RobustPart",
    "data_uri",
    "explained_row",
    "explained_rows",
    "figure_uri",
    "file_example",
    "image_uri",
    "in_words",
    "marked",
    "robust_part",
    "sha256",
    "templates",
    "training_examples",
    "write",
    "write_conclusions",
]
