"""The bandit server: gRPC, store and dashboard, in a thread with its own event loop.

with Server(Settings(port=0, dashboard_port=None, data_dir=directory)) as server:
    … server.address …
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bandit_server.config import Settings
from bandit_server.errors import StartError, StoreUnavailable
from bandit_server.replica.runs import Runs
from bandit_server.rpc.auth import TokenInterceptor
from bandit_server.rpc.instrumentation import SERVICE_NAME, Instrumentation
from bandit_server.rpc.metrics import Metrics
from bandit_server.rpc.service import Service
from bandit_server.sockets import listen, local_host, private_socket, serve_web
from bandit_server.store.embedded import EmbeddedValkey
from bandit_server.store.redis_store import RedisStore

log = logging.getLogger(__name__)

# The names under which the health service reports: the whole server, and the Bandit service.
SERVICES = ("", SERVICE_NAME)
# RestoreRun sends 2,000 records of a journal in a call. The limit is well above that, so that the service itself can
# refuse most requests that are too long, with a sentence.
LARGEST_MESSAGE = 32 * 1024 * 1024
OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", 2 * LARGEST_MESSAGE),
    # With SO_REUSEPORT a second server on the same port would start, and receive every other call.
    ("grpc.so_reuseport", 0),
    # Ping clients, to notice one that is gone without closing its connection. Accept their pings at 5 s or longer (ours
    # ping every 10 s), also without calls, and disconnect a client that floods.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
]
# Seconds in which the store must answer at the start.
STORE_SECONDS = 10.0
# Seconds in which calls in progress may finish at the end.
GRACE_SECONDS = 2.0
# Seconds between two checks of the store.
HEALTH_SECONDS = 1.0


class Server:
    """A bandit server. Its methods may be called from any thread.

    Args:
        settings: Its settings.

    Attributes:
        settings: Its settings.
        port: The port of gRPC, once started.
        dashboard_port: The port of the dashboard, once started; None without one.
        metrics_port: The port of /metrics alone, once started; None without one.

    Raises:
        StartError: The settings are unsafe.
    """

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings
        self.port = 0
        self.dashboard_port: int | None = None
        self.metrics_port: int | None = None
        self._started: Future[None] = Future()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="optima-server", daemon=True)

    @property
    def address(self) -> str:
        """The gRPC address, host:port, for callers on this machine."""
        return f"{local_host(self.settings.host)}:{self.port}"

    @property
    def dashboard_url(self) -> str | None:
        """The dashboard's URL for browsers on this machine; None without a dashboard."""
        if self.dashboard_port is None:
            return None
        scheme = "https" if self.settings.tls else "http"
        return f"{scheme}://{local_host(self.settings.dashboard_host)}:{self.dashboard_port}"

    def start(self) -> Self:
        """Start the server, and return once it answers calls.

        Raises:
            StartError: A port is taken, the data directory is in use, or the store does not answer.
        """
        self._thread.start()
        self._started.result()
        return self

    def wait_ready(self, timeout: float) -> None:
        """Wait until the server answers calls.

        Args:
            timeout: Seconds to wait.

        Raises:
            TimeoutError: It does not answer in time.
            StartError: As in `start`.
        """
        self._started.result(timeout)

    def stop(self) -> None:
        """Stop the server, after calls in progress have finished. Idempotent."""
        if self._loop is not None:
            # The loop may have ended by itself in the meantime.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                log.exception("the server has stopped on an error")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        async with contextlib.AsyncExitStack() as stack:
            # Ports first, to fail at once if one is taken.
            listener = None
            if settings.dashboard_port is not None:
                listener = listen("--dashboard-port", settings.dashboard_host, settings.dashboard_port)
                stack.callback(listener.close)
                self.dashboard_port = listener.getsockname()[1]
            metrics_listener = None
            if settings.metrics_port is not None:
                metrics_listener = listen("--metrics-port", settings.metrics_host, settings.metrics_port)
                stack.callback(metrics_listener.close)
                self.metrics_port = metrics_listener.getsockname()[1]
            metrics = Metrics()
            instrumentation = Instrumentation(metrics)
            interceptors = [TokenInterceptor(settings.token, instrumentation)] if settings.token else []
            server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
            self.port = _bind(server, settings)
            stack.push_async_callback(server.stop, 0)
            store = await stack.enter_async_context(_store(settings, metrics))
            runs = Runs(store, metrics.events.inc)
            instrumentation.add_to_server(Service(runs), server)
            healthy = health.aio.HealthServicer()
            for service in SERVICES:
                await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
            reflection.enable_server_reflection([SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
            # The dashboard in this process calls over a private socket, which needs no certificates.
            private_address = stack.enter_context(private_socket(server)) if listener is not None else None
            await server.start()
            await stack.enter_async_context(_in_background(_watch_store(store, healthy, metrics)))
            await stack.enter_async_context(_in_background(runs.maintain()))
            if listener is not None:
                # Imported here because it is half of all imports: a server without a dashboard starts in half the time.
                from bandit_server.dashboard.web.app import create_app

                app = create_app(
                    self.address,
                    settings.token,
                    target=private_address,
                    metrics=metrics.registry,
                    anyone_may_look=settings.anyone_may_look,
                )
                await stack.enter_async_context(serve_web(app, listener, settings.tls))
            if metrics_listener is not None:
                from bandit_server.dashboard.web.metrics_endpoint import create_metrics_app

                app = create_metrics_app(metrics.registry, settings.token)
                await stack.enter_async_context(serve_web(app, metrics_listener, settings.tls))
            self._started.set_result(None)
            await self._stopping.wait()
            await healthy.enter_graceful_shutdown()
            await server.stop(GRACE_SECONDS)


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    """Bind gRPC to its port, and return the port."""
    host, port = settings.host, settings.port
    # Try the port first: gRPC does not say why it cannot bind one, and logs lines of C++.
    listen("--port", host, port).close()
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.tls is not None:
            return server.add_secure_port(address, settings.tls.credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}; choose another port with --port") from error


@contextlib.asynccontextmanager
async def _store(settings: Settings, metrics: Metrics) -> AsyncIterator[RedisStore]:
    """Connect to the store, starting the embedded one if there is no other; enter the block once it answers."""
    async with contextlib.AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            embedded = EmbeddedValkey(settings.data_dir, settings.fsync)
            stack.push_async_callback(embedded.stop)
            await embedded.start()
            url = embedded.url
        store = RedisStore(url, on_call=metrics.store_called)
        stack.push_async_callback(store.close)
        deadline = time.monotonic() + STORE_SECONDS
        while True:
            try:
                await store.ping()
                break
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise StartError(f"the store of --redis-url does not answer: {error}") from error
                await asyncio.sleep(0.2)
        yield store


async def _watch_store(store: RedisStore, healthy: health.aio.HealthServicer, metrics: Metrics) -> None:
    """Report for ever whether the store answers: the server is not healthy without it."""
    reported: int | None = None
    while True:
        try:
            await store.ping()
            status: int = health_pb2.HealthCheckResponse.SERVING
        except StoreUnavailable as error:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
            if status != reported:
                log.warning("%s", error)
        if status != reported:
            if reported == health_pb2.HealthCheckResponse.NOT_SERVING:
                log.warning("the store answers again")
            reported = status
            metrics.store_up.set(status == health_pb2.HealthCheckResponse.SERVING)
            for service in SERVICES:
                await healthy.set(service, status)
        await asyncio.sleep(HEALTH_SECONDS)


@contextlib.asynccontextmanager
async def _in_background(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine in the background for as long as the block runs."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
