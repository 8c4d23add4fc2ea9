"""Snapshots in the store: a cache of what a history folds to, never the truth.

A snapshot says which code has folded which history: the digest of that code, and version, incarnation and fingerprint
of the last event. It is used only if this is the same code, its own digest is right, and the store has that event at
that version; else it is as if it were not there. Whatever follows that event is folded as ever.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from bandit_server.run import serialization as snapshot
from bandit_server.run import summary
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

log = logging.getLogger(__name__)

# Fields of a snapshot: what it is of, and its two parts, which are read apart.
OF, SUMMARY, STATE = "of", "summary", "state"
# Of the packages whose code says what a history folds to.
_FOLDING = ("bandit", "run")


@functools.cache
def code() -> str:
    """A digest of all code that a state, or what is told of it, depends on."""
    told = hashlib.sha256(f"{SCHEMA}".encode())
    here = Path(__file__).parents[1]
    for package in _FOLDING:
        for path in sorted((here / package).rglob("*.py")):
            told.update(path.read_bytes())
    return told.hexdigest()


def take(state: RunState, last: str) -> dict[str, bytes]:
    """A state's snapshot. `last`: the fingerprint of the last event in it."""
    line = summary.summary(state)
    line.ClearField("run")
    parts = {SUMMARY: line.SerializeToString(deterministic=True), STATE: snapshot.dump(state)}
    of = {
        "code": code(),
        "version": state.version,
        "incarnation": state.incarnation,
        "last": last,
        **{name: _digest(part) for name, part in parts.items()},
    }
    return {OF: json.dumps(of).encode(), **parts}


def of(kept: Mapping[str, bytes]) -> Head | None:
    """What a snapshot says it is of; None if it is of no use here. Its parts that are given are as they were."""
    try:
        told = json.loads(kept[OF])
        intact = all(_digest(part) == told[name] for name, part in kept.items() if name != OF)
        if not intact or told["code"] != code():
            return None
        return Head(int(told["version"]), str(told["incarnation"]), False, str(told["last"]))
    except (KeyError, ValueError, TypeError):
        return None


def restored(empty: RunState, kept: Mapping[str, bytes]) -> tuple[RunState, Head] | None:
    """A snapshot's state and where it stands; None if it cannot be used. The history is still to be asked."""
    head = of(kept)
    if head is None or STATE not in kept:
        return None
    try:
        state = snapshot.load(empty, kept[STATE])
    except Exception as error:
        log.warning("the snapshot of run %s cannot be read and is ignored: %r", empty.run, error)
        return None
    return (state, head) if (state.version, state.incarnation) == (head.version, head.incarnation) else None


def told(run: str, kept: Mapping[str, bytes], head: Head) -> pb.RunSummary | None:
    """A snapshot's summary, if it is of a run that stands there."""
    kept_of = of(kept)
    if kept_of is None or kept_of != head or kept_of.last != head.last or SUMMARY not in kept:
        return None
    line = pb.RunSummary.FromString(kept[SUMMARY])
    line.run = run
    return line


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()
