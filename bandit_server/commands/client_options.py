"""How commands call a bandit server: its address, what they show it, and what its refusals become."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import grpc

from bandit_server.config import token
from bandit_server.errors import StartError
from bandit_server.tls import ClientTls, client_tls
from protos.optima.v1.bandit_pb2_grpc import BanditStub

OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]

Metadata = tuple[tuple[str, str | bytes], ...]
Command = Callable[..., Any]
FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Target:
    """A bandit server, as a command was told of it.

    Attributes:
        address: host:port.
        token: What it is shown; None for nothing.
        tls: What it must show; None for a connection in clear.
    """

    address: str
    token: str | None
    tls: ClientTls | None

    @property
    def metadata(self) -> Metadata:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None for one in clear. Raises StartError for files that cannot be used."""
        return None if self.tls is None else self.tls.credentials()

    def channel(self) -> grpc.Channel:
        """A new channel. Raises StartError for files that cannot be used."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, credentials, options=OPTIONS)

    @contextlib.contextmanager
    def calling(self) -> Iterator[tuple[BanditStub, Metadata]]:
        """A stub and its metadata; what the server refuses, or that there is none, ends the command."""
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
                    f"no bandit server answers at {self.address}; `optima doctor` finds out why"
                ) from error
            raise click.ClickException(str(call.details())) from error


def calls_a_server(command: Command) -> Command:
    """Gives a command the options that say which server; it is called with them as one `target`."""

    @click.option("--server", "address", default="127.0.0.1:50051", show_default=True, envvar="OPTIMA_SERVER",
                  help="The bandit server.")  # fmt: skip
    @click.option("--token-file", type=FILE, metavar="FILE",
                  help="Its token (or OPTIMA_TOKEN_FILE, or OPTIMA_TOKEN).")  # fmt: skip
    @click.option("--tls-ca", metavar="FILE", envvar="OPTIMA_TLS_CA",
                  help="Call it over TLS; who vouches for it, or `public`.")  # fmt: skip
    @click.option("--tls-client-cert", type=FILE, metavar="FILE", envvar="OPTIMA_TLS_CLIENT_CERT",
                  help="What a server with mTLS is shown.")  # fmt: skip
    @click.option("--tls-client-key", type=FILE, metavar="FILE", envvar="OPTIMA_TLS_CLIENT_KEY",
                  help="Its private key.")  # fmt: skip
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
            target = Target(address, token(token_file), client_tls(tls_ca, tls_client_cert, tls_client_key))
        except StartError as error:
            raise click.ClickException(str(error)) from error
        return command(*arguments, target=target, **options)

    return with_target
