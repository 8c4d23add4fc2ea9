"""Snapshots are a cache.

One that does not fit is ignored, and a replica that starts from one behaves as if it had folded the whole history.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit_server.bandit import serialization as bandit_serialization
from bandit_server.replica import snapshots
from bandit_server.replica.runs import Runs
from bandit_server.run import serialization
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
def site(valkey: Valkey) -> Iterator[Site]:
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
    """Return whether two states answer every request alike."""
    return (
        summary(one) == summary(other)
        and point(one) == point(other)
        and remembered(one) == remembered(other)
        and (one.open, one.next_number, one.history.rewards) == (other.open, other.next_number, other.history.rewards)
        and bandit_serialization.dump(one.policy) == bandit_serialization.dump(other.policy)
        and bandit_serialization.dump(one.costs) == bandit_serialization.dump(other.costs)
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
    restored = RunState("r")
    serialization.load(restored, serialization.dump(state))
    assert same(restored, state)
    made.close()


def test_a_replica_that_begins_with_a_snapshot_chooses_as_one_that_has_seen_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.runner.run(site.replicas[0].save_snapshot(site.run))
    site.play(0, "b", range(3))
    site.replicas[1].restart()
    folded: list[pb.Event] = []
    apply = RunState.apply

    def apply_and_record(state: RunState, event: pb.Event) -> None:
        folded.append(event)
        apply(state, event)

    monkeypatch.setattr(RunState, "apply", apply_and_record)
    state = site.runner.run(site.replicas[1].state(site.run))
    assert len(folded) == 6, "what came after the snapshot, and no more"
    monkeypatch.undo()
    assert same(state, fold_named(site))
    request = pb.SelectArmRequest(caller=site.callers["b"], round=3)
    answer = site.call(1, "SelectArm", request)
    events = site.events()
    whole = fold(events[:-1])
    rng = whole.randomness.at("b", 3)
    arms = whole.policy.choose(in_flight=[], active=whole.active, rng=rng, count=65)
    names = list(whole.arms)
    assert [answer.pull.arm, *answer.fallback_arms] == [names[arm] for arm in arms]


def fold_named(site: Site) -> RunState:
    state = RunState(site.run)
    for event in site.events():
        state.apply(event)
    return state


def cut(fields: dict[bytes, bytes]) -> None:
    fields[b"state"] = fields[b"state"][:-10]


def swapped(fields: dict[bytes, bytes]) -> None:
    fields[b"state"] = bytes([fields[b"state"][0], fields[b"state"][1] ^ 1, *fields[b"state"][2:]])


def from_other_code(fields: dict[bytes, bytes]) -> None:
    fields[b"of"] = json.dumps({**json.loads(fields[b"of"]), "code": "another"}).encode()


def from_the_future(fields: dict[bytes, bytes]) -> None:
    fields[b"of"] = json.dumps({**json.loads(fields[b"of"]), "version": 1000}).encode()


def from_other_history(fields: dict[bytes, bytes]) -> None:
    fields[b"of"] = json.dumps({**json.loads(fields[b"of"]), "last": "0" * 40}).encode()


def no_metadata(fields: dict[bytes, bytes]) -> None:
    fields[b"of"] = b"\xff[]"


@pytest.mark.parametrize("spoil", [cut, swapped, from_other_code, from_the_future, from_other_history, no_metadata])
def test_a_snapshot_that_does_not_fit_is_never_served(site: Site, spoil: Callable[[dict[bytes, bytes]], None]) -> None:
    site.runner.run(site.replicas[0].save_snapshot(site.run))
    key = keys.snapshot(site.run)
    fields: Any = site.client.hgetall(key)
    spoil(fields)
    site.client.hset(key, mapping=fields)
    site.replicas[1].restart()
    assert same(site.runner.run(site.replicas[1].state(site.run)), fold_named(site))
    line = site.runner.run(site.replicas[1].call("ListRuns", pb.ListRunsRequest()))
    (listed,) = [run for run in line.runs if run.run == site.run]
    assert (listed.version, listed.reports) == (43, 20)
    assert not any(event.HasField("run_restored") for event in site.events()), "nothing was lost"


def test_a_list_is_told_from_snapshots_and_from_the_history_where_they_are_behind(site: Site) -> None:
    site.runner.run(site.replicas[0].save_snapshot(site.run))
    for rounds in (range(20, 20), range(20, 22)):
        site.play(0, "a", rounds)
        site.replicas[1].restart()
        page = site.runner.run(site.replicas[1].call("ListRuns", pb.ListRunsRequest()))
        (listed,) = [run for run in page.runs if run.run == site.run]
        for worker in listed.workers:
            worker.alive = False
            worker.ClearField("heartbeat_age")
        assert listed == summary(fold_named(site))


def test_an_idle_run_is_dropped_and_comes_back_as_it_was(
    site: Site,
) -> None:
    async def maintained() -> None:
        mine = Runs(site.replicas[0].store)
        await mine.state(site.run)
        task = asyncio.create_task(mine.maintain(interval=0.01, idle_seconds=0.2, rest_seconds=0.02))
        async with asyncio.timeout(20):
            while mine._runs:
                await asyncio.sleep(0.01)
        task.cancel()
        (fields,) = await mine.store.load_snapshots([site.run], [snapshots.METADATA])
        head = snapshots.read_head(fields)
        assert head is not None
        assert head.version == 43
        assert same(await mine.state(site.run), fold_named(site))

    site.runner.run(maintained())


# --- the digest of the code

ROOT = Path(__file__).parents[3]


def printed(program: str, path: Path) -> str:
    """Return what a program prints that imports our packages from a folder or a zip file."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r}); {program}"]
    return subprocess.run(command, cwd=path.parent, check=True, capture_output=True, text=True, timeout=60).stdout


def code_digest(path: Path) -> str:
    program = "from bandit_server.replica import snapshots as s; print(s.__file__, s.code_digest())"
    file, digest = printed(program, path).split()
    assert file.startswith(str(path))
    return digest


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a server imports."""
    copy = tmp_path_factory.mktemp("code") / "copy"
    for package in ("bandit_server", "protos"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "static"))
    return copy


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("bandit/simulation/scenarios.py", False),
        ("bandit/policy/published/thompson.py", False),
        ("bandit/policy/published/__init__.py", False),
        ("run/rounds.py", False),
        ("run/state.py", True),
        ("run/worker.py", True),
        ("bandit/posterior.py", True),
        ("bandit/policy/optima.py", True),
    ],
)
def test_only_an_edit_of_code_that_folds_changes_the_digest(copy: Path, file: str, changes: bool) -> None:
    path = copy / "bandit_server" / file
    source = path.read_bytes()
    before = snapshots.code_digest()
    try:
        path.write_bytes(source + b"# edited\n")
        assert (code_digest(copy) != before) == changes
    finally:
        path.write_bytes(source)


def test_the_digest_of_a_zip_file_is_that_of_its_folder(copy: Path) -> None:
    archive = Path(shutil.make_archive(str(copy), "zip", copy))
    assert code_digest(archive) == code_digest(copy) == snapshots.code_digest()


def test_the_digest_has_every_module_that_a_fold_imports() -> None:
    program = """
import bandit_server.run.serialization, bandit_server.run.state, bandit_server.run.summary
names = sorted(sys.modules)
print(*[n for n in names if n.startswith(("bandit_server.bandit", "bandit_server.run"))])
"""
    # The package offers a bandit without a server, which takes no part in runs.
    imported = set(printed(f"exec({program!r})", ROOT).split()) - {"bandit_server.bandit.bandit"}
    assert sorted(imported) == sorted(snapshots._FOLDING)
