"""Where the page can be reached: on this machine, by its own name, and nowhere else."""

import socket

import pytest

from tests.support.reviews import session_of
from upweight.review import server
from upweight.review.journal import file_hash


def test_only_this_machine_is_listened_to(fitted, monkeypatch: pytest.MonkeyPatch):
    heard: list[tuple[str, int]] = []

    class Server:
        def __init__(self, config: object) -> None:
            pass

        def run(self, sockets: list[socket.socket]) -> None:
            heard.extend(listening.getsockname() for listening in sockets)

    monkeypatch.setattr("upweight.review.server.uvicorn.Server", Server)
    told: list[str] = []
    server.serve(session_of(fitted), lambda: ("labels.csv", b""), announce=told.append, browser=False)
    ((host, port),) = heard
    assert host == "127.0.0.1"
    assert told[0].startswith(f"http://127.0.0.1:{port}/?token=")


def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("upweight.review.journal.PART", 4)
    path = tmp_path / "file.csv"
    found = set()
    for words in (b"", b"abcdefghij", b"Xbcdefghij", b"abcdXfghij", b"abcdefghiX", b"abcdefghijk"):
        path.write_bytes(words)
        found.add(file_hash(path))
    assert len(found) == 6
