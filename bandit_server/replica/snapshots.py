"""Snapshots of runs in the store: a cache of what a history folds to, never the source of truth.

A snapshot's metadata says which code has folded which history: a digest of that code; version, incarnation and
fingerprint of the last event; and digests of the snapshot's own parts. A snapshot is used only if its code is the code
that runs, its parts are intact, and the store has that event at that version; otherwise it is treated as missing.
Events after it are folded as always.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from bandit_server.run import serialization
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.run.summary import summary
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

log = logging.getLogger(__name__)

# Fields of a snapshot: its metadata, and its two parts, which are read separately.
METADATA, SUMMARY, STATE = "of", "summary", "state"
# The packages whose code determines what a history folds to.
_FOLDING = ("bandit", "run")


@functools.cache
def code_digest() -> str:
    """Return a digest of all code that a run's state or summary depends on."""
    digest = hashlib.sha256(f"{SCHEMA}".encode())
    here = Path(__file__).parents[1]
    for package in _FOLDING:
        for path in sorted((here / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def take(state: RunState, last: str) -> dict[str, bytes]:
    """Return the fields of a snapshot of a state; `last` is the fingerprint of the last event in it."""
    message = summary(state)
    # The snapshot's key has the name.
    message.ClearField("run")
    parts = {SUMMARY: message.SerializeToString(deterministic=True), STATE: serialization.dump(state)}
    metadata = {
        "code": code_digest(),
        "version": state.version,
        "incarnation": state.incarnation,
        "last": last,
        **{name: _digest(part) for name, part in parts.items()},
    }
    return {METADATA: json.dumps(metadata).encode(), **parts}


def read_head(fields: Mapping[str, bytes]) -> Head | None:
    """Return the head that a snapshot was taken at; None if it cannot be used here.

    `fields` may lack parts that are not needed; those that it has are checked.
    """
    try:
        metadata = json.loads(fields[METADATA])
        intact = all(_digest(part) == metadata[name] for name, part in fields.items() if name != METADATA)
        if not intact or metadata["code"] != code_digest():
            return None
        return Head(int(metadata["version"]), str(metadata["incarnation"]), False, str(metadata["last"]))
    except (KeyError, ValueError, TypeError):
        return None


def restore_state(state: RunState, fields: Mapping[str, bytes]) -> Head | None:
    """Restore a snapshot into the state of a run without events.

    Whether the history still has the snapshot's last event is for the caller to check.

    Returns:
        The head that the snapshot was taken at; None if it cannot be used, when the state is to be discarded.
    """
    head = read_head(fields)
    if head is None or STATE not in fields:
        return None
    try:
        serialization.load(state, fields[STATE])
    except Exception as error:
        log.warning("ignoring the snapshot of run %s, which cannot be read: %r", state.run, error)
        return None
    return head if (state.version, state.incarnation) == (head.version, head.incarnation) else None


def read_summary(run: str, fields: Mapping[str, bytes], head: Head) -> pb.RunSummary | None:
    """Return a snapshot's summary; None if it cannot be used, or was not taken at this head."""
    snapshot_head = read_head(fields)
    if snapshot_head is None or snapshot_head != head or snapshot_head.last != head.last or SUMMARY not in fields:
        return None
    message = pb.RunSummary.FromString(fields[SUMMARY])
    message.run = run
    return message


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()
