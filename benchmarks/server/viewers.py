"""The cost of viewers: ``python -m benchmarks.server.viewers --json FILE``.

It starts a bandit server, a dashboard and workers that report all the time, and measures with 0, 1 and 20 viewers of
their run. Then it opens a run of 100,000 events for the first time, again, and in a browser. The exit status is 1 if
the server works over a tenth more for twenty viewers than for one, or if opening the long run again takes over one
second.
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
from benchmarks.server.load_workers import RUN
from benchmarks.server.testbed import Process, Testbed, free_port, wait_until_ready

VIEWERS = (0, 1, 20)
EVENTS = 100_000
WORKERS = 4
WINDOW_SECONDS = 4.0
# The highest allowed ratio of the server's work with the most viewers to that with one.
MAX_WORK_RATIO = 1.1
# The highest allowed number of seconds to open the long run again.
MAX_OPEN_SECONDS = 1.0


@contextlib.contextmanager
def viewers(url: str, run: str, count: int) -> Iterator[None]:
    """Connect as `count` viewers, in a process of their own, while the context lasts."""
    process = Process([sys.executable, "-m", __spec__.name, "--read", f"{url}/events/runs/{run}", str(count)],
                      Path(os.devnull))  # fmt: skip
    try:
        process.read_line()
        yield
    finally:
        process.stop()


def read(url: str, count: int) -> None:
    """Read `count` streams for ever; print a line once each has received something."""
    import asyncio

    import httpx

    async def one(client: httpx.AsyncClient, seen: asyncio.Semaphore) -> None:
        async with client.stream("GET", url) as response:
            first = True
            async for _ in response.aiter_bytes():
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
    """Return the processor time for each stored event, in microseconds, and the events per second."""
    began = time.monotonic()
    before = (observer.wait_for_answer(), server.cpu, dashboard.cpu)
    time.sleep(seconds)
    after = (observer.wait_for_answer(), server.cpu, dashboard.cpu)
    events = after[0] - before[0]
    return {
        "events_per_second": events / (time.monotonic() - began),
        "server_us": 1e6 * (after[1] - before[1]) / events,
        "dashboard_us": 1e6 * (after[2] - before[2]) / events,
    }


def open_run(url: str, run: str) -> dict[str, float]:
    """Open a run as a viewer; return the seconds until it has been sent, and its size in bytes."""
    began = time.perf_counter()
    with urlopen(f"{url}/events/runs/{run}", timeout=120) as response:
        whole = False
        for line in response:
            if whole:
                return {"seconds": time.perf_counter() - began, "bytes": len(line)}
            whole = line == b"event: data\n"
    raise RuntimeError("the dashboard sent nothing")


def open_in_browser(url: str, run: str) -> dict[str, float]:
    """Open a run in a browser.

    Returns:
        The seconds until it is drawn, and the longest frame of the two seconds after that, in milliseconds.
    """
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
    """Measure everything and return the results, for JSON."""
    with (
        tempfile.TemporaryDirectory(prefix="optima-viewers-") as name,
        Testbed(Path(name), client_processes=0) as testbed,
    ):
        server = testbed.start_server()
        wait_until_ready(server)
        port = free_port()
        dashboard = testbed.start_module(
            "bandit_server.cli", "dashboard", "--port", str(port), "--server", server.address
        )
        url = f"http://127.0.0.1:{port}"
        _wait_for_dashboard(url)
        histories.write(testbed.redis, "long", (EVENTS - 2) // 2, "w")
        results: dict[str, Any] = {"load": {str(count): [] for count in VIEWERS}}
        observer = Observer(server.address)
        with Load(server.address, Path(name), WORKERS) as load:
            load.go()
            for _ in range(turns):
                for count in VIEWERS:
                    with viewers(url, RUN, count) if count else contextlib.nullcontext():
                        results["load"][str(count)].append(work(server, dashboard, observer, WINDOW_SECONDS))
        observer.close()
        results["long"] = {"events": EVENTS, "first": open_run(url, "long"), "again": open_run(url, "long")}
        results["long"]["browser"] = open_in_browser(url, "long")
        results["long"]["dashboard_mb"] = dashboard.resident / 1e6
    return results


def _wait_for_dashboard(url: str) -> None:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.viewers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--turns", type=whole_number(1), default=5, metavar="N", help="turns of each number of viewers (default: 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--read", nargs=2, metavar=("URL", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.read:
        read(arguments.read[0], int(arguments.read[1]))
        return
    results = measure(arguments.turns)
    print(f"{'viewers':>8}{'events/s':>10}{'server us/event':>17}{'dashboard us/event':>20}")
    for count, rows in results["load"].items():
        values = (median(row[key] for row in rows) for key in ("events_per_second", "server_us", "dashboard_us"))
        print("{:>8}{:>10.0f}{:>17.0f}{:>20.0f}".format(count, *values))
    one, most = (results["load"][str(count)] for count in VIEWERS[1:])
    results["harder"] = median(a["server_us"] / b["server_us"] for a, b in zip(most, one, strict=True))
    long = results["long"]
    first, again, browser = (long[key] for key in ("first", "again", "browser"))
    print(
        f"the server's work for {VIEWERS[-1]} viewers is {results['harder']:.2f} times that for one "
        f"(at most {MAX_WORK_RATIO:g})\n"
        f"a run of {EVENTS:,} events: {first['seconds']:.2f} s for the first viewer, {again['seconds']:.2f} s for the "
        f"next (at most {MAX_OPEN_SECONDS:g}), {again['bytes'] / 1e3:.0f} kB; a browser draws it within "
        f"{browser['seconds']:.2f} s, its longest frame is {browser['longest_frame_ms']:.0f} ms; the dashboard holds "
        f"{long['dashboard_mb']:.0f} MB"
    )
    if arguments.json:
        about = {
            "command": "python -m benchmarks.server.viewers",
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
        }
        arguments.json.write_text(json.dumps(about | results, indent=1) + "\n", encoding="utf-8")
    if results["harder"] > MAX_WORK_RATIO or again["seconds"] > MAX_OPEN_SECONDS:
        sys.exit(1)


if __name__ == "__main__":
    main()
