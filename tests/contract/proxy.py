"""A network of one's own between a client and a store, that loses what it is told to lose."""

from __future__ import annotations

import asyncio


class Proxy:
    """Passes bytes between whoever connects to `url`, over TCP, and a store on a unix socket."""

    def __init__(self, url: str) -> None:
        self._behind = url.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._losing = False

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"redis://{host}:{port}/0"

    def lose_next_answer(self) -> None:
        """Cut the connection instead of passing on what the store says next."""
        self._losing = True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection to the store."""
        assert self._server is not None
        return await asyncio.open_connection(*self._server.sockets[0].getsockname())

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        store, to_store = await asyncio.open_unix_connection(self._behind)
        asking = asyncio.create_task(self._pass_on(client, to_store))
        while answer := await store.read(1 << 16):
            if self._losing:
                self._losing = False
                break
            to_client.write(answer)
        to_client.close()
        await asking

    async def _pass_on(self, client: asyncio.StreamReader, to_store: asyncio.StreamWriter) -> None:
        while question := await client.read(1 << 16):
            to_store.write(question)
        to_store.close()
