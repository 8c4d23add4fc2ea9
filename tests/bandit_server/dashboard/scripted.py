"""A bandit server that tells what a test wrote for it: lies, hostile names, silence.

The real one cannot be made to do that: it validates names at its edge. The dashboard must bear it all the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History


class ScriptedServer:
    """Tells the histories of its runs; `frozen`, it takes calls and answers none; `lie` misplaces its next news; unless
    `live`, there is more of the history to come."""

    def __init__(self, *histories: History) -> None:
        self.histories = {history.run: history for history in histories}
        self.frozen = threading.Event()
        self.lie = 0
        self.live = True
        self.watches = 0
        self.authorizations: set[str] = set()
        self.address = ""

    def list_runs(self, _request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        """Every run as it stands."""
        self.authorizations |= {str(value) for key, value in context.invocation_metadata() if key == "authorization"}
        while self.frozen.is_set() and context.is_active():
            threading.Event().wait(0.02)
        return pb.ListRunsResponse(runs=[history.summary() for history in self.histories.values()])

    def watch_run(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        """What there is, then what is added."""
        self.watches += 1
        history = self.histories[request.run]
        told = request.from_version
        while context.is_active():
            if not self.frozen.is_set() and told < len(history.events):
                batch = history.batch(told)
                batch.from_version += self.lie
                batch.live = self.live
                self.lie = 0
                told = len(history.events)
                yield batch
            threading.Event().wait(0.01)


@contextlib.contextmanager
def serving(*histories: History) -> Iterator[ScriptedServer]:
    """A scripted server on a free port."""
    script = ScriptedServer(*histories)
    handlers = {
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
