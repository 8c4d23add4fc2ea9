"""Options of commands that call a bandit server, and the calls' errors on the command line."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import grpc

from bandit_server.config import read_token
from bandit_server.errors import StartError
from bandit_server.tls import ClientTls, client_tls
from protos.optima.v1.bandit_pb2_grpc import BanditStub

OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]

Metadata = tuple[tuple[str, str | bytes], ...]
Command = Callable[..., Any]
FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Target:
    """A bandit server, as the options of a command name it.

    Attributes:
        address: host:port.
        token: The token to send; None for none.
        tls: Trusted authorities and the client's certificate; None for a connection without TLS.
    """

    address: str
    token: str | None
    tls: ClientTls | None

    @property
    def metadata(self) -> Metadata:
        """The metadata of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return credentials for a channel; None for one without TLS.

        Raises:
            StartError: A file of a certificate cannot be used.
        """
        return None if self.tls is None else self.tls.credentials()

    def channel(self) -> grpc.Channel:
        """Return a new channel.

        Raises:
            StartError: A file of a certificate cannot be used.
        """
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, credentials, options=OPTIONS)

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[BanditStub, Metadata]]:
        """Yield a stub, and the metadata for its calls; an error of a call ends the command with its message."""
        try:
            with self.channel() as channel:
                yield BanditStub(channel), self.metadata
        except StartError as error:
            raise click.ClickException(str(error)) from error
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            if call.code() == grpc.StatusCode.UNAVAILABLE and "optima-reason" not in dict(
                call.trailing_metadata() or ()
            ):
                raise click.ClickException(
                    f"no bandit server answers at {self.address}; run `optima doctor` to find out why"
                ) from error
            raise click.ClickException(str(call.details())) from error


def server_options(command: Command) -> Command:
    """Add the options that name a server to a command, which receives them as one `target`."""

    @click.option("--server", "address", default="127.0.0.1:50051", show_default=True, envvar="OPTIMA_SERVER",
                  help="Address of the bandit server (or OPTIMA_SERVER).")  # fmt: skip
    @click.option("--token-file", type=FILE, metavar="FILE",
                  help="File with the server's token (or OPTIMA_TOKEN_FILE, or OPTIMA_TOKEN).")  # fmt: skip
    @click.option("--tls-ca", metavar="FILE", envvar="OPTIMA_TLS_CA",
                  help="Use TLS: authority of the server's certificate, or `public` (or OPTIMA_TLS_CA).")  # fmt: skip
    @click.option("--tls-client-cert", type=FILE, metavar="FILE", envvar="OPTIMA_TLS_CLIENT_CERT",
                  help="Client certificate for a server with mTLS (or OPTIMA_TLS_CLIENT_CERT).")  # fmt: skip
    @click.option("--tls-client-key", type=FILE, metavar="FILE", envvar="OPTIMA_TLS_CLIENT_KEY",
                  help="Private key of the client certificate (or OPTIMA_TLS_CLIENT_KEY).")  # fmt: skip
    @functools.wraps(command)
    def with_target(
        *arguments: Any,
        address: str,
        token_file: Path | None,
        tls_ca: str | None,
        tls_client_cert: Path | None,
        tls_client_key: Path | None,
        **options: Any,
    ) -> Any:
        try:
            target = Target(address, read_token(token_file), client_tls(tls_ca, tls_client_cert, tls_client_key))
        except StartError as error:
            raise click.ClickException(str(error)) from error
        return command(*arguments, target=target, **options)

    return with_target
