"""What one server counts, for Prometheus (docs/operations.md). No label has values that callers choose."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_left
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

CALL_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@functools.cache
def own_version() -> str:
    """The version of this package."""
    try:
        return version("optima-distill")
    except PackageNotFoundError:
        return "unknown"


class Tally:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Let it grow."""
        self.value += by


class Times:
    """How long something took: `counts` by bucket of CALL_SECONDS, and the `sum` of seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(CALL_SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Once more."""
        self.counts[bisect_left(CALL_SECONDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """For Prometheus: up to how many seconds, and how often it took no more."""
        return list(zip([*map(str, CALL_SECONDS), "+Inf"], itertools.accumulate(self.counts), strict=True))


class Calls(Collector):
    """What every call and every event is counted with, all on one thread: prometheus_client's own numbers take a lock
    for each step, which takes five times as long. By method, and by method and status.
    """

    def __init__(self) -> None:
        self.started: dict[tuple[str, ...], Tally] = {}
        self.handled: dict[tuple[str, ...], Tally] = {}
        self.handling: dict[tuple[str, ...], Times] = {}
        self.store = Times()
        self.store_failures = Tally()
        self.events = Tally()

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """See Collector."""
        call = ("grpc_type", "grpc_service", "grpc_method")
        for name, told, labels, tallies in (
            ("grpc_server_started", "Calls begun.", call, self.started),
            ("grpc_server_handled", "Calls ended, by status.", (*call, "grpc_code"), self.handled),
            ("optima_store_failures", "Calls that the store did not answer.", (), {(): self.store_failures}),
            ("optima_events", "Events that this replica has appended.", (), {(): self.events}),
        ):
            counter = CounterMetricFamily(name, told, labels=labels)
            for values, tally in list(tallies.items()):
                counter.add_metric(values, tally.value)
            yield counter
        for name, told, labels, times in (
            ("grpc_server_handling_seconds", "Seconds a call took.", call, self.handling),
            ("optima_store_call_seconds", "Seconds a call to the store took.", (), {(): self.store}),
        ):
            histogram = HistogramMetricFamily(name, told, labels=labels)
            for values, taken in list(times.items()):
                histogram.add_metric(values, taken.buckets(), taken.sum)
            yield histogram


class Metrics:
    """A server's own registry: several servers in one process do not share their numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.calls = Calls()
        self.registry.register(self.calls)
        self.refusals = Counter("optima_refusals_total", "Calls refused, by the one word told to programs.",
                                ("reason",), registry=self.registry)  # fmt: skip
        self.store_up = Gauge("optima_store_up", "1 while the store answers.", registry=self.registry)
        self.watchers = Gauge("optima_watchers", "Histories being watched.", registry=self.registry)
        build = Gauge("optima_build_info", "1.", ("version",), registry=self.registry)
        build.labels(own_version()).set(1)

    def store_called(self, seconds: float, answered: bool) -> None:
        """A call to the store has ended."""
        self.calls.store.observe(seconds)
        if not answered:
            self.calls.store_failures.inc()
