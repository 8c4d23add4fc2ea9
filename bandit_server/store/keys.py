"""Every key in the store, what it holds, and how long it lives.

All keys of a run carry its name as hash tag, so that they share one slot of a cluster and one script may touch them
all. A run's name has no brace in it (it is validated at the edge), so the tag is the whole name.
"""

from __future__ import annotations

# Every run's name, scored by its creation in Unix seconds, for ListRuns. For ever. Written before the run's first
# event and removed after its deletion: it may name a run that is not there, but never misses one that is.
RUNS = "optima:runs"

# How long a deleted run's name stays refused: as long as a forgotten worker may live that would create it again.
TOMBSTONE_SECONDS = 30 * 24 * 3600
# How long a snapshot is kept of a run that nobody calls: as a cache, it may go at any time.
SNAPSHOT_SECONDS = 30 * 24 * 3600
# How long a worker's last sign of life is kept to be shown.
PULSE_SECONDS = 3600


def events(run: str) -> str:
    """Stream: the run's history, the only truth there is. Field `e` is a serialized Event; the id of version v is
    `v-0`. Until the run is deleted."""
    return f"optima:{{{run}}}:events"


def head(run: str) -> str:
    """String: the run's incarnation, which the first event and every RunRestored set. Written with them in one
    script, so that an append can check it without reading events. Until the run is deleted."""
    return f"optima:{{{run}}}:incarnation"


def snapshot(run: str) -> str:
    """Hash: what the history folds to up to some version, and which code says so (bandit_server/replica/snapshots.py).
    A cache that any replica writes, and none relies on. For SNAPSHOT_SECONDS after it was written, or until the run is
    deleted."""
    return f"optima:{{{run}}}:snapshot"


def tombstone(run: str) -> str:
    """String: the run was deleted. For TOMBSTONE_SECONDS."""
    return f"optima:{{{run}}}:deleted"


def pulse(run: str, worker: str) -> str:
    """String: the worker's last heartbeat, a serialized HeartbeatRequest, or empty before its first one. For
    PULSE_SECONDS after its last call; its age is read off the time it has left, by the store's clock alone."""
    return f"optima:{{{run}}}:pulse:{worker}"
