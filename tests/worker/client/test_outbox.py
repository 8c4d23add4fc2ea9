"""The time that the training thread waits for the sender's thread; without a server, with the real clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from protos.optima.v1 import bandit_pb2 as pb
from tests.server_process import eventually
from worker.client.journal import Pull
from worker.client.outbox import Outbox, Report
from worker.errors import BanditUnreachable

PATIENCE = 0.3
AWAY = BanditUnreachable("nothing listens there")
STORED = pb.ReportRewardResponse()


def report(round: int) -> Report:
    return Report(round, "text", pb.CHOSEN_BY_FALLBACK, pb.Measurement())


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def away(reports: int) -> Outbox:
    """Return an outbox in an outage whose patience is spent, with so many reports left to send."""
    outbox = Outbox(PATIENCE, [])
    outbox.mark_away(time.monotonic(), AWAY)
    for round in range(reports):
        outbox.add_report(report(round))
    return outbox


def test_patience_is_spent_once_in_an_outage() -> None:
    outbox = Outbox(PATIENCE, [])
    outbox.mark_away(time.monotonic(), AWAY)
    assert seconds(lambda: outbox.add_report(report(0))) >= PATIENCE - 0.05

    def report_and_select() -> None:
        outbox.add_report(report(1))
        outbox.request_arm(2)

    assert seconds(report_and_select) < PATIENCE / 2
    assert not outbox.request_arm(2).answered


def test_an_outage_lasts_until_every_report_is_sent() -> None:
    outbox = away(reports=3)
    for left in (2, 1):
        outbox.settle_oldest(STORED)
        outbox.mark_back()
        assert outbox.in_outage
        assert seconds(lambda: outbox.request_arm(3)) < PATIENCE / 2, f"{left} reports are left"
    outbox.settle_oldest(STORED)
    assert not outbox.in_outage


def test_after_a_restore_only_the_newest_reports_are_sent_again() -> None:
    outbox = Outbox(PATIENCE, [report(round) for round in range(200)])
    outbox.settle_through(197)
    left = []
    while (oldest := outbox.oldest_report) is not None:
        left.append(oldest.round)
        outbox.settle_oldest(STORED)
    assert left == list(range(136, 200))


def test_flush_waits_for_a_server_that_is_back_and_not_for_one_that_is_away() -> None:
    gone = away(reports=2)
    assert seconds(lambda: gone.flush(None)) < PATIENCE / 2
    back = away(reports=2)
    back.settle_oldest(STORED)
    sender_thread = threading.Timer(PATIENCE / 3, lambda: back.settle_oldest(STORED))
    sender_thread.start()
    assert back.flush(None) == 0
    sender_thread.join()


def test_after_an_unanswered_request_the_next_waits_for_one_call() -> None:
    outbox = Outbox(PATIENCE, [])
    assert not outbox.request_arm(0).answered
    outbox.mark_back()

    def fail() -> None:
        eventually(lambda: outbox.arm_request)
        outbox.mark_away(time.monotonic(), AWAY)

    sender_thread = threading.Thread(target=fail)
    sender_thread.start()
    assert seconds(lambda: outbox.request_arm(1)) < PATIENCE - 0.05
    sender_thread.join()
    outbox.mark_back()

    def answer() -> None:
        eventually(lambda: outbox.arm_request)
        assert outbox.arm_request is not None
        outbox.answer_request(outbox.arm_request, lambda: Pull("text", 7, pb.CHOSEN_BY_POLICY))

    sender_thread = threading.Thread(target=answer)
    sender_thread.start()
    request = outbox.request_arm(2)
    sender_thread.join()
    assert request.pull == Pull("text", 7, pb.CHOSEN_BY_POLICY)


def test_an_arm_selected_with_a_report_is_taken_only_while_the_report_is_waited_for() -> None:
    outbox = Outbox(PATIENCE, [])
    answer = pb.ReportRewardResponse(selected=pb.SelectArmResponse(pull=pb.Pull(arm="text")))
    taken: list[tuple[int, str]] = []

    def settle() -> None:
        eventually(lambda: outbox.oldest_report)
        outbox.settle_oldest(answer, lambda round, selected: taken.append((round, selected.pull.arm)))

    sender_thread = threading.Thread(target=settle)
    sender_thread.start()
    waited_for = report(0)
    waited_for.next_round = 1
    outbox.add_report(waited_for)
    sender_thread.join()
    assert (waited_for.settled, taken) == (True, [(1, "text")])
    given_up = report(1)
    given_up.next_round = 2
    outbox.add_report(given_up)
    settle()
    assert (given_up.settled, taken) == (True, [(1, "text")])


def test_after_a_report_without_its_selection_the_next_report_asks_for_none() -> None:
    outbox = Outbox(PATIENCE, [])
    asked: list[int | None] = []

    def settle() -> None:
        """Settle reports as a server that accepts reports and cannot select."""
        while not outbox.closing:
            oldest = outbox.oldest_report
            if oldest is None:
                outbox.wait_for_work(0.01)
            elif oldest.next_round is None:
                outbox.settle_oldest(STORED)
            else:
                asked.append(oldest.next_round)
                outbox.mark_away(time.monotonic(), AWAY)
                outbox.sleep(0.01)

    sender_thread = threading.Thread(target=settle)
    sender_thread.start()
    first, *others = [report(round) for round in range(3)]
    first.next_round = 1
    assert seconds(lambda: outbox.add_report(first)) >= PATIENCE - 0.05
    eventually(lambda: not outbox.in_outage)
    for other in others:
        other.next_round = other.round + 1
        outbox.add_report(other)
        assert other.settled
    outbox.close()
    sender_thread.join()
    assert set(asked) == {1}


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    outbox = Outbox(PATIENCE, [])
    request = outbox.request_arm(0)
    outbox.answer_request(request, lambda: Pull("text", 7, pb.CHOSEN_BY_POLICY))
    assert (request.answered, request.pull) == (False, None)
