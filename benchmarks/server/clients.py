"""Clients of a server under load, many in one process; commands come on standard input.

    python -m benchmarks.server.clients

Each client is a thread with a connection of its own, and has one call under way at a time. A command is a line of JSON,
a `Window`; the answer is one too: for each client the seconds that every one of its calls took. What they have played
is kept from one window to the next, so a run that is played again goes on where it was.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from benchmarks.server.players import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

Play = Callable[[], None]


@dataclass
class Window:
    """What the clients of a process do for some time.

    Attributes:
        kind: `empty`, `bare`, `ours`, `ours_apart`, `optuna` or `optuna_random`.
        addresses: Of servers; client i is connected to the i-th of them, modulo how many there are.
        runs: For each client the runs that it plays in turn.
        seconds: How long; 0 for each of its runs once.
        first_round: Of runs that it has not played before.
    """

    kind: str
    addresses: list[str]
    runs: list[list[str]]
    seconds: float = 0.0
    first_round: int = 0

    def line(self) -> str:
        """For standard input."""
        return json.dumps(asdict(self)) + "\n"


@dataclass
class Seat:
    """One worker in one run; `arm`: of its round, once it is selected."""

    caller: pb.Caller
    round: int
    joined: bool = False
    arm: str = ""


@dataclass
class Client:
    """One client of a bandit server, ours or bare."""

    stub: BanditStub
    name: str
    seats: dict[str, Seat] = field(default_factory=dict)

    def empty(self, run: str, first: int) -> None:
        """Nothing at all."""
        self.stub.Heartbeat(pb.HeartbeatRequest())

    def bare(self, run: str, first: int) -> None:
        """A round at a server that only appends."""
        seat = self._seat(run, first)
        self._select(seat)
        self.stub.ReportReward(self._report(seat))

    def ours(self, run: str, first: int) -> None:
        """A round of training that takes no time, as a worker plays it: report and next selection in one call."""
        seat = self._joined(run, first)
        if not seat.arm:
            self._select(seat)
        request = self._report(seat)
        request.select_round = seat.round
        self._take(seat, self.stub.ReportReward(request).selected)

    def ours_apart(self, run: str, first: int) -> None:
        """The same in two calls."""
        seat = self._joined(run, first)
        self._select(seat)
        self.stub.ReportReward(self._report(seat))

    def join(self, seat: Seat) -> None:
        """Create the run, or join it; a long history may take a server that is new to it several calls."""
        while True:
            try:
                told = self.stub.CreateRun(pb.CreateRunRequest(caller=seat.caller, spec=SPEC)).run
                break
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        seat.caller.incarnation, seat.caller.seen_version = told.incarnation, told.version
        seat.joined = True

    def _seat(self, run: str, first: int) -> Seat:
        if run not in self.seats:
            self.seats[run] = Seat(pb.Caller(run=run, worker=self.name, process="p"), first)
        return self.seats[run]

    def _joined(self, run: str, first: int) -> Seat:
        seat = self._seat(run, first)
        if not seat.joined:
            self.join(seat)
        return seat

    def _select(self, seat: Seat) -> None:
        self._take(seat, self.stub.SelectArm(pb.SelectArmRequest(caller=seat.caller, round=seat.round)))

    def _take(self, seat: Seat, answer: pb.SelectArmResponse) -> None:
        if seat.joined:
            seat.caller.incarnation, seat.caller.seen_version = answer.incarnation, answer.version
        seat.arm = answer.pull.arm

    def _report(self, seat: Seat) -> pb.ReportRewardRequest:
        round, arm = seat.round, seat.arm
        # What arms pay differs, and shrinks: a game that is worth a policy's while.
        loss = 1 - {"image": 0.03, "text": 0.02, "decoder": 0.01}[arm] / (1 + round % 1000 / 100)
        measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=loss, steps=10, seconds=1.0,
                                  terms={"image": loss, "text": 0.5, "decoder": 0.3, "task": 0.2})  # fmt: skip
        seat.round += 1
        return pb.ReportRewardRequest(
            caller=seat.caller, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY, measurement=measured
        )


class OptunaClient:
    """Asks for an arm and tells what it paid, through Optuna's own proxy.

    Each study begins with ten trials, as TPE takes its first ten at random, which cost less and are soon over.
    """

    def __init__(self, address: str, name: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        host, _, port = address.rpartition(":")
        self._storage = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
        self._arms = {"arm": optuna.distributions.CategoricalDistribution([arm.name for arm in SPEC.arms])}
        arms = [SPEC.arms[at % len(SPEC.arms)].name for at in range(10)]
        self._beginning = [
            optuna.trial.create_trial(value=0.01, params={"arm": arm}, distributions=self._arms) for arm in arms
        ]
        self._samplers = optuna.samplers
        self._name = name
        self._studies: dict[str, Any] = {}
        self._optuna = optuna

    def optuna(self, run: str, first: int) -> None:
        """A round with the sampler that who asks for none gets."""
        self._round(run, self._samplers.TPESampler)

    def optuna_random(self, run: str, first: int) -> None:
        """A round with the cheapest of its samplers."""
        self._round(run, self._samplers.RandomSampler)

    def _round(self, run: str, sampler: Any) -> None:
        study = self._studies.get(run)
        if study is None:
            study = self._studies[run] = self._optuna.create_study(
                study_name=f"{run}-{self._name}", storage=self._storage, sampler=sampler(seed=0)
            )
            study.add_trials(self._beginning)
        study.tell(study.ask(self._arms), 0.01)


class Clients:
    """All clients of this process, by the server they are connected to and their place."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._clients: dict[tuple[str, int], Any] = {}

    def play(self, window: Window) -> list[list[float]]:
        """The seconds each call took, by client."""
        taken: list[list[float]] = [[] for _ in window.runs]
        clients = [self._client(window, at) for at in range(len(window.runs))]
        begin = threading.Barrier(len(clients))
        threads = [
            threading.Thread(target=self._turns, args=(begin, getattr(client, window.kind), window, at, taken[at]))
            for at, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return taken

    def _client(self, window: Window, at: int) -> Any:
        address = window.addresses[at % len(window.addresses)]
        key = (address, at)
        if key not in self._clients:
            name = f"{self._name}-{at}"
            if window.kind.startswith("optuna"):
                self._clients[key] = OptunaClient(address, name)
            else:
                channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
                grpc.channel_ready_future(channel).result(30)
                self._clients[key] = Client(BanditStub(channel), name)
        return self._clients[key]

    @staticmethod
    def _turns(begin: threading.Barrier, turn: Any, window: Window, at: int, taken: list[float]) -> None:
        runs: Sequence[str] = window.runs[at]
        begin.wait()
        end = time.perf_counter() + window.seconds
        played = 0
        while played < len(runs) if not window.seconds else time.perf_counter() < end:
            start = time.perf_counter()
            turn(runs[played % len(runs)], window.first_round)
            taken.append(time.perf_counter() - start)
            played += 1


def main() -> None:
    """The command."""
    clients = Clients(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(clients.play(Window(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
