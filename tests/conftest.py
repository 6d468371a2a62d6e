"""What all tests share: the real data, and how hypothesis searches."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# What the tests read from UPWEIGHT_DATA_DIR: name a file here before a test uses it.
DATA_FILES = ("mnist.npz", "enron1.parquet", "diabetic_data.parquet", "dogfish_224.zip")

# No deadline: the first call of a torch function can take a second. In CI a failure must repeat, so nothing is random.
settings.register_profile("upweight", deadline=None)
settings.register_profile("upweight-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("upweight-ci" if os.environ.get("CI") else "upweight")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-bfloat16", action="store_true", help="as on a processor that has no bfloat16 arithmetic"
    )


@pytest.fixture(scope="session", autouse=True)
def _processor(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--no-bfloat16"):
            patch.setattr("upweight.data.design.has_fast_bfloat16", lambda: False)
        yield


def missing_data(folder: str | None) -> str | None:
    """Why the real data cannot be used from `folder`, or None if it can."""
    if not folder:
        return "UPWEIGHT_DATA_DIR is not set: point it at the folder of the real data"
    if not Path(folder).is_dir():
        return f"UPWEIGHT_DATA_DIR={folder} is not a folder"
    missing = [name for name in DATA_FILES if not (Path(folder) / name).is_file()]
    return f"UPWEIGHT_DATA_DIR={folder} lacks {', '.join(missing)}" if missing else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data; skips without it, or fails if UPWEIGHT_REQUIRE_DATA is set."""
    folder = os.environ.get("UPWEIGHT_DATA_DIR")
    if reason := missing_data(folder):
        if os.environ.get("UPWEIGHT_REQUIRE_DATA"):
            pytest.fail(f"{reason} (a failure because UPWEIGHT_REQUIRE_DATA is set)")
        pytest.skip(reason)
    assert folder is not None
    return Path(folder)
