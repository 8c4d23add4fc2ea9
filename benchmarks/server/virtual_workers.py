"""Workers that only make calls: ``python -m benchmarks.server.virtual_workers ADDRESS --workers 500``.

Each worker belongs to one of several runs. Its rounds last `--pace` seconds, a tenth more or less, and it sends as many
heartbeats as a real one. All share a few connections. When all have joined, `joined` is printed; a line on standard
input then starts the measurement. It prints the number of rounds, heartbeats and failed calls and the seconds of each
round's call as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field

import grpc
import grpc.aio

from benchmarks.server.load_workers import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from worker.client.sender import HEARTBEAT_SECONDS

CONNECTIONS = 8
CALL_SECONDS = 5.0


@dataclass
class CallStatistics:
    """Counts of calls.

    Attributes:
        rounds: The number of rounds.
        heartbeats: The number of heartbeats.
        failed: The number of failed calls.
        taken: The seconds of each round's call.
    """

    rounds: int = 0
    heartbeats: int = 0
    failed: int = 0
    taken: list[float] = field(default_factory=list)


class VirtualWorker:
    """A worker that makes calls without training.

    Attributes:
        statistics: The counts of its calls.
    """

    def __init__(self, stub: BanditStub, run: str, name: str) -> None:
        self._stub = stub
        self._caller = pb.Caller(run=run, worker=name, process="p")
        self._random = random.Random(name)
        self._round = 0
        self._arm = ""
        self.statistics = CallStatistics()

    async def join(self) -> None:
        """Create the run, or join it."""
        while True:
            try:
                request = pb.CreateRunRequest(caller=self._caller, spec=SPEC)
                response: pb.CreateRunResponse = await self._stub.CreateRun(request, timeout=CALL_SECONDS)  # type: ignore[misc]
            except grpc.RpcError:
                continue
            self._remember_version(response.run)
            return

    async def play_rounds(self, pace: float) -> None:
        """Play rounds until cancelled."""
        # Spread the workers over time.
        await asyncio.sleep(self._random.uniform(0, pace))
        while True:
            began = time.perf_counter()
            try:
                await self._play_round()
                self.statistics.taken.append(time.perf_counter() - began)
                self.statistics.rounds += 1
            except grpc.RpcError:
                self.statistics.failed += 1
            await asyncio.sleep(self._random.uniform(0.9, 1.1) * pace)

    async def send_heartbeats(self) -> None:
        """Send heartbeats until cancelled."""
        await asyncio.sleep(self._random.uniform(0, HEARTBEAT_SECONDS))
        while True:
            request = pb.HeartbeatRequest(caller=self._caller, round=self._round, step=1, steps_per_second=1.0)
            try:
                await self._stub.Heartbeat(request, timeout=CALL_SECONDS)  # type: ignore[misc]
                self.statistics.heartbeats += 1
            except grpc.RpcError:
                self.statistics.failed += 1
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _play_round(self) -> None:
        if not self._arm:
            request = pb.SelectArmRequest(caller=self._caller, round=self._round)
            self._take(await self._stub.SelectArm(request, timeout=CALL_SECONDS))  # type: ignore[misc]
        measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=0.99, steps=10, seconds=1.0,
                                  terms={"image": 0.9, "text": 0.5, "decoder": 0.3, "task": 0.2})  # fmt: skip
        report = pb.ReportRewardRequest(caller=self._caller, round=self._round, arm=self._arm,
                                        chosen_by=pb.CHOSEN_BY_POLICY, measurement=measured,
                                        select_round=self._round + 1)  # fmt: skip
        response: pb.ReportRewardResponse = await self._stub.ReportReward(report, timeout=CALL_SECONDS)  # type: ignore[misc]
        self._round += 1
        self._take(response.selected)

    def _take(self, chosen: pb.SelectArmResponse) -> None:
        self._remember_version(chosen)
        self._arm = chosen.pull.arm

    def _remember_version(self, summary: pb.RunSummary | pb.SelectArmResponse) -> None:
        self._caller.incarnation, self._caller.seen_version = summary.incarnation, summary.version


async def play(arguments: argparse.Namespace) -> CallStatistics:
    """Run all workers and return their counts during the measurement."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(arguments.address, options=options) for _ in range(CONNECTIONS)]
    # The generated stub is typed for channels that block.
    stubs = [BanditStub(channel) for channel in channels]
    workers = [
        VirtualWorker(stubs[at % CONNECTIONS], f"{arguments.run}-{at % arguments.runs}", f"{arguments.name}-{at}")
        for at in range(arguments.workers)
    ]
    for worker in workers:
        await worker.join()
    calls = [asyncio.create_task(worker.send_heartbeats()) for worker in workers]
    if arguments.pace:
        calls += [asyncio.create_task(worker.play_rounds(arguments.pace)) for worker in workers]
    print("joined", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for worker in workers:
        worker.statistics = CallStatistics()
    await asyncio.sleep(arguments.seconds)
    counts = [worker.statistics for worker in workers]
    for worker in workers:
        worker.statistics = CallStatistics()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for channel in channels:
        await channel.close()
    return CallStatistics(
        rounds=sum(each.rounds for each in counts),
        heartbeats=sum(each.heartbeats for each in counts),
        failed=sum(each.failed for each in counts),
        taken=[seconds for each in counts for seconds in each.taken],
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.virtual_workers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("address", help="host:port of the bandit server")
    parser.add_argument("--workers", type=int, default=500, help="number of workers (default: 500)")
    parser.add_argument("--run", default="scale", help="prefix of the names of the runs (default: scale)")
    parser.add_argument("--runs", type=int, default=50, help="number of runs (default: 50)")
    parser.add_argument("--pace", type=float, default=30.0, help="seconds of a round; 0 for no rounds (default: 30)")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the measurement (default: 30)")
    parser.add_argument("--name", default="v", help="prefix of the workers' names (default: v)")
    print(json.dumps(asdict(asyncio.run(play(parser.parse_args())))), flush=True)


if __name__ == "__main__":
    main()
