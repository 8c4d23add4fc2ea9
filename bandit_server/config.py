"""How a server is set up."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bandit_server.errors import StartError

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
        token: What callers must show; without one, everybody may call.
        insecure: Serve other machines although nobody is asked for a token.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = 8080
    redis_url: str | None = None
    data_dir: Path = DATA_DIR
    fsync: str = "everysec"
    token: str | None = None
    insecure: bool = False

    def check(self) -> None:
        """Raises StartError if the server would be open to everybody who can reach the machine."""
        if not self.token and not self.insecure and not loopback(self.host):
            raise StartError(
                f"--host {self.host} would let everybody who reaches this machine change runs: set OPTIMA_TOKEN, or "
                "say --insecure"
            )
        if self.dashboard_port is not None:
            check_dashboard("--dashboard-host", self.dashboard_host, self.insecure)


def check_dashboard(flag: str, host: str, insecure: bool) -> None:
    """Raises StartError if a dashboard there would show everything to everybody."""
    if not insecure and not loopback(host):
        raise StartError(
            f"{flag} {host} would show every run to everybody who reaches this machine, as the dashboard asks nobody "
            "who they are: say --insecure if that is meant"
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
    """The token in a file, or else in OPTIMA_TOKEN; never an argument, which every user of the machine can read.

    Raises:
        StartError: The file cannot be read, is empty, or holds what no header can carry.
    """
    if path is None:
        found = environment.get("OPTIMA_TOKEN", "").strip()
        where = "OPTIMA_TOKEN"
    else:
        where = f"--token-file {path}"
        try:
            found = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"{where} cannot be read: {error}") from error
        if not found:
            raise StartError(f"{where} is empty; expected a token")
    if not (found.isascii() and (found.isprintable() or not found)):
        raise StartError(f"{where} holds characters other than printable ASCII, which no header can carry")
    return found or None
