"""Workers that only call, at a worker's pace: ``python -m benchmarks.server.virtual_workers ADDRESS --workers 500``.

Each is a worker of its own in one of some runs, with rounds that last as long as `--pace` says, a tenth more or less,
and as many heartbeats as a real one's; all share a few connections. What they do before all have joined is no part of
the result: `go` on standard input starts the time that is. Prints `joined`, and then as JSON how many rounds and
heartbeats there were, how many calls failed, and what each round's call took.
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

from benchmarks.server.players import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from worker.client.sender import HEARTBEAT_SECONDS

CONNECTIONS = 8
CALL_SECONDS = 5.0


@dataclass
class Told:
    """What became of the calls. `taken`: seconds of each round's call."""

    rounds: int = 0
    heartbeats: int = 0
    failed: int = 0
    taken: list[float] = field(default_factory=list)


class VirtualWorker:
    """One worker. `told`: what it counts in."""

    def __init__(self, stub: BanditStub, run: str, name: str) -> None:
        self._stub = stub
        self._caller = pb.Caller(run=run, worker=name, process="p")
        self._random = random.Random(name)
        self._round = 0
        self._arm = ""
        self.told = Told()

    async def join(self) -> None:
        """Create its run, or join it."""
        while True:
            try:
                request = pb.CreateRunRequest(caller=self._caller, spec=SPEC)
                answer: pb.CreateRunResponse = await self._stub.CreateRun(request, timeout=CALL_SECONDS)  # type: ignore[misc]
            except grpc.RpcError:
                continue
            self._saw(answer.run)
            return

    async def play(self, pace: float) -> None:
        """Rounds, for ever."""
        # Not all at once.
        await asyncio.sleep(self._random.uniform(0, pace))
        while True:
            began = time.perf_counter()
            try:
                await self._play_round()
                self.told.taken.append(time.perf_counter() - began)
                self.told.rounds += 1
            except grpc.RpcError:
                self.told.failed += 1
            await asyncio.sleep(self._random.uniform(0.9, 1.1) * pace)

    async def beat(self) -> None:
        """Heartbeats, for ever."""
        await asyncio.sleep(self._random.uniform(0, HEARTBEAT_SECONDS))
        while True:
            request = pb.HeartbeatRequest(caller=self._caller, round=self._round, step=1, steps_per_second=1.0)
            try:
                await self._stub.Heartbeat(request, timeout=CALL_SECONDS)  # type: ignore[misc]
                self.told.heartbeats += 1
            except grpc.RpcError:
                self.told.failed += 1
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
        answer: pb.ReportRewardResponse = await self._stub.ReportReward(report, timeout=CALL_SECONDS)  # type: ignore[misc]
        self._round += 1
        self._take(answer.selected)

    def _take(self, chosen: pb.SelectArmResponse) -> None:
        self._saw(chosen)
        self._arm = chosen.pull.arm

    def _saw(self, told: pb.RunSummary | pb.SelectArmResponse) -> None:
        self._caller.incarnation, self._caller.seen_version = told.incarnation, told.version


async def play(asked: argparse.Namespace) -> Told:
    """All of them; what they did in the time that counts."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(asked.address, options=options) for _ in range(CONNECTIONS)]
    # The generated stub is typed for channels that block.
    stubs = [BanditStub(channel) for channel in channels]
    workers = [
        VirtualWorker(stubs[at % CONNECTIONS], f"{asked.run}-{at % asked.runs}", f"{asked.name}-{at}")
        for at in range(asked.workers)
    ]
    for worker in workers:
        await worker.join()
    calls = [asyncio.create_task(worker.beat()) for worker in workers]
    if asked.pace:
        calls += [asyncio.create_task(worker.play(asked.pace)) for worker in workers]
    print("joined", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for worker in workers:
        worker.told = Told()
    await asyncio.sleep(asked.seconds)
    every = [worker.told for worker in workers]
    for worker in workers:
        worker.told = Told()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for channel in channels:
        await channel.close()
    return Told(
        rounds=sum(told.rounds for told in every),
        heartbeats=sum(told.heartbeats for told in every),
        failed=sum(told.failed for told in every),
        taken=[seconds for told in every for seconds in told.taken],
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.virtual_workers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("address", help="host:port of the bandit server")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--run", default="scale", help="what the names of their runs begin with (default: scale)")
    parser.add_argument("--runs", type=int, default=50, help="how many runs they share (default: 50)")
    parser.add_argument("--pace", type=float, default=30.0, help="seconds of a round; 0 for none (default: 30)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long their calls count (default: 30)")
    parser.add_argument("--name", default="v", help="what their names begin with (default: v)")
    print(json.dumps(asdict(asyncio.run(play(parser.parse_args())))), flush=True)


if __name__ == "__main__":
    main()
