"""A run's state as bytes, and back, so that a long history need not be folded again from its beginning."""

from __future__ import annotations

import base64
import json
import zlib
from collections import deque
from typing import Any

from bandit_server.bandit import serialization
from bandit_server.bandit.history import Reward
from bandit_server.run.modules import Module
from bandit_server.run.reported_rounds import ReportedRounds
from bandit_server.run.state import RECENT_LOSSES, ArmTotals, RunState
from bandit_server.run.worker import FENCED_PROCESSES, Round, Worker
from protos.optima.v1 import bandit_pb2 as pb

_PLAIN = (
    "version", "incarnation", "created", "updated", "finished", "restored", "next_number", "pulls", "reports",
    "rewards", "tail_rounds", "diverged", "first_loss", "accepted", "outdated",
)  # fmt: skip
_TOTALS = ("pulls", "last_reward", "total_decrement", "total_seconds", "paused")


def dump(state: RunState) -> bytes:
    """Serialize the state of a run that has events, without its name."""
    fields = {name: getattr(state, name) for name in _PLAIN}
    fields["losses"] = list(state.losses)
    fields["spec"] = _text(state.spec.SerializeToString(deterministic=True))
    fields["arms"] = [[getattr(totals, name) for name in _TOTALS] for totals in state.arms.values()]
    fields["history"] = [[(r.number, r.value, r.worker) for r in rewards] for rewards in state.history.rewards]
    fields["policy"] = serialization.dump(state.policy)
    fields["costs"] = serialization.dump(state.costs)
    fields["workers"] = [[name, _dump_worker(worker)] for name, worker in state.workers.items()]
    fields["modules"] = {name: _dump_module(module) for name, module in state.modules.by_name.items()}
    fields["open"] = [[worker, list(rounds.items())] for worker, rounds in state.open.items()]
    return zlib.compress(json.dumps(fields).encode(), 1)


def load(state: RunState, dumped: bytes) -> None:
    """Restore what `dump` has written into the state of a run without events.

    Raises:
        Exception: Of any kind: other code has written it.
    """
    fields = json.loads(zlib.decompress(dumped))
    for name in _PLAIN:
        setattr(state, name, fields[name])
    state.begin(pb.RunSpec.FromString(_bytes(fields["spec"])))
    state.losses = deque(fields["losses"], maxlen=RECENT_LOSSES)
    for name, values in zip(state.arms, fields["arms"], strict=True):
        state.arms[name] = ArmTotals(**dict(zip(_TOTALS, values, strict=True)))
    state.history.rewards = [[Reward(*values) for values in rewards] for rewards in fields["history"]]
    state.policy = serialization.load(state.policy, fields["policy"])
    state.costs = serialization.load(state.costs, fields["costs"])
    state.workers = {name: _load_worker(worker) for name, worker in fields["workers"]}
    for name, module in fields["modules"].items():
        state.modules.by_name[name] = _load_module(module)
    state.open = {worker: dict(rounds) for worker, rounds in fields["open"]}


def _dump_worker(worker: Worker) -> dict[str, Any]:
    rounds = []
    for number, known in worker.rounds.items():
        report = known.report and _text(known.report.SerializeToString(deterministic=True))
        rounds.append((number, _text(known.pull.SerializeToString()), list(known.fallback_arms), report))
    return {
        "process": worker.process,
        "fenced": list(worker.fenced),
        "info": _text(worker.info.SerializeToString(deterministic=True)),
        "rounds": rounds,
        "horizon": worker.horizon,
        "reported_rounds": worker.reported_rounds.ranges,
        "reports": worker.reports,
        "last_round": worker.last_round,
    }


def _load_worker(fields: dict[str, Any]) -> Worker:
    rounds = {}
    for number, pull, fallback_arms, report in fields["rounds"]:
        rounds[number] = Round.from_pull(
            pb.Pull.FromString(_bytes(pull)),
            fallback_arms,
            None if report is None else pb.RewardReported.FromString(_bytes(report)),
        )
    return Worker(
        process=fields["process"],
        fenced=deque(fields["fenced"], maxlen=FENCED_PROCESSES),
        info=pb.WorkerInfo.FromString(_bytes(fields["info"])),
        rounds=rounds,
        horizon=fields["horizon"],
        reported_rounds=ReportedRounds(fields["reported_rounds"]),
        reports=fields["reports"],
        last_round=fields["last_round"],
    )


def _dump_module(module: Module) -> tuple[str, bool, str | None]:
    lease = None if module.lease is None else _text(module.lease.SerializeToString())
    return _text(module.newest.SerializeToString(deterministic=True)), module.measured, lease


def _load_module(fields: tuple[str, bool, str | None]) -> Module:
    newest, measured, lease = fields
    return Module(
        pb.ModuleVersion.FromString(_bytes(newest)),
        measured,
        None if lease is None else pb.Pull.FromString(_bytes(lease)),
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
