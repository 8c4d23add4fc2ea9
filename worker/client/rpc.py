"""The calls to the bandit server, with this package's own errors: the worker's only file that imports grpc."""

from __future__ import annotations

from typing import TypeVar, cast

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from worker.client.credentials import Credentials
from worker.errors import BanditError, BanditRefused, BanditUnreachable, Fenced, RunLost

OPTIONS: list[tuple[str, int]] = [
    # A server that is back is found within this time.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name also how long one attempt to connect may take; 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # Notice a connection that was cut silently, and open a new one. Heartbeats are more frequent than these pings, so
    # no server counts the pings as abuse.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # If gRPC had a ping of its own in flight when the connection was cut, it waits for that one: 60 s by default.
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Jobs on one machine, or in one test, must not share a connection and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # The sender retries by itself: one report at a time, oldest first.
    ("grpc.enable_retries", 0),
]

# These codes say nothing about the request: the call is tried again.
TRANSIENT_CODES = frozenset(
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
STORED_REPORT_KEY = "optima-stored-report-bin"

Request = TypeVar("Request")
Response = TypeVar("Response")


class BanditRpc:
    """A channel to the server and the calls on it, each with a deadline.

    Args:
        address: The server's address, ``host:port``.
        credentials: Token and certificates.
        deadline: Seconds a call may take.

    Every call raises:
        BanditUnreachable: There was no answer, or a transient error; try again.
        BanditRefused: The server refused the request.
        RunLost: The server has less history than the caller.
        Fenced: A newer process of this worker has started.
    """

    def __init__(self, address: str, credentials: Credentials, deadline: float) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {credentials.token}"),) if credentials.token else ()
        self._deadline = deadline
        if credentials.tls:
            channel_credentials = grpc.ssl_channel_credentials(
                credentials.authorities, credentials.key, credentials.certificate
            )
            self._channel = grpc.secure_channel(address, channel_credentials, options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = BanditStub(self._channel)

    def is_ready(self, seconds: float) -> bool:
        """Tell whether a connection can be opened within so many seconds."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        return True

    def get_run(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        """Call GetRun."""
        return self._call(self._stub.GetRun, request)

    def create_run(self, request: pb.CreateRunRequest) -> pb.CreateRunResponse:
        """Call CreateRun."""
        return self._call(self._stub.CreateRun, request)

    def select_arm(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        """Call SelectArm."""
        return self._call(self._stub.SelectArm, request)

    def report_reward(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        """Call ReportReward. A different report of the round that the server already has is returned as a duplicate."""
        try:
            return self._call(self._stub.ReportReward, request)
        except _Conflict as conflict:
            caller = request.caller
            return pb.ReportRewardResponse(
                report=conflict.stored, duplicate=True, incarnation=caller.incarnation, version=caller.seen_version
            )

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Call Heartbeat."""
        return self._call(self._stub.Heartbeat, request)

    def finish_run(self, request: pb.FinishRunRequest) -> pb.FinishRunResponse:
        """Call FinishRun."""
        return self._call(self._stub.FinishRun, request)

    def restore_run(self, request: pb.RestoreRunRequest) -> pb.RestoreRunResponse:
        """Call RestoreRun."""
        return self._call(self._stub.RestoreRun, request)

    def close(self) -> None:
        """Close the channel; a call in progress ends."""
        self._channel.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        try:
            # Do not wait for the connection: the sender must know at once that it is refused, because it counts the
            # seconds of the outage and retries.
            return method(request, timeout=self._deadline, metadata=self._metadata, wait_for_ready=False)
        except grpc.RpcError as error:
            # The error that a blocking call raises is also a Call.
            raise self._translate(cast(grpc.Call, error)) from None
        except ValueError as error:
            raise BanditUnreachable(f"the connection to {self._address} is closed") from error

    def _translate(self, error: grpc.Call) -> BanditError:
        metadata = dict(error.trailing_metadata() or ())
        reason = str(metadata.get("optima-reason", ""))
        message = f"the bandit server at {self._address} answered: {error.details()}"
        match error.code():
            case grpc.StatusCode.ABORTED:
                return Fenced(message)
            case grpc.StatusCode.DATA_LOSS | grpc.StatusCode.NOT_FOUND:
                return RunLost(message)
            case grpc.StatusCode.ALREADY_EXISTS if STORED_REPORT_KEY in metadata:
                return _Conflict(message, pb.RewardReported.FromString(cast(bytes, metadata[STORED_REPORT_KEY])))
            case code if code in TRANSIENT_CODES and not reason:
                return BanditUnreachable(f"no answer from {self._address}: {error.details()}")
            case code if code in TRANSIENT_CODES:
                return BanditUnreachable(message)
            case grpc.StatusCode.UNIMPLEMENTED:
                return BanditRefused(f"the server at {self._address} is not a bandit server", "unimplemented")
        return BanditRefused(message, reason)


class _Conflict(BanditError):
    """The server has a different report of this round."""

    def __init__(self, message: str, stored: pb.RewardReported) -> None:
        super().__init__(message)
        self.stored = stored
