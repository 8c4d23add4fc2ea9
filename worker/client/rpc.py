"""The calls to the bandit server, with errors as this package's own: the only file of the worker that imports grpc."""

from __future__ import annotations

from typing import TypeVar, cast

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from worker.client.credentials import Access
from worker.errors import BanditError, BanditRefused, BanditUnreachable, Fenced, RunLost

OPTIONS: list[tuple[str, int]] = [
    # A server that is back is found within this long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name also how long one attempt to connect may take; 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A connection cut without a word is noticed, and given up for a new one. Heartbeats flow more often than these
    # pings, so that no server counts them as abuse.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A ping that gRPC had in flight by itself when the connection was cut is waited for instead: 60 s by default.
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Jobs of one machine, or of one test, must not share a connection and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours to order: one report at a time, oldest first.
    ("grpc.enable_retries", 0),
]

# Says nothing about the request: try again.
PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
# Trailing metadata of ALREADY_EXISTS (bandit.proto, ReportReward).
STORED_REPORT = "optima-stored-report-bin"

Q = TypeVar("Q")
R = TypeVar("R")


class Wire:
    """The channel and its calls, each with a deadline.

    Args:
        address: Where the server listens, ``host:port``.
        access: What the server is shown, and whom the client trusts.
        deadline: Seconds a call may take.

    Every call raises:
        BanditUnreachable: No answer, or none that settles anything; to be tried again.
        BanditRefused: The server says no.
        RunLost: The server has less history than the caller.
        Fenced: A newer process of this worker has started.
    """

    def __init__(self, address: str, access: Access, deadline: float) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
        self._deadline = deadline
        if access.tls:
            credentials = grpc.ssl_channel_credentials(access.authorities, access.key, access.certificate)
            self._channel = grpc.secure_channel(address, credentials, options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = BanditStub(self._channel)

    def is_ready(self, seconds: float) -> bool:
        """Whether somebody listens there within so many seconds."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        return True

    def get_run(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        return self._call(self._stub.GetRun, request)

    def create_run(self, request: pb.CreateRunRequest) -> pb.CreateRunResponse:
        return self._call(self._stub.CreateRun, request)

    def select_arm(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        return self._call(self._stub.SelectArm, request)

    def report_reward(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        """A report that the server already has of this round, with other numbers, is as good an answer."""
        try:
            return self._call(self._stub.ReportReward, request)
        except _Conflict as conflict:
            caller = request.caller
            return pb.ReportRewardResponse(
                report=conflict.stored, duplicate=True, incarnation=caller.incarnation, version=caller.seen_version
            )

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        return self._call(self._stub.Heartbeat, request)

    def finish_run(self, request: pb.FinishRunRequest) -> pb.FinishRunResponse:
        return self._call(self._stub.FinishRun, request)

    def restore_run(self, request: pb.RestoreRunRequest) -> pb.RestoreRunResponse:
        return self._call(self._stub.RestoreRun, request)

    def close(self) -> None:
        """Close the channel; a call in progress ends."""
        self._channel.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        try:
            # Not waiting for the connection: one that is refused is news for the courier, which counts the seconds
            # and tries again.
            return method(request, timeout=self._deadline, metadata=self._metadata, wait_for_ready=False)
        except grpc.RpcError as error:
            # What the blocking calls raise is a call, too.
            raise self._translate(cast(grpc.Call, error)) from None
        except ValueError as error:
            raise BanditUnreachable(f"the connection to {self._address} is closed") from error

    def _translate(self, error: grpc.Call) -> BanditError:
        metadata = dict(error.trailing_metadata() or ())
        reason = str(metadata.get("optima-reason", ""))
        said = f"the bandit server at {self._address} says: {error.details()}"
        match error.code():
            case grpc.StatusCode.ABORTED:
                return Fenced(said)
            case grpc.StatusCode.DATA_LOSS | grpc.StatusCode.NOT_FOUND:
                return RunLost(said)
            case grpc.StatusCode.ALREADY_EXISTS if STORED_REPORT in metadata:
                return _Conflict(said, pb.RewardReported.FromString(cast(bytes, metadata[STORED_REPORT])))
            case code if code in PASSING and not reason:
                return BanditUnreachable(f"no answer from {self._address}: {error.details()}")
            case code if code in PASSING:
                return BanditUnreachable(said)
            case grpc.StatusCode.UNIMPLEMENTED:
                return BanditRefused(f"what listens at {self._address} is not a bandit server", "unimplemented")
        return BanditRefused(said, reason)


class _Conflict(BanditError):
    """The server has another report of this round."""

    def __init__(self, message: str, stored: pb.RewardReported) -> None:
        super().__init__(message)
        self.stored = stored
