"""Workers that only call, at a worker's pace: ``python -m benchmarks.virtual_workers ADDRESS --workers 500``.

Each is a worker of its own in one of some runs; all share a few connections. A round lasts as long as `--pace` says, a
tenth more or less. Prints, as JSON, how many rounds were played, how many calls failed, and what each round's two calls
took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time

import grpc
import grpc.aio

from benchmarks.players import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

CONNECTIONS = 8
CALL_SECONDS = 5.0


class VirtualWorker:
    """One worker. `taken`: seconds of each round's calls."""

    def __init__(self, stub: BanditStub, run: str, name: str) -> None:
        self._stub = stub
        self._caller = pb.Caller(run=run, worker=name, process="p")
        self.taken: list[float] = []
        self.failed = 0

    async def play(self, pace: float, end: float) -> None:
        """Rounds until then, by the monotonic clock."""
        random_pace = random.Random(self._caller.worker)
        # Not all at once.
        await asyncio.sleep(random_pace.uniform(0, pace))
        round = 0
        joined = False
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                if not joined:
                    self._saw((await self._join()).run)
                    joined = True
                    began = time.perf_counter()
                await self._round(round)
                self.taken.append(time.perf_counter() - began)
                round += 1
            except grpc.RpcError:
                self.failed += 1
            await asyncio.sleep(random_pace.uniform(0.9, 1.1) * pace)

    async def _join(self) -> pb.CreateRunResponse:
        request = pb.CreateRunRequest(caller=self._caller, spec=SPEC)
        answer: pb.CreateRunResponse = await self._stub.CreateRun(request, timeout=CALL_SECONDS)  # type: ignore[misc]
        return answer

    async def _round(self, round: int) -> None:
        request = pb.SelectArmRequest(caller=self._caller, round=round)
        chosen: pb.SelectArmResponse = await self._stub.SelectArm(request, timeout=CALL_SECONDS)  # type: ignore[misc]
        self._saw(chosen)
        measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=0.99, steps=10, seconds=1.0,
                                  terms={"image": 0.9, "text": 0.5, "decoder": 0.3, "task": 0.2})  # fmt: skip
        report = pb.ReportRewardRequest(caller=self._caller, round=round, arm=chosen.pull.arm,
                                        chosen_by=pb.CHOSEN_BY_POLICY, measurement=measured)  # fmt: skip
        self._saw(await self._stub.ReportReward(report, timeout=CALL_SECONDS))  # type: ignore[misc]

    def _saw(self, told: pb.RunSummary | pb.SelectArmResponse | pb.ReportRewardResponse) -> None:
        self._caller.incarnation, self._caller.seen_version = told.incarnation, told.version


async def play(asked: argparse.Namespace) -> dict[str, object]:
    """All of them."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(asked.address, options=options) for _ in range(CONNECTIONS)]
    # The generated stub is typed for channels that block.
    stubs = [BanditStub(channel) for channel in channels]
    workers = [
        VirtualWorker(stubs[at % CONNECTIONS], f"scale-{at % asked.runs}", f"{asked.name}-{at}")
        for at in range(asked.workers)
    ]
    end = time.monotonic() + asked.seconds
    await asyncio.gather(*(worker.play(asked.pace, end) for worker in workers))
    for channel in channels:
        await channel.close()
    return {
        "rounds": sum(len(worker.taken) for worker in workers),
        "failed": sum(worker.failed for worker in workers),
        "taken": [seconds for worker in workers for seconds in worker.taken],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.virtual_workers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("address", help="host:port of the bandit server")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--runs", type=int, default=50, help="how many runs they share (default: 50)")
    parser.add_argument("--pace", type=float, default=30.0, help="seconds of a round (default: 30)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they play (default: 60)")
    parser.add_argument("--name", default="v", help="what their names begin with (default: v)")
    print(json.dumps(asyncio.run(play(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
