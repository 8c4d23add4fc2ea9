"""Write what later versions must read: a store with runs of every kind, their exports, and saved bandits.

    python tests/contract/old_data/write.py DIRECTORY

It uses nothing of the code but what users and workers use, so that it runs with the code of any version.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import redis
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.message import Message

from bandit_server.bandit import Bandit
from bandit_server.commands.runs import runs as runs_command
from bandit_server.config import Settings
from bandit_server.server import Server
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

ARMS = ("image", "text", "decoder")
PAYS = {"image": 1, "text": 2, "decoder": 3, "joint": 2}
TABLES = ("events", "pulls", "posterior", "losses")
BANDITS = ("optima", "sliding_window_ts", "uniform", "round_robin", "fixed:1", "thompson", "discounted_ts", "fdsw_ts",
           "kalman_ts", "sw_ucb", "d_ucb", "raw_ucb", "epsilon_greedy")  # fmt: skip


class Worker:
    """One worker's process. `records` are its journal."""

    def __init__(self, stub: BanditStub, run: str, worker: str, spec: pb.RunSpec, process: str = "p1") -> None:
        self.stub = stub
        self.spec = spec
        self.caller = pb.Caller(run=run, worker=worker, process=process)
        self.info = pb.WorkerInfo(
            ranks=2, device="cpu", versions={"optima": "0.1.0"}, recipe="digits", teacher_metrics={"exact": 0.97},
            total_loss=3.5,
        )  # fmt: skip
        self.records: list[pb.JournalRecord] = []
        joined = stub.CreateRun(pb.CreateRunRequest(caller=self.caller, spec=spec, info=self.info)).run
        self.saw(joined.incarnation, joined.version)

    def saw(self, incarnation: str, version: int) -> None:
        self.caller.incarnation, self.caller.seen_version = incarnation, version

    def select(self, round: int) -> str:
        response = self.stub.SelectArm(pb.SelectArmRequest(caller=self.caller, round=round))
        self.saw(response.incarnation, response.version)
        return response.pull.arm

    def measurement(self, round: int, arm: str) -> pb.Measurement:
        return pb.Measurement(
            outcome=pb.OUTCOME_MEASURED, before=1.0, after=1 - PAYS[arm] / (round + 20), steps=4,
            terms={f"{arm}.hidden": 1 / (round + 3)}, metrics={"exact": round / 100} if round % 4 == 3 else {},
            total_loss=3 / (round + 1) if round % 2 else None, seconds=0.25 * PAYS[arm], probe_seconds=0.125,
            train_loss=1.5,
        )  # fmt: skip

    def report(
        self,
        round: int,
        arm: str,
        by: pb.ChosenBy.ValueType = pb.CHOSEN_BY_POLICY,
        measurement: pb.Measurement | None = None,
        select_round: int | None = None,
    ) -> str:
        request = pb.ReportRewardRequest(
            caller=self.caller, round=round, arm=arm, chosen_by=by,
            measurement=measurement or self.measurement(round, arm), select_round=select_round,
        )  # fmt: skip
        response = self.stub.ReportReward(request)
        last = response.selected if response.HasField("selected") else response
        self.saw(last.incarnation, last.version)
        stored = response.report
        self.records.append(pb.JournalRecord(pull=stored.pull, numbered=True, measurement=stored.measurement))
        return response.selected.pull.arm

    def play(self, rounds: range) -> None:
        for round in rounds:
            self.report(round, self.select(round))


def spec(policy: str, **fields: Any) -> pb.RunSpec:
    arms = [pb.Arm(name=name, modules=[name]) for name in ARMS]
    return pb.RunSpec(arms=arms, policy=pb.PolicySpec(name=policy), seed=7, steps_per_round=4, **fields)


def everything(stub: BanditStub, store: redis.Redis) -> None:
    """Play a run with every kind of event: history is lost and restored in it, and its two workers differ."""
    name = "everything"
    shared = spec("optima", tail=0.5, rounds=40)
    a, b = Worker(stub, name, "a", shared), Worker(stub, name, "b", shared)
    a.play(range(4))
    arm = b.select(0)
    for round in range(4):
        arm = b.report(round, arm, select_round=round + 1)
    # Chosen while the server was away: the same arm as the pull that is open, another one, and one without a pull.
    b.report(4, arm, pb.CHOSEN_BY_FALLBACK)
    b.report(5, next(other for other in ARMS if other != b.select(5)), pb.CHOSEN_BY_FALLBACK)
    b.report(6, "text", pb.CHOSEN_BY_FALLBACK)
    a.report(4, a.select(4), measurement=pb.Measurement(outcome=pb.OUTCOME_DIVERGED, steps=2, seconds=0.5))
    stub.UpdateArm(pb.UpdateArmRequest(run=name, arm="image", paused=True, actor="somebody"))
    a.play(range(5, 7))
    stub.UpdateArm(pb.UpdateArmRequest(run=name, arm="image", paused=False, actor="somebody"))
    a.play(range(7, 9))
    # The store loses the last three events; each worker restores its own.
    stream = f"optima:{{{name}}}:events"
    entries: Any = store.xrange(stream)
    store.delete(stream)
    for key, fields in entries[:-3]:
        store.xadd(stream, fields, id=key)
    for worker in (a, b):
        restored = stub.RestoreRun(
            pb.RestoreRunRequest(caller=worker.caller, spec=worker.spec, info=worker.info, records=worker.records)
        ).run
        worker.saw(restored.incarnation, restored.version)
    # A second process of the first worker; the tail; and a pull that stays open.
    again = Worker(stub, name, "a", shared, process="p2")
    again.play(range(9, 11))
    for round in (7, 8):
        b.report(round, "joint", pb.CHOSEN_BY_TAIL)
    b.select(9)


def write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        settings = Settings(port=0, dashboard_port=None, data_dir=Path(data))
        with Server(settings) as server, grpc.insecure_channel(server.address) as channel:
            stub = BanditStub(channel)
            store = redis.Redis.from_url(f"unix://{data}/valkey.sock")
            everything(stub, store)
            Worker(stub, "long", "a", spec("round_robin", cost_aware=True)).play(range(70))
            Worker(stub, "window", "a", spec("sliding_window_ts", reward=pb.REWARD_KIND_ABSOLUTE)).play(range(8))
            for policy in ("uniform", "joint", "fixed:text"):
                Worker(stub, policy.replace(":", "-"), "a", spec(policy)).play(range(3))
            Worker(stub, "finished", "a", spec("optima")).play(range(3))
            stub.FinishRun(pb.FinishRunRequest(run="finished", actor="somebody"))
            Worker(stub, "deleted", "a", spec("optima")).play(range(2))
            stub.DeleteRun(pb.DeleteRunRequest(run="deleted", force=True))
            _save(directory / "exports.json", _exports(stub, server.address))
            # Workers that are alive count: from here on only those that call.
            for key in store.keys("optima:*:pulse:*"):
                store.delete(key)
            # Snapshots are taken of runs that rest.
            _wait_for_snapshots(store, len(_names(stub)))
            _save(directory / "store.json", _store(store))
        # A server that has the runs from its store, as that of a later version will.
        with Server(settings) as server, grpc.insecure_channel(server.address) as channel:
            _save(directory / "calls.json", _calls(BanditStub(channel)))
    _save(directory / "bandits.json", [_bandit(policy) for policy in BANDITS])


def _wait_for_snapshots(store: redis.Redis, runs: int) -> None:
    deadline = time.monotonic() + 30
    while len(store.keys("optima:*:snapshot")) < runs:
        assert time.monotonic() < deadline, "not every run got a snapshot"
        time.sleep(0.1)


def _names(stub: BanditStub) -> list[str]:
    return sorted(run.run for run in stub.ListRuns(pb.ListRunsRequest()).runs)


def _exports(stub: BanditStub, address: str) -> dict[str, dict[str, list[str]]]:
    """Return the lines of every table of every run, as `optima runs export` writes them."""
    exports: dict[str, dict[str, list[str]]] = {}
    for run in _names(stub):
        exports[run] = {}
        for table in TABLES:
            form = "json" if table == "events" else "csv"
            arguments = ["--server", address, "export", run, "--table", table, "--format", form]
            result = CliRunner().invoke(runs_command, arguments)
            assert result.exit_code == 0, result.output
            exports[run][table] = result.output.splitlines()
    return exports


def _store(store: redis.Redis) -> list[list[str]]:
    """Return the commands that fill an empty store with what is in this one; bytes are in base64."""
    commands: list[list[str]] = []
    # redis-py's replies may be anything, for its types.
    client: Any = store
    for key in sorted(client.keys("optima:*")):
        name = key.decode()
        match client.type(key):
            case b"stream":
                entries = client.xrange(key)
                commands += [["XADD", name, id.decode(), "e", _text(event[b"e"])] for id, event in entries]
            case b"string":
                commands.append(["SET", name, _text(client.get(key))])
            case b"zset":
                runs = client.zrange(key, 0, -1, withscores=True)
                commands += [["ZADD", name, repr(created), run.decode()] for run, created in runs]
            case b"hash":
                fields = client.hgetall(key)
                commands += [["HSET", name, field.decode(), _text(value)] for field, value in fields.items()]
    return commands


def _calls(stub: BanditStub) -> list[dict[str, Any]]:
    """Make further calls in every run; return the requests and responses, in order."""
    calls: list[dict[str, Any]] = []

    def call(method: str, request: Message) -> Any:
        response = getattr(stub, method)(request)
        document = {"method": method, "request": _document(request), "response": _document(response)}
        calls.append(document)
        return response

    for name in _names(stub):
        run = call("GetRun", pb.GetRunRequest(run=name)).run
        for worker in run.workers:
            process = "p2" if (name, worker.worker) == ("everything", "a") else "p1"
            caller = pb.Caller(run=name, worker=worker.worker, process=process)
            caller.incarnation, caller.seen_version = run.incarnation, run.version
            # Its first round again: the history has to be searched for it in a long run.
            call("SelectArm", pb.SelectArmRequest(caller=caller, round=0))
            start = worker.round + 1
            for round in range(start, start + 5):
                arm = call("SelectArm", pb.SelectArmRequest(caller=caller, round=round)).pull.arm
                if not arm:
                    break
                request = pb.ReportRewardRequest(caller=caller, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY)
                request.measurement.MergeFrom(
                    pb.Measurement(
                        outcome=pb.OUTCOME_MEASURED, before=1.0, after=1 - PAYS[arm] / 50, steps=4, seconds=0.5
                    )
                )
                call("ReportReward", request)
    return calls


def _bandit(policy: str) -> dict[str, Any]:
    """Return a bandit that was saved with an open pull, and the arms that it chose afterwards."""
    bandit = Bandit(3, policy, seed=5)

    def play(pulls: int) -> list[int]:
        arms = []
        for _ in range(pulls):
            pull = bandit.select()
            bandit.report(pull, (pull.arm + 1) / (pull.number + 20) + (pull.number % 7) / 100)
            arms.append(pull.arm)
        return arms

    play(60)
    bandit.select()
    saved = json.loads(json.dumps(bandit.to_dict()))
    return {"saved": saved, "arms": play(40)}


def _document(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document


def _text(value: Any) -> str:
    return base64.b64encode(value).decode()


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
