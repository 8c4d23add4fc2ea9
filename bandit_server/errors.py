"""Everything a caller can be told that is not an answer; every message is a sentence a user can act on.

ServerError
├── Invalid            INVALID_ARGUMENT      the request itself is wrong
├── RunNotFound        NOT_FOUND             no such run
├── Precondition       FAILED_PRECONDITION   right in itself, but not for this run now
│   ├── SpecMismatch                           the run exists with another spec
│   ├── RunDeleted                             the run was deleted, and its name is not free yet
│   ├── RunFinished                            the run has ended
│   ├── WorkersAlive                           workers are still training in the run
│   └── ArmRequired                            the policy cannot do without the arm
├── ReportConflict     ALREADY_EXISTS        the round has a report with other numbers, and that one stands
├── Fenced             ABORTED               a newer process of this worker has started
├── DataLoss           DATA_LOSS             the store has less history than the caller has seen
├── StoreUnavailable   UNAVAILABLE           the store cannot be reached, or does not accept writes
└── Unauthenticated    UNAUTHENTICATED       no token, or a wrong one

StartError                                   the server cannot start: a taken port, a data directory in use
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar


class ServerError(Exception):
    """A refusal.

    Attributes:
        status: Name of the gRPC status code.
        reason: One word for programs: the class's name in lower snake case (trailing metadata `optima-reason`).
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
    """Right in itself, but not for this run now."""

    status = "FAILED_PRECONDITION"


class SpecMismatch(Precondition):
    """The run exists with another spec."""


class RunDeleted(Precondition):
    """The run was deleted, and its name is not free yet."""


class RunFinished(Precondition):
    """The run has ended."""


class WorkersAlive(Precondition):
    """Workers are still training in the run."""


class ArmRequired(Precondition):
    """The policy cannot do without the arm."""


class ReportConflict(ServerError):
    """The round has a report with other numbers, and that one stands.

    Args:
        message: The sentence.
        stored: The stored report, a serialized RewardReported.
    """

    status = "ALREADY_EXISTS"

    def __init__(self, message: str, stored: bytes) -> None:
        super().__init__(message, (("optima-stored-report-bin", stored),))


class Fenced(ServerError):
    """A newer process of this worker has started."""

    status = "ABORTED"


class DataLoss(ServerError):
    """The store has less history than the caller has seen; the caller can give it back (RestoreRun)."""

    status = "DATA_LOSS"


class StoreUnavailable(ServerError):
    """The store cannot be reached, or does not accept writes; try again."""

    status = "UNAVAILABLE"


class Unauthenticated(ServerError):
    """No token, or a wrong one."""

    status = "UNAUTHENTICATED"


class StartError(Exception):
    """The server cannot start; the message says why and which flag changes that."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error's sentence that suggests the known name nearest to `name`; empty if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
