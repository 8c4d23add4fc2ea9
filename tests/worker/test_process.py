"""Stop signals are recorded instead of ending the process."""

import os
import signal

from worker.process import StopSignal


def test_the_first_signal_counts_and_ends_nothing() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGINT
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
