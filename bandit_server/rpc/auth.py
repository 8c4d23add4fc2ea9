"""Authentication: callers must send the server's token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from bandit_server.errors import Unauthenticated
from bandit_server.rpc.instrumentation import Instrumentation

# Load balancers check health without a token.
OPEN = "/grpc.health.v1.Health/"


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call without the header `authorization: Bearer <token>`, except to the health service."""

    def __init__(self, token: str, instrumentation: Instrumentation) -> None:
        self._expected = f"Bearer {token}".encode()
        # Refused calls are counted and logged, too.
        self._missing = instrumentation.refusals(_refuse_missing)
        self._wrong = instrumentation.refusals(_refuse_wrong)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's own handler to a caller with the token, else one that refuses the call."""
        header = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        header = header.encode() if isinstance(header, str) else header
        path = handler_call_details.method
        if path.startswith(OPEN) or hmac.compare_digest(header, self._expected):
            return await continuation(handler_call_details)
        refusals, default = (self._wrong, WRONG) if header else (self._missing, MISSING)
        refusal: grpc.RpcMethodHandler[Any, Any] = refusals.get(path, default)
        return refusal


async def _refuse_missing(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await _abort(
        context, "this server requires a token: set OPTIMA_TOKEN (or OPTIMA_TOKEN_FILE) to the one it was started with"
    )


async def _refuse_wrong(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await _abort(
        context, "wrong token: set OPTIMA_TOKEN (or OPTIMA_TOKEN_FILE) to the one that this server was started with"
    )


async def _abort(context: grpc.aio.ServicerContext[Any, Any], message: str) -> None:
    reason = (("optima-reason", Unauthenticated.reason),)
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, message, reason)


# For methods of other services.
MISSING: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse_missing)
WRONG: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse_wrong)
