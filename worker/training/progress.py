"""The job's progress on the terminal: a bar, or plain lines where standard error is no terminal."""

import os
import sys
from typing import Any

from tqdm import tqdm

from worker.training.metrics import RoundRecord


class Progress:
    """Shows each round when it has ended; rank 0 only.

    Args:
        rounds: Rounds of the job; 0 if it has no end.
        first: The round that is played next.
    """

    def __init__(self, rounds: int, first: int) -> None:
        self._rounds = rounds
        self._bar: tqdm[Any] | None = None
        # A pseudo-terminal without a size has no room for a bar.
        if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
            self._bar = tqdm(total=rounds or None, initial=first, unit="round", dynamic_ncols=True)

    def add(self, record: RoundRecord) -> None:
        """Show one round."""
        rate = record.steps / record.seconds if record.seconds else 0.0
        loss = "not finite, round rolled back" if record.after is None else f"{record.after:.4f}"
        reward = "" if record.reward is None else f"  reward {record.reward:+.2%}"
        metrics = record.evaluation.metrics if record.evaluation else {}
        accuracy = "".join(f"  {name} {value:.1%}" for name, value in metrics.items() if "/" not in name)
        text = f"{record.arm} ({record.chosen_by})  loss {loss}{reward}  {rate:.1f} steps/s{accuracy}"
        if self._bar is None:
            print(f"round {record.round + 1}/{self._rounds or '∞'}  {text}", flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def print(self, text: str) -> None:
        """Print a line beside the progress."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._bar is not None:
            self._bar.close()
