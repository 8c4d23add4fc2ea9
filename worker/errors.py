"""What can go wrong on the worker's side; every message is a sentence a user can act on.

WorkerError
├── RecipeError            the recipe or the command line names something wrong
├── Diverged               the loss is not finite
└── BanditError
    ├── BanditUnreachable  no server answers at the address
    ├── BanditRefused      the server answers, and says no (another spec, a deleted run, a wrong token)
    └── Fenced             a newer process of this worker has started; this one must stop
"""


class WorkerError(Exception):
    """Anything that ends a job with a sentence instead of a traceback."""


class RecipeError(WorkerError):
    """The recipe or the command line names something wrong."""


class Diverged(WorkerError):
    """The loss is not finite."""


class BanditError(WorkerError):
    """The bandit server cannot be used."""


class BanditUnreachable(BanditError):
    """No server answers at the address."""


class BanditRefused(BanditError):
    """The server answers, and says no."""


class Fenced(BanditError):
    """A newer process of this worker has started; this one must stop."""
