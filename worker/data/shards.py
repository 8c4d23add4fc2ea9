"""WebDataset's tar shards: the expansion of patterns, and the samples of a shard."""

from __future__ import annotations

import contextlib
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from webdataset.shardlists import expand_urls
from webdataset.tariterators import tarfile_samples

from worker.errors import DataError

NAMED = 3
"""The most missing shards that a message names."""


def expand(field: str, patterns: str | Sequence[str], directory: Path) -> list[str]:
    """Return the shards that patterns name: ``shards/{000..009}.tar``, several in a list or joined by ``::``.

    Args:
        field: The option of the recipe that has them, for messages.
        patterns: Paths, or other sources that ``webdataset`` can open: ``https://…``, ``pipe:aws s3 cp s3://… -``.
        directory: The directory that relative paths start from.

    Raises:
        ValueError: They name no shard, the same shard twice, or a shard that does not exist.
    """
    joined = "::".join([patterns] if isinstance(patterns, str) else patterns)
    try:
        named = [url for url in expand_urls(joined) if url]
    except ValueError as error:
        raise ValueError(f"{field} is not a valid pattern of shards: {error} in {joined!r}") from error
    if not named:
        raise ValueError(f"{field} names no shard; expected a pattern such as shards/{{000..009}}.tar")
    shards = [str(directory / url) if _local(url) else url for url in named]
    shard, times = Counter(shards).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{field} names the shard {shard} twice")
    missing = [shard for shard in shards if _local(shard) and not Path(shard).is_file()]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ValueError(
            f"{field} names {len(shards)} shards, of which {len(missing)} do not exist: "
            f"{', '.join(missing[:NAMED])}{more}"
        )
    return shards


def samples(shard: str) -> Iterator[dict[str, Any]]:
    """Yield a shard's samples in order: the bytes of each file by its extension, and ``__key__``.

    Raises:
        DataError: The shard cannot be opened, or is not a complete tar file.
    """
    source: dict[str, Any] = {"url": shard}
    try:
        yield from tarfile_samples([source])
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        # webdataset appends arguments of its own to the reason.
        reason = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
        raise DataError(f"the shard {shard} cannot be read: {reason}") from error
    finally:
        # webdataset adds the stream and leaves it open. A pipe's command may fail when nobody reads the rest.
        if "stream" in source:
            with contextlib.suppress(OSError):
                source["stream"].close()


def _local(url: str) -> bool:
    # A scheme of one letter is a drive.
    return len(urlparse(url).scheme) < 2
