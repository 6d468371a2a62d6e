"""What all tests share: the real data, several processes, how hypothesis searches, and a run without bfloat16."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import beartype
import pytest
import torch
from hypothesis import settings

from upweight.data.design import Block, DenseDesign, has_fast_bfloat16

from .support.ranks import Group
from .support.type_checks import remembered

# What the tests read from UPWEIGHT_DATA_DIR: name a file here before a test uses it.
DATA_FILES = ("mnist.npz", "enron1.parquet", "diabetic_data.parquet", "dogfish_224.zip")

# The import hook of jaxtyping asks for this name whenever it decorates a function.
beartype.beartype = remembered(beartype.beartype)  # type: ignore[assignment]

# No deadline: the first call of a torch function can take a second. In CI a failure must repeat, so nothing is random.
settings.register_profile("upweight", deadline=None)
settings.register_profile("upweight-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("upweight-ci" if os.environ.get("CI") else "upweight")


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


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Group]]:
    """`group(2)` are two processes on which many tests run their programs; they start when first asked for."""
    with ExitStack() as stack:
        started: dict[int, Group] = {}

        def of(ranks: int) -> Group:
            if ranks not in started or started[ranks].ended:
                folder = tmp_path_factory.mktemp("ranks")
                started[ranks] = stack.enter_context(closing(Group(ranks, folder)))
            return started[ranks]

        yield of


def pytest_itemcollected(item: pytest.Item) -> None:
    if "group" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group("several processes"))  # started by one worker only


# -- a run without bfloat16 -------------------------------------------------------------------------------------------

CACHED = "upweight/bfloat16"
"""Where the cache of pytest keeps which tests of the last run multiplied in bfloat16."""
_multiplied: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-bfloat16", action="store_true", help="as on a processor that has no bfloat16 arithmetic"
    )
    parser.addoption(
        "--only-bfloat16",
        action="store_true",
        help="only what multiplied in bfloat16 in the last run without this",
    )


@pytest.fixture(scope="session", autouse=True)
def _processor(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--no-bfloat16"):
            patch.setattr("upweight.data.design.has_fast_bfloat16", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _noted(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Note of each test whether it multiplies in bfloat16."""
    block, asked = DenseDesign.block, set[torch.dtype]()

    def noting(self: DenseDesign, rows: slice, dtype: torch.dtype) -> Block:
        asked.add(dtype)
        return block(self, rows, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenseDesign, "block", noting)
        yield
    if torch.bfloat16 in asked:
        record_property(CACHED, True)


def place(of: pytest.Item | pytest.TestReport) -> str:
    """File and name of a test, which pytest-xdist leaves alone where it changes node ids."""
    file, _, name = of.location
    return f"{file}::{name}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if dict(report.user_properties).get(CACHED):
        _multiplied.add(place(report))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    first = not hasattr(config, "workerinput")  # workers of pytest-xdist report to the first process
    if first and config.pluginmanager.hasplugin("cacheprovider") and not config.getoption("--no-bfloat16"):
        config.cache.set(CACHED, sorted(_multiplied))


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("--only-bfloat16") and not has_fast_bfloat16():
        pytest.exit(
            "this processor has no bfloat16 arithmetic, so the run before was without it", returncode=0
        )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--only-bfloat16") or collection_path.is_dir():
        return None  # others may decide
    wanted = {place.partition("::")[0] for place in config.cache.get(CACHED, [])}
    return None if str(collection_path.relative_to(config.rootpath)) in wanted else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--only-bfloat16"):
        wanted = set(config.cache.get(CACHED, []))
        config.hook.pytest_deselected(items=[item for item in items if place(item) not in wanted])
        items[:] = [item for item in items if place(item) in wanted]


@pytest.fixture
def quick_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates by single rows and pairs alone: those of all rows at once take seconds, and have their own tests."""
    monkeypatch.setattr("upweight.uses.joint_certificates.LARGEST", 0)
