"""What people who look cost: ``python -m benchmarks.server.viewers --json FILE``.

One bandit server, one dashboard, real workers that report all the time, and 0, 1 and 20 viewers of their run; then a
run of 100,000 events is opened that nobody has looked at before, and again, and by a browser. It ends with 1 if the
server works more than a tenth harder for twenty viewers than for one, or if the long run, once read, takes more than a
second to open.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

from benchmarks.flags import whole_number
from benchmarks.server import histories
from benchmarks.server.load import Load, Observer
from benchmarks.server.players import RUN
from benchmarks.server.site import Process, Site, free_port, ready

VIEWERS = (0, 1, 20)
EVENTS = 100_000
WORKERS = 4
WINDOW_SECONDS = 4.0
HARDER, OPENED = 1.1, 1.0
"""Highest allowed: the server's work with the most viewers as a multiple of that with one; seconds to open the long run
again."""


@contextlib.contextmanager
def viewers(url: str, run: str, count: int) -> Iterator[None]:
    """So many browsers' connections, read by a process of their own."""
    process = Process([sys.executable, "-m", __spec__.name, "--read", f"{url}/events/runs/{run}", str(count)],
                      Path(os.devnull))  # fmt: skip
    try:
        process.line()
        yield
    finally:
        process.stop()


def read(url: str, count: int) -> None:
    """Say a line once every connection has been sent something, and go on reading."""
    import asyncio

    import httpx

    async def one(client: httpx.AsyncClient, seen: asyncio.Semaphore) -> None:
        async with client.stream("GET", url) as answer:
            first = True
            async for _ in answer.aiter_bytes():
                if first:
                    seen.release()
                first = False

    async def every() -> None:
        seen = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one(client, seen))
            for _ in range(count):
                await seen.acquire()
            print("reading", flush=True)

    asyncio.run(every())


def work(server: Process, dashboard: Process, observer: Observer, seconds: float) -> dict[str, float]:
    """Processor time for each event stored, microseconds, and events a second."""
    began = time.monotonic()
    before = (observer.answers(), server.cpu, dashboard.cpu)
    time.sleep(seconds)
    after = (observer.answers(), server.cpu, dashboard.cpu)
    events = after[0] - before[0]
    return {
        "events_per_second": events / (time.monotonic() - began),
        "server_us": 1e6 * (after[1] - before[1]) / events,
        "dashboard_us": 1e6 * (after[2] - before[2]) / events,
    }


def opened(url: str, run: str) -> dict[str, float]:
    """Seconds until a viewer has been sent a run, and how much that is."""
    began = time.perf_counter()
    with urlopen(f"{url}/events/runs/{run}", timeout=120) as answer:
        whole = False
        for line in answer:
            if whole:
                return {"seconds": time.perf_counter() - began, "bytes": len(line)}
            whole = line == b"event: data\n"
    raise RuntimeError("the dashboard sent nothing")


def drawn(url: str, run: str) -> dict[str, float]:
    """Seconds until a browser has drawn a run, and the longest frame in the two seconds after, milliseconds."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        began = time.perf_counter()
        page.goto(f"{url}/runs/{run}")
        page.wait_for_selector(".u-over")
        seconds = time.perf_counter() - began
        longest = page.evaluate(
            """() => new Promise((done) => {
              let last = performance.now(), worst = 0; const end = last + 2000;
              const frame = (now) => { worst = Math.max(worst, now - last); last = now;
                now < end ? requestAnimationFrame(frame) : done(worst); };
              requestAnimationFrame(frame); })"""
        )
        browser.close()
    return {"seconds": seconds, "longest_frame_ms": longest}


def measure(turns: int) -> dict[str, Any]:
    """All there is to measure."""
    with tempfile.TemporaryDirectory(prefix="optima-viewers-") as name, Site(Path(name), client_processes=0) as site:
        server = site.ours()
        ready(server)
        port = free_port()
        dashboard = site.python("bandit_server.cli", "dashboard", "--port", str(port), "--server", server.address)
        url = f"http://127.0.0.1:{port}"
        _up(url)
        histories.write(site.redis, "long", (EVENTS - 2) // 2, "w")
        told: dict[str, Any] = {"load": {str(count): [] for count in VIEWERS}}
        observer = Observer(server.address)
        with Load(server.address, Path(name), WORKERS) as load:
            load.go()
            for _ in range(turns):
                for count in VIEWERS:
                    with viewers(url, RUN, count) if count else contextlib.nullcontext():
                        told["load"][str(count)].append(work(server, dashboard, observer, WINDOW_SECONDS))
        observer.close()
        told["long"] = {"events": EVENTS, "first": opened(url, "long"), "again": opened(url, "long")}
        told["long"]["browser"] = drawn(url, "long")
        told["long"]["dashboard_mb"] = dashboard.resident / 1e6
    return told


def _up(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(f"{url}/healthz", timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.viewers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--turns", type=whole_number(1), default=5, metavar="N", help="of each number of viewers (default: 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers are written")
    parser.add_argument("--read", nargs=2, metavar=("URL", "COUNT"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.read:
        read(asked.read[0], int(asked.read[1]))
        return
    told = measure(asked.turns)
    print(f"{'viewers':>8}{'events/s':>10}{'server us/event':>17}{'dashboard us/event':>20}")
    for count, rows in told["load"].items():
        shown = (median(row[key] for row in rows) for key in ("events_per_second", "server_us", "dashboard_us"))
        print("{:>8}{:>10.0f}{:>17.0f}{:>20.0f}".format(count, *shown))
    one, most = (told["load"][str(count)] for count in VIEWERS[1:])
    told["harder"] = median(a["server_us"] / b["server_us"] for a, b in zip(most, one, strict=True))
    long = told["long"]
    first, again, browser = (long[who] for who in ("first", "again", "browser"))
    print(
        f"the server's work for {VIEWERS[-1]} viewers is {told['harder']:.2f} of that for one (at most {HARDER:g})\n"
        f"a run of {EVENTS:,} events: {first['seconds']:.2f} s for the first viewer, {again['seconds']:.2f} s for the "
        f"next (at most {OPENED:g}), {again['bytes'] / 1e3:.0f} kB; a browser has drawn it after "
        f"{browser['seconds']:.2f} s, its longest frame is {browser['longest_frame_ms']:.0f} ms; the dashboard holds "
        f"{long['dashboard_mb']:.0f} MB"
    )
    if asked.json:
        about = {
            "command": "python -m benchmarks.server.viewers",
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
        }
        asked.json.write_text(json.dumps(about | told, indent=1) + "\n", encoding="utf-8")
    if told["harder"] > HARDER or again["seconds"] > OPENED:
        sys.exit(1)


if __name__ == "__main__":
    main()
