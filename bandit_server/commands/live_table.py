"""`optima runs watch`: a live table of one run, with the numbers of the dashboard's page."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import cast

import click
import grpc

from bandit_server.commands.client_options import Target
from bandit_server.dashboard.view.summaries import Summary, run_detail
from protos.optima.v1 import bandit_pb2 as pb

# Seconds between two calls of GetRun, and the deadline of each. The call does not make the server read the history.
INTERVAL = 1.0
DEADLINE = 3.0
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
SPARKS = "▁▂▃▄▅▆▇█"
NONE = "–"


def watch_run(client: Target, run: str, once: bool) -> None:
    """Print the run until Ctrl-C, or once. A terminal is redrawn in place; other output gets a copy per change.

    A server that becomes unreachable after the first response is waited for; any other error ends the command.

    Args:
        client: The server.
        run: The run's name.
        once: Print it once and return.
    """
    in_place = sys.stdout.isatty() and not once
    summary: pb.RunSummary | None = None
    version, updated, unreachable = -1, 0.0, False
    try:
        with client.connected() as (stub, metadata):
            while True:
                was_unreachable = unreachable
                try:
                    summary = stub.GetRun(pb.GetRunRequest(run=run), timeout=DEADLINE, metadata=metadata).run
                    updated, unreachable = time.time(), False
                except grpc.RpcError as error:
                    if summary is None or cast(grpc.Call, error).code() not in UNREACHABLE:
                        raise
                    unreachable = True
                if in_place or summary.version != version or unreachable != was_unreachable:
                    lines = table_lines(run_detail(summary, updated), time.time())
                    if unreachable:
                        at = time.strftime("%H:%M:%S", time.localtime(updated))
                        lines = [f"Server unreachable, showing data from {at}.", *lines]
                    _print(lines, in_place)
                version = summary.version
                if once:
                    return
                time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return


def _print(lines: Sequence[str], in_place: bool) -> None:
    if not in_place:
        click.echo("\n".join([*lines, ""]))
        return
    width, height = shutil.get_terminal_size()
    visible = [f"{line[:width]}\x1b[K" for line in lines[: height - 1]]
    click.echo("\x1b[H" + "\n".join(visible) + "\n\x1b[J", nl=False)


def table_lines(run: Summary, now: float) -> list[str]:
    """Format a run as lines of text.

    Args:
        run: The run (`run_detail`).
        now: Unix seconds, for ages.
    """
    restored = ", restored, may be incomplete" if run["restored"] else ""
    planned = f" of {run['planned']:,}" if run["planned"] else ""
    rounds = f"{run['rounds']:,}{planned} rounds ({run['tail_rounds']:,} in the tail, {run['diverged']:,} diverged)"
    loss = "total loss not measured yet"
    if run["last_loss"] is not None:
        change = f" ({-run['decrement']:+.1%} from {run['first_loss']:.4g})" if run["decrement"] is not None else ""
        loss = f"total loss {run['last_loss']:.4g}{change}  {spark(run['recent_losses'])}".rstrip()
    head = [
        f"{run['run']}: {run['state']}{restored}, policy {run['policy']}",
        f"{rounds}, last event {age(now - run['updated'])} ago",
        loss,
        "",
    ]
    return [*head, *_columns(_arms(run)), "", *_columns(_workers(run, now))]


def spark(losses: Sequence[float | None]) -> str:
    """Format losses as a line of bars; "" with fewer than two."""
    known = [loss for loss in losses if loss is not None]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    step = (high - low) / (len(SPARKS) - 1) or 1.0
    return "".join(SPARKS[round((loss - low) / step)] for loss in known)


def age(seconds: float) -> str:
    """Format a duration in whole units."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _arms(run: Summary) -> list[tuple[str, ...]]:
    pulls = sum(arm["pulls"] for arm in run["arms"]) or 1

    def reward(value: float | None, sign: str = "+") -> str:
        if value is None:
            return NONE
        return f"{value:{sign}.2%}" if run["relative"] else f"{value:{sign}.4g}"

    rows: list[tuple[str, ...]] = [
        ("ARM", "NEXT REWARD", "P(BEST)", "PULLS", "SHARE", "LAST REWARD", "LOSS DECREMENT", "TRAINING TIME")
    ]
    for arm in run["arms"]:
        known = arm["mean"] is not None
        rows.append(
            (
                arm["name"] + (" (paused)" if arm["paused"] else ""),
                f"{reward(arm['mean'])} ± {reward(arm['sd'], '')}" if known else NONE,
                f"{arm['p_best']:.0%}" if arm["p_best"] is not None else NONE,
                f"{arm['pulls']:,}",
                f"{arm['pulls'] / pulls:.0%}",
                reward(arm["last_reward"]),
                f"{arm['total_decrement'] or 0:.4g}" if arm["pulls"] else NONE,
                age(arm["total_seconds"] or 0) if arm["pulls"] else NONE,
            )
        )
    return rows


def _workers(run: Summary, now: float) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("WORKER", "STATE", "HEARTBEAT", "ROUND", "REPORTS", "SPEED", "RANKS", "DEVICE")]
    for worker in run["workers"]:
        gone = "done" if worker["done"] else "gone" if run["state"] == "finished" else "silent"
        speed = worker["steps_per_second"]
        rows.append(
            (
                worker["worker"],
                "alive" if worker["alive"] else gone,
                f"{age(now - worker['heard'])} ago" if worker["heard"] is not None else NONE,
                f"{worker['round']:,}",
                f"{worker['reports']:,}",
                f"{speed:.3g} steps/s" if speed else NONE,
                str(worker["ranks"] or NONE),
                worker["device"] or NONE,
            )
        )
    return rows


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
