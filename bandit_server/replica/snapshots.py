"""Snapshots of runs in the store: a cache of what a history folds to, never the source of truth.

A snapshot's metadata says which code has folded which history: a digest of that code; version, incarnation and
fingerprint of the last event; and digests of the snapshot's own parts. A snapshot is used only if its code is the code
that runs, its parts are intact, and the store has that event at that version; otherwise it is treated as missing.
Events after it are folded as always.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from typing import Any

from bandit_server.run import serialization
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.run.summary import summary
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

log = logging.getLogger(__name__)

# Fields of a snapshot: its metadata, and its two parts, which are read separately.
METADATA, SUMMARY, STATE = "of", "summary", "state"
# The modules whose code determines a state, its bytes and its summary; tests/bandit_server/replica/test_snapshots.py
# compares them with what these import. The laboratory and the commands of a run are not among them.
_FOLDING = (
    "bandit_server.run",
    "bandit_server.run.modules",
    "bandit_server.run.reported_rounds",
    "bandit_server.run.serialization",
    "bandit_server.run.state",
    "bandit_server.run.summary",
    "bandit_server.run.worker",
    "bandit_server.bandit",
    "bandit_server.bandit.estimators",
    "bandit_server.bandit.filter_bank",
    "bandit_server.bandit.history",
    "bandit_server.bandit.noise",
    "bandit_server.bandit.policy",
    "bandit_server.bandit.policy.base",
    "bandit_server.bandit.policy.baselines",
    "bandit_server.bandit.policy.index_policy",
    "bandit_server.bandit.policy.optima",
    "bandit_server.bandit.policy.options",
    "bandit_server.bandit.policy.sliding_window_ts",
    "bandit_server.bandit.posterior",
    "bandit_server.bandit.random",
    "bandit_server.bandit.reward",
    "bandit_server.bandit.scaling",
    "bandit_server.bandit.serialization",
)


@functools.cache
def code_digest() -> str:
    """Return a digest of the code that a run's state, its bytes and its summary depend on."""
    digest = hashlib.sha256(f"{SCHEMA}".encode())
    for name in _FOLDING:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        # The loader's way works from a directory, from a zip file and without sources.
        loader: Any = spec.loader
        digest.update(name.encode() + loader.get_data(spec.origin))
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
