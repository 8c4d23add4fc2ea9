"""Ten thousand invalid messages: no history changes, no call fails unexpectedly, and the server's memory does not grow.

Every refusal has one of the contract's status codes (bandit.proto, "Status codes") and a sentence.
"""

from __future__ import annotations

import collections
import random
import socket
from collections.abc import Iterator
from typing import Any, cast

import grpc
import httpx
import psutil
import pytest
import redis
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import Player, history, measured, spec, told
from tests.server_process import ServerProcess
from tests.stores import connected

SERVICE = pb.DESCRIPTOR.services_by_name["Bandit"]
# The methods with one response.
METHODS = {method.name: method for method in SERVICE.methods if not method.server_streaming}
READS = {"GetRun", "ListRuns"}
# Writes that are not part of the history.
HEARTBEATS = {"Heartbeat"}
REFUSALS = {
    "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "ABORTED", "DATA_LOSS",
    "RESOURCE_EXHAUSTED",
}  # fmt: skip
# Structured messages take the longest to generate.
RANDOM, MUTATED, STRUCTURED = 3000, 6000, 1000
# A leak of 13 kB per message would exceed it.
GROWTH_BYTES = 24 * 2**20


class Target:
    """A server process with one run, and the heads of all histories in its store."""

    def __init__(self, server: ServerProcess, channel: grpc.Channel, store: redis.Redis) -> None:
        self.server = server
        self.store = store
        self.calls: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            name: channel.unary_unary(f"/{SERVICE.full_name}/{name}") for name in [*METHODS, "WatchRun"]
        }
        self.endings: collections.Counter[str] = collections.Counter()
        self.stub = BanditStub(channel)
        self.player = Player(self.stub, "r")
        self.player.play(range(5))

    def call(self, name: str, message: bytes) -> str:
        """Send bytes; return the status, which is OK or one of the contract's."""
        try:
            self.calls[name](message, timeout=20)
            ending = "OK"
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            ending, sentence = call.code().name, str(call.details())
            assert ending in REFUSALS, f"{name}: {ending}: {sentence[:300]}"
            assert sentence
            assert "\n" not in sentence
            assert "Traceback" not in sentence
            assert len(sentence) < 2000
            metadata = dict(call.trailing_metadata() or ())
            assert ending == "RESOURCE_EXHAUSTED" or metadata["optima-reason"]
        self.endings[ending] += 1
        return ending

    def heads(self) -> dict[bytes, Any]:
        """Return the last event of every history, and the list of runs, from the store itself."""
        keys: Any = self.store.keys("optima:*:events")
        with self.store.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.xrevrange(key, count=1)
            pipeline.zrange("optima:runs", 0, -1)
            return dict(zip([*keys, b"runs"], pipeline.execute(), strict=True))

    def memory(self) -> int:
        return int(psutil.Process(self.server.pid).memory_info().rss)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    server = ServerProcess(tmp_path_factory.mktemp("garbage") / "store", dashboard=True)
    with (
        grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        connected(f"unix://{server.data / 'valkey.sock'}") as store,
    ):
        yield Target(server, channel, store)
    server.kill()
    log = (server.data.parent / "server.log").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in log


def valid(player: Player) -> list[tuple[str, Message]]:
    """Return a valid request of each kind. Those that end or delete a run name another run than the player's."""
    caller, by = player.caller, pb.CHOSEN_BY_POLICY
    record = pb.Pull(number=1, worker="w", round=1, arm="text", chosen_by=by)
    return [
        ("CreateRun", pb.CreateRunRequest(caller=caller, spec=spec(), info=pb.WorkerInfo(ranks=1, device="cpu"))),
        ("GetRun", pb.GetRunRequest(run="r")),
        ("ListRuns", pb.ListRunsRequest(page_size=2)),
        ("FinishRun", pb.FinishRunRequest(run="another", actor="a")),
        ("DeleteRun", pb.DeleteRunRequest(run="another")),
        ("UpdateArm", pb.UpdateArmRequest(run="r", arm="text", paused=True)),
        ("SelectArm", pb.SelectArmRequest(caller=caller, round=4)),
        ("ReportReward", pb.ReportRewardRequest(caller=caller, round=4, arm="text", chosen_by=by,
                                                measurement=measured(0.5))),
        ("Heartbeat", pb.HeartbeatRequest(caller=caller, round=4, step=9)),
        ("RestoreRun", pb.RestoreRunRequest(caller=caller, spec=spec(), records=[
            pb.JournalRecord(pull=record, numbered=True, measurement=measured(0.5))])),
    ]  # fmt: skip


def mutate(message: bytes, draw: random.Random) -> bytes:
    """Return the message with one to four changes: bytes flipped, removed, doubled or inserted."""
    out = bytearray(message)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(4):
            case 0 if at < len(out):
                out[at] ^= 1 << draw.randrange(8)
            case 1:
                del out[at : at + draw.randint(1, 8)]
            case 2:
                out[at:at] = out[at : at + draw.randint(1, 16)]
            case _:
                out[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(out)


def test_garbage_changes_nothing_and_is_refused_in_a_sentence(target: Target) -> None:
    draw = random.Random(6)
    before, memory = target.heads(), 0
    for number in range(RANDOM):
        name = draw.choice(list(target.calls))
        ending = target.call(name, draw.randbytes(draw.choice([0, 1, 2, 8, 64, 512, 4096])))
        assert ending != "OK" or name in READS, name
        memory = memory or (target.memory() if number == RANDOM // 3 else 0)
    assert target.heads() == before
    assert target.memory() - memory < GROWTH_BYTES


def test_requests_with_changed_bytes_change_nothing_unless_they_are_answered(target: Target) -> None:
    draw = random.Random(7)
    requests = [(name, message.SerializeToString()) for name, message in valid(target.player)]
    heads, memory = target.heads(), 0
    for number in range(MUTATED):
        name, message = draw.choice(requests)
        ending = target.call(name, mutate(message, draw))
        if ending == "OK" and name not in READS | HEARTBEATS:
            # The change has left the request valid, so its events are in the history.
            heads = target.heads()
        elif number % 20 == 0:
            assert target.heads() == heads, f"{name} ended with {ending}"
        memory = memory or (target.memory() if number == MUTATED // 3 else 0)
    assert target.heads() == heads
    assert target.memory() - memory < GROWTH_BYTES
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(target.endings)


WORDS = st.sampled_from(["r", "w", "p", "text", "joint", "optima", "", "a b", "x" * 65, "\x00", "é"]) | st.text(
    max_size=20
)
WHOLE = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32, 2**64 - 1, 5])


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Return a strategy for a field's values, valid or not."""
    kinds = FieldDescriptor
    match field.type:
        case kinds.TYPE_MESSAGE:
            assert field.message_type is not None
            return messages(field.message_type, depth - 1)
        case kinds.TYPE_STRING:
            return WORDS
        case kinds.TYPE_BOOL:
            return st.booleans()
        case kinds.TYPE_DOUBLE | kinds.TYPE_FLOAT:
            return st.floats()
        case kinds.TYPE_ENUM:
            return st.integers(-1, 5)
        case kinds.TYPE_UINT32:
            return WHOLE.map(lambda n: n % 2**32)
        case kinds.TYPE_UINT64:
            return WHOLE.map(lambda n: n % 2**64)
        case _:
            return WHOLE.filter(lambda n: -(2**63) <= n < 2**63)


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 4) -> Message:
    """Draw a message with any of its fields set to any value of their types."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if depth <= 0 or not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = values(field.message_type.fields_by_name["value"], depth)
            getattr(message, field.name).update(draw(st.dictionaries(WORDS, value, max_size=2)))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(values(field, depth), max_size=3)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field, depth)))
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


def test_well_formed_messages_with_any_content_change_nothing_unless_they_are_answered(target: Target) -> None:
    heads = target.heads()

    @settings(max_examples=STRUCTURED, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(list(METHODS)).flatmap(lambda n: st.tuples(st.just(n), messages(METHODS[n].input_type))))
    def send(drawn: tuple[str, Message]) -> None:
        nonlocal heads
        name, message = drawn
        if target.call(name, message.SerializeToString()) == "OK" and name not in READS | HEARTBEATS:
            heads = target.heads()
        assert target.heads() == heads

    send()
    # All histories can still be read.
    with grpc.insecure_channel(target.server.address) as channel:
        stub = BanditStub(channel)
        for name in {summary.run for summary in stub.ListRuns(pb.ListRunsRequest()).runs}:
            assert len(history(stub, name)) == told(stub, name).version


def test_both_ports_still_serve_after_bytes_that_are_not_http(target: Target) -> None:
    draw = random.Random(8)
    ports = [int(target.server.address.rpartition(":")[2]), target.server.dashboard_port]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for number in range(300):
        with socket.create_connection(("127.0.0.1", ports[number % 2]), timeout=10) as connection:
            start = draw.choice(
                [b"", preface, b"GET / HTTP/1.1\r\n", b"POST /login HTTP/1.1\r\ncontent-length: -1\r\n"]
            )
            connection.sendall(start + draw.randbytes(draw.randint(1, 300)))
    target.stub.ListRuns(pb.ListRunsRequest(), timeout=20)
    assert httpx.get(f"http://127.0.0.1:{ports[1]}/healthz", timeout=20).status_code == 200
