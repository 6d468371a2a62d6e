"""The review page in a browser: 30 decisions by keyboard, the server killed half way, nothing lost, how fast.

    python -m benchmarks review                         50,000 made-up rows of 20 numbers and 5 categories
    python -m benchmarks review --file train.csv --target label
    python -m benchmarks review --rows 200000 --decided 20000       a review that is far on; beside it --decided 5

Needs the extra "review", Playwright (pip install playwright) and Chromium (--chromium). Prints the time from a key to
the next row's page, kept apart from the server's own answers, and whether the exported file is what was decided.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from playwright.sync_api import Browser, Page, Request, sync_playwright

from benchmarks.review_pages import decided_before, made_up
from experiments import commands

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def start(file: Path, target: str, journal: Path) -> tuple[subprocess.Popen, str]:
    """A server and its address."""
    words = ["review", str(file), "--target", target, "--no-browser", "--journal", str(journal)]
    server = subprocess.Popen([sys.executable, "-m", "upweight", *words], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if "token=" in line:
            return server, line.strip()
    raise SystemExit("the server did not start")


def decide(page: Page, keys: Any, count: int) -> tuple[list[dict[str, Any]], list[float], list[float]]:
    """What was decided by keys, seconds from each key to the next row's page, and the server's share of them."""
    decisions, seconds, served = [], [], []
    for _ in range(count):
        key = next(keys)
        row = int(page.locator("input[name=row]").first.get_attribute("value") or -1)
        button = page.locator(f"[data-key={key}]")
        if not button.count():  # the model agrees with the label: there is nothing to relabel
            key, button = "k", page.locator("[data-key=k]")
        label = page.locator("form:has([data-key=r]) input[name=label]")
        given = label.get_attribute("value") if key == "r" else None
        before = time.perf_counter()
        with page.expect_navigation(wait_until="load", timeout=120_000):
            page.keyboard.press(key)
        seconds.append(time.perf_counter() - before)
        timing = page.evaluate(
            "(() => { const t = performance.getEntriesByType('navigation')[0]; return t.responseEnd - t.startTime })()"
        )
        served.append(timing / 1000)
        decisions.append({"row": row, "action": key, "label": given})
    return decisions, seconds, served


def opened(browser: Browser, address: str, said: list[str]) -> Page:
    """The page; what it says in its console and asks of elsewhere is added to `said`."""
    page, home = (
        browser.new_context(viewport={"width": 1280, "height": 900}).new_page(),
        address.partition("?")[0],
    )

    def noted(request: Request) -> None:
        if not request.url.startswith((home, "data:")):
            said.append(request.url)

    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", noted)
    page.goto(address)
    return page


def expected(file: Path, target: str, decisions: list[dict[str, Any]]) -> bytes:
    """The file with the decisions applied."""
    table = pd.read_csv(file, dtype=str, na_filter=False)
    for d in decisions:
        if d["label"] is not None:
            table.loc[d["row"], target] = d["label"]
    table = table.drop(index=[d["row"] for d in decisions if d["action"] == "d"])
    return table.to_csv(index=False).encode()


def main(argv: Sequence[str] | None = None) -> None:
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--target", default="label")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--decided", type=int, default=0, help="rows that are decided before it begins")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file, journal = asked.file or Path(folder) / "rows.csv", Path(folder) / "decisions"
        if asked.file is None:
            made_up(asked.rows).to_csv(file, index=False)
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=FLAGS)
        before = decided_before(journal, file, asked.target, asked.decided) if asked.decided else []
        keys = itertools.cycle("rrkrds")
        decisions: list[dict[str, Any]] = []
        seconds: list[float] = []
        served: list[float] = []
        said: list[str] = []
        for half in (15, 15):
            began = time.perf_counter()
            server, address = start(file, asked.target, journal)
            print(f"from the command to the address: {time.perf_counter() - began:.1f} s")
            page, home = opened(browser, address, said), address.partition("?")[0]
            made, took, own = decide(page, keys, half)
            decisions, seconds, served = decisions + made, seconds + took, served + own
            if half == 15 and len(decisions) == 30:
                with page.expect_download(timeout=600_000) as download:
                    page.keyboard.press("e")
                exported = Path(download.value.path()).read_bytes()
            if asked.shots and len(decisions) == 30:
                shoot(page, home, asked.shots)
            page.close()  # what a page says of a dead server is not counted
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
        if file.suffix == ".csv":
            right = exported == expected(file, asked.target, before + decisions)
            print(f"exported file {'is' if right else 'IS NOT'} what was decided, byte for byte")
        kinds = {key: sum(d["action"] == key for d in decisions) for key in "krds"}
        print(f"{len(decisions)} decisions by keyboard ({kinds}), the server killed after 15 and after 30")
        for name, values in (("key to next row's page", seconds), ("of that, until its last byte", served)):
            print(
                f"{name}: median {1000 * statistics.median(values):.0f} ms, largest {1000 * max(values):.0f} ms"
            )
        print(f"console messages, errors, requests to elsewhere: {said or 'none'}")


def shoot(page: Page, home: str, folder: Path) -> None:
    """Screenshots of a row and the list, wide and narrow, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    for width, scheme, path in itertools.product((1280, 400), ("light", "dark"), ("", "list")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(home + path)
        page.screenshot(path=folder / f"review-{path or 'row'}-{width}-{scheme}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            print(f"{path or 'row'} at {width} px is {wide} px wide")
