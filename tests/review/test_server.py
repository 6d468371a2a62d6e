"""The server as a process: killed, it has lost nothing."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pandas as pd
import pytest

from tests.support.files import run


def start(file: Path, *options: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "upweight", "review", str(file), "--target", "kind", "--no-browser"]
    server = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert server.stderr is not None
    for line in server.stderr:
        if "token=" in line:
            return server, line.strip()
    pytest.fail(f"the server ended with {server.wait()}")


def test_a_killed_server_has_lost_nothing(file, tmp_path):
    file = Path(shutil.copy(file, tmp_path))
    given: dict[int, str] = {}
    for rows in (range(0, 6), range(6, 10)):
        server, address = start(file)
        home = address.partition("/?")[0]
        try:
            with httpx2.Client(
                base_url=home, headers={"origin": home}, follow_redirects=True, timeout=60
            ) as browser:
                assert browser.get(address).status_code == 200
                for row in rows:
                    action = ("drop", "keep")[row % 2]
                    assert browser.post("/decide", data={"row": row, "action": action}).status_code == 200
                    given[row] = action
                if rows.stop == 10:
                    exported = browser.get("/export").content
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
            server.stderr.close()  # type: ignore[union-attr]
    written = pd.read_csv(io.BytesIO(exported))
    gone = [row for row, action in given.items() if action == "drop"]
    pd.testing.assert_frame_equal(written, pd.read_csv(file).drop(index=gone).reset_index(drop=True))

    out = file.with_name("mended.csv")
    assert run("review", file, "--target", "kind", "--export", out).exit_code == 0
    assert out.read_bytes() == exported
