"""The gRPC client of the bandit server. A call has a deadline; a stream that falls silent is checked by a ping."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc
import grpc.aio

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

# Seconds that a small unary call may take.
DEADLINE = 2.0
# A watch that has been silent for this many seconds is checked with a ping: a frozen server sends no error.
PING_AFTER = 2.0
OPTIONS = [
    # By default the pause between attempts grows to two minutes; the dashboard should reconnect within seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]


class ServerClient:
    """A channel to the bandit server. Create, use and close it in one event loop.

    Every call raises grpc.aio.AioRpcError when the server refuses it, is unreachable, or misses the deadline.

    Args:
        address: The server, HOST:PORT, as it is shown.
        token: The server's token.
        credentials: For a server with TLS.
        target: Where gRPC connects to, if that is not the address.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        credentials: grpc.ChannelCredentials | None = None,
        target: str | None = None,
    ) -> None:
        self.address = address
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target or address, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target or address, credentials, options=OPTIONS)
        self._stub = rpc.BanditStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        """Cancel every call and close the channel."""
        await self._channel.close()

    async def ping(self) -> None:
        """Check that the server answers."""
        await self._stub.ListRuns(pb.ListRunsRequest(page_size=1), timeout=DEADLINE, metadata=self._metadata)

    async def list_runs(self) -> list[pb.RunSummary]:
        """Return all runs, newest first."""
        runs: list[pb.RunSummary] = []
        token = ""
        while True:
            request = pb.ListRunsRequest(page_token=token)
            page = await self._stub.ListRuns(request, timeout=5 * DEADLINE, metadata=self._metadata)
            runs.extend(page.runs)
            token = page.next_page_token
            if not token:
                return runs

    async def update_arm(self, run: str, arm: str, paused: bool, actor: str) -> pb.RunSummary:
        """Pause an arm or resume it. `actor` goes into the history."""
        request = pb.UpdateArmRequest(run=run, arm=arm, paused=paused, actor=actor)
        return (await self._stub.UpdateArm(request, timeout=2 * DEADLINE, metadata=self._metadata)).run

    async def finish_run(self, run: str, actor: str) -> pb.RunSummary:
        """Finish a run. `actor` goes into the history."""
        request = pb.FinishRunRequest(run=run, actor=actor)
        return (await self._stub.FinishRun(request, timeout=2 * DEADLINE, metadata=self._metadata)).run

    async def delete_run(self, run: str, force: bool) -> None:
        """Delete a run and its history; with `force` even while workers are alive."""
        request = pb.DeleteRunRequest(run=run, force=force)
        await self._stub.DeleteRun(request, timeout=2 * DEADLINE, metadata=self._metadata)

    async def history(self, run: str) -> AsyncGenerator[pb.WatchRunResponse]:
        """Yield the run's whole history up to now."""
        async with contextlib.aclosing(self.watch(run, 0, "")) as batches:
            async for batch in batches:
                if batch is not None:
                    yield batch
                    if batch.live:
                        return

    async def watch(self, run: str, version: int, incarnation: str) -> AsyncGenerator[pb.WatchRunResponse | None]:
        """Yield the run's history after a version, as it grows, until the run is deleted.

        None stands for a ping that the server answered while there was nothing new.
        """
        request = pb.WatchRunRequest(run=run, from_version=version, incarnation=incarnation)
        call = self._stub.WatchRun(request, metadata=self._metadata)
        reading: asyncio.Future[object] | None = None
        try:
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=PING_AFTER)
                if not done:
                    await self.ping()
                    yield None
                    continue
                batch = reading.result()
                reading = None
                if not isinstance(batch, pb.WatchRunResponse):
                    return
                yield batch
        finally:
            call.cancel()
            if reading is not None:
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await reading
