"""The worker's errors; every message is a sentence that a user can act on.

WorkerError
├── RecipeError            the recipe or the command line is wrong
├── DataError              the data cannot be read
├── Diverged               the loss was not finite in too many rounds in a row
├── Interrupted            a signal stopped the job; a checkpoint is written
├── CheckpointError        a checkpoint cannot be written, or does not belong to this job
├── JournalError           the journal cannot be read or written, or belongs to another worker
├── ExchangeError          a module's version cannot be read from the exchange, or written to it
└── BanditError
    ├── BanditUnreachable  no server answers, or the server cannot reach its store
    ├── BanditRefused      the server refused the request (another spec, a deleted run, a wrong token)
    ├── RunLost            the server has less of the run's history than this worker has seen
    └── Fenced             a newer process of this worker has started; this one must stop
"""


class WorkerError(Exception):
    """An error that ends the job with a message instead of a traceback."""


class RecipeError(WorkerError):
    """The recipe or the command line is wrong."""


class DataError(WorkerError):
    """The data cannot be read."""


class Diverged(WorkerError):
    """The loss was not finite in too many rounds in a row."""


class Interrupted(WorkerError):
    """A signal stopped the job; a checkpoint is written.

    Args:
        message: The message to show.
        signal: The signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class CheckpointError(WorkerError):
    """A checkpoint cannot be written, or does not belong to this job."""


class JournalError(WorkerError):
    """The journal cannot be read or written, or belongs to another worker."""


class ExchangeError(WorkerError):
    """A module's version cannot be read from the exchange, or written to it."""


class BanditError(WorkerError):
    """The bandit server cannot be used."""


class BanditUnreachable(BanditError):
    """No server answers, or the server cannot reach its store."""


class BanditRefused(BanditError):
    """The server refused the request, or the token or certificate for it is invalid.

    Args:
        message: The message to show.
        reason: The server's reason in one word (bandit.proto, "Status codes"), such as ``run_deleted``.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RunLost(BanditError):
    """The server has less of the run's history than this worker has seen; the journal restores it."""


class Fenced(BanditError):
    """A newer process of this worker has started; this one must stop."""
