"""What every call of the Bandit service passes through: its bytes are read, and it is timed, counted and logged."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter

from bandit_server.errors import Invalid
from bandit_server.logs import REQUEST
from bandit_server.rpc.metrics import Metrics, own_version
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

log = logging.getLogger("bandit_server.calls")

_SERVICE = pb.DESCRIPTOR.services_by_name["Bandit"]
NAME = _SERVICE.full_name
_METHODS = frozenset(f"/{NAME}/{method.name}" for method in _SERVICE.methods)
# What changes a run as a whole is told in the log; what happens every round only when somebody wants to know.
_TOLD = frozenset({"CreateRun", "FinishRun", "DeleteRun", "UpdateArm", "RestoreRun"})
_CODES = {code.value[0]: code for code in grpc.StatusCode}

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class Edge:
    """Stands around the handlers themselves: an interceptor costs every call a task's worth of time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._wrapped: dict[tuple[str, Any], Handler] = {}

    def serve(self, servicer: rpc.BanditServicer, server: grpc.aio.Server) -> None:
        """Add the service to a server, everything around it."""
        rpc.add_BanditServicer_to_server(servicer, cast(grpc.aio.Server, _Handlers(self, server)))

    def around(self, path: str, handler: Handler) -> Handler:
        """A method's handler, or another one in its place, with everything around it; `path` as gRPC has it.

        Other services' handlers are returned as they are: a label must not have any value that a stranger sends.
        """
        if path not in _METHODS:
            return handler
        key = (path, handler)
        if key not in self._wrapped:
            self._wrapped[key] = self._wrap(path.rpartition("/")[2], handler)
        return self._wrapped[key]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
        read = handler.request_deserializer
        call = _Call(self._metrics, method, "server_stream" if handler.response_streaming else "unary")

        async def answer(given: bytes, context: Context) -> Any:
            with call.observed(context) as observed:
                request = await observed.read(read, given)
                return await behaviour(request, context)

        async def stream(given: bytes, context: Context) -> AsyncIterator[Any]:
            with call.observed(context) as observed, self._metrics.watchers.track_inprogress():
                request = await observed.read(read, given)
                async for response in behaviour(request, context):
                    yield response

        write = handler.response_serializer
        if inspect.isasyncgenfunction(behaviour):
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=write)
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=write)


class _Handlers:
    """Takes the place of a server to which a service is added."""

    def __init__(self, edge: Edge, server: grpc.aio.Server) -> None:
        self._edge = edge
        self._server = server

    def add_generic_rpc_handlers(self, _: object) -> None:
        """The same once more."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """See grpc.aio.Server."""
        around = {name: self._edge.around(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, around),))
        self._server.add_registered_method_handlers(service, around)


class _Call:
    """The numbers of one method."""

    def __init__(self, metrics: Metrics, method: str, kind: str) -> None:
        labels = (kind, NAME, method)
        self._labels = labels
        self._handled: dict[grpc.StatusCode, Counter] = {}
        self.method = method
        self.metrics = metrics
        self.started = metrics.started.labels(*labels)
        self.handling = metrics.handling.labels(*labels)

    def ended(self, code: grpc.StatusCode) -> None:
        """Count a call; a status that never was has no number."""
        if code not in self._handled:
            self._handled[code] = self.metrics.handled.labels(*self._labels, code.name)
        self._handled[code].inc()

    def observed(self, context: Context) -> _Observed:
        return _Observed(self, context)


class _Observed:
    """One call, from its first byte to its last."""

    def __init__(self, call: _Call, context: Context) -> None:
        self._call = call
        self._context = context

    def __enter__(self) -> _Observed:
        self._began = time.perf_counter()
        self._call.started.inc()
        return self

    async def read(self, deserializer: Callable[[bytes], Any] | None, given: bytes) -> Any:
        """The request. Bytes that are none end the call."""
        left = self._context.time_remaining()
        if left is not None and left <= 0:
            # Nobody waits for the answer; what it would write, nobody would know of.
            await self._context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline had passed on its arrival"
            )
        if deserializer is None:
            return given
        try:
            request = deserializer(given)
        except DecodeError:
            sentence = f"the request is no {self._call.method}Request: its {len(given)} bytes cannot be read"
            reason = (("optima-reason", Invalid.reason),)
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, sentence, reason)
        if isinstance(request, Message):
            REQUEST.set(request)
        if self._call.method == "ListRuns":
            # For `optima doctor`; a message of the contract would be a change of the contract.
            about = (("optima-version", own_version()), ("optima-time", f"{time.time():.3f}"))
            self._context.set_trailing_metadata(about)
        return request

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        seconds = time.perf_counter() - self._began
        code = self._code(error)
        call = self._call
        call.handling.observe(seconds)
        call.ended(code)
        reason = ""
        if code is not grpc.StatusCode.OK:
            reason = str(dict(self._context.trailing_metadata() or ()).get("optima-reason", ""))
            if reason:
                call.metrics.refusals.labels(reason).inc()
        level = logging.INFO if call.method in _TOLD else logging.DEBUG
        if log.isEnabledFor(level):
            details = {"code": code.name, "seconds": round(seconds, 6), **({"reason": reason} if reason else {})}
            log.log(level, "%s", call.method, extra={"details": details})

    def _code(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None or isinstance(error, grpc.aio.AbortError):
            told: Any = self._context.code()
            return told if isinstance(told, grpc.StatusCode) else _CODES[told or 0]
        if isinstance(error, Exception):
            return grpc.StatusCode.UNKNOWN
        # Cancelled, or a stream that is closed: the caller's doing, or its deadline's.
        left = self._context.time_remaining()
        late = left is not None and left <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
