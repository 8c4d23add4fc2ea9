"""Where a server listens, and how the web's part of it is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import uvicorn
from starlette.types import ASGIApp

from bandit_server.errors import StartError
from bandit_server.tls import ServerTls


def listen(flag: str, host: str, port: int) -> socket.socket:
    """A listening socket; what says otherwise names the flag.

    Raises:
        StartError: The port is taken, not ours, or the host is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
        # What is accepted inherits it: an answer's body does not wait 40 ms for the other side to confirm its head.
        # asyncio sets it by itself, but not on sockets that were made as this one is.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        # A resolver's error has a number of its own, and says it in words.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StartError(f"{host}:{port} cannot be listened on ({reason}); choose another with {flag}") from error


def reachable(host: str) -> str:
    """The host by which this machine reaches what listens there."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return everywhere.get(host, f"[{host}]" if ":" in host else host)


@contextlib.contextmanager
def own_socket(server: grpc.aio.Server) -> Iterator[str]:
    """A socket that this user alone can reach, as gRPC names it."""
    directory = tempfile.mkdtemp(prefix="optima-")
    try:
        at = f"unix:{directory}/grpc.sock"
        server.add_insecure_port(at)
        yield at
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def web(app: ASGIApp, listener: socket.socket, tls: ServerTls | None) -> AsyncIterator[None]:
    """An application, served on the socket for as long as the block runs."""
    server = uvicorn.Server(web_config(app, tls))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def web_config(app: ASGIApp, tls: ServerTls | None) -> uvicorn.Config:
    """How an application is served."""
    return uvicorn.Config(
        app,
        # Its records go where ours go, in the same form.
        log_config=None,
        log_level="warning",
        # An open page holds its event stream for as long as it is looked at.
        timeout_graceful_shutdown=1,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
        # What serves, and in which version, is nobody's business.
        server_header=False,
    )
