from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.bandit import serialization
from bandit_server.bandit.history import WINDOW
from bandit_server.errors import ServerError
from bandit_server.run.reported_rounds import MOST_RANGES, ReportedRounds
from bandit_server.run.state import RECENT_LOSSES, RunState, build_policy, playable
from bandit_server.run.summary import point, summary, with_heartbeats
from bandit_server.run.worker import RECENT_ROUNDS
from bandit_server.store.base import Heartbeat
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import ARMS, FALLBACK, TAIL, Play, diverged, measured, spec


def folded(events: Sequence[pb.Event]) -> RunState:
    state = RunState("demo")
    for event in events:
        state.apply(pb.Event.FromString(event.SerializeToString()))
    return state


# --- the fold

step = st.tuples(
    st.sampled_from(["select", "report", "fallback", "tail", "diverge", "join", "pause", "resume", "again"]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 5),
    st.sampled_from(ARMS),
)


def act(play: Play, what: str, worker: str, round: int, arm: str) -> None:
    match what:
        case "select" | "again":
            play.select(round, worker, alive={"a", "b"})
        case "report":
            play.report(round, play.select(round, worker).pull.arm, measured(1.0, 0.9 - round / 10), worker)
        case "fallback":
            play.report(round, arm, measured(1.0, 0.5 + round / 10), worker, FALLBACK)
        case "tail":
            play.report(round, "joint", measured(total_loss=2.0), worker, TAIL)
        case "diverge":
            play.report(round, arm, diverged(), worker, FALLBACK)
        case "join":
            play.join(worker, f"p{len(play.events)}")
        case "pause" | "resume":
            play.pause(arm, what == "pause")


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, max_size=60))
def test_any_history_folded_anew_gives_the_same_run(steps: list[tuple[str, str, int, str]]) -> None:
    play = Play()
    play.join("a")
    play.join("b")
    for one in steps:
        try:
            act(play, *one)
        except ServerError:
            continue
    again = folded(play.events)
    assert summary(again) == summary(play.state)
    assert point(again) == point(play.state)
    assert again.history.rewards == play.state.history.rewards
    assert serialization.dump(again.policy) == serialization.dump(play.state.policy)
    assert (again.open, again.next_number) == (play.state.open, play.state.next_number)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, max_size=60))
def test_counts_agree_with_the_rounds_that_stand(steps: list[tuple[str, str, int, str]]) -> None:
    play = Play()
    play.join("a")
    play.join("b")
    for one in steps:
        try:
            act(play, *one)
        except ServerError:
            continue
    standing = [round for worker in play.state.workers.values() for round in worker.rounds.values()]
    trained = [round.pull.arm for round in standing if round.pull.chosen_by != TAIL]
    reports = [round.report for round in standing if round.report is not None]
    assert play.state.pulls == len(standing)
    assert play.state.reports == len(reports)
    assert play.state.rewards == sum(report.HasField("reward") for report in reports)
    assert play.state.tail_rounds == sum(report.pull.chosen_by == TAIL for report in reports)
    assert [play.state.arms[arm].pulls for arm in ARMS] == [trained.count(arm) for arm in ARMS]
    assert sum(len(rounds) for rounds in play.state.open.values()) == len(standing) - len(reports)


def test_pull_numbers_are_unique_and_without_gaps() -> None:
    play = Play()
    play.join("a")
    play.join("b")
    for i in range(10):
        play.round(i, worker="a")
        play.report(i, ARMS[i % 3], worker="b", chosen_by=FALLBACK)
    numbers = {round.pull.number for worker in play.state.workers.values() for round in worker.rounds.values()}
    assert numbers == set(range(20))


def test_deciding_changes_no_state() -> None:
    play = Play()
    play.join()
    play.round(0)
    before = copy.deepcopy(play.state)
    for i in range(5):
        play.select(0)
        play.report(0, play.select(0).pull.arm)
        play.join()
        play.pause(ARMS[i % 3], False)
    assert summary(play.state) == summary(before)
    assert play.state.history.rewards == before.history.rewards
    assert serialization.dump(play.state.policy) == serialization.dump(before.policy)


def test_a_run_without_events_is_empty() -> None:
    state = RunState("demo")
    assert (state.version, state.incarnation, state.active, state.workers) == (0, "", [], {})


# --- what it holds


def size(state: RunState) -> int:
    """Bytes of everything in a state but its messages, which do not grow."""
    held = [
        (worker.process, worker.fenced, worker.horizon, vars(worker.reported_rounds), sorted(worker.rounds))
        for worker in state.workers.values()
    ]
    history = [[(reward.number, reward.value, reward.worker) for reward in arm] for arm in state.history.rewards]
    learned = serialization.dump(state.policy)
    return len(pickle.dumps((held, history, learned, state.costs, state.losses, state.open, state.arms)))


def test_the_state_does_not_grow_with_the_history() -> None:
    play = Play(spec(policy="round_robin", cost_aware=True))
    play.join()
    sizes = []
    for i in range(1200):
        # Every seventh round stays open, as if the worker had died in it.
        pull = play.select(i).pull
        if i % 7:
            play.report(i, pull.arm, measured(1.0, 0.9, total_loss=2.0))
        sizes.append(size(play.state))
    assert max(sizes[700:]) < 1.05 * max(sizes[:700])
    worker = play.state.workers["w"]
    assert len(worker.rounds) == RECENT_ROUNDS
    assert len(play.state.losses) == RECENT_LOSSES
    assert sum(len(rounds) for rounds in play.state.open.values()) <= RECENT_ROUNDS
    assert all(len(arm) == WINDOW for arm in play.state.history.rewards)


@given(rounds=st.permutations(range(60)), count=st.integers(0, 60))
def test_the_first_open_round_is_the_lowest_without_a_report(rounds: list[int], count: int) -> None:
    rounds_reported = ReportedRounds()
    for round in rounds[:count]:
        rounds_reported.add(round)
        rounds_reported.add(round)
    assert rounds_reported.first_open == min(set(range(61)) - set(rounds[:count]))


def test_reported_rounds_in_order_are_one_range() -> None:
    rounds_reported = ReportedRounds()
    for round in range(10_000):
        rounds_reported.add(round)
    assert (rounds_reported.first_open, len(rounds_reported._starts)) == (10_000, 1)


def test_reported_rounds_with_endless_gaps_take_bounded_memory() -> None:
    rounds_reported = ReportedRounds()
    rounds_reported.add(0)
    for round in range(2, 10_000, 2):
        rounds_reported.add(round)
    assert len(rounds_reported._starts) == len(rounds_reported._stops) == MOST_RANGES
    # The newest gaps are still known, the oldest count as reported.
    assert rounds_reported.first_open == 9998 - 2 * (MOST_RANGES - 1) + 1


def test_the_next_round_of_a_worker_is_its_first_without_a_report() -> None:
    play = Play()
    play.join()
    for i in (0, 1, 3):
        play.round(i)
    play.select(2)
    assert play.state.workers["w"].reported_rounds.first_open == 2
    play.report(2, play.select(2).pull.arm)
    assert play.state.workers["w"].reported_rounds.first_open == 4


# --- what is shown of it


def test_the_first_total_loss_is_that_of_the_first_workers_start() -> None:
    play = Play(spec())
    for worker, loss in (("w", 9.0), ("late", 7.0)):
        play.join(worker, total_loss=loss)
    play.round(0, measured(total_loss=8.0))
    shown = summary(play.state)
    assert (shown.first_loss, shown.last_loss, list(shown.recent_losses)) == (9.0, 8.0, [9.0, 8.0])


def test_a_summary_tells_totals_by_arm() -> None:
    play = Play(spec(policy="fixed:text"))
    play.join()
    play.round(0, measured(2.0, 1.5, seconds=3.0, total_loss=9.0))
    play.round(1, measured(1.5, 1.25, seconds=4.0, total_loss=8.0))
    shown = summary(play.state)
    text = shown.arms[1]
    assert [arm.arm.name for arm in shown.arms] == list(ARMS)
    assert (text.pulls, text.total_decrement, text.total_seconds) == (2, 0.75, 7.0)
    assert text.last_reward == pytest.approx(0.25 / 1.5)
    assert not shown.arms[0].HasField("last_reward")
    assert (shown.first_loss, shown.last_loss, list(shown.recent_losses)) == (9.0, 8.0, [9.0, 8.0])
    assert (shown.version, shown.updated, shown.created) == (6, 105.0, 100.0)


def test_beliefs_are_told_from_the_first_reward_on() -> None:
    play = Play()
    play.join()
    assert point(play.state) is None
    assert not summary(play.state).arms[0].HasField("mean")
    play.round(0)
    posterior = point(play.state)
    assert posterior is not None
    assert (posterior.version, posterior.rewards, len(posterior.mean), len(posterior.sd)) == (
        play.state.version,
        1,
        3,
        3,
    )
    assert sum(posterior.p_best) == pytest.approx(1)
    assert [arm.mean for arm in summary(play.state).arms] == list(posterior.mean)


def test_policies_that_do_not_learn_tell_no_beliefs() -> None:
    play = Play(spec(policy="uniform"))
    play.join()
    play.round(0)
    assert point(play.state) is None
    assert not any(arm.HasField("p_best") for arm in summary(play.state).arms)


def test_the_joint_policy_shows_joint_as_the_union_of_all_arms() -> None:
    play = Play(spec(policy="joint"))
    play.join()
    assert play.round(0).pull.arm == "joint"
    joint = summary(play.state).arms[-1]
    assert (joint.arm.name, list(joint.arm.modules)) == ("joint", ["decoder.tower", "image.tower", "text.tower"])
    assert joint.pulls == 1


def test_heartbeats_are_shown_and_leave_the_summary_as_it_was() -> None:
    play = Play()
    play.join("a")
    play.join("b")
    shown = summary(play.state)
    request = pb.HeartbeatRequest(round=4, steps_per_second=2.5).SerializeToString()
    now = with_heartbeats(shown, {("demo", "a"): Heartbeat(1.0, request), ("other", "b"): Heartbeat(1.0, request)})
    a, b = now.workers
    assert (a.alive, a.heartbeat_age, a.round, a.steps_per_second) == (True, 1.0, 4, 2.5)
    assert not b.alive
    assert not any(worker.alive for worker in shown.workers)


# --- the policy of a spec


def test_joint_is_playable_where_it_is_listed_or_the_policy() -> None:
    assert playable(spec()) == list(ARMS)
    assert playable(spec(policy="joint")) == [*ARMS, "joint"]
    assert playable(pb.RunSpec(arms=[pb.Arm(name="joint")], policy=pb.PolicySpec(name="joint"))) == ["joint"]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("fixed", "policy fixed:<arm> must name one of the arms image, text, decoder, not ''"),
        ("fixed:", "policy fixed:<arm> must name one of the arms image, text, decoder, not ''"),
        ("fixed:nose", "policy fixed:<arm> must name one of the arms image, text, decoder, not 'nose'"),
        ("joint:image", "the server offers no policy 'joint:image'"),
        ("optima:image", "the server offers no policy 'optima:image'"),
    ],
)
def test_a_policy_with_a_wrong_arm_is_refused(policy: str, sentence: str) -> None:
    arms = [pb.Arm(name=name) for name in ARMS]
    with pytest.raises(ValueError, match=sentence):
        build_policy(pb.RunSpec(arms=arms, policy=pb.PolicySpec(name=policy)))
