"""The bandit server as an object: gRPC, store and dashboard, in a thread with an event loop of its own.

server = Server(Settings(port=0, dashboard_port=None, data_dir=directory))
server.start()
… server.address …
server.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bandit_server.config import Settings
from bandit_server.errors import StartError, StoreUnavailable
from bandit_server.replica.runs import Runs
from bandit_server.rpc.auth import TokenInterceptor
from bandit_server.rpc.instrumentation import NAME, Edge
from bandit_server.rpc.metrics import Metrics
from bandit_server.rpc.service import Service
from bandit_server.sockets import listen, own_socket, reachable, web
from bandit_server.store.embedded import EmbeddedValkey
from bandit_server.store.redis_store import RedisStore

log = logging.getLogger(__name__)

# Whose health can be asked: the server's as a whole, and the service's.
SERVICES = ("", NAME)
# A journal's records come 2,000 in a call; and a request that is too long should be told so in a sentence.
LARGEST_MESSAGE = 32 * 1024 * 1024
OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", 2 * LARGEST_MESSAGE),
    # With it a second server on the same port would start, and be given every other call.
    ("grpc.so_reuseport", 0),
    # A worker that vanished without a word is noticed; one that pings every 10 s, also without calls, is welcome, and
    # one that floods is told so and cut off.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
]
# Seconds for the store to answer at the start, and for calls in progress to end.
PATIENCE = 10.0
GRACE = 2.0
HEALTH_SECONDS = 1.0


class Server:
    """A bandit server. Its methods may be called from any thread, and its event loop is nobody else's business.

    Attributes:
        settings: As given.
        port: Where gRPC is served, once started.
        dashboard_port: Where the dashboard is, once started; None without one.
        metrics_port: Where /metrics has a port of its own; None where it has none.

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
        """host:port for callers on this machine."""
        return f"{reachable(self.settings.host)}:{self.port}"

    @property
    def dashboard_url(self) -> str | None:
        """The dashboard for browsers on this machine."""
        if self.dashboard_port is None:
            return None
        scheme = "https" if self.settings.tls else "http"
        return f"{scheme}://{reachable(self.settings.dashboard_host)}:{self.dashboard_port}"

    def start(self) -> Self:
        """Start, and return once calls are answered.

        Raises:
            StartError: A port is taken, the data directory is in use, or the store does not answer.
        """
        self._thread.start()
        self._started.result()
        return self

    def wait_ready(self, timeout: float) -> None:
        """Return once calls are answered. Raises TimeoutError, or what `start` would."""
        self._started.result(timeout)

    def stop(self) -> None:
        """Let calls in progress end, and go. Idempotent."""
        if self._loop is not None:
            # The loop may just have ended by itself.
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
                log.exception("the server has ended by a fault")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        async with contextlib.AsyncExitStack() as stack:
            # Ports first: whether they are free is known at once.
            listener = None
            if settings.dashboard_port is not None:
                listener = listen("--dashboard-port", settings.dashboard_host, settings.dashboard_port)
                stack.callback(listener.close)
                self.dashboard_port = listener.getsockname()[1]
            scraped = None
            if settings.metrics_port is not None:
                scraped = listen("--metrics-port", settings.metrics_host, settings.metrics_port)
                stack.callback(scraped.close)
                self.metrics_port = scraped.getsockname()[1]
            metrics = Metrics()
            edge = Edge(metrics)
            interceptors = [TokenInterceptor(settings.token, edge)] if settings.token else []
            server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
            self.port = _bind(server, settings)
            stack.push_async_callback(server.stop, 0)
            store = await stack.enter_async_context(_store(settings, metrics))
            runs = Runs(store, metrics.events.inc)
            edge.serve(Service(runs), server)
            healthy = health.aio.HealthServicer()
            for service in SERVICES:
                await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
            reflection.enable_server_reflection([NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
            # The dashboard beside it needs no certificate, whatever name is in it, and no client's either.
            inside = stack.enter_context(own_socket(server)) if listener is not None else None
            await server.start()
            await stack.enter_async_context(_beside(_watch_store(store, healthy, metrics)))
            await stack.enter_async_context(_beside(runs.maintain()))
            if listener is not None:
                # Here, as it is half of what there is to load: a server without it starts in half the time.
                from bandit_server.dashboard.web.app import create_app

                app = create_app(
                    self.address,
                    settings.token,
                    target=inside,
                    metrics=metrics.registry,
                    anyone_may_look=settings.anyone_may_look,
                )
                await stack.enter_async_context(web(app, listener, settings.tls))
            if scraped is not None:
                from bandit_server.dashboard.web.metrics_endpoint import create_metrics_app

                app = create_metrics_app(metrics.registry, settings.token)
                await stack.enter_async_context(web(app, scraped, settings.tls))
            self._started.set_result(None)
            await self._stopping.wait()
            await healthy.enter_graceful_shutdown()
            await server.stop(GRACE)


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    host, port = settings.host, settings.port
    # gRPC does not say why it cannot have a port, and logs that it cannot; so it is asked only if we could.
    listen("--port", host, port).close()
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.tls is not None:
            return server.add_secure_port(at, settings.tls.credentials())
        return server.add_insecure_port(at)
    except RuntimeError as error:
        raise StartError(f"{at} cannot be listened on; choose another with --port") from error


@contextlib.asynccontextmanager
async def _store(settings: Settings, metrics: Metrics) -> AsyncIterator[RedisStore]:
    """The store, answering."""
    async with contextlib.AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            embedded = EmbeddedValkey(settings.data_dir, settings.fsync)
            stack.push_async_callback(embedded.stop)
            await embedded.start()
            url = embedded.url
        store = RedisStore(url, on_call=metrics.store_called)
        stack.push_async_callback(store.close)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await store.ping()
                break
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise StartError(f"--redis-url names no store that answers: {error}") from error
                await asyncio.sleep(0.2)
        yield store


async def _watch_store(store: RedisStore, healthy: health.aio.HealthServicer, metrics: Metrics) -> None:
    """Keep saying whether calls can be answered: without its store the server is up, but of no use."""
    status: int | None = None
    while True:
        try:
            await store.ping()
            found: int = health_pb2.HealthCheckResponse.SERVING
        except StoreUnavailable as error:
            found = health_pb2.HealthCheckResponse.NOT_SERVING
            if status != found:
                log.warning("%s", error)
        if found != status:
            if status == health_pb2.HealthCheckResponse.NOT_SERVING:
                log.warning("the store answers again")
            status = found
            metrics.store_up.set(status == health_pb2.HealthCheckResponse.SERVING)
            for service in SERVICES:
                await healthy.set(service, status)
        await asyncio.sleep(HEALTH_SECONDS)


@contextlib.asynccontextmanager
async def _beside(work: object) -> AsyncIterator[None]:
    """Some work in the background for as long as the block runs."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
