"""The errors of the server. Every message is a sentence that tells a user what to do.

ServerError
├── Invalid            INVALID_ARGUMENT      the request itself is wrong
├── RunNotFound        NOT_FOUND             no such run
├── Precondition       FAILED_PRECONDITION   the request is valid, but not in the run's present state
│   ├── SpecMismatch                           the run exists with another spec
│   ├── RunDeleted                             the run was deleted, and its name is still reserved
│   ├── RunFinished                            the run has ended
│   ├── WorkersAlive                           workers are still training in the run
│   └── ArmRequired                            the policy needs the arm
├── ReportConflict     ALREADY_EXISTS        the round already has a report, with other numbers
├── Fenced             ABORTED               a newer process of this worker has started
├── DataLoss           DATA_LOSS             the store has less history than the caller has seen
├── StoreUnavailable   UNAVAILABLE           the store cannot be reached, or does not accept writes
└── Unauthenticated    UNAUTHENTICATED       no token, or a wrong one

StartError                                   the server cannot start: a port is taken, a data directory in use
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar


class ServerError(Exception):
    """An error with which a call is refused.

    Attributes:
        status: Name of the gRPC status code.
        reason: The class's name in lower snake case, for programs (trailing metadata `optima-reason`).
        metadata: Further trailing metadata.
    """

    status: ClassVar[str]
    reason: ClassVar[str]

    def __init__(self, message: str, metadata: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.metadata = metadata

    def __init_subclass__(cls) -> None:
        cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class Invalid(ServerError):
    """The request itself is wrong."""

    status = "INVALID_ARGUMENT"


class RunNotFound(ServerError):
    """No such run."""

    status = "NOT_FOUND"


class Precondition(ServerError):
    """The request is valid, but not in the run's present state."""

    status = "FAILED_PRECONDITION"


class SpecMismatch(Precondition):
    """The run exists with another spec."""


class RunDeleted(Precondition):
    """The run was deleted, and its name is still reserved."""


class RunFinished(Precondition):
    """The run has ended."""


class WorkersAlive(Precondition):
    """Workers are still training in the run."""


class ArmRequired(Precondition):
    """The policy needs the arm."""


class ReportConflict(ServerError):
    """The round already has a report, with other numbers, which is not replaced.

    Args:
        message: The message.
        stored: The stored report, a serialized RewardReported.
    """

    status = "ALREADY_EXISTS"

    def __init__(self, message: str, stored: bytes) -> None:
        super().__init__(message, (("optima-stored-report-bin", stored),))


class Fenced(ServerError):
    """A newer process of this worker has started."""

    status = "ABORTED"


class DataLoss(ServerError):
    """The store has less history than the caller has seen; the caller can restore it (RestoreRun)."""

    status = "DATA_LOSS"


class StoreUnavailable(ServerError):
    """The store cannot be reached, or does not accept writes; try again."""

    status = "UNAVAILABLE"


class Unauthenticated(ServerError):
    """No token, or a wrong one."""

    status = "UNAUTHENTICATED"


class StartError(Exception):
    """The server cannot start; the message says why, and which flag to change."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known name nearest to `name`, to end a sentence; "" if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
