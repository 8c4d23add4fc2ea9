"""TLS certificates of servers and clients. All files are PEM."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from bandit_server.errors import StartError

# In place of a file of authorities: the public ones that gRPC comes with.
PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's certificate.

    Attributes:
        cert: The certificate, followed by its chain of authorities.
        key: Its private key, unencrypted.
        client_ca: Authorities of client certificates (mTLS); None if clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Check that the files can be used.

        gRPC would only log a line of C++, and listen without accepting anybody.

        Raises:
            StartError: A file cannot be read, is not PEM, or the key does not belong to the certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, "--tls-cert", self.cert, "--tls-key", self.key)
        if self.client_ca is not None:
            _load_ca(context, "--tls-client-ca", str(self.client_ca))

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for gRPC.

        Raises:
            StartError: As in `check`.
        """
        self.check()
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None = None) -> ServerTls | None:
    """Return the certificate that --tls-cert, --tls-key and --tls-client-ca name; None for a server without TLS.

    Raises:
        StartError: Some are given without the others that they need.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise StartError("TLS requires both --tls-cert FILE and --tls-key FILE (and --tls-client-ca FILE for mTLS)")
    return ServerTls(cert, key, client_ca)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """A client's trusted authorities, and its own certificate.

    Attributes:
        ca: A file with the authorities of the server's certificate, or PUBLIC.
        cert: The client's own certificate, for a server with mTLS.
        key: Its private key.
    """

    ca: str
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context for a plain socket.

        Raises:
            StartError: A file cannot be read, or is not PEM.
        """
        context = ssl.create_default_context()
        if self.ca != PUBLIC:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load_ca(context, "--tls-ca", self.ca)
        if self.cert is not None and self.key is not None:
            _load_pair(context, "--tls-client-cert", self.cert, "--tls-client-key", self.key)
        context.set_alpn_protocols(["h2"])
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for gRPC.

        Raises:
            StartError: As in `context`.
        """
        self.context()
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca == PUBLIC else Path(self.ca).read_bytes(),
            private_key=self.key.read_bytes() if self.key else None,
            certificate_chain=self.cert.read_bytes() if self.cert else None,
        )


def client_tls(ca: str | None, cert: Path | None, key: Path | None) -> ClientTls | None:
    """Return what --tls-ca, --tls-client-cert and --tls-client-key name; None for a connection without TLS.

    Raises:
        StartError: Some are given without the others that they need.
    """
    if (cert is None) != (key is None):
        raise StartError("a client certificate requires both --tls-client-cert FILE and --tls-client-key FILE")
    if ca is None:
        if cert is not None:
            raise StartError(
                "--tls-client-cert requires --tls-ca FILE, the authority of the server's certificate (`public` for the "
                "public authorities)"
            )
        return None
    return ClientTls(ca, cert, key)


def _load_pair(context: ssl.SSLContext, cert_flag: str, cert: Path, key_flag: str, key: Path) -> None:
    _check_readable(cert_flag, cert)
    _check_readable(key_flag, key)

    # Without it OpenSSL would ask for the password on the terminal.
    def password() -> str:
        raise StartError(
            f"{key_flag} {key} is encrypted; expected an unencrypted key (`openssl pkey -in KEY -out FILE` writes one)"
        )

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if "mismatch" in str(error).lower():
            raise StartError(f"{key_flag} {key} does not belong to the certificate {cert_flag} {cert}") from error
        raise StartError(f"{cert_flag} {cert} or {key_flag} {key} is not PEM") from error


def _load_ca(context: ssl.SSLContext, flag: str, ca: str) -> None:
    _check_readable(flag, Path(ca))
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise StartError(f"{flag} {ca} contains no PEM certificate") from error


def _check_readable(flag: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise StartError(f"{flag} {path} cannot be read: {error.strerror}") from error
