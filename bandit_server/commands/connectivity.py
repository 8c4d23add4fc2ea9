"""Checks of a server's port and of TLS on both sides. gRPC reports all of these failures as UNAVAILABLE."""

from __future__ import annotations

import socket
import ssl
import time

from bandit_server.commands.client_options import Target
from bandit_server.store.health_check import Finding

DEADLINE = 3.0
# A certificate that is valid for less than this should be replaced.
SOON_SECONDS = 7 * 24 * 3600
# The first bytes of an HTTP/2 client: its preface and an empty SETTINGS frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
TLS_ALERT = 0x15


def check_connection(target: Target) -> Finding:
    """Connect to the server, and return whether that succeeds or what is wrong.

    Raises:
        OSError: An error on this side.
        StartError: A file of a certificate cannot be used.
    """
    host, _, port = target.address.rpartition(":")
    if not host or not port.isdigit():
        return Finding("connection", False, f"{target.address!r} is not an address: expected host:port")
    host = host.strip("[]")
    context = target.tls.context() if target.tls else None
    try:
        connection = socket.create_connection((host, int(port)), timeout=DEADLINE)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return Finding("connection", False, f"no server listens at {target.address} ({reason}): start one there with "
                       "`optima serve`, or name another address with --server")  # fmt: skip
    with connection:
        return _check_unencrypted(connection) if context is None else _check_tls(connection, host, context)


def _check_unencrypted(connection: socket.socket) -> Finding:
    connection.sendall(PREFACE)
    try:
        response = connection.recv(16)
    except ConnectionError:
        response = b""
    except TimeoutError:
        return Finding("connection", False, "the server accepts the connection but does not respond: it may be frozen")
    # A TLS server expects a TLS handshake: it sends an alert, or closes the connection.
    if not response or response[0] == TLS_ALERT:
        return Finding(
            "connection",
            False,
            "the server requires TLS: name the authority of its certificate with --tls-ca (or OPTIMA_TLS_CA)",
        )
    return Finding("connection", True, "connected, without TLS")


def _check_tls(connection: socket.socket, host: str, context: ssl.SSLContext) -> Finding:
    def wrong(sentence: str) -> Finding:
        return Finding("TLS", False, sentence)

    try:
        with context.wrap_socket(connection, server_hostname=host) as tls_connection:
            certificate = tls_connection.getpeercert() or {}
            tls_connection.sendall(PREFACE)
            # With TLS 1.3 a client learns only here whether its own certificate was accepted.
            response = tls_connection.recv(16)
    except ssl.SSLCertVerificationError as error:
        return wrong(f"the server's certificate is not accepted: {error.verify_message}; check that --tls-ca is the "
                     "authority that signed it, and that it names this host")  # fmt: skip
    except TimeoutError:
        return wrong("the server accepts the connection but does not respond: it may be frozen")
    except (ssl.SSLError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason:
            return wrong("the server does not use TLS: leave out --tls-ca, or start the server with --tls-cert")
        if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return wrong("the server requires a client certificate of an authority that it trusts: see "
                         f"--tls-client-cert ({reason})")  # fmt: skip
        return wrong(f"the TLS handshake failed: {reason}")
    if not response:
        return wrong("the server closes the connection: it may require a client certificate (--tls-client-cert), or "
                     "not use TLS")  # fmt: skip
    end = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    if end - time.time() < SOON_SECONDS:
        return wrong(f"the server's certificate ends on {certificate['notAfter']}: replace it and restart the server")
    return Finding("TLS", True, f"connected; the server's certificate is valid until {certificate['notAfter']}")
