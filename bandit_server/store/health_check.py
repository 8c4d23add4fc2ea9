"""The checks of `optima doctor` on a Redis: whether it is fit to store histories."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry

DEADLINE = 3.0
# The first version with streams.
MIN_VERSION = (5, 0)
# Clocks that differ by more make ages and lifetimes wrong.
MAX_CLOCK_SECONDS = 5.0
# The share of `maxmemory` above which appends will soon be refused.
FULL = 0.9


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its subject, whether it passed, and a sentence."""

    what: str
    good: bool
    sentence: str


def examine(url: str) -> list[Finding]:
    """Check the store at a URL. The findings do not repeat the URL, which may contain a password."""
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=DEADLINE, socket_connect_timeout=DEADLINE, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        return [Finding("store", False, f"the URL is invalid: {error} (expected redis://host:6379/0)")]
    with client:
        try:
            return list(_examine(client))
        except AuthenticationError as error:
            sentence = f"the store refuses the URL's user or password ({error}): correct OPTIMA_REDIS_URL"
        except (RedisError, OSError) as error:
            sentence = (
                f"the store cannot be used: {str(error).rstrip('.')}; check that it is running, and reachable from here"
            )
        return [Finding("store", False, sentence)]


def _examine(client: redis.Redis) -> Iterator[Finding]:
    before = time.time()
    seconds, microseconds = client.time()
    between = (before + time.time()) / 2
    info: Any = client.info()
    yield _version(info)
    if info.get("role") != "master":
        yield Finding("role", False, f"the store is a {info.get('role')}, which takes no writes: name its master")
    yield _append_only(info, _setting(client, "appendfsync"))
    yield _eviction(info)
    ahead = seconds + microseconds / 1e6 - between
    yield clock("store clock", "the store", ahead)


def clock(what: str, whose: str, ahead: float) -> Finding:
    """Check a clock that is so many seconds ahead of this machine's."""
    if abs(ahead) > MAX_CLOCK_SECONDS:
        relation = "ahead of" if ahead > 0 else "behind"
        return Finding(
            what, False, f"the clock of {whose} is {abs(ahead):.1f} s {relation} this machine's: run NTP on both"
        )
    return Finding(what, True, f"the clock of {whose} is within {MAX_CLOCK_SECONDS:g} s of this machine's")


def _version(info: dict[str, Any]) -> Finding:
    # For clients that ask for Redis, Valkey reports Redis 7.2.
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    name = "Valkey" if info.get("valkey_version") else "Redis"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < MIN_VERSION:
        return Finding(
            "store", False, f"the store is {name} {version}: histories are streams, which need Redis 5 or newer"
        )
    return Finding("store", True, f"{name} {version} answers")


def _append_only(info: dict[str, Any], fsync: str) -> Finding:
    what = "append-only file"
    if not info.get("aof_enabled"):
        return Finding(what, False, "the store keeps no append-only file, so that all histories are lost when it "
                       "restarts: set `appendonly yes`")  # fmt: skip
    if info.get("aof_last_write_status") != "ok":
        return Finding(what, False, "the store could not write its append-only file, and refuses writes: check that "
                       "its disk is not full")  # fmt: skip
    if fsync == "no":
        return Finding(what, False, "the store leaves it to the operating system when to write to the disk, which may "
                       "take 30 s: set `appendfsync everysec`, or `always`")  # fmt: skip
    return Finding(what, True, f"kept, written to the disk {fsync or 'as configured'}")


def _eviction(info: dict[str, Any]) -> Finding:
    what = "memory"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return Finding(what, False, f"the store evicts keys when its memory is full (maxmemory-policy {policy}), "
                       "histories too: set `maxmemory-policy noeviction`")  # fmt: skip
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > FULL * most:
        return Finding(what, False, f"{used / most:.0%} of the store's `maxmemory` is used; when it is full, rounds "
                       "are refused: raise it, or delete runs")  # fmt: skip
    of = f" of {most / 2**20:.0f} MB" if most else ", without a limit"
    return Finding(what, True, f"{used / 2**20:.0f} MB used{of}; nothing is evicted")


def _setting(client: redis.Redis, name: str) -> str:
    """Return a setting; empty where it cannot be read, as in many managed stores."""
    try:
        settings: Any = client.config_get(name)
    except ResponseError:
        return ""
    return str(settings.get(name, ""))
