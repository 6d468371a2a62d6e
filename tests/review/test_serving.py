"""Where the page can be reached: on this machine, by its own name, and nowhere else."""

import socket

import pytest

from tests.support.reviews import session_of
from upweight.review import server


def test_only_this_machine_is_listened_to(fitted, monkeypatch: pytest.MonkeyPatch):
    heard: list[tuple[str, int]] = []

    class Server:
        def __init__(self, config: object) -> None:
            pass

        def run(self, sockets: list[socket.socket]) -> None:
            heard.extend(listening.getsockname() for listening in sockets)

    monkeypatch.setattr("upweight.review.server.uvicorn.Server", Server)
    told: list[str] = []
    server.serve(session_of(fitted), lambda: ("labels.csv", b""), port=0, announce=told.append, browser=False)
    ((host, port),) = heard
    assert host == "127.0.0.1"
    assert told[0].startswith(f"http://127.0.0.1:{port}/?token=")
