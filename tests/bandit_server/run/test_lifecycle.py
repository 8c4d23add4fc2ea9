from __future__ import annotations

from typing import Any

import pytest

from bandit_server.errors import ArmRequired, DataLoss, Fenced, Invalid, RunFinished, SpecMismatch
from bandit_server.run import lifecycle
from bandit_server.run.worker import FENCED_PROCESSES
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import Play, measured, spec


@pytest.fixture
def play() -> Play:
    play = Play()
    play.join()
    return play


def create(play: Play, caller: pb.Caller, run_spec: pb.RunSpec | None = None) -> bool:
    request = pb.CreateRunRequest(caller=caller, spec=run_spec or play.spec)
    return play.do(lifecycle.create(play.state, request, "another"))


def kinds(play: Play) -> list[str | None]:
    return [event.WhichOneof("kind") for event in play.events]


# --- create and join


def test_the_first_worker_creates_the_run_and_later_ones_join_it() -> None:
    play = Play()
    assert play.join("a")
    assert not play.join("b")
    assert kinds(play) == ["run_created", "worker_started", "worker_started"]
    assert (play.state.incarnation, list(play.state.workers)) == ("first", ["a", "b"])


def test_a_run_can_be_created_without_a_worker() -> None:
    play = Play()
    assert create(play, pb.Caller(run="demo"))
    assert kinds(play) == ["run_created"]
    assert not create(play, pb.Caller(run="demo"))


def test_a_process_that_joins_twice_is_told_once(play: Play) -> None:
    assert not play.join()
    assert kinds(play) == ["run_created", "worker_started"]


def test_a_created_event_starts_its_incarnation() -> None:
    play = Play()
    request = pb.CreateRunRequest(caller=pb.Caller(run="demo"), spec=play.spec)
    assert lifecycle.create(play.state, request, "fresh").incarnation == "fresh"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arms": ("image", "text")}, "arms is"),
        ({"policy": "uniform"}, 'policy is name: "optima", not name: "uniform"'),
        ({"options": {"memory": 0.5}}, "policy is"),
        ({"seed": 8}, "seed is 7, not 8"),
        ({"reward": pb.REWARD_KIND_ABSOLUTE}, "reward is 1, not 2"),
        ({"cost_aware": True}, "cost_aware is False, not True"),
        ({"train": pb.TRAIN_MODE_ALL}, "train is 1, not 3"),
        ({"tail": 0.5}, "tail is 0.0, not 0.5"),
        ({"steps_per_round": 20}, "steps_per_round is 10, not 20"),
        ({"rounds": 5}, "rounds is 0, not 5"),
    ],
)
def test_another_spec_under_the_same_name_is_refused_with_the_field(
    play: Play, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SpecMismatch, match=f"run demo exists with another spec: {sentence}"):
        create(play, pb.Caller(run="demo", worker="v", process="p1"), spec(**change))  # type: ignore[arg-type]
    assert "v" not in play.state.workers


def test_a_mismatch_of_large_specs_is_told_briefly(play: Play) -> None:
    many = spec(arms=tuple(f"arm{i}" for i in range(200)))
    with pytest.raises(SpecMismatch) as refused:
        create(play, pb.Caller(run="demo"), many)
    assert len(str(refused.value)) < 700


def test_a_worker_that_knows_a_run_which_is_not_there_does_not_create_it() -> None:
    caller = pb.Caller(run="demo", worker="w", process="p1", incarnation="gone", seen_version=12)
    with pytest.raises(DataLoss, match="run demo does not exist, but worker w has seen 12 events"):
        create(Play(), caller)


@pytest.mark.parametrize("seen", [{"incarnation": "lost"}, {"seen_version": 50}])
def test_a_worker_that_knows_more_than_there_is_does_not_join(play: Play, seen: dict[str, Any]) -> None:
    with pytest.raises(DataLoss):
        create(play, play.caller(process="p2", **seen))
    assert play.state.workers["w"].process == "p1"


# --- processes


def test_a_newer_process_fences_the_older_for_good(play: Play) -> None:
    play.join(process="p2")
    with pytest.raises(Fenced):
        play.join(process="p1")
    assert play.state.workers["w"].process == "p2"


def test_processes_fence_only_those_of_their_own_worker(play: Play) -> None:
    play.join("other", "q1")
    play.join("other", "q2")
    assert play.select(0).HasField("pull")


def test_fenced_processes_are_remembered_in_bounded_memory(play: Play) -> None:
    for i in range(500):
        play.join(process=f"r{i}")
    assert len(play.state.workers["w"].fenced) == FENCED_PROCESSES
    with pytest.raises(Fenced):
        play.join(process="r498")


def test_what_the_newest_process_told_of_itself_is_shown(play: Play) -> None:
    request = pb.CreateRunRequest(
        caller=pb.Caller(run="demo", worker="w", process="p2"), spec=play.spec, info=pb.WorkerInfo(device="GPU")
    )
    play.do(lifecycle.create(play.state, request, ""))
    assert play.state.workers["w"].info.device == "GPU"


# --- absolute rewards


def test_absolute_rewards_are_for_a_single_worker_only() -> None:
    play = Play(spec(reward=pb.REWARD_KIND_ABSOLUTE))
    play.join("a")
    with pytest.raises(SpecMismatch, match="absolute rewards, which allow one worker, and worker a has joined it"):
        play.join("b")
    assert list(play.state.workers) == ["a"]


def test_the_single_worker_of_an_absolute_run_may_start_anew() -> None:
    play = Play(spec(reward=pb.REWARD_KIND_ABSOLUTE))
    play.join("a")
    play.join("a", "p2")
    assert play.state.workers["a"].process == "p2"


# --- finish


def test_finish_is_idempotent_and_keeps_who_asked(play: Play) -> None:
    play.finish()
    play.finish()
    assert kinds(play)[-1:] == ["run_finished"]
    assert kinds(play).count("run_finished") == 1
    assert play.events[-1].run_finished.actor == "me"
    assert play.state.finished


def test_a_worker_may_join_a_finished_run_to_learn_that_it_is(play: Play) -> None:
    play.finish()
    play.join("late")
    assert play.select(0, "late").finished


# --- pause


def test_a_paused_arm_is_not_chosen_until_it_is_resumed(play: Play) -> None:
    play.pause("text")
    chosen = [play.round(i, measured(1.0, 0.5)).pull.arm for i in range(20)]
    assert set(chosen) == {"image", "decoder"}
    play.pause("text", False)
    assert play.select(20).pull.arm == "text"


def test_fallback_arms_leave_a_paused_arm_out(play: Play) -> None:
    play.pause("image")
    assert "image" not in play.select(0).fallback_arms


def test_an_open_pull_of_an_arm_paused_since_is_still_reported(play: Play) -> None:
    pull = play.select(0).pull
    play.pause(pull.arm)
    assert play.select(0).pull == pull
    assert play.report(0, pull.arm).report.HasField("reward")


def test_pausing_twice_stores_one_event(play: Play) -> None:
    play.pause("text")
    play.pause("text")
    play.pause("image", False)
    assert kinds(play).count("arm_updated") == 1


def test_the_last_active_arm_cannot_be_paused(play: Play) -> None:
    play.pause("text")
    play.pause("image")
    with pytest.raises(ArmRequired, match="arm decoder is the last active arm of run demo"):
        play.pause("decoder")
    assert [play.state.index["decoder"]] == play.state.active


@pytest.mark.parametrize(("policy", "arm"), [("fixed:text", "text"), ("joint", "joint")])
def test_the_arm_of_a_policy_that_plays_no_other_cannot_be_paused(policy: str, arm: str) -> None:
    play = Play(spec(policy=policy))
    play.join()
    with pytest.raises(ArmRequired, match=f"policy {policy} of run demo plays arm {arm} only"):
        play.pause(arm)
    play.pause("image")
    assert play.select(0).pull.arm == arm


def test_an_unknown_arm_cannot_be_paused(play: Play) -> None:
    with pytest.raises(Invalid, match="has no arm 'txt', only image, text, decoder; did you mean 'text'"):
        play.pause("txt")


def test_a_finished_run_pauses_and_resumes_nothing(play: Play) -> None:
    play.finish()
    with pytest.raises(RunFinished, match="run demo has ended"):
        play.pause("text")
