"""The place where workers exchange module versions: a directory of a shared file system, or an object store.

Any URL that fsspec knows will do: a path, ``s3://bucket/path`` (with the package s3fs), ``gs://…`` (gcsfs), and so on.
A version appears whole or not at all, is never written over, and is checked by its digest when it is read.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from protos.optima.v1 import bandit_pb2 as pb
from worker.errors import ExchangeError
from worker.exchange.module_state import ModuleState, digest
from worker.files import replace

_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"})
"""Protocols of object stores, where a file appears once it has been written."""


class Exchange:
    """The versions of one run's modules.

    Args:
        url: The exchange's URL, or a path.
        run: The run's name; its versions are in a folder of that name.

    Raises:
        ExchangeError: The URL cannot be opened, for example because the package for its protocol is not installed.
    """

    def __init__(self, url: str, run: str) -> None:
        self.url = url
        self._run = run
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:
            raise ExchangeError(f"the exchange {url} cannot be opened: {_reason(error)}") from error

    def check(self) -> None:
        """Write, read and remove a small file.

        Raises:
            ExchangeError: One of these fails.
        """
        name, content = f"{self._run}/.check-{secrets.token_hex(8)}", secrets.token_bytes(16)
        try:
            self._put(name, content)
            same = self._get(name) == content
            self._files.rm_file(self._path(name))
        except Exception as error:
            raise ExchangeError(f"the exchange {self.url} cannot be used: {_reason(error)}") from error
        if not same:
            raise ExchangeError(f"the exchange {self.url} cannot be used: it returns other bytes than were written")

    def publish(self, base: pb.ModuleVersion, state: ModuleState, *, loss: float) -> pb.ModuleVersion:
        """Write the version that follows another one.

        Args:
            base: The version it was made from.
            state: The module.
            loss: Its own weighted loss on the probe.

        Returns:
            The version, without its terms.

        Raises:
            ExchangeError: It cannot be written.
        """
        content = state.to_bytes()
        number, hexdigits = base.version + 1, digest(content)
        # The digest in the name: of two workers that make a version of one number, only one will be accepted.
        place = f"{self._run}/{base.module}/{number:06d}-{hexdigits[:16]}.safetensors"
        try:
            self._put(place, content)
        except Exception as error:
            raise ExchangeError(
                f"version {number} of {base.module} cannot be written to the exchange {self.url}: {_reason(error)}"
            ) from error
        return pb.ModuleVersion(
            module=base.module,
            version=number,
            digest=hexdigits,
            base=base.digest,
            size=len(content),
            place=place,
            loss=loss,
            rounds=state.rounds,
            steps=state.steps,
        )

    def fetch(self, version: pb.ModuleVersion) -> ModuleState:
        """Read a version, above 0, and check it.

        Raises:
            ExchangeError: It is missing, damaged, or cannot be read.
        """
        named = f"version {version.version} of {version.module} in the exchange {self.url} ({version.place})"
        try:
            content = self._get(version.place)
        except Exception as error:
            raise ExchangeError(f"{named} cannot be read: {_reason(error)}") from error
        if digest(content) != version.digest:
            raise ExchangeError(f"{named} is damaged: its SHA-256 is not {version.digest}")
        try:
            return ModuleState.from_bytes(content)
        except ExchangeError as error:
            raise ExchangeError(f"{named} cannot be used: {error}") from error

    def remove(self, place: str) -> None:
        """Remove a version that nobody needs. One that is gone, or cannot be removed, is no error."""
        with contextlib.suppress(Exception):
            self._files.rm_file(self._path(place))

    def places(self, module: str) -> list[str]:
        """Return the places of all versions of a module that are there, in order.

        Raises:
            ExchangeError: They cannot be listed.
        """
        folder = f"{self._run}/{module}"
        try:
            paths = self._files.ls(self._path(folder), detail=False) if self._files.exists(self._path(folder)) else []
        except Exception as error:
            raise ExchangeError(f"the exchange {self.url} cannot be listed: {_reason(error)}") from error
        names = sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
        return [f"{folder}/{name}" for name in names if name.endswith(".safetensors")]

    def _path(self, place: str) -> str:
        return f"{self._root.rstrip('/')}/{place}"

    def _get(self, place: str) -> bytes:
        # A cached listing or copy may be older than the file.
        self._files.invalidate_cache()
        content: bytes = self._files.cat_file(self._path(place))
        return content

    def _put(self, place: str, content: bytes) -> None:
        path = self._path(place)
        if isinstance(self._files, LocalFileSystem):
            replace(Path(path), lambda temporary: temporary.write_bytes(content))
            return
        protocols = self._files.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        if names & _WHOLE_PUTS:
            self._files.pipe_file(path, content)
            return
        temporary = f"{path}.{secrets.token_hex(8)}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(temporary, content)
        self._files.mv(temporary, path)


def _reason(error: Exception) -> str:
    """Return an error's message in one line, or its kind if it has none."""
    text: Any = " ".join(str(error).split())
    return text or type(error).__name__
