"""Calls to a bandit server as a worker makes them, without the worker's own client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

ARMS = ("image", "text", "decoder")
PAYS = {"image": 1, "text": 2, "decoder": 3, "joint": 2}


def spec(policy: str = "optima", options: Mapping[str, float] | None = None, **fields: object) -> pb.RunSpec:
    """Return the spec of a run of three arms."""
    settings = {"seed": 7, "steps_per_round": 1, **fields}
    arms = [pb.Arm(name=name, modules=[name]) for name in ARMS]
    return pb.RunSpec(arms=arms, policy=pb.PolicySpec(name=policy, options=options), **settings)  # type: ignore[arg-type]


def measured(after: float, before: float = 1.0) -> pb.Measurement:
    """Return the measurement of a round."""
    return pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=before, after=after, steps=1, seconds=0.1)


@contextmanager
def connected(address: str) -> Iterator[BanditStub]:
    """Yield a stub with a connection of its own."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(20)
        yield BanditStub(channel)


class Player:
    """One worker's process in a run. It joins when it is created, and tracks the version that it has seen."""

    def __init__(self, stub: BanditStub, run: str, worker: str = "w", process: str = "p", **fields: object) -> None:
        self.stub = stub
        self.caller = pb.Caller(run=run, worker=worker, process=process)
        self.joined = stub.CreateRun(pb.CreateRunRequest(caller=self.caller, spec=spec(**fields)))  # type: ignore[arg-type]
        self._saw(self.joined.run.incarnation, self.joined.run.version)

    def select(self, round: int) -> pb.SelectArmResponse:
        """Select the arm of a round."""
        response = self.stub.SelectArm(pb.SelectArmRequest(caller=self.caller, round=round))
        self._saw(response.incarnation, response.version)
        return response

    def report(
        self,
        round: int,
        arm: str,
        after: float,
        by: pb.ChosenBy.ValueType = pb.CHOSEN_BY_POLICY,
        select_round: int | None = None,
    ) -> pb.ReportRewardResponse:
        """Report a round and, with `select_round`, select the arm of another one."""
        response = self.stub.ReportReward(
            pb.ReportRewardRequest(
                caller=self.caller,
                round=round,
                arm=arm,
                chosen_by=by,
                measurement=measured(after),
                select_round=select_round,
            )
        )
        last = response.selected if response.HasField("selected") else response
        self._saw(last.incarnation, last.version)
        return response

    def play(self, rounds: range) -> list[str]:
        """Select and report rounds, whose rewards decrease; return their arms."""
        arms = []
        for round in rounds:
            arm = self.select(round).pull.arm
            self.report(round, arm, after=1 - PAYS[arm] / (round + 20))
            arms.append(arm)
        return arms

    def _saw(self, incarnation: str, version: int) -> None:
        self.caller.incarnation, self.caller.seen_version = incarnation, version


def run_summary(stub: BanditStub, run: str) -> pb.RunSummary:
    """Return the run as the server has it, without its workers' heartbeats, which change by themselves."""
    summary = stub.GetRun(pb.GetRunRequest(run=run), timeout=10).run
    for worker in summary.workers:
        worker.alive = False
        worker.ClearField("heartbeat_age")
    return summary


def history(stub: BanditStub, run: str) -> list[pb.Event]:
    """Return all events of the run."""
    events: list[pb.Event] = []
    watching = stub.WatchRun(pb.WatchRunRequest(run=run), timeout=20, wait_for_ready=True)
    for batch in watching:
        events.extend(batch.events)
        if batch.live:
            watching.cancel()
            break
    return events
