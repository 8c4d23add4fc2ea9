"""A server that does the least that a bandit server must do: respond to calls and append to Redis.

    python -m benchmarks.server.bare_server URL --stack asyncio

It uses the messages of the protocol on the chosen stack. `Heartbeat` responds at once: an empty unary call. `SelectArm`
and `ReportReward` append an event of realistic size and respond like the real server, but do not choose, validate,
store or count anything: versions and rounds are ignored.
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

from benchmarks.server.load_workers import SPEC
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

STACKS = ("asyncio", "uvloop", "sync")
# As many as the real server sends.
FALLBACK_ARMS = [SPEC.arms[at % 3].name for at in range(64)]
THREADS = 64


def pulled(request: pb.SelectArmRequest) -> tuple[bytes, pb.SelectArmResponse]:
    """Return the event of a choice and the response."""
    pull = pb.Pull(number=request.round, worker=request.caller.worker, round=request.round,
                   arm=FALLBACK_ARMS[request.round % 3], chosen_by=pb.CHOSEN_BY_POLICY)  # fmt: skip
    event = pb.Event(schema=1, arm_pulled=pb.ArmPulled(pull=pull, fallback_arms=FALLBACK_ARMS))
    response = pb.SelectArmResponse(pull=pull, fallback_arms=FALLBACK_ARMS, incarnation="bare", version=1)
    return event.SerializeToString(), response


def reported(request: pb.ReportRewardRequest) -> tuple[bytes, pb.ReportRewardResponse]:
    """Return the event of a report and the response."""
    pull = pb.Pull(number=request.round, worker=request.caller.worker, round=request.round, arm=request.arm,
                   chosen_by=request.chosen_by)  # fmt: skip
    report = pb.RewardReported(pull=pull, measurement=request.measurement, reward=0.01)
    event = pb.Event(schema=1, reward_reported=report)
    return event.SerializeToString(), pb.ReportRewardResponse(report=report, incarnation="bare", version=1)


class BareServicer(rpc.BanditServicer):
    """The bare server on an event loop. Other calls are not implemented."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(url)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        """Respond at once."""
        return pb.HeartbeatResponse()

    async def SelectArm(self, request: pb.SelectArmRequest, context: Any) -> pb.SelectArmResponse:
        """Append the event of a choice."""
        event, response = pulled(request)
        await self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return response

    async def ReportReward(self, request: pb.ReportRewardRequest, context: Any) -> pb.ReportRewardResponse:
        """Append the event of a report."""
        event, response = reported(request)
        await self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return response


class ThreadedBareServicer(rpc.BanditServicer):
    """The bare server on threads. Other calls are not implemented."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        """Respond at once."""
        return pb.HeartbeatResponse()

    def SelectArm(self, request: pb.SelectArmRequest, context: Any) -> pb.SelectArmResponse:
        """Append the event of a choice."""
        event, response = pulled(request)
        self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return response

    def ReportReward(self, request: pb.ReportRewardRequest, context: Any) -> pb.ReportRewardResponse:
        """Append the event of a report."""
        event, response = reported(request)
        self._redis.xadd(f"bare:{request.caller.run}", {"e": event})
        return response


async def serve(url: str) -> None:
    """Serve on an event loop until standard input ends, and print the port."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    rpc.add_BanditServicer_to_server(BareServicer(url), server)  # type: ignore[abstract]
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


def serve_in_threads(url: str) -> None:
    """Serve on threads until standard input ends, and print the port."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    port = server.add_insecure_port("127.0.0.1:0")
    rpc.add_BanditServicer_to_server(ThreadedBareServicer(url), server)  # type: ignore[abstract]
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    stopped: threading.Event = server.stop(0)
    stopped.wait()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.bare_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("redis_url")
    parser.add_argument("--stack", choices=STACKS, default="asyncio")
    arguments = parser.parse_args()
    if arguments.stack == "sync":
        serve_in_threads(arguments.redis_url)
    elif arguments.stack == "asyncio":
        asyncio.run(serve(arguments.redis_url))
    else:
        uvloop.run(serve(arguments.redis_url))


if __name__ == "__main__":
    main()
