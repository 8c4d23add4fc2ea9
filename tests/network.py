"""A network of one's own between a client and a server, to be cut."""

from __future__ import annotations

import contextlib
import socket
import threading


class Network:
    """Passes bytes between client and server, and swallows them without a word when it is told to.

    Args:
        target: The server: ``host:port``, or ``unix://`` and a socket's path.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._cut: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._parted = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on the connections that there are carry nothing; new ones do."""
        self._cut |= self._open

    def part(self) -> None:
        """From now on nothing is carried at all, until `heal`."""
        self._parted = True
        self.cut()

    def heal(self) -> None:
        """New connections carry again."""
        self._parted = False

    def close(self) -> None:
        """End it, with every connection."""
        for connection in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._open.add(near)
                if self._parted:
                    # As if it were on its way for ever.
                    self._cut.add(near)
                    continue
                try:
                    far = self._connect()
                except OSError:
                    near.close()
                    continue
                self._open.add(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _connect(self) -> socket.socket:
        if self._target.startswith("unix://"):
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._target.removeprefix("unix://"))
            except OSError:
                far.close()
                raise
            return far
        host, _, port = self._target.rpartition(":")
        return socket.create_connection((host, int(port)))

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._cut:
                    sink.sendall(data)
        if source not in self._cut:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
