"""A fake bandit server that sends what a test wrote: wrong versions, hostile names, nothing at all.

The real server validates names and never does this. The dashboard must cope with it all the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History


class ScriptedServer:
    """A server that sends the histories of its runs.

    Attributes:
        frozen: While set, calls are accepted and not answered.
        version_error: Added to the version of the next batch, once.
        live: False if batches claim that more of the history follows at once.
        watches: Calls of WatchRun so far.
        authorizations: Authorization headers received.
        address: HOST:PORT.
    """

    def __init__(self, *histories: History) -> None:
        self.histories = {history.run: history for history in histories}
        self.frozen = threading.Event()
        self.version_error = 0
        self.live = True
        self.watches = 0
        self.authorizations: set[str] = set()
        self.address = ""

    def list_runs(self, _request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        """Return the summaries of all runs."""
        self.authorizations |= {str(value) for key, value in context.invocation_metadata() if key == "authorization"}
        while self.frozen.is_set() and context.is_active():
            threading.Event().wait(0.02)
        return pb.ListRunsResponse(runs=[history.summary() for history in self.histories.values()])

    def watch_run(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        """Yield the history, then what is added to it."""
        self.watches += 1
        history = self.histories[request.run]
        sent = request.from_version
        while context.is_active():
            if not self.frozen.is_set() and sent < len(history.events):
                batch = history.batch(sent)
                batch.from_version += self.version_error
                batch.live = self.live
                self.version_error = 0
                sent = len(history.events)
                yield batch
            threading.Event().wait(0.01)


@contextlib.contextmanager
def serving(*histories: History) -> Iterator[ScriptedServer]:
    """Run a scripted server on a free port."""
    script = ScriptedServer(*histories)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ListRuns": grpc.unary_unary_rpc_method_handler(
            script.list_runs, pb.ListRunsRequest.FromString, pb.ListRunsResponse.SerializeToString
        ),
        "WatchRun": grpc.unary_stream_rpc_method_handler(
            script.watch_run, pb.WatchRunRequest.FromString, pb.WatchRunResponse.SerializeToString
        ),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("optima.v1.Bandit", handlers),))
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield script
    finally:
        script.frozen.clear()
        server.stop(None).wait()
