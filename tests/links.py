"""A network link that can be cut: while it is, packets vanish and nobody is told."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress


class Link:
    """A TCP proxy on the loopback to a port there.

    Parameters
    ----------
    target : int
        The port that connections are forwarded to.
    """

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._cut, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Lose every packet until `mend`."""
        self._cut.set()

    def mend(self) -> None:
        """Forward again. Connections of before are gone."""
        self._cut.clear()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        for end in [self._listener, *self._ends]:
            end.close()

    def _run(self) -> None:
        was_cut = False
        while not self._closed.is_set():
            if self._cut.is_set():
                was_cut = True
                self._closed.wait(0.05)
                continue
            if was_cut:
                was_cut = False
                for end in list(self._ends):
                    self._drop(end)
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._connect()
                else:
                    self._forward(key.fileobj)  # type: ignore[arg-type]

    def _connect(self) -> None:
        near = self._listener.accept()[0]
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            self._ends[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        if end not in self._ends:
            return
        data = b""
        with suppress(OSError):
            data = end.recv(1 << 16)
            if data:
                self._ends[end].sendall(data)
                return
        self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._ends.pop(end, None)
        for one in filter(None, (end, other)):
            self._ends.pop(one, None)
            with suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()
