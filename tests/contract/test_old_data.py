"""Data of earlier versions is read: runs in a store, saved bandits, and a job's output directory."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.message import Message

from bandit_server.bandit import Bandit
from bandit_server.commands.runs import runs
from bandit_server.config import Settings
from bandit_server.replica.runs import Runs
from bandit_server.run.summary import summary
from bandit_server.server import Server
from bandit_server.store.redis_store import RedisStore
from protos.optima.v1 import bandit_pb2 as pb
from tests.calls import connected, history
from tests.stores import connected as connected_store
from tests.stores import redis_server
from worker.client.journal import JOURNAL_FILE, Journal
from worker.deliver import deliver

VERSIONS = [path for path in sorted((Path(__file__).parent / "old_data").iterdir()) if (path / "store.json").exists()]
NUMBER = re.compile(r"-?\d+\.?\d*(e-?\d+)?")
REQUESTS: dict[str, Any] = {
    "GetRun": pb.GetRunRequest,
    "SelectArm": pb.SelectArmRequest,
    "ReportReward": pb.ReportRewardRequest,
}


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest) -> Path:
    """The directory of one version."""
    directory: Path = request.param
    return directory


@pytest.fixture
def store(old: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a store with what that version's server has written."""
    with redis_server(tmp_path / "store") as url:
        with connected_store(url) as client:
            # Untyped in redis-py.
            execute: Callable[..., object] = client.execute_command
            for command, *arguments, value in read(old / "store.json"):
                plain = command == "ZADD"
                execute(command, *arguments, value if plain else base64.b64decode(value))
        yield url


@pytest.fixture
def address(store: str) -> Iterator[str]:
    """The address of a server on that store."""
    with Server(Settings(port=0, dashboard_port=None, redis_url=store)) as server:
        yield server.address


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_kind_of_event_is_among_them(old: Path) -> None:
    lines = [json.loads(line) for line in read(old / "exports.json")["everything"]["events"]]
    lines += [json.loads(line) for line in read(old / "exports.json")["finished"]["events"]]
    # Those that 0.1 did not know have later numbers.
    kinds = {field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["kind"].fields if field.number <= 9}
    assert {kind for kind in kinds for line in lines if kind in line} == kinds


def rounded(document: Any) -> Any:
    """Return JSON values with estimates rounded to what is the same with every processor and version of numpy."""
    if isinstance(document, float):
        return float(f"{document:.9g}")
    if isinstance(document, list):
        return [rounded(item) for item in document]
    return {key: rounded(value) for key, value in document.items()} if isinstance(document, dict) else document


def cells(line: str) -> list[str | float]:
    """Return the cells of a line of CSV, with numbers rounded as `rounded` does."""
    return [rounded(float(cell)) if NUMBER.fullmatch(cell) else cell for cell in line.split(",")]


def test_runs_are_exported_as_they_were(old: Path, address: str) -> None:
    for run, tables in read(old / "exports.json").items():
        for table, lines in tables.items():
            form = "json" if table == "events" else "csv"
            arguments = ["--server", address, "export", run, "--table", table, "--format", form]
            result = CliRunner().invoke(runs, arguments)
            assert result.exit_code == 0, result.output
            exported = result.output.splitlines()
            if table == "posterior":
                assert [cells(line) for line in exported] == [cells(line) for line in lines], f"posterior of run {run}"
            else:
                assert exported == lines, f"table {table} of run {run}"


def test_runs_go_on_as_they_would_have(old: Path, address: str) -> None:
    with connected(address) as stub:
        for number, call in enumerate(read(old / "calls.json")):
            request = json_format.ParseDict(call["request"], REQUESTS[call["method"]]())
            response = getattr(stub, call["method"])(request)
            assert comparable(response) == comparable(json_format.ParseDict(call["response"], type(response)())), number


def comparable(response: Message) -> Any:
    """Return a response as JSON values, without the ages of heartbeats, which pass."""
    document = json_format.MessageToDict(response, preserving_proto_field_name=True)
    for worker in document.get("run", {}).get("workers", ()):
        worker.pop("heartbeat_age", None)
    return rounded(document)


def test_a_deleted_run_stays_deleted(address: str) -> None:
    with connected(address) as stub, pytest.raises(Exception, match="run deleted was deleted"):
        stub.GetRun(pb.GetRunRequest(run="deleted"))


def test_old_snapshots_change_nothing(old: Path, store: str) -> None:
    """A snapshot of other code is ignored, and one of this code is written over it."""

    async def summaries(snapshot: bool) -> list[pb.RunSummary]:
        client = RedisStore(store)
        try:
            replica = Runs(client)
            states = {run: await replica.state(run) for run in read(old / "exports.json")}
            if snapshot:
                for run in states:
                    await replica.save_snapshot(run)
            return [summary(state) for state in states.values()]
        finally:
            await client.close()

    folded = asyncio.run(summaries(snapshot=True))
    assert asyncio.run(summaries(snapshot=False)) == folded


@pytest.mark.parametrize("policy", range(13))
def test_a_saved_bandit_goes_on_as_it_would_have(old: Path, policy: int) -> None:
    record = read(old / "bandits.json")[policy]
    bandit = Bandit.from_dict(record["saved"])
    arms = []
    for _ in record["arms"]:
        pull = bandit.select()
        bandit.report(pull, (pull.arm + 1) / (pull.number + 20) + (pull.number % 7) / 100)
        arms.append(pull.arm)
    assert arms == record["arms"], record["saved"]["policy"]
    assert Bandit.from_dict(bandit.to_dict()).to_dict() == bandit.to_dict()


def test_the_journal_of_a_job_is_delivered(old: Path, address: str, tmp_path: Path) -> None:
    directory = tmp_path / "job"
    shutil.copytree(old / "job", directory)
    journal = Journal(directory / JOURNAL_FILE)
    run, worker, _ = journal.head
    assert (run, journal.next_round, len(journal.unsent())) == ("old-job", 5, 2)
    records = journal.records()
    journal.close()
    # The server has never had the run: all of its rounds are restored, the open one too.
    assert deliver(directory, address) == f"delivered 2 reports; run old-job now has all reports of worker {worker}"
    with connected(address) as stub:
        events = history(stub, run)
    reports = [event.reward_reported for event in events if event.HasField("reward_reported")]
    assert [(report.pull.round, report.pull.arm, report.measurement) for report in reports] == [
        (record.pull.round, record.pull.arm, record.measurement) for record in records if record.HasField("measurement")
    ]
