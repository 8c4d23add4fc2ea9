"""Who may call: whoever shows the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from bandit_server.errors import Unauthenticated
from bandit_server.rpc.instrumentation import Edge

# A load balancer asks for health without a token.
OPEN = "/grpc.health.v1.Health/"


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call without `authorization: Bearer <token>`, those for the server's health excepted."""

    def __init__(self, token: str, edge: Edge) -> None:
        self._edge = edge
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See grpc.aio.ServerInterceptor."""
        shown = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        shown = shown.encode() if isinstance(shown, str) else shown
        if handler_call_details.method.startswith(OPEN) or hmac.compare_digest(shown, self._expected):
            return await continuation(handler_call_details)
        # Counted, too.
        return self._edge.around(handler_call_details.method, REFUSED if shown else ASKED)


async def _ask(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await _abort(
        context, "this server wants a token: set OPTIMA_TOKEN (or OPTIMA_TOKEN_FILE) to the one it was started with"
    )


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await _abort(context, "the token is not the one this server was started with")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], message: str) -> None:
    reason = (("optima-reason", Unauthenticated.reason),)
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, message, reason)


ASKED: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_ask)
REFUSED: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse)
