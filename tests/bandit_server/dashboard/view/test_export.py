"""Exported tables: complete, and the same from browser and command line."""

from __future__ import annotations

import csv
import io
import json
import uuid
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner

from bandit_server.cli import main
from bandit_server.dashboard.view.export import COLUMNS, RunTables, Table, format_rows
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.driver import Driver
from tests.bandit_server.dashboard.history import History
from tests.bandit_server.dashboard.serving import dashboard


def test_browser_and_command_line_export_the_same(server: Any) -> None:
    run = f"run-{uuid.uuid4().hex[:8]}"
    with grpc.insecure_channel(server.address) as channel:
        worker = Driver(channel, run)
        worker.play(7)
        worker.report(worker.select().arm, diverged=True)
        worker.tail(2)
        worker.select()

    def command(*flags: str) -> str:
        done = CliRunner().invoke(main, ["runs", "--server", server.address, "export", run, *flags])
        assert done.exit_code == 0, done.output
        return done.output

    with dashboard(server.address) as url:
        for table in COLUMNS:
            shown = httpx.get(f"{url}/api/runs/{run}/export/{table}.csv", timeout=20)
            assert shown.headers["content-type"].startswith("text/csv")
            assert shown.headers["content-disposition"] == f'attachment; filename="{run}-{table}.csv"'
            assert shown.text == command("--table", table, "--format", "csv")
            rows = httpx.get(f"{url}/api/runs/{run}/export/{table}.json", timeout=20)
            assert rows.text == command("--table", table)
            read = list(csv.DictReader(io.StringIO(shown.text)))
            assert [
                {name: "" if value is None else str(value) for name, value in row.items()} for row in rows.json()
            ] == read
        assert httpx.get(f"{url}/api/runs/{run}/export/events.jsonl", timeout=20).text == command()
        for path in ("no-such-run/export/pulls.csv", "no-such-run/export/events.jsonl"):
            assert httpx.get(f"{url}/api/runs/{path}", timeout=20).status_code == 404
        pulls = httpx.get(f"{url}/api/runs/{run}/export/pulls.json", timeout=20).json()
    assert [pull["outcome"] for pull in pulls] == ["measured"] * 7 + ["diverged"] + ["measured"] * 2 + ["open"]
    assert [pull["chosen_by"] for pull in pulls] == ["policy"] * 8 + ["tail"] * 2 + ["policy"]
    refused = CliRunner().invoke(main, ["runs", "--server", server.address, "export", run, "--format", "csv"])
    assert refused.exit_code == 2
    assert "say --table" in refused.output


def test_every_number_of_a_history_is_in_its_table() -> None:
    history = History()
    history.select(0, "text")
    history.report(1, "image", 1.0, 0.5, chosen_by=pb.CHOSEN_BY_FALLBACK, superseded=0, total_loss=2.0, seconds=3.0)
    history.events[-1].reward_reported.measurement.metrics["accuracy"] = 0.5
    history.select(2, "image")
    history.report(2, "image", diverged=True, seconds=2.0)
    tables = RunTables()
    tables.add(history.batch(0, 2))
    tables.add(history.batch(2))
    pulls = [dict(zip(COLUMNS["pulls"], row, strict=True)) for row in tables.rows("pulls")]
    assert [(row["pull"], row["outcome"], row["before"]) for row in pulls] == [
        (0, "superseded", None), (1, "measured", 1.0), (2, "diverged", None),
    ]  # fmt: skip
    losses = {(row[0], row[5], row[6]): (row[4], row[7]) for row in tables.rows("losses")}
    assert losses == {
        (1, "loss", "after"): (3.0, 0.5), (1, "loss", "before"): (3.0, 1.0), (1, "loss", "total_loss"): (3.0, 2.0),
        (1, "metric", "accuracy"): (3.0, 0.5),
    }  # fmt: skip
    assert [row[:4] for row in tables.rows("posterior")] == [
        (version, pull, rewards, arm)
        for version, pull, rewards in ((3, 1, 1), (5, 2, 2))
        for arm in ("image", "text", "multimodal")
    ]


@pytest.mark.parametrize("table", COLUMNS)
def test_tables_of_an_empty_run_are_well_formed(table: Table) -> None:
    empty = RunTables()
    assert json.loads("".join(format_rows(table, "json", empty.rows(table)))) == []
    assert "".join(format_rows(table, "csv", empty.rows(table))) == ",".join(COLUMNS[table]) + "\n"
