"""A snapshot is a cache, never the truth: what does not fit is ignored, and whoever begins with one goes on as if it
had seen everything (DESIGN.md §5)."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bandit_server.bandit import serialization as memory
from bandit_server.replica import runs, snapshots
from bandit_server.run import serialization as snapshot
from bandit_server.run.state import RunState
from bandit_server.run.summary import point, summary
from bandit_server.store import keys
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.conftest import Valkey
from tests.bandit_server.replica.test_histories import remembered
from tests.bandit_server.replica.test_runs import Site
from tests.calls import spec

RUNS = itertools.count()


@pytest.fixture
def site(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # However busy the machine is.
    monkeypatch.setattr(runs, "DEADLINE", 60.0)
    made = Site(valkey)
    made.run = f"snapshots-{next(RUNS)}"
    made.join(0, "a")
    made.join(0, "b")
    made.play(0, "a", range(20))
    yield made
    made.close()


def fold(events: list[pb.Event]) -> RunState:
    state = RunState("r")
    for event in events:
        state.apply(event)
    return state


def same(one: RunState, other: RunState) -> bool:
    """Whatever is asked of them, they answer alike."""
    return (
        summary(one) == summary(other)
        and point(one) == point(other)
        and remembered(one) == remembered(other)
        and (one.open, one.next_number, one.history.rewards) == (other.open, other.next_number, other.history.rewards)
        and memory.dump(one.policy) == memory.dump(other.policy)
        and memory.dump(one.costs) == memory.dump(other.costs)
    )


@pytest.mark.parametrize("policy", ["optima", "joint", "uniform", "round_robin", "fixed:text", "sliding_window_ts"])
def test_a_state_comes_back_as_it_was_whatever_its_policy(valkey: Valkey, policy: str) -> None:
    made = Site(valkey)
    made.run = f"snapshots-{next(RUNS)}"
    caller = made.callers["a"] = pb.Caller(run=made.run, worker="a", process="p")
    made.call(0, "CreateRun", pb.CreateRunRequest(caller=caller, spec=spec(policy=policy)))
    made.play(0, "a", range(8))
    made.call(0, "SelectArm", pb.SelectArmRequest(caller=caller, round=8))
    state = fold(made.events())
    again = snapshot.load("r", snapshot.dump(state))
    assert same(again, state)
    made.close()


def test_a_replica_that_begins_with_a_snapshot_chooses_as_one_that_has_seen_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.runner.run(site.replicas[0].keep(site.run))
    site.play(0, "b", range(3))
    site.replicas[1].restart()
    folded: list[pb.Event] = []
    apply = RunState.apply
    monkeypatch.setattr(RunState, "apply", lambda state, event: (folded.append(event), apply(state, event))[1])
    state = site.runner.run(site.replicas[1].state(site.run))
    assert len(folded) == 6, "what came after the snapshot, and no more"
    monkeypatch.undo()
    assert same(state, fold_named(site))
    asked = pb.SelectArmRequest(caller=site.callers["b"], round=3)
    told = site.call(1, "SelectArm", asked)
    events = site.events()
    whole = fold(events[:-1])
    rng = whole.randomness.at("b", 3)
    arms = whole.policy.choose(in_flight=[], active=whole.active, rng=rng, count=65)
    names = list(whole.arms)
    assert [told.pull.arm, *told.fallback_arms] == [names[arm] for arm in arms]


def fold_named(site: Site) -> RunState:
    state = RunState(site.run)
    for event in site.events():
        state.apply(event)
    return state


def cut(kept: dict[bytes, bytes]) -> None:
    kept[b"state"] = kept[b"state"][:-10]


def swapped(kept: dict[bytes, bytes]) -> None:
    kept[b"state"] = bytes([kept[b"state"][0], kept[b"state"][1] ^ 1, *kept[b"state"][2:]])


def of_other_code(kept: dict[bytes, bytes]) -> None:
    kept[b"of"] = json.dumps({**json.loads(kept[b"of"]), "code": "another"}).encode()


def of_the_future(kept: dict[bytes, bytes]) -> None:
    kept[b"of"] = json.dumps({**json.loads(kept[b"of"]), "version": 1000}).encode()


def of_other_history(kept: dict[bytes, bytes]) -> None:
    kept[b"of"] = json.dumps({**json.loads(kept[b"of"]), "last": "0" * 40}).encode()


def no_words(kept: dict[bytes, bytes]) -> None:
    kept[b"of"] = b"\xff[]"


@pytest.mark.parametrize("spoil", [cut, swapped, of_other_code, of_the_future, of_other_history, no_words])
def test_a_snapshot_that_does_not_fit_is_never_served(site: Site, spoil: Callable[[dict[bytes, bytes]], None]) -> None:
    site.runner.run(site.replicas[0].keep(site.run))
    key = keys.snapshot(site.run)
    kept: Any = site.client.hgetall(key)
    spoil(kept)
    site.client.hset(key, mapping=kept)
    site.replicas[1].restart()
    assert same(site.runner.run(site.replicas[1].state(site.run)), fold_named(site))
    line = site.runner.run(site.replicas[1].call("ListRuns", pb.ListRunsRequest()))
    (listed,) = [run for run in line.runs if run.run == site.run]
    assert (listed.version, listed.reports) == (43, 20)
    assert not any(event.HasField("run_restored") for event in site.events()), "nothing was lost"


def test_a_list_is_told_from_snapshots_and_from_the_history_where_they_are_behind(site: Site) -> None:
    site.runner.run(site.replicas[0].keep(site.run))
    for rounds in (range(20, 20), range(20, 22)):
        site.play(0, "a", rounds)
        site.replicas[1].restart()
        page = site.runner.run(site.replicas[1].call("ListRuns", pb.ListRunsRequest()))
        (listed,) = [run for run in page.runs if run.run == site.run]
        for worker in listed.workers:
            worker.alive = False
            worker.ClearField("heartbeat_age")
        assert listed == summary(fold_named(site))


def test_a_run_that_nobody_asks_for_is_let_go_of_and_comes_back_as_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"TEND_SECONDS": 0.01, "IDLE_SECONDS": 0.2, "RESTED_SECONDS": 0.02}.items():
        monkeypatch.setattr(runs, name, seconds)

    async def tended() -> None:
        mine = runs.Runs(site.replicas[0].store)
        await mine.state(site.run)
        tending = asyncio.create_task(mine.tend())
        async with asyncio.timeout(20):
            while mine._runs:
                await asyncio.sleep(0.01)
        tending.cancel()
        kept = await mine.store.kept([site.run], [snapshots.OF])
        head = snapshots.of(kept[0])
        assert head is not None
        assert head.version == 43
        assert same(await mine.state(site.run), fold_named(site))

    site.runner.run(tended())
