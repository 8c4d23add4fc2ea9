"""A proxy between a client and a store that can lose a response."""

from __future__ import annotations

import asyncio


class Proxy:
    """Forwards bytes between TCP clients and a store on a unix socket."""

    def __init__(self, url: str) -> None:
        self._target = url.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._losing = False

    @property
    def url(self) -> str:
        """The URL for clients."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"redis://{host}:{port}/0"

    def lose_next_response(self) -> None:
        """Close the connection instead of forwarding the store's next response."""
        self._losing = True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a plain connection to the store."""
        assert self._server is not None
        return await asyncio.open_connection(*self._server.sockets[0].getsockname())

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        store, to_store = await asyncio.open_unix_connection(self._target)
        forwarding = asyncio.create_task(self._forward(client, to_store))
        while response := await store.read(1 << 16):
            if self._losing:
                self._losing = False
                break
            to_client.write(response)
        to_client.close()
        await forwarding

    async def _forward(self, client: asyncio.StreamReader, to_store: asyncio.StreamWriter) -> None:
        while request := await client.read(1 << 16):
            to_store.write(request)
        to_store.close()
