"""The file under review: it must stay as it was read, for decisions name its rows by their places."""

from __future__ import annotations

from pathlib import Path

import xxhash

from ..runtime.paths import file_hash
from ..tables.reading import FileError


class Watched:
    """A file that must stay as it is while it is reviewed: decisions name its rows by their places.

    Args:
        path: The file.
        hash: The hash of its bytes (`file_hash`) when it was read.
    """

    def __init__(self, path: Path, hash: str) -> None:
        self.path, self.hash = path, hash
        self._seen: tuple[int, ...] = ()

    def check(self) -> None:
        """The file is as it was read; it is hashed again only where its inode, size or times have changed.

        Raises FileError where it is not, or is gone.
        """
        try:
            about = self.path.stat()
            seen = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            if seen != self._seen:
                self._compare(file_hash(self.path))
        except OSError as error:
            raise FileError(f"{self.path} cannot be read any more ({error.strerror}): put it back") from error
        self._seen = seen

    def content(self) -> bytes:
        """All bytes of the file. Raises FileError where they are not what was read."""
        try:
            found = self.path.read_bytes()
        except OSError as error:
            raise FileError(f"{self.path} cannot be read any more ({error.strerror}): put it back") from error
        self._compare(xxhash.xxh3_128(found).hexdigest())
        return found

    def _compare(self, hash: str) -> None:
        if hash != self.hash:
            raise FileError(
                f"{self.path.name} has changed since the review began: its rows may be others now, so nothing is "
                "decided or exported. Put the file back as it was; or end the review, and start one of the new file "
                "with another --journal"
            )
