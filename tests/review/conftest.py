"""The file that most tests of the review are about; every test makes a session of its own."""

from pathlib import Path

import pytest

from tests.support.reviews import labelled
from upweight.tables import FittedFile


@pytest.fixture(scope="package")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("review") / "kinds.csv"
    labelled().to_csv(path, index=False)
    return path


@pytest.fixture(scope="package")
def fitted(file: Path) -> FittedFile:
    return FittedFile.of(file, "kind")
