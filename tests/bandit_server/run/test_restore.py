from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.errors import Fenced, Invalid, SpecMismatch
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import ARMS, FALLBACK, TAIL, Play, diverged, journal, measured, spec


def lived(workers: tuple[str, ...] = ("w",), rounds: int = 30) -> Play:
    """Return a run with rounds of the policy, of the workers' own choice, and of the tail.

    With one worker some rounds diverge. With several none do: the reward charged for a diverged round follows from the
    rewards before it, and those of other workers may be restored later.
    """
    play = Play()
    for worker in workers:
        play.join(worker)
    for i in range(rounds):
        for at, worker in enumerate(workers):
            result = measured(1.0, 0.6 + 0.01 * ((7 * i + at) % 30))
            if i % 9 == 4:
                play.report(i, ARMS[i % 3], result, worker, FALLBACK)
            elif i == rounds - 1:
                play.report(i, "joint", measured(1.0, 0.9, total_loss=3.0), worker, TAIL)
            else:
                play.round(i, diverged() if workers == ("w",) and i % 11 == 8 else result, worker)
    return play


def rewards_of(state: RunState) -> list[list[tuple[int, float, str]]]:
    return [[(reward.number, reward.value, reward.worker) for reward in arm] for arm in state.history.rewards]


def cut(play: Play, version: int) -> Play:
    """The run as a store has it that lost everything after a version."""
    left = Play(play.spec)
    left.processes = dict(play.processes)
    for event in play.events[:version]:
        left.events.append(event)
        left.state.apply(event)
    return left


def give_back(old: Play, left: Play, worker: str = "w", records: list[pb.JournalRecord] | None = None) -> int:
    return left.restore(
        journal(old.events, worker) if records is None else records,
        worker,
        incarnation=old.state.incarnation,
        seen_version=old.state.version,
    )


def test_a_run_that_is_gone_comes_back_with_the_same_rewards() -> None:
    old, new = lived(), Play()
    assert give_back(old, new) == 30
    assert rewards_of(new.state) == rewards_of(old.state)
    assert (new.state.pulls, new.state.reports, new.state.tail_rounds) == (30, 30, 1)
    assert [totals.pulls for totals in new.state.arms.values()] == [t.pulls for t in old.state.arms.values()]
    assert (new.state.incarnation, new.state.restored) == ("second", True)


def test_a_restored_run_goes_on_choosing_as_the_lost_one_would_have() -> None:
    old, new = lived(), Play()
    give_back(old, new)
    for i in range(30, 40):
        assert new.round(i, measured(1.0, 0.8)).pull == old.round(i, measured(1.0, 0.8)).pull


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_workers_give_back_one_run_in_the_order_of_its_pulls(order: tuple[str, str]) -> None:
    old, new = lived(("a", "b")), Play()
    for worker in order:
        assert give_back(old, new, worker) == 30
    assert rewards_of(new.state) == rewards_of(old.state)
    assert new.state.next_number == old.state.next_number


@settings(max_examples=25, deadline=None)
@given(lost=st.integers(1, 50), first=st.sampled_from(["a", "b"]))
def test_a_store_that_fell_back_to_any_version_is_filled_up(lost: int, first: str) -> None:
    old = lived(("a", "b"), rounds=15)
    left = cut(old, old.state.version - lost)
    for worker in (first, "b" if first == "a" else "a"):
        give_back(old, left, worker)
    assert rewards_of(left.state) == rewards_of(old.state)
    assert left.state.reports == old.state.reports
    assert left.state.restored


def test_giving_back_is_idempotent() -> None:
    old, new = lived(("a", "b")), Play()
    give_back(old, new, "a")
    give_back(old, new, "b")
    version, rewards = new.state.version, rewards_of(new.state)
    assert give_back(old, new, "a") == 0
    assert give_back(old, new, "b") == 0
    assert new.restore(journal(old.events, "a"), "a") == 0
    assert (new.state.version, rewards_of(new.state)) == (version, rewards)


def test_a_journal_may_come_in_parts_and_a_part_twice() -> None:
    old, new = lived(), Play()
    records = journal(old.events)
    restored = [give_back(old, new, records=part) for part in (records[:12], records[:12], records[6:20], records[20:])]
    assert restored == [12, 0, 8, 10]
    assert rewards_of(new.state) == rewards_of(old.state)


def test_a_run_that_has_lost_nothing_is_left_as_it_is() -> None:
    play = lived()
    version = play.state.version
    assert play.restore(journal(play.events)) == 0
    assert (play.state.version, play.state.restored, play.state.incarnation) == (version, False, "first")


def test_the_first_to_restore_starts_an_incarnation_and_the_next_joins_it() -> None:
    old = lived(("a", "b"))
    left = cut(old, 20)
    give_back(old, left, "a")
    assert left.state.incarnation == "second"
    left.restore(journal(old.events, "b"), "b", "third", incarnation="first", seen_version=old.state.version)
    assert left.state.incarnation == "second"


def test_a_run_created_anew_since_the_loss_takes_old_rounds_in_and_says_so() -> None:
    old, new = lived(), Play(incarnation="anew")
    new.join("newcomer")
    assert give_back(old, new) == 30
    assert (new.state.incarnation, new.state.restored) == ("anew", True)
    assert rewards_of(new.state) == rewards_of(old.state)


def test_what_was_lost_is_written_down() -> None:
    old, new = lived(), Play()
    give_back(old, new)
    restored = next(event.run_restored for event in new.events if event.WhichOneof("kind") == "run_restored")
    assert (restored.lost_incarnation, restored.lost_version) == ("first", old.state.version)
    assert (restored.incarnation, restored.worker) == ("second", "w")


def test_an_open_round_comes_back_open_and_can_be_reported() -> None:
    old, new = lived(rounds=3), Play()
    pull = old.select(3).pull
    give_back(old, new)
    assert new.select(3).pull == pull
    assert new.report(3, pull.arm).report.pull == pull


def test_a_report_missing_from_a_pull_that_is_there_is_added_to_it() -> None:
    old = lived(rounds=3)
    pull = old.select(3).pull
    left = cut(old, old.state.version)
    old.report(3, pull.arm, measured(1.0, 0.5))
    assert give_back(old, left) == 1
    assert rewards_of(left.state) == rewards_of(old.state)
    assert left.state.pulls == 4


def test_a_stored_report_stands_against_a_journal_with_other_numbers() -> None:
    play = lived(rounds=5)
    before = rewards_of(play.state)
    records = journal(play.events)
    records[0].measurement.after = 0.01
    assert play.restore(records) == 0
    assert rewards_of(play.state) == before


def test_a_round_selected_anew_since_the_loss_counts_for_the_arm_that_was_trained() -> None:
    new = Play()
    new.join()
    selected = new.select(0).pull
    trained = next(arm for arm in ARMS if arm != selected.arm)
    pull = pb.Pull(number=selected.number, worker="w", round=0, arm=trained, chosen_by=pb.CHOSEN_BY_POLICY)
    record = pb.JournalRecord(pull=pull, numbered=True, measurement=measured(1.0, 0.5))
    assert new.restore([record]) == 1
    report = new.events[-1].reward_reported
    assert (report.pull.arm, report.pull.chosen_by, report.superseded) == (trained, FALLBACK, selected.number)
    assert report.pull.number != selected.number
    assert [totals.pulls for totals in new.state.arms.values()] == [int(arm == trained) for arm in ARMS]


def test_rounds_without_a_number_get_those_above_all_others() -> None:
    numbered = pb.JournalRecord(
        pull=pb.Pull(number=40, round=0, arm="text", chosen_by=pb.CHOSEN_BY_POLICY),
        numbered=True,
        measurement=measured(),
    )
    unnumbered = [
        pb.JournalRecord(pull=pb.Pull(round=i, arm="image", chosen_by=FALLBACK), measurement=measured()) for i in (1, 2)
    ]
    new = Play()
    assert new.restore([numbered, *unnumbered]) == 3
    numbers = [event.reward_reported.pull.number for event in new.events if event.HasField("reward_reported")]
    assert numbers == [40, 41, 42]


def test_a_number_that_another_pull_has_taken_since_is_not_given_twice() -> None:
    old = lived(rounds=6)
    left = cut(old, 1)
    left.join("newcomer")
    for i in range(4):
        left.round(i, worker="newcomer")
    assert give_back(old, left) == 6
    numbers = [reward[0] for arm in rewards_of(left.state) for reward in arm]
    assert len(numbers) == len(set(numbers)) == 9


def test_a_journal_for_another_spec_is_refused() -> None:
    play = lived(rounds=2)
    play.spec = spec(seed=99)
    with pytest.raises(SpecMismatch, match="seed is 7, not 99"):
        play.restore([])


def test_a_fenced_process_gives_nothing_back() -> None:
    play = lived(rounds=2)
    play.join(process="p2")
    with pytest.raises(Fenced):
        play.restore([], process="p1")


def test_a_record_of_an_unknown_arm_is_refused_and_nothing_stored() -> None:
    record = pb.JournalRecord(pull=pb.Pull(round=0, arm="nose", chosen_by=FALLBACK), measurement=measured())
    new = Play()
    with pytest.raises(Invalid, match="has no arm 'nose'"):
        new.restore([record])
    assert new.events == []
    assert new.state.version == 0


def test_restoring_decides_without_changing_the_state_it_decides_on() -> None:
    old = lived(rounds=12)
    left = cut(old, 9)
    before = (left.state.version, rewards_of(left.state), left.state.incarnation)
    decision = left.decide_restore(journal(old.events), incarnation="first", seen_version=old.state.version)
    assert decision.events
    assert decision.incarnation == "second"
    assert (left.state.version, rewards_of(left.state), left.state.incarnation) == before
