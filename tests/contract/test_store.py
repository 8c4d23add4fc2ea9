"""Every promise of bandit_server/store/base.py, on the embedded store and on a Redis server."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from bandit_server.errors import StartError, StoreUnavailable
from bandit_server.store import keys
from bandit_server.store.base import ALIVE_SECONDS, Head, fingerprint
from bandit_server.store.redis_store import RedisStore
from tests.contract.conftest import Place
from tests.contract.proxy import Proxy
from tests.stores import connected, soon

NONE = Head(0, "", False)
AtStore = Callable[..., None]


async def begin(store: RedisStore, run: str, events: int) -> Head:
    """Append a run of this many events, of incarnation `one`; return its head."""
    payloads = [b"%d" % version for version in range(1, events + 1)]
    await store.register(run, 1.0)
    assert await store.append(run, NONE, payloads, incarnation="one") == "stored"
    return Head(events, "one", False)


async def in_time(answers: Callable[[], Awaitable[Any]], seconds: float = 20) -> Any:
    """Call until the store answers; every attempt before must raise StoreUnavailable."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await answers()
        except StoreUnavailable:
            assert time.monotonic() < deadline, f"no answer within {seconds} s"
            await asyncio.sleep(0.01)


def test_versions_have_no_gaps(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 3)
        assert await store.append("r", head, [b"4"]) == "stored"
        assert await store.append("r", Head(4, "one", False), [b"5", b"6"]) == "stored"
        page = await store.read("r", 0, 100)
        assert page.head == Head(6, "one", False)
        assert page.head.last == fingerprint(b"6")
        assert await store.append("r", page.head, [b"7"]) == "stored"
        page = await store.read("r", 0, 6)
        assert page.events == [(version, b"%d" % version) for version in range(1, 7)]

    at_store(scenario)


@pytest.mark.parametrize(
    "expected",
    [
        NONE,
        Head(2, "one", False),
        Head(4, "one", False),
        Head(30, "one", False),
        Head(3, "two", False),
        Head(3, "", False),
        Head(0, "one", False),
        Head(3, "one", False, fingerprint(b"another")),
    ],
    ids=["nothing", "stale", "gap", "far gap", "other incarnation", "no incarnation", "no version", "other event"],
)
def test_another_head_changes_nothing(at_store: AtStore, expected: Head) -> None:
    async def scenario(place: Place) -> None:
        await begin(place.store, "r", 3)
        before = await place.store.read("r", 0, 100)
        assert not await place.store.is_head("r", expected)
        assert await place.store.append("r", expected, [b"x", b"y"], incarnation="new", worker="w") == "changed"
        assert await place.store.read("r", 0, 100) == before
        assert await place.store.heartbeats([("r", "w")]) == {}

    at_store(scenario)


def test_a_run_that_is_not_there_is_empty_and_expects_no_version(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        assert (await store.read("r", 0, 10)).head == NONE
        assert (await store.read("r", 7, 10)).events == []
        assert await store.read_backwards("r", 7, 10) == []
        assert await store.heads(["r"]) == [NONE]
        assert await store.append("r", Head(1, "", False), [b"x"]) == "changed"
        assert await store.append("r", Head(0, "one", False), [b"x"]) == "changed"
        assert (await store.read("r", 0, 10)).head == NONE

    at_store(scenario)


def test_a_run_stands_where_it_is_until_it_moves_on_or_is_deleted(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        assert await store.is_head("r", NONE)
        head = await begin(store, "r", 3)
        assert await store.is_head("r", head)
        assert (await store.read("r", 0, 10)).head == head, "nothing was added"
        await store.append("r", head, [b"x"])
        assert not await store.is_head("r", head)
        (head,) = await store.heads(["r"])
        assert await store.is_head("r", head)
        await store.delete("r")
        assert not await store.is_head("r", head)
        assert not await store.is_head("r", NONE)

    at_store(scenario)


def test_a_new_incarnation_goes_with_its_events(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 2)
        assert await store.append("r", head, [b"restored"], incarnation="two") == "stored"
        assert await store.append("r", Head(3, "one", False), [b"x"]) == "changed"
        assert await store.append("r", Head(3, "two", False), [b"4"]) == "stored"
        assert (await store.read("r", 2, 10)).events == [(3, b"restored"), (4, b"4")]
        assert await store.heads(["r"]) == [Head(4, "two", False)]

    at_store(scenario)


def test_events_are_any_bytes(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        payloads = [b"", bytes(range(256)), b"\r\n$-1\r\n", b"\xff" * (1 << 20)]
        assert await place.store.append("r", NONE, payloads, incarnation="one") == "stored"
        assert [event for _, event in (await place.store.read("r", 0, 10)).events] == payloads
        assert [event for _, event in await place.store.read_backwards("r", 4, 10)] == payloads[::-1]

    at_store(scenario)


def test_versions_stay_exact_in_long_histories(at_store: AtStore) -> None:
    """Ten thousand events, so that a version has as many digits as it needs and pages follow each other."""

    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 4999)
        assert await store.append("r", head, [b"%d" % version for version in range(5000, 10_002)]) == "stored"
        events: list[tuple[int, bytes]] = []
        while page := (await store.read("r", len(events), 1000)).events:
            events += page
        assert events == [(version, b"%d" % version) for version in range(1, 10_002)]

    at_store(scenario)


def test_one_of_many_callers_succeeds(at_store: AtStore) -> None:
    """Round after round, all callers append at the same head, over two stores' connections; one event a round."""

    async def scenario(place: Place) -> None:
        other = RedisStore(place.url)
        head = await begin(place.store, "r", 1)
        for version in range(1, 21):
            callers = [(place.store, other)[caller % 2] for caller in range(50)]
            events = [b"%d of %d" % (caller, version) for caller in range(50)]
            answers = await asyncio.gather(
                *(store.append("r", head, [event]) for store, event in zip(callers, events, strict=True))
            )
            assert sorted(answers) == ["changed"] * 49 + ["stored"]
            page = await place.store.read("r", version, 100)
            assert page.events == [(version + 1, events[answers.index("stored")])]
            head = page.head
        await other.close()

    at_store(scenario)


def compete(url: str, name: str, wins: int) -> list[bytes]:
    """Append to run r until this many events were stored, and return them. Runs in a process of its own."""

    async def whole() -> list[bytes]:
        store = RedisStore(url, deadline=20)
        won: list[bytes] = []
        while len(won) < wins:
            head = (await store.heads(["r"]))[0]
            event = f"{name} at {head.version}".encode()
            if await store.append("r", head, [event, event]) == "stored":
                won.append(event)
        await store.close()
        return won

    return asyncio.run(whole())


def test_processes_do_not_overwrite_each_other(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        await begin(place.store, "r", 1)
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
            won = await asyncio.gather(
                *(loop.run_in_executor(pool, compete, place.url, name, 50) for name in ("ada", "ben", "cy"))
            )
        events = (await place.store.read("r", 1, 1000)).events
        assert [version for version, _ in events] == list(range(2, 302))
        assert sorted(event for _, event in events) == sorted(2 * [event for mine in won for event in mine])
        # The two events of one append are neighbours, at the version that their writer expected.
        for (version, first), (_, second) in zip(events[::2], events[1::2], strict=True):
            assert first == second
            assert first.endswith(b" at %d" % (version - 1))

    at_store(scenario)


def test_several_events_are_seen_all_or_none(at_store: AtStore) -> None:
    """While a writer appends seven at a time under an incarnation of their own, every read sees one moment."""

    async def scenario(place: Place) -> None:
        store = place.store
        done = False

        async def write() -> None:
            nonlocal done
            head = NONE
            for version in range(7, 7 * 40, 7):
                after = Head(version, f"at {version}", False)
                assert await store.append("r", head, [b"x"] * 7, incarnation=after.incarnation) == "stored"
                head = after
            done = True

        def check(head: Head) -> None:
            assert head.version % 7 == 0
            assert head.incarnation == (f"at {head.version}" if head.version else "")

        async def read() -> None:
            while not done:
                page = await store.read("r", 0, 10_000)
                check(page.head)
                assert len(page.events) == page.head.version

        async def look() -> None:
            while not done:
                for head in await store.heads(["r"] * 300):
                    check(head)

        await asyncio.gather(write(), read(), look(), look())

    at_store(scenario)


def test_reading_in_pages(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        await begin(store, "r", 5)
        assert (await store.read("r", 0, 2)).events == [(1, b"1"), (2, b"2")]
        assert (await store.read("r", 2, 2)).events == [(3, b"3"), (4, b"4")]
        assert (await store.read("r", 4, 2)).events == [(5, b"5")]
        for after in (5, 99):
            page = await store.read("r", after, 2)
            assert page.events == []
            assert page.head == Head(5, "one", False)

    at_store(scenario)


def test_reading_back_in_pages(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        await begin(store, "r", 5)
        assert await store.read_backwards("r", 5, 2) == [(5, b"5"), (4, b"4")]
        assert await store.read_backwards("r", 3, 2) == [(3, b"3"), (2, b"2")]
        assert await store.read_backwards("r", 1, 2) == [(1, b"1")]
        assert await store.read_backwards("r", 0, 2) == []
        assert await store.read_backwards("r", 99, 1) == [(5, b"5")]

    at_store(scenario)


def test_heads_come_in_the_order_asked_for(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        await begin(store, "a", 1)
        await begin(store, "b", 2)
        await begin(store, "gone", 3)
        await store.delete("gone")
        heads = await store.heads(["b", "none", "gone", "a", "b"])
        assert heads == [Head(2, "one", False), NONE, Head(0, "", True), Head(1, "one", False), Head(2, "one", False)]
        assert await store.heads([]) == []

    at_store(scenario)


def test_names_come_newest_first_page_by_page(at_store: AtStore) -> None:
    """Runs of one moment have an order, too: with any page length, none is missed and none comes twice.

    Times are exact.
    """

    async def scenario(place: Place) -> None:
        store = place.store
        moment = 1_760_000_000.123456
        times = {f"same-{number}": moment for number in range(12)}
        times |= {"older": moment - 1e-6, "oldest": 0.1, "newer": moment + 1e-6, "newest": moment + 60}
        for name, created in times.items():
            await store.register(name, created)
        whole = sorted(((created, name) for name, created in times.items()), reverse=True)
        assert await store.names(100) == whole
        for length in (1, 2, 3, 5, 16, 17):
            pages: list[tuple[float, str]] = []
            while page := await store.names(length, pages[-1] if pages else None):
                assert len(page) <= length
                pages += page
            assert pages == whole
        # The position after a run that was deleted meanwhile.
        assert await store.names(1, (moment, "same-99x")) == [(moment, "same-9")]
        assert await store.names(100, (0.1, "a")) == []

    at_store(scenario)


def test_a_known_run_keeps_its_time(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        assert await place.store.names(10) == []
        await place.store.register("r", 5.0)
        await place.store.register("r", 9.0)
        assert await place.store.names(10) == [(5.0, "r")]

    at_store(scenario)


def test_a_deleted_run_leaves_a_tombstone(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 3)
        await begin(store, "other", 1)
        for _ in range(2):
            await store.delete("r")
            for expected in (head, NONE, Head(0, "", True)):
                assert await store.append("r", expected, [b"x"], incarnation="two", worker="w") == "deleted"
            page = await store.read("r", 0, 10)
            assert page.head == Head(0, "", True)
            assert page.events == []
            assert await store.read_backwards("r", 3, 10) == []
            assert await store.names(10) == [(1.0, "other")]
            assert await store.heartbeats([("r", "w")]) == {}
        assert (await store.read("other", 0, 10)).head == Head(1, "one", False)
        with connected(place.url) as client:
            assert keys.TOMBSTONE_SECONDS - 60 < client.ttl(keys.tombstone("r")) <= keys.TOMBSTONE_SECONDS

    at_store(scenario)


def test_a_run_can_be_refused_before_it_exists(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        await place.store.delete("r")
        assert await place.store.append("r", NONE, [b"x"], incarnation="one") == "deleted"

    at_store(scenario)


def test_heartbeats(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        store = place.store
        await begin(store, "r", 1)
        workers = [("r", "caller"), ("r", "beating"), ("r", "silent"), ("other", "caller")]
        assert await store.heartbeats(workers) == {}
        assert await store.append("r", Head(1, "one", False), [b"2"], worker="caller") == "stored"
        await store.record_heartbeat("r", "beating", b"fast")
        await store.record_heartbeat("r", "beating")
        heartbeats = await store.heartbeats(workers)
        assert heartbeats.keys() == {("r", "caller"), ("r", "beating")}
        assert heartbeats["r", "caller"].request == b""
        assert heartbeats["r", "beating"].request == b"fast"
        assert await store.append("r", Head(2, "one", False), [b"3"], worker="beating") == "stored"
        heartbeats = await store.heartbeats(workers)
        assert heartbeats["r", "beating"].request == b"fast"
        assert all(0 <= heartbeat.age < 5 and heartbeat.alive for heartbeat in heartbeats.values())
        assert await store.heartbeats([]) == {}

    at_store(scenario)


def test_heartbeats_age_and_expire(at_store: AtStore) -> None:
    """Time passes as the key's expiry is shortened; every kind of call renews the heartbeat."""

    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 1)

        async def age() -> float:
            return (await store.heartbeats([("r", "w")]))["r", "w"].age

        def let_pass(seconds: float) -> None:
            with connected(place.url) as client:
                assert client.pexpire(keys.heartbeat("r", "w"), int(1000 * (keys.HEARTBEAT_SECONDS - seconds)))

        await store.record_heartbeat("r", "w", b"first")
        let_pass(ALIVE_SECONDS - 5)
        assert ALIVE_SECONDS - 5 <= await age() < ALIVE_SECONDS
        let_pass(ALIVE_SECONDS)
        assert not (await store.heartbeats([("r", "w")]))["r", "w"].alive
        await store.record_heartbeat("r", "w")
        assert await age() < 5
        let_pass(1000)
        assert await store.append("r", head, [b"2"], worker="w") == "stored"
        assert await age() < 5
        let_pass(1000)
        await store.record_heartbeat("r", "w", b"second")
        assert await age() < 5
        let_pass(keys.HEARTBEAT_SECONDS)
        assert await store.heartbeats([("r", "w")]) == {}

    at_store(scenario)


def every_call(store: RedisStore, run: str) -> list[Awaitable[Any]]:
    """Return one call of every kind."""
    return [
        store.append(run, NONE, [b"x"], incarnation="one", worker="w"),
        store.read(run, 0, 10),
        store.read_backwards(run, 10, 10),
        store.heads([run, "other"]),
        store.register(run, 1.0),
        store.names(10),
        store.delete(run),
        store.record_heartbeat(run, "w"),
        store.record_heartbeat(run, "w", b"heartbeat"),
        store.heartbeats([(run, "w")]),
        store.ping(),
    ]


async def all_unavailable(calls: list[Awaitable[Any]], seconds: float) -> None:
    """Assert that every call raises StoreUnavailable within this many seconds."""
    began = time.monotonic()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began < seconds
    for answer in answers:
        assert isinstance(answer, StoreUnavailable), answer
        assert "try again" in str(answer)


def test_a_frozen_store_is_unavailable_in_time_and_recovers(at_store: AtStore) -> None:
    """There are more calls than connections, and afterwards each call gets its own answer, not an old one."""

    async def scenario(place: Place) -> None:
        store = place.store
        heads = {f"run-{events}": await begin(store, f"run-{events}", events) for events in range(1, 21)}
        thaw = place.freeze()
        try:
            await all_unavailable(every_call(store, "victim"), seconds=3)
            await all_unavailable([store.read("run-1", 0, 10) for _ in range(200)], seconds=3)
        finally:
            thaw()
        await in_time(store.ping)
        for _ in range(5):
            pages = await asyncio.gather(*(store.read(run, 0, 100) for run in heads))
            assert [page.head for page in pages] == list(heads.values())
            assert await store.heads(list(heads)) == list(heads.values())
        assert await store.append("run-1", heads["run-1"], [b"2"]) == "stored"

    at_store(scenario, deadline=0.5)


def test_closing_does_not_wait_for_a_frozen_store(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        await asyncio.gather(*(place.store.ping() for _ in range(10)))
        thaw = place.freeze()
        try:
            began = time.monotonic()
            await place.store.close()
            await place.store.close()
            assert time.monotonic() - began < 3
        finally:
            thaw()

    at_store(scenario)


def test_a_killed_store_comes_back_with_everything_acknowledged(at_store: AtStore) -> None:
    """A writer appends all the while.

    What was acknowledged is there, in order; appends without an answer may be there; nothing else is there.
    """

    async def scenario(place: Place) -> None:
        store = place.store
        head = await begin(store, "r", 1)
        acknowledged: dict[int, bytes] = {1: b"1"}
        tried = {b"1"}
        done = False

        async def write() -> None:
            nonlocal head
            while not done:
                event = b"%d, try %d" % (head.version + 1, len(tried))
                tried.add(event)
                try:
                    assert await store.append("r", head, [event]) == "stored"
                    head = Head(head.version + 1, "one", False)
                    acknowledged[head.version] = event
                except StoreUnavailable:
                    head = (await in_time(lambda: store.read("r", 0, 1))).head

        async def more() -> None:
            goal = len(acknowledged) + 50
            await soon(lambda: writer.done() or len(acknowledged) >= goal, seconds=30)

        writer = asyncio.create_task(write())
        for _ in range(2):
            await more()
            await place.kill()
            await place.start_again()
        await more()
        done = True
        await writer
        stored = dict((await store.read("r", 0, 1_000_000)).events)
        assert list(stored) == list(range(1, len(stored) + 1))
        assert {version: stored[version] for version in acknowledged} == acknowledged
        assert set(stored.values()) <= tried

    at_store(scenario)


def test_connections_that_were_closed_meanwhile_are_opened_again(at_store: AtStore) -> None:
    async def scenario(place: Place) -> None:
        head = await begin(place.store, "r", 1)
        async with Proxy(place.url) as proxy:
            for url in (place.url, proxy.url):
                store = RedisStore(url)
                await asyncio.gather(*(store.ping() for _ in range(10)))
                # Opened last, closed last: when this connection is closed, the others are.
                witness, say = await proxy.connect()
                say.write(b"PING\r\n")
                assert await witness.readline() == b"+PONG\r\n"
                with connected(place.url) as client:
                    client.client_kill_filter(_type="normal", skipme=True)
                assert await witness.read() == b""
                say.close()
                assert await store.append("r", head, [b"x"]) == "stored"
                head = (await asyncio.gather(*(store.read("r", 0, 10) for _ in range(10))))[0].head
                await store.close()

    at_store(scenario)


def test_an_append_whose_answer_is_lost_is_unavailable(at_store: AtStore) -> None:
    """The append was stored, and `changed` would mean that it was not."""

    async def scenario(place: Place) -> None:
        head = await begin(place.store, "r", 1)
        async with Proxy(place.url) as proxy:
            store = RedisStore(proxy.url)
            assert await store.append("r", head, [b"2"]) == "stored"
            proxy.lose_next_response()
            with pytest.raises(StoreUnavailable):
                await store.append("r", Head(2, "one", False), [b"3"])
            assert (await store.read("r", 0, 10)).events == [(1, b"1"), (2, b"2"), (3, b"3")]
            await store.close()

    at_store(scenario)


def test_nobody_there_is_unavailable() -> None:
    async def scenario() -> None:
        store = RedisStore("unix:///nonexistent/redis.sock", deadline=0.5)
        await all_unavailable(every_call(store, "r"), seconds=3)
        await store.close()

    asyncio.run(scenario())


def test_a_store_that_does_not_write_says_why(at_store: AtStore) -> None:
    """All events of the append are refused, with the reason."""

    async def scenario(place: Place) -> None:
        head = await begin(place.store, "r", 1)
        with connected(place.url) as client:
            client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await place.store.append("r", head, [b"2", b"3"])
        with connected(place.url) as client:
            client.config_set("maxmemory", "0")
        assert (await place.store.read("r", 0, 10)).events == [(1, b"1")]
        assert await place.store.append("r", head, [b"2"]) == "stored"

    at_store(scenario)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost?db=first",
        "redis://localhost?databse=1",
    ],
)
def test_a_wrong_url_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(StartError, match=r"^--redis-url: .*\(expected something like redis://host:6379/0\)$"):
        RedisStore(url)
