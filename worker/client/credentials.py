"""What a worker shows the bandit server, and whom it trusts: from the environment and files, never from the command
line, which every user of a machine can read.

    OPTIMA_TOKEN_FILE, OPTIMA_TOKEN                   the server's token: in a file, or itself
    OPTIMA_TLS_CA                                     call over TLS; a PEM file of who vouches for it, or `public`
    OPTIMA_TLS_CLIENT_CERT, OPTIMA_TLS_CLIENT_KEY     PEM files: what a server with mTLS is shown
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import BanditRefused

# Instead of a file: the public authorities that gRPC brings with it.
PUBLIC = "public"


@dataclass(frozen=True)
class Access:
    """What a client shows and trusts.

    Attributes:
        token: The server's bearer token, if it wants one.
        tls: Whether the connection is encrypted.
        authorities: PEM: who vouches for the server; None for the public authorities.
        certificate, key: PEM: the client's own, for a server that asks for one.
    """

    token: str | None = None
    tls: bool = False
    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise BanditRefused("the token holds characters other than printable ASCII, which no header can carry")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """As the head of this file says.

        Raises:
            BanditRefused: A file cannot be read, or half of what belongs together is given.
        """
        token = environment.get("OPTIMA_TOKEN", "").strip()
        if environment.get("OPTIMA_TOKEN_FILE"):
            token = _read("OPTIMA_TOKEN_FILE", environment).decode(errors="replace").strip()
            if not token:
                raise BanditRefused(f"OPTIMA_TOKEN_FILE {environment['OPTIMA_TOKEN_FILE']} is empty; expected a token")
        ca = environment.get("OPTIMA_TLS_CA", "")
        own = [bool(environment.get(name)) for name in ("OPTIMA_TLS_CLIENT_CERT", "OPTIMA_TLS_CLIENT_KEY")]
        if any(own) and not (all(own) and ca):
            raise BanditRefused(
                "OPTIMA_TLS_CLIENT_CERT, OPTIMA_TLS_CLIENT_KEY and OPTIMA_TLS_CA belong together: the worker's "
                "certificate, its key, and who vouches for the server"
            )
        return cls(
            token=token or None,
            tls=bool(ca),
            authorities=_read("OPTIMA_TLS_CA", environment) if ca and ca != PUBLIC else None,
            certificate=_read("OPTIMA_TLS_CLIENT_CERT", environment) if all(own) else None,
            key=_read("OPTIMA_TLS_CLIENT_KEY", environment) if all(own) else None,
        )


def _read(name: str, environment: Mapping[str, str]) -> bytes:
    try:
        return Path(environment[name]).read_bytes()
    except OSError as error:
        raise BanditRefused(f"{name} {environment[name]} cannot be read: {error.strerror}") from error
