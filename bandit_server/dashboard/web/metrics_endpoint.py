"""/metrics for Prometheus: beside the dashboard's pages, or alone on a server without a dashboard."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from bandit_server.dashboard.web.headers import SecurityHeaders
from bandit_server.dashboard.web.login import LoginRequired, Sessions


def add_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    """Serve the registry's metrics at /metrics."""

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type, "cache-control": "no-store"})


def create_metrics_app(registry: CollectorRegistry, token: str | None) -> FastAPI:
    """Create an application with nothing but /metrics, which asks for the token if there is one."""
    app = FastAPI(title="OPTIMA metrics", docs_url=None, redoc_url=None, openapi_url=None)
    if token:
        app.add_middleware(LoginRequired, sessions=Sessions(token))
    app.add_middleware(SecurityHeaders)
    add_metrics(app, registry)
    return app
