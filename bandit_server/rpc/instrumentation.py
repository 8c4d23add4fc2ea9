"""The handlers of the Bandit service: each parses its request, and times, counts and logs the call."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import Counter

from bandit_server.errors import Invalid
from bandit_server.logs import REQUEST
from bandit_server.rpc.metrics import Metrics, own_version
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

log = logging.getLogger("bandit_server.calls")

_SERVICE = pb.DESCRIPTOR.services_by_name["Bandit"]
SERVICE_NAME = _SERVICE.full_name
# Calls that change a run as a whole are logged at INFO, those of every round at DEBUG.
_LOGGED_AT_INFO = frozenset({"CreateRun", "FinishRun", "DeleteRun", "UpdateArm", "RestoreRun"})
_CODES = {code.value[0]: code for code in grpc.StatusCode}

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Parse = Callable[[bytes], Any]
    Unary = Callable[[Any, Context], Awaitable[Any]]
    Stream = Callable[[Any, Context], AsyncIterator[Any]]


class Instrumentation:
    """Builds instrumented handlers from the service's descriptor.

    An interceptor that did the same would cost every call a task of its own.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def add_to_server(self, servicer: rpc.BanditServicer, server: grpc.aio.Server) -> None:
        """Add the service to a server that has not started."""
        handlers = {method.name: self._handler(method, getattr(servicer, method.name)) for method in _SERVICE.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    def refusals(self, refuse: Unary) -> dict[str, Handler]:
        """Return a handler that refuses a call with its request unread, by path, for each method of the service.

        There are none for other methods: a label of the metrics must not have values that callers choose.
        """
        return {
            f"/{SERVICE_NAME}/{method.name}": grpc.unary_unary_rpc_method_handler(self._unary(method, None, refuse))
            for method in _SERVICE.methods
        }

    def _handler(self, method: MethodDescriptor, behaviour: Any) -> Handler:
        if method.client_streaming:
            raise NotImplementedError(f"{method.name}: handlers of streams of requests are not implemented")
        parse: Parse = GetMessageClass(method.input_type).FromString
        serialize = GetMessageClass(method.output_type).SerializeToString
        if method.server_streaming:
            stream = self._stream(method, parse, behaviour)
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, parse, behaviour), response_serializer=serialize)

    def _unary(self, method: MethodDescriptor, parse: Parse | None, behaviour: Unary) -> Unary:
        counters = _MethodMetrics(self._metrics, method)

        async def respond(message: bytes, context: Context) -> Any:
            with _ObservedCall(counters, context) as call:
                return await behaviour(await call.parse(parse, message), context)

        return respond

    def _stream(self, method: MethodDescriptor, parse: Parse, behaviour: Stream) -> Stream:
        counters = _MethodMetrics(self._metrics, method)

        async def respond(message: bytes, context: Context) -> AsyncIterator[Any]:
            with _ObservedCall(counters, context) as call, self._metrics.watchers.track_inprogress():
                request = await call.parse(parse, message)
                async for response in behaviour(request, context):
                    yield response

        return respond


class _MethodMetrics:
    """The metrics of one method, with its labels set."""

    def __init__(self, metrics: Metrics, method: MethodDescriptor) -> None:
        kind = "server_stream" if method.server_streaming else "unary"
        self._labels = (kind, SERVICE_NAME, method.name)
        self._handled: dict[grpc.StatusCode, Counter] = {}
        self.method = method.name
        self.metrics = metrics
        self.started = metrics.started.labels(*self._labels)
        self.handling = metrics.handling.labels(*self._labels)

    def handled(self, code: grpc.StatusCode) -> Counter:
        """Return the counter of a status; a status has no time series before its first call."""
        if code not in self._handled:
            self._handled[code] = self.metrics.handled.labels(*self._labels, code.name)
        return self._handled[code]


class _ObservedCall:
    """One call, from its arrival to its end."""

    def __init__(self, counters: _MethodMetrics, context: Context) -> None:
        self._counters = counters
        self._context = context

    def __enter__(self) -> _ObservedCall:
        self._start = time.perf_counter()
        self._counters.started.inc()
        return self

    async def parse(self, parse: Parse | None, message: bytes) -> Any:
        """Parse the request; abort with INVALID_ARGUMENT if it does not decode.

        A call whose deadline has passed is aborted with DEADLINE_EXCEEDED: its caller would not learn of what it wrote.
        With no `parse` the message is returned as it is.
        """
        seconds_left = self._context.time_remaining()
        if seconds_left is not None and seconds_left <= 0:
            await self._context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline had passed when it arrived"
            )
        if parse is None:
            return message
        method = self._counters.method
        try:
            request = parse(message)
        except DecodeError:
            sentence = f"the request does not decode as {method}Request ({len(message)} bytes)"
            reason = (("optima-reason", Invalid.reason),)
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, sentence, reason)
        if isinstance(request, Message):
            REQUEST.set(request)
        if method == "ListRuns":
            # For `optima doctor`, as metadata so that the messages of the contract stay as they are.
            metadata = (("optima-version", own_version()), ("optima-time", f"{time.time():.3f}"))
            self._context.set_trailing_metadata(metadata)
        return request

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        seconds = time.perf_counter() - self._start
        code = self._code(error)
        counters = self._counters
        counters.handling.observe(seconds)
        counters.handled(code).inc()
        reason = ""
        if code is not grpc.StatusCode.OK:
            reason = str(dict(self._context.trailing_metadata() or ()).get("optima-reason", ""))
            if reason:
                counters.metrics.refusals.labels(reason).inc()
        level = logging.INFO if counters.method in _LOGGED_AT_INFO else logging.DEBUG
        if log.isEnabledFor(level):
            details = {"code": code.name, "seconds": round(seconds, 6), **({"reason": reason} if reason else {})}
            log.log(level, "%s", counters.method, extra={"details": details})

    def _code(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None or isinstance(error, grpc.aio.AbortError):
            code: Any = self._context.code()
            return code if isinstance(code, grpc.StatusCode) else _CODES[code or 0]
        if isinstance(error, Exception):
            return grpc.StatusCode.UNKNOWN
        # Cancelled, or a closed stream: by the caller, or because its deadline has passed.
        seconds_left = self._context.time_remaining()
        late = seconds_left is not None and seconds_left <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
