"""How a server is set up."""

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
    """A server's settings; the command line's flags of the same names.

    Attributes:
        host, port: Where gRPC is served; port 0 for any free one.
        dashboard_host, dashboard_port: The same for the dashboard; no port, no dashboard.
        redis_url: The store; without one, the embedded store under `data_dir` is used.
        data_dir, fsync: The embedded store's directory, and when it writes to the disk itself.
        token: What callers and browsers must show; without one, everybody may call and look.
        tls: The certificate of gRPC, dashboard and metrics; without one, everything travels in clear.
        metrics_host, metrics_port: Where /metrics has a port of its own; it is on the dashboard's in any case.
        anyone_may_look: The dashboard shows runs without a login; changing them still needs the token.
        insecure: Serve other machines although nobody is asked who they are.
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
        """Raises StartError if the server would be open to everybody who can reach the machine, or its certificate
        cannot be used."""
        if self.tls is not None:
            self.tls.check()
        known = bool(self.token) or (self.tls is not None and self.tls.client_ca is not None)
        if not known and not self.insecure and not loopback(self.host):
            raise StartError(
                f"--host {self.host} would let everybody who reaches this machine change runs: set OPTIMA_TOKEN, or "
                "say --insecure"
            )
        if self.dashboard_port is not None:
            check_shown("--dashboard-host", self.dashboard_host, self.token, self.insecure)
        if self.metrics_port is not None:
            check_shown("--metrics-host", self.metrics_host, self.token, self.insecure)

    @property
    def in_clear(self) -> bool:
        """Whether what is sent to other machines, the token with it, can be read on the way."""
        hosts = [self.host]
        hosts += [self.dashboard_host] if self.dashboard_port is not None else []
        hosts += [self.metrics_host] if self.metrics_port is not None else []
        return self.tls is None and not all(loopback(host) for host in hosts)


def check_shown(flag: str, host: str, token: str | None, insecure: bool) -> None:
    """Raises StartError if what is shown there would be shown to everybody."""
    if not token and not insecure and not loopback(host):
        raise StartError(
            f"{flag} {host} would show every run to everybody who reaches this machine: set OPTIMA_TOKEN, so that they "
            "must log in with it, or say --insecure"
        )


def loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token: in the file, or in that of OPTIMA_TOKEN_FILE, or else OPTIMA_TOKEN itself; never an argument, which
    every user of the machine can read.

    Raises:
        StartError: The file cannot be read, is empty, or holds what no header can carry.
    """
    where = "--token-file"
    if path is None and environment.get("OPTIMA_TOKEN_FILE"):
        path, where = Path(environment["OPTIMA_TOKEN_FILE"]), "OPTIMA_TOKEN_FILE"
    if path is None:
        found = environment.get("OPTIMA_TOKEN", "").strip()
        where = "OPTIMA_TOKEN"
    else:
        where = f"{where} {path}"
        try:
            found = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"{where} cannot be read: {error}") from error
        if not found:
            raise StartError(f"{where} is empty; expected a token")
    if not (found.isascii() and (found.isprintable() or not found)):
        raise StartError(f"{where} holds characters other than printable ASCII, which no header can carry")
    return found or None
