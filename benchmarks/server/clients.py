"""Clients that put load on a server, many in one process, controlled by standard input.

    python -m benchmarks.server.clients NAME

Each client is a thread with a connection of its own and one call in progress at a time. A command is a `Workload` as a
line of JSON. The response is a line of JSON with the seconds of every call, by client. The state of the runs stays in
memory, so that a later workload continues them.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from benchmarks.server.load_workers import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

Play = Callable[[], None]


@dataclass
class Workload:
    """The calls that the clients of a process make for some time.

    Attributes:
        kind: `empty`, `bare`, `ours`, `ours_apart`, `optuna` or `optuna_random`: a method of the client.
        addresses: The addresses of the servers; client i is connected to the i-th of them, modulo their number.
        runs: The runs that each client plays in turn.
        seconds: The duration; 0 to play each run once.
        first_round: The first round of runs that the client has not played before.
    """

    kind: str
    addresses: list[str]
    runs: list[list[str]]
    seconds: float = 0.0
    first_round: int = 0

    def to_line(self) -> str:
        """Return the workload as a line of JSON, for the standard input of the clients."""
        return json.dumps(asdict(self)) + "\n"


@dataclass
class RunWorker:
    """A worker in a run.

    Attributes:
        caller: Its identity, and the last version of the run that it has seen.
        round: Its next round.
        joined: Whether it has created or joined the run.
        arm: The arm of its round, once selected.
    """

    caller: pb.Caller
    round: int
    joined: bool = False
    arm: str = ""


@dataclass
class Client:
    """One client of our server or the bare server."""

    stub: BanditStub
    name: str
    workers: dict[str, RunWorker] = field(default_factory=dict)

    def empty(self, run: str, first: int) -> None:
        """Make an empty call."""
        self.stub.Heartbeat(pb.HeartbeatRequest())

    def bare(self, run: str, first: int) -> None:
        """Play a round on the bare server."""
        worker = self._worker(run, first)
        self._select(worker)
        self.stub.ReportReward(self._report(worker))

    def ours(self, run: str, first: int) -> None:
        """Play a round without training, as a worker does: its report and the next selection in one call."""
        worker = self._joined(run, first)
        if not worker.arm:
            self._select(worker)
        request = self._report(worker)
        request.select_round = worker.round
        self._take(worker, self.stub.ReportReward(request).selected)

    def ours_apart(self, run: str, first: int) -> None:
        """Play a round in two calls."""
        worker = self._joined(run, first)
        self._select(worker)
        self.stub.ReportReward(self._report(worker))

    def join(self, worker: RunWorker) -> None:
        """Create the run, or join it; loading a long history may take several calls."""
        while True:
            try:
                summary = self.stub.CreateRun(pb.CreateRunRequest(caller=worker.caller, spec=SPEC)).run
                break
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        worker.caller.incarnation, worker.caller.seen_version = summary.incarnation, summary.version
        worker.joined = True

    def _worker(self, run: str, first: int) -> RunWorker:
        if run not in self.workers:
            self.workers[run] = RunWorker(pb.Caller(run=run, worker=self.name, process="p"), first)
        return self.workers[run]

    def _joined(self, run: str, first: int) -> RunWorker:
        worker = self._worker(run, first)
        if not worker.joined:
            self.join(worker)
        return worker

    def _select(self, worker: RunWorker) -> None:
        self._take(worker, self.stub.SelectArm(pb.SelectArmRequest(caller=worker.caller, round=worker.round)))

    def _take(self, worker: RunWorker, response: pb.SelectArmResponse) -> None:
        if worker.joined:
            worker.caller.incarnation, worker.caller.seen_version = response.incarnation, response.version
        worker.arm = response.pull.arm

    def _report(self, worker: RunWorker) -> pb.ReportRewardRequest:
        round, arm = worker.round, worker.arm
        # Rewards that differ by arm and shrink, so that the policy does realistic work.
        loss = 1 - {"image": 0.03, "text": 0.02, "decoder": 0.01}[arm] / (1 + round % 1000 / 100)
        measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=loss, steps=10, seconds=1.0,
                                  terms={"image": loss, "text": 0.5, "decoder": 0.3, "task": 0.2})  # fmt: skip
        worker.round += 1
        return pb.ReportRewardRequest(
            caller=worker.caller, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY, measurement=measured
        )


class OptunaClient:
    """A client that asks for an arm and reports its reward through Optuna's own proxy.

    Each study begins with ten trials: TPE takes its first ten at random, which cost less and are soon over.
    """

    def __init__(self, address: str, name: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        host, _, port = address.rpartition(":")
        self._storage = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
        self._arms: dict[str, optuna.distributions.BaseDistribution] = {
            "arm": optuna.distributions.CategoricalDistribution([arm.name for arm in SPEC.arms])
        }
        arms = [SPEC.arms[at % len(SPEC.arms)].name for at in range(10)]
        self._first_trials = [
            optuna.trial.create_trial(value=0.01, params={"arm": arm}, distributions=self._arms) for arm in arms
        ]
        self._samplers = optuna.samplers
        self._name = name
        self._studies: dict[str, Any] = {}
        self._optuna = optuna

    def optuna(self, run: str, first: int) -> None:
        """Play a round with Optuna's default sampler."""
        self._round(run, self._samplers.TPESampler)

    def optuna_random(self, run: str, first: int) -> None:
        """Play a round with Optuna's cheapest sampler."""
        self._round(run, self._samplers.RandomSampler)

    def _round(self, run: str, sampler: Any) -> None:
        study = self._studies.get(run)
        if study is None:
            study = self._studies[run] = self._optuna.create_study(
                study_name=f"{run}-{self._name}", storage=self._storage, sampler=sampler(seed=0)
            )
            study.add_trials(self._first_trials)
        study.tell(study.ask(self._arms), 0.01)


class Clients:
    """All clients of this process, by the address of their server and their index."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._clients: dict[tuple[str, int], Any] = {}

    def play(self, workload: Workload) -> list[list[float]]:
        """Run a workload and return the seconds of each call, by client."""
        durations: list[list[float]] = [[] for _ in workload.runs]
        clients = [self._client(workload, index) for index in range(len(workload.runs))]
        begin = threading.Barrier(len(clients))
        threads = [
            threading.Thread(
                target=self._turns, args=(begin, getattr(client, workload.kind), workload, index, durations[index])
            )
            for index, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return durations

    def _client(self, workload: Workload, index: int) -> Any:
        address = workload.addresses[index % len(workload.addresses)]
        key = (address, index)
        if key not in self._clients:
            name = f"{self._name}-{index}"
            if workload.kind.startswith("optuna"):
                self._clients[key] = OptunaClient(address, name)
            else:
                channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
                grpc.channel_ready_future(channel).result(30)
                self._clients[key] = Client(BanditStub(channel), name)
        return self._clients[key]

    @staticmethod
    def _turns(begin: threading.Barrier, turn: Any, workload: Workload, index: int, durations: list[float]) -> None:
        runs: Sequence[str] = workload.runs[index]
        begin.wait()
        end = time.perf_counter() + workload.seconds
        played = 0
        while played < len(runs) if not workload.seconds else time.perf_counter() < end:
            start = time.perf_counter()
            turn(runs[played % len(runs)], workload.first_round)
            durations.append(time.perf_counter() - start)
            played += 1


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.clients", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("name", help="prefix of the workers' names")
    clients = Clients(parser.parse_args().name)
    for line in sys.stdin:
        print(json.dumps(clients.play(Workload(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
