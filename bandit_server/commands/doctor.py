"""`optima doctor`."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandit_server.commands.client_options import Target, server_options
from bandit_server.commands.connectivity import check_connection
from bandit_server.config import is_loopback
from bandit_server.errors import StartError
from bandit_server.rpc.instrumentation import SERVICE_NAME
from bandit_server.rpc.metrics import own_version
from bandit_server.store.health_check import Finding, clock, examine
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

DEADLINE = 5.0


@click.command()
@server_options
@click.option("--redis-url", envvar="OPTIMA_REDIS_URL", metavar="URL",
              help="Also check this store (or OPTIMA_REDIS_URL).")  # fmt: skip
def doctor(target: Target, redis_url: str | None) -> None:
    """Check a bandit server and its store.

    Run it on the machine of the server or of a worker, with the same environment variables. The exit status is 1 if
    anything is wrong.
    """
    findings = list(_check_server(target))
    findings += examine(redis_url) if redis_url else [
        Finding("store", True, "not checked directly; pass --redis-url to check it")
    ]  # fmt: skip
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        click.echo(f"{'ok   ' if finding.good else 'WRONG'}  {finding.what:{width}}  {finding.sentence}")
    wrong = sum(not finding.good for finding in findings)
    if wrong:
        click.echo(f"\n{wrong} of {len(findings)} are wrong", err=True)
        sys.exit(1)


def _check_server(target: Target) -> Iterator[Finding]:
    try:
        connection = check_connection(target)
    except (OSError, ssl.SSLError, StartError) as error:
        yield Finding("connection", False, str(error))
        return
    yield connection
    if not connection.good:
        return
    try:
        with target.channel() as channel:
            yield _check_health(channel)
            yield from _check_calls(target, channel)
    except grpc.RpcError as error:
        call = cast(grpc.Call, error)
        yield Finding("server", False, f"{target.address} is not a bandit server, or it does not answer: "
                      f"{call.code().name}, {call.details()}")  # fmt: skip


def _check_health(channel: grpc.Channel) -> Finding:
    # The stub's type lacks its methods.
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE_NAME):
        status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            return Finding("health", False, "the server is up but cannot serve: its store does not answer (see its "
                           "log), or it is stopping")  # fmt: skip
    return Finding("health", True, "the server serves")


def _check_calls(target: Target, channel: grpc.Channel) -> Iterator[Finding]:
    request, stub = pb.ListRunsRequest(page_size=1), BanditStub(channel)
    start = time.time()
    try:
        _, call = stub.ListRuns.with_call(request, timeout=DEADLINE, metadata=target.metadata)
    except grpc.RpcError as error:
        refusal = cast(grpc.Call, error)
        what = "token" if refusal.code() == grpc.StatusCode.UNAUTHENTICATED else "calls"
        yield Finding(what, False, f"{refusal.details()}")
        return
    middle = (start + time.time()) / 2
    yield _check_token(target, stub)
    metadata = {name: str(value) for name, value in call.trailing_metadata() or ()}
    version = metadata.get("optima-version", "unknown")
    sentence = f"the server has version {version}"
    if version == own_version():
        yield Finding("version", True, sentence)
    else:
        yield Finding("version", False, f"{sentence}, this machine {own_version()}: install the same on both")
    if "optima-time" in metadata:
        yield clock("clock", "the server", float(metadata["optima-time"]) - middle)


def _check_token(target: Target, stub: BanditStub) -> Finding:
    try:
        stub.ListRuns(pb.ListRunsRequest(page_size=1), timeout=DEADLINE)
    except grpc.RpcError as error:
        if cast(grpc.Call, error).code() == grpc.StatusCode.UNAUTHENTICATED:
            return Finding("token", True, "required, and accepted")
        raise
    if target.tls is not None and target.tls.cert is not None:
        return Finding("token", True, "not required; a client certificate may be")
    if is_loopback(target.address.rpartition(":")[0].strip("[]")):
        return Finding("token", True, "not required; the server is on this machine")
    return Finding("token", False, "not required, so every machine that can reach the server can change runs: start "
                   "the server with OPTIMA_TOKEN")  # fmt: skip
