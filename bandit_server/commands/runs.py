"""`optima runs list | show | watch | export | finish | delete`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import IO, cast

import click

from bandit_server.commands.client_options import Target, server_options
from bandit_server.commands.live_table import watch_run
from bandit_server.dashboard.view import export
from protos.optima.v1 import bandit_pb2 as pb

DEADLINE = 10.0


@click.group()
@server_options
@click.pass_context
def runs(context: click.Context, target: Target) -> None:
    """List, show, watch, export, finish and delete runs."""
    context.obj = target


@runs.command("list")
@click.pass_obj
def list_runs(client: Target) -> None:
    """List all runs, newest first."""
    rows: list[tuple[str, ...]] = [("RUN", "STATE", "POLICY", "REPORTS", "LOSS", "WORKERS", "CREATED")]
    with client.connected() as (stub, metadata):
        request = pb.ListRunsRequest()
        while True:
            page = stub.ListRuns(request, timeout=DEADLINE, metadata=metadata)
            rows += [_row(run) for run in page.runs]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    _table(rows)


@runs.command()
@click.argument("run")
@click.pass_obj
def show(client: Target, run: str) -> None:
    """Show a run: its arms and workers."""
    with client.connected() as (stub, metadata):
        summary = stub.GetRun(pb.GetRunRequest(run=run), timeout=DEADLINE, metadata=metadata).run
    restored = ", restored, may be incomplete" if summary.restored else ""
    policy = summary.spec.policy
    options = ", ".join(f"{name} {value:g}" for name, value in sorted(policy.options.items()))
    policy_text = f"{policy.name} ({options})" if options else policy.name
    click.echo(f"{summary.run}: {_state(summary)}{restored}, policy {policy_text}, seed {summary.spec.seed}")
    click.echo(
        f"{summary.pulls} pulls, {summary.reports} reports ({summary.tail_rounds} in the tail, {summary.diverged} "
        f"diverged), loss {_loss(summary)}\n"
    )
    arms = [("ARM", "PULLS", "MEAN", "SD", "P(BEST)", "LAST REWARD", "MODULES")]
    for arm in summary.arms:
        known = arm.HasField("mean")
        arms.append(
            (
                arm.arm.name + (" (paused)" if arm.paused else ""),
                str(arm.pulls),
                f"{arm.mean:+.3%}" if known else "",
                f"{arm.sd:.3%}" if known else "",
                f"{arm.p_best:.0%}" if known else "",
                f"{arm.last_reward:+.3%}" if arm.HasField("last_reward") else "",
                _abbreviated(arm.arm.modules),
            )
        )
    _table(arms)
    workers = [("WORKER", "ALIVE", "ROUND", "REPORTS", "RANKS", "DEVICE")]
    for worker in summary.workers:
        alive = "yes" if worker.alive else "no"
        row = (worker.worker, alive, str(worker.round), str(worker.reports), str(worker.info.ranks), worker.info.device)
        workers.append(row)
    click.echo()
    _table(workers)


@runs.command()
@click.argument("run")
@click.option("--once", is_flag=True, help="Print the run once and exit.")
@click.pass_obj
def watch(client: Target, run: str, once: bool) -> None:
    """Show a run live, until Ctrl-C."""
    watch_run(client, run, once)


@runs.command("export")
@click.argument("run")
@click.option("--table", type=click.Choice(["events", *export.COLUMNS]), default="events", show_default=True,
              help="The events as recorded, or a table made of them.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True,
              help="Format of a table.")  # fmt: skip
@click.option("--output", type=click.File("w", encoding="utf-8", lazy=True, atomic=True), default="-",
              help="File to write (default: standard output).")  # fmt: skip
@click.pass_obj
def export_run(client: Target, run: str, table: str, form: export.Format, output: IO[str]) -> None:
    """Export a run's whole history.

    The table `events` is one JSON object per line (schema: Event in protos/optima/v1/bandit.proto). The others have a
    row for each pull; for each arm at each posterior; or for each loss, term and metric that was measured.
    """
    if table == "events" and form == "csv":
        raise click.UsageError("events have no CSV format: choose --table pulls, posterior or losses")
    history = export.RunTables()
    with client.connected() as (stub, metadata):
        for batch in stub.WatchRun(pb.WatchRunRequest(run=run), metadata=metadata):
            if table == "events":
                output.writelines(map(export.event_line, batch.events))
            else:
                history.add(batch)
            if batch.live:
                break
    if table != "events":
        name = cast(export.Table, table)
        output.writelines(export.format_rows(name, form, history.rows(name)))


@runs.command()
@click.argument("run")
@click.pass_obj
def finish(client: Target, run: str) -> None:
    """End a run.

    Its workers export their students and exit when they next select an arm.
    """
    with client.connected() as (stub, metadata):
        stub.FinishRun(pb.FinishRunRequest(run=run, actor="optima runs finish"), timeout=DEADLINE, metadata=metadata)
    click.echo(f"finished {run}")


@runs.command()
@click.argument("run")
@click.option("--force", is_flag=True, help="Delete it even if workers are alive; they continue without a server.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def delete(client: Target, run: str, force: bool, yes: bool) -> None:
    """Delete a run's history; its name cannot be used again for 30 days."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete run {run} and its history permanently?", abort=True)
    with client.connected() as (stub, metadata):
        stub.DeleteRun(pb.DeleteRunRequest(run=run, force=force), timeout=DEADLINE, metadata=metadata)
    click.echo(f"deleted {run}")


def _row(run: pb.RunSummary) -> tuple[str, ...]:
    alive = sum(worker.alive for worker in run.workers)
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))
    workers = f"{alive} of {len(run.workers)}"
    return run.run, _state(run), run.spec.policy.name, str(run.reports), _loss(run), workers, created


def _state(run: pb.RunSummary) -> str:
    return pb.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def _loss(run: pb.RunSummary) -> str:
    if not run.HasField("last_loss"):
        return "not measured"
    start = f"{run.first_loss:.4g} -> " if len(run.recent_losses) > 1 else ""
    return f"{start}{run.last_loss:.4g}"


def _abbreviated(modules: Sequence[str]) -> str:
    first = ", ".join(modules[:3])
    return first if len(modules) <= 3 else f"{first}, … ({len(modules)})"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
