"""The server's Prometheus metrics (docs/operations.md). No label has values that callers choose."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

CALL_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@functools.cache
def own_version() -> str:
    """Return the version of this package; "unknown" if it is not installed."""
    try:
        return version("optima-distill")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """The metrics of one server, in a registry of its own: several servers in one process do not share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        call = ("grpc_type", "grpc_service", "grpc_method")
        self.started = Counter("grpc_server_started_total", "Calls started.", call, registry=self.registry)
        self.handled = Counter("grpc_server_handled_total", "Calls finished, by status.", (*call, "grpc_code"),
                               registry=self.registry)  # fmt: skip
        self.handling = Histogram("grpc_server_handling_seconds", "Seconds per call.", call, buckets=CALL_SECONDS,
                                  registry=self.registry)  # fmt: skip
        self.refusals = Counter("optima_refusals_total", "Refused calls, by reason (the optima-reason of the error).",
                                ("reason",), registry=self.registry)  # fmt: skip
        self.store_seconds = Histogram("optima_store_call_seconds", "Seconds per call to the store.",
                                       buckets=CALL_SECONDS, registry=self.registry)  # fmt: skip
        self.store_failures = Counter("optima_store_failures_total",
                                      "Calls to the store that it did not answer, or refused.",
                                      registry=self.registry)  # fmt: skip
        self.store_up = Gauge("optima_store_up", "1 while the store answers.", registry=self.registry)
        self.events = Counter("optima_events_total", "Events that this replica has appended.", registry=self.registry)
        self.watchers = Gauge("optima_watchers", "Open WatchRun streams.", registry=self.registry)
        build = Gauge("optima_build_info", "1, labelled with the version.", ("version",), registry=self.registry)
        build.labels(own_version()).set(1)

    def store_called(self, seconds: float, answered: bool) -> None:
        """Count a call to the store that took so many seconds."""
        self.store_seconds.observe(seconds)
        if not answered:
            self.store_failures.inc()
