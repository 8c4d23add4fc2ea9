"""What can go wrong on the worker's side; every message is a sentence a user can act on.

WorkerError
├── RecipeError            the recipe or the command line names something wrong
├── DataError              what the data should be read from cannot be read
├── Diverged               the loss is not finite, in too many rounds in a row
├── Interrupted            a signal asked the job to stop; a checkpoint is written
├── CheckpointError        a checkpoint cannot be written, or this job cannot go on with it
├── JournalError           the journal cannot be read or written, or is another worker's
└── BanditError
    ├── BanditUnreachable  no server answers at the address, or it cannot reach its store
    ├── BanditRefused      the server answers, and says no (another spec, a deleted run, a wrong token)
    ├── RunLost            the server has less of the run's history than this worker has seen
    └── Fenced             a newer process of this worker has started; this one must stop
"""


class WorkerError(Exception):
    """Anything that ends a job with a sentence instead of a traceback."""


class RecipeError(WorkerError):
    """The recipe or the command line names something wrong."""


class DataError(WorkerError):
    """What the data should be read from cannot be read."""


class Diverged(WorkerError):
    """The loss is not finite, in too many rounds in a row."""


class Interrupted(WorkerError):
    """A signal asked the job to stop; a checkpoint is written.

    Args:
        message: The sentence to show.
        signal: The signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class CheckpointError(WorkerError):
    """A checkpoint cannot be written, or this job cannot go on with it."""


class JournalError(WorkerError):
    """The journal cannot be read or written, or is another worker's."""


class BanditError(WorkerError):
    """The bandit server cannot be used."""


class BanditUnreachable(BanditError):
    """No server answers at the address, or it cannot reach its store."""


class BanditRefused(BanditError):
    """The server answers, and says no; or what it is to be shown, a token or a certificate, is none.

    Args:
        message: The sentence to show.
        reason: The server's one word for it (bandit.proto, "Status codes"), such as ``run_deleted``.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RunLost(BanditError):
    """The server has less of the run's history than this worker has seen; the journal gives it back."""


class Fenced(BanditError):
    """A newer process of this worker has started; this one must stop."""
