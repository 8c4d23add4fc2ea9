"""Certificates: what a server shows and asks for, and what a client trusts and shows. All files are PEM."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from bandit_server.errors import StartError

# Instead of a file: the public authorities that gRPC brings with it.
PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's certificate.

    Attributes:
        cert: The certificate, followed by those that lead to its authority.
        key: Its private key, not encrypted.
        client_ca: Authorities; callers must show a certificate of one of them (mTLS). None: they need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Raises StartError if a file cannot be read, is no PEM, or the key is not the certificate's.

        gRPC would only log a line of C++ and listen in vain.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, "--tls-cert", self.cert, "--tls-key", self.key)
        if self.client_ca is not None:
            _load_ca(context, "--tls-client-ca", str(self.client_ca))

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC. Raises what `check` does."""
        self.check()
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None = None) -> ServerTls | None:
    """What the flags of those names mean together; None for a server without TLS.

    Raises:
        StartError: Half of it is given.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise StartError("TLS needs both --tls-cert FILE and --tls-key FILE (and --tls-client-ca FILE for mTLS)")
    return ServerTls(cert, key, client_ca)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client trusts, and shows.

    Attributes:
        ca: A file with the authorities that vouch for the server, or PUBLIC.
        cert, key: The client's own certificate, for a server that asks for one.
    """

    ca: str
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For a plain socket. Raises StartError if a file cannot be read or is no PEM."""
        context = ssl.create_default_context()
        if self.ca != PUBLIC:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load_ca(context, "--tls-ca", self.ca)
        if self.cert is not None and self.key is not None:
            _load_pair(context, "--tls-client-cert", self.cert, "--tls-client-key", self.key)
        context.set_alpn_protocols(["h2"])
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC. Raises what `context` does."""
        self.context()
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca == PUBLIC else Path(self.ca).read_bytes(),
            private_key=self.key.read_bytes() if self.key else None,
            certificate_chain=self.cert.read_bytes() if self.cert else None,
        )


def client_tls(ca: str | None, cert: Path | None, key: Path | None) -> ClientTls | None:
    """What the flags --tls-ca, --tls-client-cert and --tls-client-key mean together; None for a plain connection.

    Raises:
        StartError: Half of it is given.
    """
    if (cert is None) != (key is None):
        raise StartError("a client's certificate needs both --tls-client-cert FILE and --tls-client-key FILE")
    if ca is None:
        if cert is not None:
            raise StartError("--tls-client-cert needs --tls-ca FILE: whom to trust (`public` for public authorities)")
        return None
    return ClientTls(ca, cert, key)


def _load_pair(context: ssl.SSLContext, cert_flag: str, cert: Path, key_flag: str, key: Path) -> None:
    _readable(cert_flag, cert)
    _readable(key_flag, key)

    # Without it OpenSSL would ask for the password on the terminal.
    def password() -> str:
        raise StartError(f"{key_flag} {key} is encrypted; a server starts by itself, so it needs one that is not")

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        mismatch = "mismatch" in str(error).lower()
        wrong = "does not belong to the certificate" if mismatch else "and its certificate cannot be read as PEM"
        raise StartError(f"{key_flag} {key} {wrong} ({cert_flag} {cert})") from error


def _load_ca(context: ssl.SSLContext, flag: str, ca: str) -> None:
    _readable(flag, Path(ca))
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise StartError(f"{flag} {ca} holds no certificate in PEM") from error


def _readable(flag: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise StartError(f"{flag} {path} cannot be read: {error.strerror}") from error
