"""Files that are there whole or not at all: every file that upweight writes is written this way.

Each is written under a name of its own first, so that two jobs never write the same bytes of a folder, and takes its
place once the disk has it. What a killed job has left is told from what another job is writing now by a lock, which
ends with its process.
"""

from __future__ import annotations

import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there nothing that is unfinished is deleted
    fcntl = None  # type: ignore[assignment]

NAMED = 50
"""Characters of a file's name that the file written first bears."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A name to write a file under; afterwards the file takes the place of `path`, when the disk has all of it.

    After an exception, also a killed process or a power cut, what was there before is still there. A file that is
    replaced keeps its permissions; what is no file (a pipe, /dev/stdout) is written to directly.

    Raises OSError where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole(f"{folder}/a.txt") as part:
    ...         _ = part.write_text("all of it")
    ...     [entry.read_text() for entry in Path(folder).iterdir()]
    ['all of it']
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a link stays one
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    remove_unfinished(path.parent, f"{glob.escape(path.name[:NAMED])}.*.part")
    part, held = _begun(path)
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if path.exists():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        part.replace(path)
        _kept(path.parent)
    finally:
        part.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def remove_unfinished(folder: Path, pattern: str = "*.part") -> None:
    """Delete what killed jobs have left half written in a folder, and nothing that a job is writing now.

    Args:
        folder: where they are.
        pattern: what their names look like.
    """
    for part in folder.glob(pattern) if fcntl is not None else ():
        with suppress(OSError):  # locked by the job that writes it, gone by now, or on a disk without locks
            looked_at = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(looked_at)


def _begun(path: Path) -> tuple[Path, int | None]:
    """A new file beside `path`, and what holds its lock until it is closed."""
    while True:
        part = path.with_name(f"{path.name[:NAMED]}.{secrets.token_hex(4)}.part")
        held = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(held)
            return part, None
        with suppress(OSError):  # a disk without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if os.fstat(held).st_nlink:
            return part, held
        os.close(held)  # another job took it for a killed one's before it was locked


def _kept(folder: Path) -> None:
    """The names of a folder are on the disk when this returns, where the system can say so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
