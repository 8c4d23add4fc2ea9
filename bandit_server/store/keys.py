"""Every key in the store, what it holds, and how long it lives.

All keys of a run have its name as their hash tag, so that they share one slot of a cluster and one script may use all
of them. A run's name contains no brace (requests are validated), so the tag is the whole name.
"""

from __future__ import annotations

# Sorted set: every run's name, scored by its creation in Unix seconds, for ListRuns. Never expires. Written before the
# run's first event and removed after its deletion: it may name a run that does not exist, but never misses one.
RUNS = "optima:runs"

# How long a deleted run's name stays refused: as long as a forgotten worker may live that would create it again.
TOMBSTONE_SECONDS = 30 * 24 * 3600
# How long the snapshot of a run that nobody calls is kept: it is a cache, and may go at any time.
SNAPSHOT_SECONDS = 30 * 24 * 3600
# How long a worker's last heartbeat is kept to be shown.
HEARTBEAT_SECONDS = 3600


def events(run: str) -> str:
    """Stream: the run's history, the source of everything else. Kept until the run is deleted.

    Field `e` of an entry is a serialized Event; the id of version v is `v-0`.
    """
    return f"optima:{{{run}}}:events"


def head(run: str) -> str:
    """String: the run's incarnation, which the first event and every RunRestored set. Kept until the run is deleted.

    Written with these events by one script, so that an append can check it without reading events.
    """
    return f"optima:{{{run}}}:incarnation"


def snapshot(run: str) -> str:
    """Hash: the fold of the history up to some version, and which code made it (bandit_server/replica/snapshots.py).

    A cache that any replica writes and none relies on. Kept for SNAPSHOT_SECONDS after it was written, or until the run
    is deleted.
    """
    return f"optima:{{{run}}}:snapshot"


def tombstone(run: str) -> str:
    """String: the run was deleted. Kept for TOMBSTONE_SECONDS."""
    return f"optima:{{{run}}}:deleted"


def heartbeat(run: str, worker: str) -> str:
    """String: the worker's last HeartbeatRequest, serialized; empty before its first one.

    Kept for HEARTBEAT_SECONDS after the worker's last call. Its age follows from the time it has left, by the store's
    clock alone.
    """
    return f"optima:{{{run}}}:pulse:{worker}"
