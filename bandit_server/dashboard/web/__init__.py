"""The FastAPI application: pages, JSON API, server-sent events, login, metrics."""
