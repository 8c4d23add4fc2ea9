"""optima doctor"""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandit_server.commands.client_options import Target, calls_a_server
from bandit_server.commands.connectivity import reached
from bandit_server.config import loopback
from bandit_server.errors import StartError
from bandit_server.rpc.instrumentation import SERVICE_NAME
from bandit_server.rpc.metrics import own_version
from bandit_server.store.health_check import Finding, clock, examine
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

DEADLINE = 5.0


@click.command()
@calls_a_server
@click.option("--redis-url", envvar="OPTIMA_REDIS_URL", metavar="URL",
              help="Examine this store, too (or OPTIMA_REDIS_URL).")  # fmt: skip
def doctor(target: Target, redis_url: str | None) -> None:
    """Say what is wrong with a bandit server and its store; the exit status is 1 if anything is.

    Run it where the server runs, or where a worker does, with the same environment.
    """
    findings = list(_server(target))
    findings += examine(redis_url) if redis_url else [
        Finding("store", True, "asked of the server only; --redis-url examines one")
    ]  # fmt: skip
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        click.echo(f"{'ok   ' if finding.good else 'WRONG'}  {finding.what:{width}}  {finding.sentence}")
    wrong = sum(not finding.good for finding in findings)
    if wrong:
        click.echo(f"\n{wrong} of {len(findings)} are wrong", err=True)
        sys.exit(1)


def _server(target: Target) -> Iterator[Finding]:
    try:
        connection = reached(target)
    except (OSError, ssl.SSLError, StartError) as error:
        yield Finding("connection", False, str(error))
        return
    yield connection
    if not connection.good:
        return
    try:
        with target.channel() as channel:
            yield _health(channel)
            yield from _called(target, channel)
    except grpc.RpcError as error:
        call = cast(grpc.Call, error)
        yield Finding("server", False, f"what listens at {target.address} is no bandit server, or answers none: "
                      f"{call.code().name}, {call.details()}")  # fmt: skip


def _health(channel: grpc.Channel) -> Finding:
    # Its types know nothing of its calls.
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE_NAME):
        told = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE).status
        if told != health_pb2.HealthCheckResponse.SERVING:
            return Finding("health", False, "the server is up but cannot serve: its store does not answer (see its "
                           "log), or it is about to stop")  # fmt: skip
    return Finding("health", True, "the server serves")


def _called(target: Target, channel: grpc.Channel) -> Iterator[Finding]:
    request, calls = pb.ListRunsRequest(page_size=1), BanditStub(channel)
    sent = time.time()
    try:
        _, call = calls.ListRuns.with_call(request, timeout=DEADLINE, metadata=target.metadata)
    except grpc.RpcError as error:
        refused = cast(grpc.Call, error)
        what = "token" if refused.code() == grpc.StatusCode.UNAUTHENTICATED else "calls"
        yield Finding(what, False, f"{refused.details()}")
        return
    between = (sent + time.time()) / 2
    yield _token(target, calls)
    told = {name: str(value) for name, value in call.trailing_metadata() or ()}
    theirs, ours = told.get("optima-version", "of another kind"), own_version()
    same = theirs == ours
    yield Finding("version", same, f"the server is {theirs}" + ("" if same else f", this is {ours}: install the same"))
    if "optima-time" in told:
        yield clock("clock", "the server", float(told["optima-time"]) - between)


def _token(target: Target, calls: BanditStub) -> Finding:
    try:
        calls.ListRuns(pb.ListRunsRequest(page_size=1), timeout=DEADLINE)
    except grpc.RpcError as error:
        if cast(grpc.Call, error).code() == grpc.StatusCode.UNAUTHENTICATED:
            return Finding("token", True, "asked for, and the right one was shown")
        raise
    if target.tls is not None and target.tls.cert is not None:
        return Finding("token", True, "none is asked for; a client's certificate may be")
    here = loopback(target.address.rpartition(":")[0].strip("[]"))
    if here:
        return Finding("token", True, "none is asked for; the server is called on this machine")
    return Finding("token", False, "the server lets everybody call who reaches it: start it with OPTIMA_TOKEN")
