"""The bandit server, as this dashboard calls it; every call has a deadline or a sign of life."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc
import grpc.aio

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

# How long a unary call may take.
DEADLINE = 2.0
# A watch that has been silent for so long is checked by a call of its own: a frozen server sends no error.
QUIET = 2.0
OPTIONS = [
    # gRPC's own pause between attempts grows to two minutes; a dashboard should be back within seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]


class ServerClient:
    """A channel to the bandit server. Must be made, used and closed in one event loop.

    Every call raises grpc.aio.AioRpcError when the server refuses, is away, or is late.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        credentials: grpc.ChannelCredentials | None = None,
        target: str | None = None,
    ) -> None:
        self.address = address
        where = target or address
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(where, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(where, credentials, options=OPTIONS)
        self._stub = rpc.BanditStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        """End every call and the channel."""
        await self._channel.close()

    async def ping(self) -> None:
        """Return if the server answers."""
        await self._stub.ListRuns(pb.ListRunsRequest(page_size=1), timeout=DEADLINE, metadata=self._metadata)

    async def list_runs(self) -> list[pb.RunSummary]:
        """All runs, newest first."""
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
        """Pause an arm, or resume it."""
        request = pb.UpdateArmRequest(run=run, arm=arm, paused=paused, actor=actor)
        return (await self._stub.UpdateArm(request, timeout=2 * DEADLINE, metadata=self._metadata)).run

    async def finish_run(self, run: str, actor: str) -> pb.RunSummary:
        """End a run."""
        request = pb.FinishRunRequest(run=run, actor=actor)
        return (await self._stub.FinishRun(request, timeout=2 * DEADLINE, metadata=self._metadata)).run

    async def delete_run(self, run: str, force: bool) -> None:
        """Delete a run's history; `force`: although workers are alive."""
        request = pb.DeleteRunRequest(run=run, force=force)
        await self._stub.DeleteRun(request, timeout=2 * DEADLINE, metadata=self._metadata)

    async def history(self, run: str) -> AsyncGenerator[pb.WatchRunResponse]:
        """The run's whole history as it stands now."""
        async with contextlib.aclosing(self.watch(run, 0, "")) as batches:
            async for batch in batches:
                if batch is not None:
                    yield batch
                    if batch.live:
                        return

    async def watch(self, run: str, version: int, incarnation: str) -> AsyncGenerator[pb.WatchRunResponse | None]:
        """The run's history after a version, as it grows; None for each time the server only proved to be there.

        Ends when the run is deleted.
        """
        request = pb.WatchRunRequest(run=run, from_version=version, incarnation=incarnation)
        call = self._stub.WatchRun(request, metadata=self._metadata)
        reading: asyncio.Future[object] | None = None
        try:
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=QUIET)
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
