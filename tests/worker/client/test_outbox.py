"""How long the trainer's thread waits for the courier's; no server, no clock but the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from protos.optima.v1 import bandit_pb2 as pb
from tests.server_process import eventually
from worker.client.journal import Pull
from worker.client.outbox import Handover, Report
from worker.errors import BanditUnreachable

PATIENCE = 0.3
AWAY = BanditUnreachable("nobody listens there")
STORED = pb.ReportRewardResponse()


def report(round: int) -> Report:
    return Report(round, "text", pb.CHOSEN_BY_FALLBACK, pb.Measurement())


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def away(reports: int) -> Handover:
    """An outage whose patience is spent, with so many reports left to tell."""
    handover = Handover(PATIENCE, [])
    handover.is_away(time.monotonic(), AWAY)
    for round in range(reports):
        handover.report(report(round))
    return handover


def test_patience_is_spent_once_in_an_outage() -> None:
    handover = Handover(PATIENCE, [])
    handover.is_away(time.monotonic(), AWAY)
    assert seconds(lambda: handover.report(report(0))) >= PATIENCE - 0.05
    assert seconds(lambda: [handover.report(report(1)), handover.ask(2)]) < PATIENCE / 2
    assert not handover.ask(2).answered


def test_an_outage_lasts_until_every_report_is_told() -> None:
    handover = away(reports=3)
    for left in (2, 1):
        handover.settle(STORED)
        handover.is_back()
        assert handover.away
        assert seconds(lambda: handover.ask(3)) < PATIENCE / 2, f"{left} reports are left, and nothing is waited for"
    handover.settle(STORED)
    assert not handover.away


def test_what_a_restored_history_holds_is_told_again_for_the_newest_rounds_only() -> None:
    handover = Handover(PATIENCE, [report(round) for round in range(200)])
    handover.settle_through(197)
    left = []
    while (oldest := handover.oldest_report) is not None:
        left.append(oldest.round)
        handover.settle(STORED)
    assert left == list(range(136, 200))


def test_the_end_waits_for_a_server_that_is_there_and_not_for_one_that_is_not() -> None:
    gone = away(reports=2)
    assert seconds(lambda: gone.flush(None)) < PATIENCE / 2
    back = away(reports=2)
    back.settle(STORED)
    courier = threading.Timer(PATIENCE / 3, lambda: back.settle(STORED))
    courier.start()
    assert back.flush(None) == 0
    courier.join()


def test_after_an_unanswered_question_the_next_has_one_try() -> None:
    handover = Handover(PATIENCE, [])
    assert not handover.ask(0).answered
    handover.is_back()

    def fail() -> None:
        eventually(lambda: handover.question)
        handover.is_away(time.monotonic(), AWAY)

    courier = threading.Thread(target=fail)
    courier.start()
    assert seconds(lambda: handover.ask(1)) < PATIENCE - 0.05
    courier.join()
    handover.is_back()

    def answer() -> None:
        eventually(lambda: handover.question)
        assert handover.question is not None
        handover.answer(handover.question, lambda: Pull("text", 7, pb.CHOSEN_BY_POLICY))

    courier = threading.Thread(target=answer)
    courier.start()
    question = handover.ask(2)
    courier.join()
    assert question.pull == Pull("text", 7, pb.CHOSEN_BY_POLICY)


def test_what_a_report_selects_is_taken_while_it_is_waited_for_and_else_dropped() -> None:
    handover = Handover(PATIENCE, [])
    answer = pb.ReportRewardResponse(selected=pb.SelectArmResponse(pull=pb.Pull(arm="text")))
    taken: list[tuple[int, str]] = []

    def settle() -> None:
        eventually(lambda: handover.oldest_report)
        handover.settle(answer, lambda round, selected: taken.append((round, selected.pull.arm)))

    courier = threading.Thread(target=settle)
    courier.start()
    waited_for = report(0)
    waited_for.next_round = 1
    handover.report(waited_for)
    courier.join()
    assert (waited_for.settled, taken) == (True, [(1, "text")])
    given_up = report(1)
    given_up.next_round = 2
    handover.report(given_up)
    settle()
    assert (given_up.settled, taken) == (True, [(1, "text")])


def test_after_a_choice_that_did_not_come_with_a_report_the_next_report_asks_for_none() -> None:
    handover = Handover(PATIENCE, [])
    asked: list[int | None] = []

    def settle() -> None:
        """As a server that takes reports and cannot choose."""
        while not handover.closing:
            told = handover.oldest_report
            if told is None:
                handover.wait_for_work(0.01)
            elif told.next_round is None:
                handover.settle(STORED)
            else:
                asked.append(told.next_round)
                handover.is_away(time.monotonic(), AWAY)
                handover.pause(0.01)

    courier = threading.Thread(target=settle)
    courier.start()
    first, *others = [report(round) for round in range(3)]
    first.next_round = 1
    assert seconds(lambda: handover.report(first)) >= PATIENCE - 0.05
    eventually(lambda: not handover.away)
    for told in others:
        told.next_round = told.round + 1
        handover.report(told)
        assert told.settled
    handover.close()
    courier.join()
    assert set(asked) == {1}


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    handover = Handover(PATIENCE, [])
    question = handover.ask(0)
    handover.answer(question, lambda: Pull("text", 7, pb.CHOSEN_BY_POLICY))
    assert (question.answered, question.pull) == (False, None)
