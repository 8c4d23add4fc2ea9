from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.errors import Invalid, ReportConflict
from bandit_server.run import rounds, serialization
from bandit_server.run.state import RunState
from bandit_server.run.summary import summary
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.fleet import LOSSES, MODULES, Fleet, digest, fleet_spec, made
from tests.bandit_server.run.play import ARMS, FALLBACK, TAIL, Play, diverged, journal, measured


def ends(fleet: Fleet) -> list[int]:
    """Return the numbers of the pulls that have lost their modules, in order."""
    return [event.lease_expired.pull.number for event in fleet.events if event.HasField("lease_expired")]


# --- choosing


def test_workers_get_arms_whose_modules_nobody_else_has() -> None:
    fleet = Fleet("a", "b", "c")
    pulls = [fleet.ask(worker, 0).pull for worker in ("a", "b", "c")]
    assert sorted(pull.arm for pull in pulls) == sorted(ARMS)
    assert fleet.held() == {f"{pull.arm}.tower": pull.worker for pull in pulls}


def test_a_pull_names_the_versions_that_it_starts_from() -> None:
    fleet = Fleet("a")
    pull = fleet.ask("a", 0).pull
    (base,) = pull.base
    assert (base.module, base.version, base.digest) == (f"{pull.arm}.tower", 0, digest(f"{pull.arm}.tower"))
    fleet.tell("a", pull)
    again = next(
        pulled
        for pulled in (fleet.ask("a", round).pull for round in range(1, 40))
        if pulled.arm == pull.arm or fleet.tell("a", pulled) is None
    )
    assert (again.base[0].version, again.base[0].base) == (1, base.digest)


def test_more_workers_than_free_arms_wait_and_see_for_whom() -> None:
    fleet = Fleet("a", "b", "c", "d")
    pulls = [fleet.ask(worker, 0).pull for worker in ("a", "b", "c")]
    version = fleet.state.version
    answer = fleet.ask("d", 0)
    assert answer.wait
    assert not answer.HasField("pull")
    assert [pull.number for pull in answer.waits_for] == [0, 1, 2]
    assert fleet.state.version == version, "waiting is no event"
    fleet.tell("b", pulls[1])
    assert fleet.ask("d", 0).pull.arm == pulls[1].arm


def test_an_arm_that_shares_a_module_with_a_leased_one_is_not_free() -> None:
    arms = [pb.Arm(name="one", modules=["x", "y"]), pb.Arm(name="two", modules=["y", "z"])]
    fleet = Fleet()
    del fleet.spec.arms[:]
    fleet.spec.arms.extend(arms)
    fleet.spec.start.update({module: digest(module) for module in "xyz"})
    for worker in ("a", "b"):
        fleet.start(worker, losses=dict.fromkeys("xyz", 1.0))
    assert fleet.ask("a", 0).pull.arm in ("one", "two")
    assert fleet.ask("b", 0).wait


def test_paused_arms_are_not_chosen_even_if_only_they_are_free() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.pause("text")
    assert {fleet.ask(worker, 0).pull.arm for worker in ("a", "b")} == {"image", "decoder"}
    assert fleet.ask("c", 0).wait


def test_without_the_server_a_worker_goes_on_with_its_own_modules_only() -> None:
    fleet = Fleet("a")
    answer = fleet.ask("a", 0)
    assert list(answer.fallback_arms) == [answer.pull.arm]


# --- the reward


def test_the_reward_is_the_decrement_of_the_whole_students_loss() -> None:
    fleet = Fleet("a")
    pull = fleet.ask("a", 0).pull
    own = LOSSES[f"{pull.arm}.tower"]
    report = fleet.tell("a", pull, factor=0.5)
    assert report.reward == pytest.approx(own * 0.5 / sum(LOSSES.values()))
    assert (report.made[0].worker, report.made[0].pull) == ("a", pull.number)
    assert fleet.newest()[f"{pull.arm}.tower"] == 1


def test_rewards_of_all_workers_are_of_one_student() -> None:
    def choices(workers: tuple[str, ...]) -> list[str]:
        fleet = Fleet(*workers)
        names = []
        for round in range(24):
            pull = fleet.ask(workers[round % len(workers)], round).pull
            fleet.tell(pull.worker, pull, factor=0.99)
            names.append(pull.arm)
        return [reward.worker for rewards in fleet.state.history.rewards for reward in rewards]

    assert set(choices(("a", "b"))) == {""}


def test_a_diverged_round_makes_no_version_and_frees_its_modules() -> None:
    fleet = Fleet("a")
    pull = fleet.ask("a", 0).pull
    report = fleet.tell("a", pull, versions=[], measurement=diverged())
    assert (report.reward, report.outdated, fleet.held(), set(fleet.newest().values())) == (0.0, False, {}, {0})


# --- leases that end


def test_the_modules_of_a_dead_worker_are_given_to_another_and_its_late_report_has_no_effect() -> None:
    fleet = Fleet("a", "b")
    fleet.pause("text")
    fleet.pause("decoder")
    lost = fleet.ask("a", 0).pull
    assert fleet.ask("b", 0).wait
    taken_over = fleet.ask("b", 0, alive=()).pull
    assert (taken_over.arm, ends(fleet), fleet.held()) == ("image", [lost.number], {"image.tower": "b"})
    late = fleet.tell("a", lost)
    assert late.outdated
    assert not late.HasField("reward")
    assert not late.made
    assert fleet.newest()["image.tower"] == 0
    assert not fleet.tell("b", taken_over).outdated
    assert fleet.newest()["image.tower"] == 1
    assert (fleet.state.accepted, fleet.state.outdated) == (1, 1)


def test_a_late_report_counts_if_nobody_else_has_got_its_modules() -> None:
    fleet = Fleet("a", "b")
    pull = fleet.ask("a", 0).pull
    taken = fleet.ask("b", 0, alive=()).pull
    assert taken.arm != pull.arm or ends(fleet) == [pull.number]
    report = fleet.tell("a", pull)
    assert report.outdated == (taken.arm == pull.arm)


def test_a_worker_that_lost_its_modules_gets_a_new_pull_for_the_same_round() -> None:
    fleet = Fleet("a", "b")
    fleet.pause("text")
    fleet.pause("decoder")
    lost = fleet.ask("a", 0).pull
    taken_over = fleet.ask("b", 0, alive=()).pull
    assert fleet.ask("a", 0).wait
    fleet.tell("b", taken_over)
    again = fleet.ask("a", 0)
    assert (again.pull.round, again.duplicate) == (0, False)
    assert again.pull.number > taken_over.number > lost.number
    assert again.pull.base[0].version == 1
    assert sum(totals.pulls for totals in fleet.state.arms.values()) == fleet.state.pulls == 2


def test_a_newer_process_of_a_worker_starts_without_leases() -> None:
    fleet = Fleet("a")
    first = fleet.ask("a", 0).pull
    fleet.start("a", "p2")
    assert fleet.held() == {}
    again = fleet.ask("a", 0).pull
    assert again.number > first.number
    assert fleet.state.pulls == 1


def test_a_worker_that_asks_for_another_round_gives_up_the_one_before() -> None:
    fleet = Fleet("a")
    fleet.ask("a", 0)
    fleet.ask("a", 1)
    assert (ends(fleet), list(fleet.held().values())) == ([0], ["a"])


def test_rounds_without_the_server_follow_each_other_until_somebody_else_has_the_module() -> None:
    fleet = Fleet("a", "b")
    fleet.pause("text")
    fleet.pause("decoder")
    pull = fleet.ask("a", 0).pull
    first = made(pull.base[0], 3.0)
    second = made(first, 2.5)
    third = made(second, 2.0)
    fleet.tell("a", pull, versions=[first])

    def own(round: int) -> pb.Pull:
        return pb.Pull(round=round, arm="image", worker="a")

    assert not fleet.tell("a", own(1), chosen_by=FALLBACK, versions=[second]).outdated
    taken_over = fleet.ask("b", 0).pull
    assert taken_over.base[0].version == 2
    assert fleet.tell("a", own(2), chosen_by=FALLBACK, versions=[third]).outdated
    fleet.tell("b", taken_over)
    assert fleet.newest()["image.tower"] == 3


def test_a_version_of_the_same_number_from_another_base_is_outdated() -> None:
    fleet = Fleet("a", "b")
    fleet.pause("text")
    fleet.pause("decoder")
    lost = fleet.ask("a", 0).pull
    mine = made(lost.base[0], 3.0, "mine")
    fleet.tell("b", fleet.ask("b", 0, alive=()).pull)
    assert fleet.tell("a", lost, versions=[mine]).outdated
    again = pb.Pull(round=1, arm="image", worker="a")
    assert fleet.tell("a", again, chosen_by=FALLBACK, versions=[made(mine, 2.0)]).outdated


# --- the tail and the end


def test_the_run_has_so_many_rounds_and_its_tail_leases_everything() -> None:
    fleet = Fleet("a", "b", run_spec=fleet_spec(rounds=6, tail=0.5))
    pulls = {"a": fleet.ask("a", 0).pull, "b": fleet.ask("b", 0).pull}
    fleet.tell("a", pulls["a"])
    third = fleet.ask("a", 1).pull
    assert third.chosen_by == pb.CHOSEN_BY_POLICY
    # Two are in flight, and only one is left before the tail.
    fleet.tell("b", pulls["b"])
    assert fleet.ask("b", 1).wait
    fleet.tell("a", third)
    joint = fleet.ask("b", 1).pull
    assert (joint.arm, joint.chosen_by, [base.module for base in joint.base]) == ("joint", TAIL, list(MODULES))
    assert fleet.ask("a", 2).wait
    report = fleet.tell("b", joint)
    assert not report.HasField("reward")
    assert len(report.made) == 3
    assert fleet.state.tail_rounds == 1
    for round in (2, 3):
        fleet.tell("a", fleet.ask("a", round).pull)
    assert fleet.ask("a", 4).finished
    assert fleet.ask("b", 2).finished
    assert (fleet.state.accepted, fleet.state.tail_rounds, fleet.state.pulls) == (6, 3, 6)


def test_a_tail_whose_worker_died_is_played_by_another() -> None:
    fleet = Fleet("a", "b", run_spec=fleet_spec(rounds=2, tail=1.0))
    lost = fleet.ask("a", 0).pull
    again = fleet.ask("b", 0, alive=()).pull
    assert (again.arm, ends(fleet)) == ("joint", [lost.number])
    assert fleet.tell("a", lost).outdated
    fleet.tell("b", again)
    assert fleet.state.accepted == 1


# --- bad input


def test_a_report_has_a_version_of_every_module_of_its_arm() -> None:
    fleet = Fleet("a")
    pull = fleet.ask("a", 0).pull
    with pytest.raises(Invalid, match=f"versions of no module; expected one of each of {pull.arm}.tower"):
        fleet.tell("a", pull, versions=[])
    with pytest.raises(Invalid, match="expected one of each of none"):
        fleet.tell("a", pull, measurement=diverged())


def test_a_second_report_with_other_versions_is_refused() -> None:
    fleet = Fleet("a")
    pull = fleet.ask("a", 0).pull
    first = fleet.tell("a", pull)
    assert fleet.tell("a", pull) == first
    with pytest.raises(ReportConflict):
        fleet.tell("a", pull, versions=[made(pull.base[0], 3.6, "other")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": pb.TRAIN_MODE_ACTIVE}, "spec.train is not FORCED"),
        ({"reward": pb.REWARD_KIND_ABSOLUTE}, "spec.reward is not RELATIVE"),
        ({"probe": ""}, "spec.probe is empty"),
        ({"start": {"image.tower": digest("")}}, "spec.start lacks decoder.tower, text.tower"),
        ({"start": dict.fromkeys(MODULES, "abc")}, "expected 64 hexadecimal digits"),
        ({"exchange": False}, "without spec.exchange"),
    ],
)
def test_a_spec_that_cannot_be_exchanged_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        fleet_spec(**fields)


def test_a_run_without_an_exchange_takes_no_versions() -> None:
    play = Play()
    play.join()
    pull = play.select(0).pull
    request = pb.ReportRewardRequest(
        caller=play.caller(), round=0, arm=pull.arm, chosen_by=pull.chosen_by, measurement=measured()
    )
    request.made.add(module="image.tower", version=1)
    with pytest.raises(Invalid, match="run demo has no exchange"):
        rounds.report(play.state, request)


# --- any history

step = st.tuples(
    st.sampled_from(["ask", "tell", "tell", "die", "diverge", "start", "alone"]),
    st.sampled_from(["a", "b", "c"]),
    st.floats(0.5, 1.1),
)


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(step, max_size=60))
def test_no_module_goes_back_and_nobody_shares_one_whatever_happens(steps: list[tuple[str, str, float]]) -> None:
    fleet = Fleet("a", "b", "c", run_spec=fleet_spec(rounds=20, tail=0.2))
    held: dict[str, pb.Pull] = {}
    rounds = dict.fromkeys("abc", 0)
    alive = set("abc")
    digests: dict[tuple[str, int], str] = {}
    for what, worker, factor in steps:
        before = fleet.newest()
        match what:
            case "ask" | "alone":
                answer = fleet.ask(worker, rounds[worker], alive=set() if what == "alone" else alive - {worker})
                alive.add(worker)
                if answer.HasField("pull"):
                    held[worker] = answer.pull
            case "tell" | "diverge" if worker in held:
                pull = held.pop(worker)
                if what == "diverge":
                    fleet.tell(worker, pull, versions=[], measurement=diverged())
                else:
                    fleet.tell(worker, pull, factor, versions=[made(b, b.loss * factor, worker) for b in pull.base])
                rounds[worker] += 1
            case "die":
                alive.discard(worker)
            case "start":
                fleet.start(worker, f"p{len(fleet.events)}")
                held.pop(worker, None)
        after = fleet.newest()
        assert all(after[name] in (before[name], before[name] + 1) for name in after)
        for module in fleet.state.modules.by_name.values():
            known = digests.setdefault((module.newest.module, module.newest.version), module.newest.digest)
            assert known == module.newest.digest, "no version exists twice"
    reported = [event.reward_reported for event in fleet.events if event.HasField("reward_reported")]
    versions = [(version.module, version.version) for report in reported for version in report.made]
    assert len(versions) == len(set(versions))
    assert fleet.state.accepted == sum(not report.outdated for report in reported) <= 20
    folded = RunState("demo")
    for event in fleet.events:
        folded.apply(pb.Event.FromString(event.SerializeToString()))
    assert summary(folded) == summary(fleet.state)
    restored = RunState("demo")
    serialization.load(restored, serialization.dump(fleet.state))
    assert summary(restored) == summary(fleet.state)
    assert pickle.dumps(serialization.dump(restored)) == pickle.dumps(serialization.dump(fleet.state))


def test_a_lost_history_comes_back_from_the_journals_of_all_workers() -> None:
    fleet = Fleet("a", "b")
    rounds = {"a": 0, "b": 0}
    for turn in range(20):
        worker = "ab"[turn % 2]
        fleet.tell(worker, fleet.ask(worker, rounds[worker]).pull)
        rounds[worker] += 1
    empty = Fleet(run_spec=fleet.spec)
    for worker in ("b", "a"):
        records = journal(fleet.events, worker)
        for record in records:
            (report,) = [
                event.reward_reported
                for event in fleet.events
                if event.HasField("reward_reported") and event.reward_reported.pull == record.pull
            ]
            record.made.extend(report.made)
        Play.restore(empty, records, worker, incarnation="first", seen_version=fleet.state.version)
    assert empty.newest() == fleet.newest()
    assert (empty.state.accepted, empty.state.reports) == (20, 20)
