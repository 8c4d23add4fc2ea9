"""The least that a bandit server must do: answer a call, and append to Redis.

    python -m benchmarks.server.bare_server URL --stack asyncio

The wire contract's own messages on the stack that is asked for. `Heartbeat` answers at once: an empty unary call.
`SelectArm` and `ReportReward` append an event of the size that a real one has, and answer as a real server would, but
choose, check, remember and count nothing: versions and rounds are not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import redis
import redis.asyncio
import uvloop

from benchmarks.server.players import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

STACKS = ("asyncio", "uvloop", "sync")
# As many as a real server sends along.
FALLBACK_ARMS = [SPEC.arms[at % 3].name for at in range(64)]
THREADS = 64


def pulled(request: pb.SelectArmRequest) -> tuple[bytes, pb.SelectArmResponse]:
    """The event of a choice, and its answer."""
    pull = pb.Pull(number=request.round, worker=request.caller.worker, round=request.round,
                   arm=FALLBACK_ARMS[request.round % 3], chosen_by=pb.CHOSEN_BY_POLICY)  # fmt: skip
    event = pb.Event(schema=1, arm_pulled=pb.ArmPulled(pull=pull, fallback_arms=FALLBACK_ARMS))
    answer = pb.SelectArmResponse(pull=pull, fallback_arms=FALLBACK_ARMS, incarnation="bare", version=1)
    return event.SerializeToString(), answer


def reported(request: pb.ReportRewardRequest) -> tuple[bytes, pb.ReportRewardResponse]:
    """The event of a report, and its answer."""
    pull = pb.Pull(number=request.round, worker=request.caller.worker, round=request.round, arm=request.arm,
                   chosen_by=request.chosen_by)  # fmt: skip
    report = pb.RewardReported(pull=pull, measurement=request.measurement, reward=0.01)
    event = pb.Event(schema=1, reward_reported=report)
    return event.SerializeToString(), pb.ReportRewardResponse(report=report, incarnation="bare", version=1)


class Bare(rpc.BanditServicer):
    """On an event loop."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(url)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse()

    async def SelectArm(self, request: pb.SelectArmRequest, context: Any) -> pb.SelectArmResponse:
        event, answer = pulled(request)
        await self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return answer

    async def ReportReward(self, request: pb.ReportRewardRequest, context: Any) -> pb.ReportRewardResponse:
        event, answer = reported(request)
        await self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return answer


class BareInThreads(rpc.BanditServicer):
    """On threads."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse()

    def SelectArm(self, request: pb.SelectArmRequest, context: Any) -> pb.SelectArmResponse:
        event, answer = pulled(request)
        self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return answer

    def ReportReward(self, request: pb.ReportRewardRequest, context: Any) -> pb.ReportRewardResponse:
        event, answer = reported(request)
        self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return answer


async def serve(url: str) -> None:
    """Serve until the end of input; the port is printed."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    rpc.add_BanditServicer_to_server(Bare(url), server)
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


def serve_in_threads(url: str) -> None:
    """The same on threads."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    port = server.add_insecure_port("127.0.0.1:0")
    rpc.add_BanditServicer_to_server(BareInThreads(url), server)
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    stopped: threading.Event = server.stop(0)
    stopped.wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.bare_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("redis_url")
    parser.add_argument("--stack", choices=STACKS, default="asyncio")
    asked = parser.parse_args()
    if asked.stack == "sync":
        serve_in_threads(asked.redis_url)
    elif asked.stack == "asyncio":
        asyncio.run(serve(asked.redis_url))
    else:
        uvloop.run(serve(asked.redis_url))


if __name__ == "__main__":
    main()
