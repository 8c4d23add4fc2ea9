"""Listening sockets, and serving web applications on them."""

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
    """Open a listening socket.

    Args:
        flag: The command line's flag for the port, for the error.
        host: The address to listen on.
        port: The port; 0 for any free one.

    Raises:
        StartError: The port is taken or reserved, or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
        # Accepted connections inherit TCP_NODELAY: a response's body does not wait 40 ms for the acknowledgement of its
        # head. asyncio sets it too, but not on a socket that it did not create.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        # The errno of a resolver's error is its own, not the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StartError(f"cannot listen on {host}:{port} ({reason}); choose another port with {flag}") from error


def local_host(host: str) -> str:
    """Return the host, as in a URL, at which this machine reaches a server that listens on `host`."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return wildcards.get(host, f"[{host}]" if ":" in host else host)


@contextlib.contextmanager
def private_socket(server: grpc.aio.Server) -> Iterator[str]:
    """Serve on a unix socket, too, that only this user can reach; yield its address for a gRPC channel."""
    directory = tempfile.mkdtemp(prefix="optima-")
    try:
        address = f"unix:{directory}/grpc.sock"
        server.add_insecure_port(address)
        yield address
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def serve_web(app: ASGIApp, listener: socket.socket, tls: ServerTls | None) -> AsyncIterator[None]:
    """Serve an application on the socket for as long as the block runs."""
    server = uvicorn.Server(web_config(app, tls))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def web_config(app: ASGIApp, tls: ServerTls | None) -> uvicorn.Config:
    """Return uvicorn's configuration for an application."""
    return uvicorn.Config(
        app,
        # Its records go to our handlers, in the same format.
        log_config=None,
        log_level="warning",
        # An open page holds its event stream open, and would delay the shutdown.
        timeout_graceful_shutdown=1,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
        # Do not reveal the web server and its version.
        server_header=False,
    )
