"""Deliver the reports that a job could not send because the server was away when it ended.

    python -m worker.deliver runs/NAME --bandit-addr HOST:50051

Needs no GPU and no launcher. If the server does not have the run, all of this worker's rounds are restored on it. A
job that was interrupted and is resumed delivers its reports by itself.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from worker.cli import HELP_FLAGS, run_command
from worker.client.client import BanditClient
from worker.client.credentials import Credentials
from worker.client.journal import JOURNAL_FILE, Journal
from worker.errors import BanditUnreachable, JournalError, WorkerError
from worker.files import lock


@click.command(help=(__doc__ or "").partition("\n")[0], context_settings=HELP_FLAGS)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--bandit-addr", metavar="HOST:PORT", required=True, help="Address of the bandit server.")
def _command(directory: Path, bandit_addr: str) -> str:
    return deliver(directory, bandit_addr)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0 if everything is delivered, and 1 otherwise."""
    try:
        print(run_command(_command, argv, "python -m worker.deliver"))
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def deliver(directory: Path, address: str) -> str:
    """Send every report of a journal that is not delivered yet.

    Args:
        directory: The worker's output directory.
        address: The server's address, ``host:port``.

    Returns:
        A summary in one sentence.

    Raises:
        JournalError: There is no journal.
        WorkerError: The worker is still running.
        BanditError: The server cannot be reached, or refuses the worker.
    """
    path = directory / JOURNAL_FILE
    if not path.exists():
        raise JournalError(f"{directory} is not a worker's output directory: there is no {path.name} in it")
    # Joining the run while the job is running would fence the job.
    handle = lock(directory, f"the job in {directory} is still running, and delivers its reports by itself")
    try:
        with closing(Journal(path)) as journal:
            unsent = len(journal.unsent())
            run, worker, spec = journal.head
            credentials = Credentials.from_environment()
            client = BanditClient(address, run=run, worker=worker, spec=spec, journal=journal, credentials=credentials)
            with closing(client):
                client.start()
                left = client.flush(timeout=3600)
    finally:
        if handle is not None:
            os.close(handle)
    if left:
        raise BanditUnreachable(f"{left} of {unsent} reports are not delivered: the bandit server is away; try again")
    return f"delivered {unsent} reports; run {run} now has all reports of worker {worker}"


if __name__ == "__main__":
    sys.exit(main())
