"""The worker's credentials for the bandit server, read from the environment and from files.

    OPTIMA_TOKEN_FILE, OPTIMA_TOKEN                   the server's token: the path of a file, or the token itself
    OPTIMA_TLS_CA                                     use TLS; a PEM file of the certificate authority, or `public`
    OPTIMA_TLS_CLIENT_CERT, OPTIMA_TLS_CLIENT_KEY     PEM files of the client's certificate, for a server with mTLS

There are no flags for them: every user of a machine can read the command line of every process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import BanditRefused

# The value of OPTIMA_TLS_CA for the public authorities that gRPC ships with.
PUBLIC = "public"


@dataclass(frozen=True)
class Credentials:
    """A token and TLS certificates.

    Attributes:
        token: The server's bearer token, if it asks for one.
        tls: Whether the connection is encrypted.
        authorities: PEM of the certificate authority that signed the server's certificate; None for the public ones.
        certificate: PEM of the client's own certificate, for a server with mTLS.
        key: PEM of the certificate's private key.
    """

    token: str | None = None
    tls: bool = False
    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise BanditRefused("the token contains characters other than printable ASCII; a header cannot carry them")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Read the credentials from the environment variables above and the files that they name.

        Raises:
            BanditRefused: A file cannot be read, or of variables that belong together only some are set.
        """
        token = environment.get("OPTIMA_TOKEN", "").strip()
        if environment.get("OPTIMA_TOKEN_FILE"):
            token = _read_file("OPTIMA_TOKEN_FILE", environment).decode(errors="replace").strip()
            if not token:
                raise BanditRefused(f"OPTIMA_TOKEN_FILE {environment['OPTIMA_TOKEN_FILE']} is empty; expected a token")
        ca = environment.get("OPTIMA_TLS_CA", "")
        client = [bool(environment.get(name)) for name in ("OPTIMA_TLS_CLIENT_CERT", "OPTIMA_TLS_CLIENT_KEY")]
        if any(client) and not (all(client) and ca):
            raise BanditRefused(
                "OPTIMA_TLS_CLIENT_CERT, OPTIMA_TLS_CLIENT_KEY and OPTIMA_TLS_CA belong together (the worker's "
                "certificate, its private key, and the certificate authority of the server); set all three"
            )
        return cls(
            token=token or None,
            tls=bool(ca),
            authorities=_read_file("OPTIMA_TLS_CA", environment) if ca and ca != PUBLIC else None,
            certificate=_read_file("OPTIMA_TLS_CLIENT_CERT", environment) if all(client) else None,
            key=_read_file("OPTIMA_TLS_CLIENT_KEY", environment) if all(client) else None,
        )


def _read_file(variable: str, environment: Mapping[str, str]) -> bytes:
    try:
        return Path(environment[variable]).read_bytes()
    except OSError as error:
        raise BanditRefused(f"{variable} {environment[variable]} cannot be read: {error.strerror}") from error
