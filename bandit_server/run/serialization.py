"""A run's state as bytes, and back: so that a long history need not be folded again from its beginning."""

from __future__ import annotations

import base64
import json
import zlib
from collections import deque
from typing import Any

from bandit_server.bandit import serialization as memory
from bandit_server.bandit.history import Reward
from bandit_server.run.reported_rounds import Settled
from bandit_server.run.state import RECENT_LOSSES, ArmTotals, RunState
from bandit_server.run.worker import FENCED_PROCESSES, Round, Worker
from protos.optima.v1 import bandit_pb2 as pb

_PLAIN = (
    "version", "incarnation", "created", "updated", "finished", "restored", "next_number", "pulls", "reports",
    "rewards", "tail_rounds", "diverged", "first_loss",
)  # fmt: skip
_TOTALS = ("pulls", "last_reward", "total_decrement", "total_seconds", "paused")


def dump(state: RunState) -> bytes:
    """Everything that `load` needs. The run's name is not in it. The run has at least one event."""
    told = {name: getattr(state, name) for name in _PLAIN}
    told["losses"] = list(state.losses)
    told["spec"] = _text(state.spec.SerializeToString(deterministic=True))
    told["arms"] = [[getattr(totals, name) for name in _TOTALS] for totals in state.arms.values()]
    told["history"] = [[(r.number, r.value, r.worker) for r in rewards] for rewards in state.history.rewards]
    told["policy"] = memory.dump(state.policy)
    told["costs"] = memory.dump(state.costs)
    told["workers"] = [[name, _worker(worker)] for name, worker in state.workers.items()]
    told["open"] = [[worker, list(rounds.items())] for worker, rounds in state.open.items()]
    return zlib.compress(json.dumps(told).encode(), 1)


def load(state: RunState, dumped: bytes) -> RunState:
    """Restore what `dump` has written into the state of a run without events, and return it.

    Raises:
        Exception: Of any kind: other code has written it.
    """
    told = json.loads(zlib.decompress(dumped))
    for name in _PLAIN:
        setattr(state, name, told[name])
    state.begin(pb.RunSpec.FromString(_bytes(told["spec"])))
    state.losses = deque(told["losses"], maxlen=RECENT_LOSSES)
    for name, values in zip(state.arms, told["arms"], strict=True):
        state.arms[name] = ArmTotals(**dict(zip(_TOTALS, values, strict=True)))
    state.history.rewards = [[Reward(*values) for values in rewards] for rewards in told["history"]]
    state.policy = memory.load(state.policy, told["policy"])
    state.costs = memory.load(state.costs, told["costs"])
    state.workers = {name: _worker_again(worker) for name, worker in told["workers"]}
    state.open = {worker: dict(rounds) for worker, rounds in told["open"]}
    return state


def _worker(worker: Worker) -> dict[str, Any]:
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
        "settled": worker.settled.ranges,
        "reports": worker.reports,
        "last_round": worker.last_round,
    }


def _worker_again(told: dict[str, Any]) -> Worker:
    rounds = {}
    for number, pull, fallback_arms, report in told["rounds"]:
        rounds[number] = Round.of(
            pb.Pull.FromString(_bytes(pull)),
            fallback_arms,
            None if report is None else pb.RewardReported.FromString(_bytes(report)),
        )
    return Worker(
        process=told["process"],
        fenced=deque(told["fenced"], maxlen=FENCED_PROCESSES),
        info=pb.WorkerInfo.FromString(_bytes(told["info"])),
        rounds=rounds,
        horizon=told["horizon"],
        settled=Settled(told["settled"]),
        reports=told["reports"],
        last_round=told["last_round"],
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
