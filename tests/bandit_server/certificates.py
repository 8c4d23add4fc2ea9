"""Real certificates for tests, made by the system's openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A private certificate authority.

    Args:
        directory: For its files and those of the certificates it issues.
        name: The authority's name.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._name = name
        self.cert = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl("req", "-x509", *_new_key(self._key), "-days", "2", "-subj", f"/CN={name}", "-out", str(self.cert))

    def certify(self, name: str, days: int = 2, hosts: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
        """Return a certificate for these hosts, and its private key."""
        cert, key, request, extensions = (self._directory / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext"))
        _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", str(request))
        extensions.write_text(f"subjectAltName={hosts}\n", encoding="ascii")
        _openssl("x509", "-req", "-in", str(request), "-CA", str(self.cert), "-CAkey", str(self._key),
                 "-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", str(cert))  # fmt: skip
        return cert, key


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
