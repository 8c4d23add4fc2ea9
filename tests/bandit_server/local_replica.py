"""Replicas without a network: the server's own service on a real store, called as gRPC calls it, with failures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import grpc
from google.protobuf.message import Message

from bandit_server.errors import StoreUnavailable
from bandit_server.replica.cached_run import PAGE_SIZE
from bandit_server.replica.runs import Runs
from bandit_server.rpc.service import Service
from bandit_server.run.state import RunState
from bandit_server.run.worker import RECENT_ROUNDS
from bandit_server.store.base import AppendResult, Head
from bandit_server.store.redis_store import RedisStore

# What happens to a call: its answer arrives; its answer is lost on the way to the client; the store's answer to the
# append is lost on the way to the server; or the append is lost on the way to the store.
Fate = Literal["arrives", "answer lost", "store unanswered", "store unheard"]


class FickleStore(RedisStore):
    """A store on a network that loses messages on request. `fate` is what happens to the next append."""

    fate: Fate = "arrives"

    async def append(
        self, run: str, expected: Head, events: Sequence[bytes], *, incarnation: str = "", worker: str = ""
    ) -> AppendResult:
        if self.fate == "store unheard":
            raise StoreUnavailable("the append was lost on its way")
        standing = await super().append(run, expected, events, incarnation=incarnation, worker=worker)
        if self.fate == "store unanswered" and standing == "stored":
            raise StoreUnavailable("the answer was lost on its way")
        return standing


class Refused(Exception):
    """The error of a call that was aborted, at its client."""

    def __init__(self, status: str, message: str, metadata: dict[str, str | bytes]) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.metadata = metadata


class Context:
    """The part of gRPC's context that the service uses."""

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, Any]] = ()) -> NoReturn:
        raise Refused(code.name, details, dict(metadata))


@dataclass
class Replica:
    """One replica. `restart` drops all it has in memory, as a new process would.

    Attributes:
        store: Its store.
        deadline: Seconds a command may take; long, however busy the machine is.
        page_size: Events it fetches from the store at a time.
        recent_rounds: Rounds of each worker that a state holds.
    """

    store: FickleStore
    deadline: float = 60.0
    page_size: int = PAGE_SIZE
    recent_rounds: int = RECENT_ROUNDS

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._runs = Runs(
            self.store,
            deadline=self.deadline,
            page_size=self.page_size,
            new_state=functools.partial(RunState, recent_rounds=self.recent_rounds),
        )
        self._service = Service(self._runs)

    async def call(self, method: str, request: Message, fate: Fate = "arrives") -> Any:
        """Return the answer; raise Refused."""
        self.store.fate = fate
        try:
            return await getattr(self._service, method)(
                type(request).FromString(request.SerializeToString()), Context()
            )
        finally:
            self.store.fate = "arrives"

    async def save_snapshot(self, run: str) -> None:
        """Take a snapshot of the run, as a server does now and then."""
        await self._runs.save_snapshot(run)

    def known(self, run: str) -> int:
        """Return the version in its memory, without asking the store."""
        return self._runs._cached_run(run).state.version

    async def state(self, run: str) -> RunState:
        """Return the state that it serves."""
        return await self._runs.state(run)
