"""The server's settings."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bandit_server.errors import StartError
from bandit_server.tls import ServerTls

DATA_DIR = Path(".optima")
FSYNC = ("everysec", "always")


@dataclass(frozen=True, slots=True)
class Settings:
    """A server's settings: the flags of `optima serve` with the same names.

    Attributes:
        host: The address on which gRPC is served.
        port: The port of gRPC; 0 for any free one.
        dashboard_host: The address of the dashboard.
        dashboard_port: The port of the dashboard; 0 for any free one, None for no dashboard.
        redis_url: The store; None for the embedded store in `data_dir`.
        data_dir: The embedded store's directory.
        fsync: When the embedded store syncs to disk, as in Redis's `appendfsync`.
        token: The token that callers send and browsers log in with; None to serve everybody.
        tls: The certificate of gRPC, dashboard and metrics; None to serve without TLS.
        metrics_host: The address of the metrics port.
        metrics_port: A port for /metrics alone; None to serve it on the dashboard's port only.
        anyone_may_look: Show runs in the dashboard without a login; changing them still requires the token.
        insecure: Serve other machines without a token or client certificates.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = 8080
    redis_url: str | None = None
    data_dir: Path = DATA_DIR
    fsync: str = "everysec"
    token: str | None = None
    tls: ServerTls | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    anyone_may_look: bool = False
    insecure: bool = False

    def check(self) -> None:
        """Check that not every machine can change or see runs, and that the certificate can be used.

        Raises:
            StartError: Otherwise.
        """
        if self.tls is not None:
            self.tls.check()
        authenticated = bool(self.token) or (self.tls is not None and self.tls.client_ca is not None)
        if not authenticated and not self.insecure and not is_loopback(self.host):
            raise StartError(
                f"--host {self.host} would let every machine that can reach this one change runs: set OPTIMA_TOKEN, or "
                "pass --insecure"
            )
        if self.dashboard_port is not None:
            check_shown("--dashboard-host", self.dashboard_host, self.token, self.insecure)
        if self.metrics_port is not None:
            check_shown("--metrics-host", self.metrics_host, self.token, self.insecure)

    @property
    def unencrypted(self) -> bool:
        """Whether traffic with other machines, the token included, is unencrypted."""
        hosts = [self.host]
        hosts += [self.dashboard_host] if self.dashboard_port is not None else []
        hosts += [self.metrics_host] if self.metrics_port is not None else []
        return self.tls is None and not all(is_loopback(host) for host in hosts)


def check_shown(flag: str, host: str, token: str | None, insecure: bool) -> None:
    """Check that a dashboard or metrics port does not show runs to every machine.

    Raises:
        StartError: It would.
    """
    if not token and not insecure and not is_loopback(host):
        raise StartError(
            f"{flag} {host} would show every run to every machine that can reach this one: set OPTIMA_TOKEN to require "
            "a login, or pass --insecure"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Read the token from the file, else from the file that OPTIMA_TOKEN_FILE names, else from OPTIMA_TOKEN.

    It is never an argument, which every user of the machine could read.

    Args:
        path: The file of --token-file, if given.
        environment: Environment variables.

    Returns:
        The token; None without one.

    Raises:
        StartError: The file cannot be read, is empty, or the token has characters that a header cannot carry.
    """
    source = "--token-file"
    if path is None and environment.get("OPTIMA_TOKEN_FILE"):
        path, source = Path(environment["OPTIMA_TOKEN_FILE"]), "OPTIMA_TOKEN_FILE"
    if path is None:
        source = "OPTIMA_TOKEN"
        token = environment.get("OPTIMA_TOKEN", "").strip()
    else:
        source = f"{source} {path}"
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"{source} cannot be read: {error}") from error
        if not token:
            raise StartError(f"{source} is empty; expected a token")
    if token and not (token.isascii() and token.isprintable()):
        raise StartError(f"{source} has characters other than printable ASCII, which a header cannot carry")
    return token or None
