from __future__ import annotations

from typing import Any

import pytest

from bandit_server.bandit import serialization as memory
from bandit_server.bandit.policy import SERVED
from bandit_server.errors import DataLoss, Fenced, Invalid, ReportConflict
from bandit_server.run import rounds
from bandit_server.run.old_rounds import NeedsHistory
from bandit_server.run.rounds import FALLBACK_ARMS
from bandit_server.run.worker import RECENT_ROUNDS
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import ARMS, FALLBACK, TAIL, Play, diverged, measured, spec


@pytest.fixture
def play() -> Play:
    play = Play()
    play.join()
    return play


def other_than(arm: str) -> str:
    return next(name for name in ARMS if name != arm)


def total_pulls(play: Play) -> int:
    return sum(totals.pulls for totals in play.state.arms.values())


def rewards(play: Play, arm: str) -> list[float]:
    return [reward.value for reward in play.state.history.rewards[play.state.index[arm]]]


# --- select


def test_a_selection_is_a_pull_of_the_policy_with_the_next_number(play: Play) -> None:
    for round in range(3):
        pull = play.select(round).pull
        assert (pull.number, pull.worker, pull.round, pull.chosen_by) == (round, "w", round, pb.CHOSEN_BY_POLICY)
        assert pull.arm in ARMS


def test_a_selection_answers_with_the_version_after_it_and_the_incarnation(play: Play) -> None:
    answer = play.select(0)
    assert (answer.version, answer.incarnation) == (play.state.version, "first")
    assert not answer.duplicate


def test_a_selection_brings_arms_for_the_time_without_a_server(play: Play) -> None:
    fallback_arms = play.select(0).fallback_arms
    assert len(fallback_arms) == FALLBACK_ARMS
    assert set(fallback_arms) <= set(ARMS)


@pytest.mark.parametrize("name", SERVED)
def test_the_pull_and_the_arms_for_later_are_one_choice_of_the_policy(name: str) -> None:
    play = Play(spec(policy=name))
    play.join()
    for round in range(6):
        rng = play.state.randomness.at("w", round)
        ahead = play.state.policy.choose(in_flight=[], active=range(3), rng=rng, count=1 + FALLBACK_ARMS)
        selection = play.select(round)
        assert [selection.pull.arm, *selection.fallback_arms] == [ARMS[arm] for arm in ahead]
        play.report(round, selection.pull.arm)


def test_a_repeated_selection_returns_the_same_pull_and_stores_nothing(play: Play) -> None:
    first = play.select(0)
    version = play.state.version
    again = play.select(0)
    assert (again.pull, again.fallback_arms, again.duplicate) == (first.pull, first.fallback_arms, True)
    assert play.state.version == version


def test_a_repeated_selection_returns_the_same_pull_after_its_report_too(play: Play) -> None:
    pull = play.round(0).pull
    play.round(1)
    assert play.select(0).pull == pull


def test_the_same_history_leads_to_the_same_choices_on_any_replica() -> None:
    def choices() -> list[str]:
        play = Play()
        play.join()
        return [play.round(i, measured(1.0, 0.9 + 0.01 * (i % 7))).pull.arm for i in range(30)]

    assert choices() == choices()


def test_the_seed_and_the_worker_decide_what_is_chosen() -> None:
    def choices(seed: int, worker: str) -> list[str]:
        play = Play(spec(seed=seed))
        play.join(worker)
        return [play.round(i, worker=worker).pull.arm for i in range(20)]

    drawn = [choices(seed, worker) for seed in (1, 2) for worker in ("a", "b")]
    assert len({tuple(one) for one in drawn}) == 4


def test_workers_have_rounds_of_their_own_and_share_pull_numbers(play: Play) -> None:
    play.join("other")
    pulls = [play.select(0).pull, play.select(0, "other").pull, play.select(1).pull]
    assert [(pull.worker, pull.round, pull.number) for pull in pulls] == [("w", 0, 0), ("other", 0, 1), ("w", 1, 2)]


def test_untried_arms_in_flight_at_workers_that_are_alive_are_left_to_them() -> None:
    for seed in range(10):
        play = Play(spec(seed=seed))
        for worker in ("a", "b", "c"):
            play.join(worker)
        chosen = [play.select(0, worker, alive={"a", "b", "c"}).pull.arm for worker in ("a", "b", "c")]
        assert sorted(chosen) == sorted(ARMS)


def test_pulls_of_dead_workers_are_not_in_flight() -> None:
    def repeats(alive: set[str]) -> int:
        same = 0
        for seed in range(30):
            play = Play(spec(seed=seed))
            play.join("a")
            play.join("b")
            same += play.select(0, "a", alive).pull.arm == play.select(0, "b", alive).pull.arm
        return same

    assert repeats({"a", "b"}) == 0
    assert repeats(set()) > 3


def test_a_workers_own_open_pull_is_given_up_and_not_in_flight() -> None:
    repeats = 0
    for seed in range(30):
        play = Play(spec(seed=seed))
        play.join()
        repeats += play.select(0, alive={"w"}).pull.arm == play.select(1, alive={"w"}).pull.arm
    assert repeats > 3


def test_a_finished_run_selects_nothing_and_still_takes_open_reports(play: Play) -> None:
    pull = play.select(0).pull
    play.finish()
    answer = play.select(1)
    assert answer.finished
    assert not answer.HasField("pull")
    assert play.report(0, pull.arm).report.reward == pytest.approx(0.1)


# --- report


def test_a_report_brings_the_relative_decrement_as_reward(play: Play) -> None:
    pull = play.select(0).pull
    answer = play.report(0, pull.arm, measured(4.0, 3.0))
    assert answer.report.reward == 0.25
    assert (answer.report.pull, answer.version, answer.duplicate) == (pull, play.state.version, False)
    assert rewards(play, pull.arm) == [0.25]


def test_an_absolute_run_rewards_the_decrement_itself() -> None:
    play = Play(spec(reward=pb.REWARD_KIND_ABSOLUTE))
    play.join()
    assert play.round(0, measured(4.0, 3.0)).reward == 1.0


@pytest.mark.parametrize("before", [0.0, -1.0])
def test_a_relative_reward_needs_a_loss_above_zero(play: Play, before: float) -> None:
    arm = play.select(0).pull.arm
    with pytest.raises(Invalid, match=f"measurement.before is {before}; relative rewards need a loss above 0"):
        play.report(0, arm, measured(before, -2.0))
    assert play.report(0, arm, diverged()).report.HasField("reward")


def test_an_absolute_run_takes_losses_of_any_sign() -> None:
    play = Play(spec(reward=pb.REWARD_KIND_ABSOLUTE))
    play.join()
    assert play.round(0, measured(-1.0, -2.5)).reward == 1.5


def test_cost_aware_rewards_are_divided_by_the_arms_relative_round_time() -> None:
    arms = ("slow", "fast")
    play = Play(spec(arms=arms, policy="round_robin", cost_aware=True))
    play.join()
    rewarded = {}
    for i in range(7):
        report = play.round(i, measured(1.0, 0.5, seconds=[6.0, 2.0][i % 2]))
        rewarded[report.pull.arm] = report.reward
    assert rewarded == {"slow": 0.5 / 1.5, "fast": 0.5 / 0.5}


def test_a_report_with_the_same_numbers_is_a_duplicate_and_counts_once(play: Play) -> None:
    pull = play.select(0).pull
    first = play.report(0, pull.arm, measured(1.0, 0.8))
    again = play.report(0, pull.arm, measured(1.0, 0.8))
    assert again.duplicate
    assert (again.report, again.version) == (first.report, first.version)
    assert play.state.reports == 1
    assert rewards(play, pull.arm) == pytest.approx([0.2])


def test_a_report_with_other_numbers_is_refused_with_the_stored_one(play: Play) -> None:
    pull = play.select(0).pull
    stored = play.report(0, pull.arm, measured(1.0, 0.8)).report
    with pytest.raises(ReportConflict, match="already has a report with other numbers") as refused:
        play.report(0, pull.arm, measured(1.0, 0.7))
    [(key, value)] = refused.value.metadata
    assert key == "optima-stored-report-bin"
    assert pb.RewardReported.FromString(value) == stored
    assert rewards(play, pull.arm) == [pytest.approx(0.2)]


def test_a_report_of_another_arm_for_a_reported_round_is_refused(play: Play) -> None:
    arm = play.round(0).pull.arm
    with pytest.raises(ReportConflict):
        play.report(0, other_than(arm), chosen_by=FALLBACK)


def test_late_reports_are_kept_in_the_order_of_their_pulls() -> None:
    play = Play(spec(arms=("only",)))
    for worker in ("slow", "quick"):
        play.join(worker)
    play.select(0, "slow")
    play.round(0, measured(1.0, 0.8), "quick")
    play.report(0, "only", measured(1.0, 0.5), "slow")
    assert rewards(play, "only") == [0.5, pytest.approx(0.2)]


def test_a_policy_report_must_name_the_arm_that_was_selected(play: Play) -> None:
    arm = play.select(0).pull.arm
    with pytest.raises(Invalid, match=rf"the policy chose arm {arm} for round 0 .* reports chosen_by FALLBACK"):
        play.report(0, other_than(arm))
    assert play.state.reports == 0


def test_a_report_of_an_unknown_arm_is_refused_with_the_nearest_name(play: Play) -> None:
    with pytest.raises(Invalid, match="has no arm 'imagee', only image, text, decoder; did you mean 'image'"):
        play.report(0, "imagee", chosen_by=FALLBACK)


def test_a_policy_report_without_a_selection_is_lost_history(play: Play) -> None:
    with pytest.raises(DataLoss, match="has no pull of worker w for round 3"):
        play.report(3, "image")


# --- rounds that the worker chose


def test_a_round_the_worker_chose_begins_with_its_report(play: Play) -> None:
    report = play.report(0, "text", measured(1.0, 0.6), chosen_by=FALLBACK).report
    assert (report.pull.number, report.pull.arm, report.pull.chosen_by) == (0, "text", FALLBACK)
    assert not report.HasField("superseded")
    assert rewards(play, "text") == [pytest.approx(0.4)]
    assert play.select(0).pull == report.pull


def test_a_worker_chosen_arm_supersedes_the_open_pull_of_another(play: Play) -> None:
    selected = play.select(0).pull
    trained = other_than(selected.arm)
    report = play.report(0, trained, chosen_by=FALLBACK).report
    assert report.superseded == selected.number
    assert report.pull.number == selected.number + 1
    assert (rewards(play, selected.arm), len(rewards(play, trained))) == ([], 1)
    assert (play.state.arms[selected.arm].pulls, play.state.arms[trained].pulls, play.state.pulls) == (0, 1, 1)
    assert play.state.open == {}


def test_a_superseded_pull_is_not_reported_any_more(play: Play) -> None:
    selected = play.select(0).pull
    report = play.report(0, other_than(selected.arm), chosen_by=FALLBACK).report
    assert play.select(0).pull == report.pull
    with pytest.raises(ReportConflict):
        play.report(0, selected.arm)


def test_a_worker_that_chose_what_the_policy_chose_settles_the_selected_pull(play: Play) -> None:
    selected = play.select(0).pull
    report = play.report(0, selected.arm, chosen_by=FALLBACK).report
    assert report.pull == selected
    assert not report.HasField("superseded")
    assert total_pulls(play) == 1


def test_a_repeated_worker_chosen_report_is_a_duplicate(play: Play) -> None:
    first = play.report(0, "text", chosen_by=FALLBACK)
    again = play.report(0, "text", chosen_by=FALLBACK)
    assert (again.duplicate, again.report) == (True, first.report)


def test_rounds_of_the_tail_are_counted_and_stay_outside_the_posterior(play: Play) -> None:
    play.round(0)
    before = memory.dump(play.state.policy)
    report = play.report(1, "joint", measured(total_loss=0.5), chosen_by=TAIL).report
    assert not report.HasField("reward")
    assert memory.dump(play.state.policy) == before
    assert (play.state.tail_rounds, play.state.pulls, play.state.reports, play.state.rewards) == (1, 2, 2, 1)
    assert total_pulls(play) == 1
    assert list(play.state.losses) == [0.5]


def test_a_round_of_the_tail_supersedes_an_open_pull(play: Play) -> None:
    selected = play.select(0).pull
    report = play.report(0, "joint", chosen_by=TAIL).report
    assert report.superseded == selected.number
    assert (total_pulls(play), play.state.pulls, play.state.open) == (0, 1, {})


def test_a_round_of_the_tail_trains_joint_and_nothing_else(play: Play) -> None:
    with pytest.raises(Invalid, match="a round of the tail trains arm joint, not 'text'"):
        play.report(0, "text", chosen_by=TAIL)


def test_joint_is_no_arm_to_fall_back_on_unless_it_is_listed(play: Play) -> None:
    with pytest.raises(Invalid, match="has no arm 'joint'"):
        play.report(0, "joint", chosen_by=FALLBACK)


# --- diverged


def test_a_diverged_round_is_charged_the_worst_reward_of_its_arm() -> None:
    play = Play(spec(policy="fixed:text"))
    play.join()
    for i, after in enumerate([0.9, 0.95, 0.8]):
        play.round(i, measured(1.0, after))
    report = play.round(3, diverged())
    assert report.reward == pytest.approx(0.05)
    assert (play.state.diverged, len(rewards(play, "text"))) == (1, 4)


def test_a_diverged_round_of_a_new_arm_is_charged_the_worst_of_the_run_else_nothing(play: Play) -> None:
    assert play.report(0, "image", diverged(), chosen_by=FALLBACK).report.reward == 0.0
    play.report(1, "text", measured(1.0, 1.5), chosen_by=FALLBACK)
    assert play.report(2, "decoder", diverged(), chosen_by=FALLBACK).report.reward == -0.5


def test_a_diverged_round_adds_time_and_no_decrement(play: Play) -> None:
    arm = play.round(0, diverged()).pull.arm
    totals = play.state.arms[arm]
    assert (totals.total_decrement, totals.total_seconds) == (0.0, 2.0)


# --- who may call


def test_a_worker_that_has_not_joined_is_told_to(play: Play) -> None:
    request = pb.SelectArmRequest(caller=pb.Caller(run="demo", worker="stranger", process="p1"))
    with pytest.raises(Invalid, match="has not joined run demo: call CreateRun"):
        rounds.select(play.state, request, ())


def test_an_older_process_is_fenced_from_selecting_and_reporting(play: Play) -> None:
    arm = play.select(0).pull.arm
    play.join(process="p2")
    play.processes["w"] = "p1"
    with pytest.raises(Fenced, match="a newer process of worker w has started"):
        play.select(0)
    with pytest.raises(Fenced):
        play.report(0, arm)
    play.processes["w"] = "p2"
    assert play.report(0, arm).report.pull.arm == arm


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ({"incarnation": "lost"}, r"in another incarnation \(first\) than the one that worker w knows \(lost\)"),
        ({"seen_version": 99}, "has 2 events, but worker w has seen 99"),
        ({"process": "unheard"}, "knows nothing of the start of worker w, process unheard"),
    ],
)
def test_a_caller_that_has_seen_more_than_there_is_learns_of_the_loss(
    play: Play, seen: dict[str, Any], sentence: str
) -> None:
    caller = play.caller(**seen)
    with pytest.raises(DataLoss, match=sentence):
        rounds.select(play.state, pb.SelectArmRequest(caller=caller), ())
    request = pb.ReportRewardRequest(caller=caller, arm="text", chosen_by=FALLBACK, measurement=measured())
    with pytest.raises(DataLoss, match=sentence):
        rounds.report(play.state, request)


def test_a_caller_that_has_seen_less_is_served(play: Play) -> None:
    caller = play.caller(seen_version=1, incarnation="")
    assert rounds.select(play.state, pb.SelectArmRequest(caller=caller), ()).answer.HasField("pull")


# --- rounds that are only in the history


def test_rounds_that_are_only_in_the_history_are_asked_for(play: Play) -> None:
    for i in range(RECENT_ROUNDS + 1):
        play.round(i)
    with pytest.raises(NeedsHistory) as needed:
        rounds.select(play.state, pb.SelectArmRequest(caller=play.caller(), round=0), ())
    assert (needed.value.worker, needed.value.round) == ("w", 0)


def test_an_old_round_is_answered_from_the_history(play: Play) -> None:
    first = play.select(0)
    play.report(0, first.pull.arm, measured(1.0, 0.7))
    chosen = play.report(1, "text", chosen_by=FALLBACK).report
    for i in range(2, RECENT_ROUNDS + 10):
        play.round(i)
    again = play.select(0)
    assert (again.duplicate, again.pull, again.fallback_arms) == (True, first.pull, first.fallback_arms)
    assert play.report(0, first.pull.arm, measured(1.0, 0.7)).duplicate
    assert play.report(1, "text", chosen_by=FALLBACK).report == chosen
    with pytest.raises(ReportConflict):
        play.report(0, first.pull.arm, measured(1.0, 0.6))


def test_an_old_round_that_never_began_is_selected_late_and_only_once(play: Play) -> None:
    for i in range(1, RECENT_ROUNDS + 10):
        play.round(i)
    late = play.select(0)
    assert not late.duplicate
    assert play.select(0).pull == late.pull
    assert not play.report(0, late.pull.arm).duplicate
    assert play.report(0, late.pull.arm).duplicate


def test_an_open_round_that_has_become_old_is_reported_late(play: Play) -> None:
    pull = play.select(0).pull
    for i in range(1, RECENT_ROUNDS + 10):
        play.round(i)
    assert play.state.open == {}
    report = play.report(0, pull.arm, measured(1.0, 0.5)).report
    assert (report.pull, report.reward) == (pull, 0.5)
    assert play.report(0, pull.arm, measured(1.0, 0.5)).duplicate
