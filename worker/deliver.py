"""Tell a bandit server what a worker could not: the reports of a job that ended while the server was away.

    python -m worker.deliver runs/NAME --bandit-addr HOST:50051

Needs no GPU and no launcher. A server that has lost the run, or never had it, gets all of the worker's part of it. A
job that is interrupted and will be resumed tells them by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from worker.client.client import BanditClient
from worker.client.credentials import Credentials
from worker.client.journal import JOURNAL_FILE, Journal
from worker.errors import BanditUnreachable, JournalError, WorkerError
from worker.files import lock


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status is 0 only if nothing is left to be told."""
    parser = argparse.ArgumentParser(prog="python -m worker.deliver", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="the worker's output directory")
    parser.add_argument("--bandit-addr", metavar="HOST:PORT", required=True, help="the bandit server")
    arguments = parser.parse_args(argv)
    try:
        print(deliver(arguments.directory, arguments.bandit_addr))
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def deliver(directory: Path, address: str) -> str:
    """Tell all that is in the directory's journal and not told yet; returns a sentence.

    Raises:
        JournalError: There is no journal.
        WorkerError: Its job is still at work.
        BanditError: The server cannot be reached, or will not have it.
    """
    path = directory / JOURNAL_FILE
    if not path.exists():
        raise JournalError(f"{directory} is not a worker's output directory: there is no {path.name} in it")
    # Joining beside a job at work would end it.
    handle = lock(directory, f"the job in {directory} is still at work, and tells its reports by itself")
    try:
        journal = Journal(path)
        untold = len(journal.unsent())
        run, worker, spec = journal.head
        credentials = Credentials.from_environment()
        client = BanditClient(address, run=run, worker=worker, spec=spec, journal=journal, credentials=credentials)
        try:
            client.start()
            left = client.flush(timeout=3600)
        finally:
            client.close()
    finally:
        if handle is not None:
            os.close(handle)
    if left:
        raise BanditUnreachable(f"{left} of {untold} reports are still not told: the bandit server went away")
    return f"run {run} has all of worker {worker}'s reports; {untold} of them were not told before"


if __name__ == "__main__":
    sys.exit(main())
