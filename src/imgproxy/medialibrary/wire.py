"""
Connections for blocking fetches, by urllib3: each can be cut from another thread, and says what the origin sent amiss.

What http.client does not do, and httpx did: cut, look behind a body for bytes that nobody announced, skip interim
answers (RFC 9110 section 15.2), and give an idle connection up before a Node server closes it.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import ssl

KEEPALIVE_EXPIRY_S: Final = 4.0  # below the 5 s of Node's servers, whose close would race with our next request
# Hosts that serve-image redirected to, beside the library itself.
HOSTS_MAX: Final = 8


class CutError(OSError):
    """The fetch was given up by whoever waited for it."""


class Lifeline:
    """Ends what a thread waits for, from outside. One a fetch; `cut` may be called at any time, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False
        self.has_file = False

    def hold(self, sock: socket.socket) -> None:
        """
        Hold on to the socket that is waited for.

        A descriptor of our own: the thread may close its one at any time, and the system give its number to another.

        Raises:
            CutError: the fetch was given up already.
        """
        with self._lock:
            self._let_go()
            self.raise_if_cut()
            self._socket = socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))

    def raise_if_cut(self) -> None:
        """
        End the fetch here where it was given up.

        Raises:
            CutError: it was.
        """
        if self.is_cut:
            raise CutError

    def let_go(self) -> None:
        """The fetch is over."""
        with self._lock:
            self._let_go()

    def cut(self) -> None:
        """End the connection now: a read under way returns at once, and the other side sees its end."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Thread(threading.local):
    """The lifeline of the fetch that this thread is at; urllib3 has no way to hand it to a connection."""

    lifeline: Lifeline | None = None


THREAD: Final = _Thread()


class _Response(http.client.HTTPResponse):
    """An answer that is an error where its length is in doubt, or more bytes come behind it."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._wire = sock
        self._has_surplus = False

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc] # not in typeshed
        is_interim = 100 < status < 200 and status != http.HTTPStatus.SWITCHING_PROTOCOLS
        return version, http.HTTPStatus.CONTINUE if is_interim else status, reason

    def begin(self) -> None:
        super().begin()
        lengths = set(self.headers.get_all("content-length", ()))
        if not self.chunked and (len(lengths) > 1 or (lengths and self.length is None)):
            raise http.client.HTTPException("a Content-Length that is none")

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(amt)
        if self._has_surplus:
            raise http.client.HTTPException("more than the announced length came")
        return data

    def _close_conn(self) -> None:
        # Here the last announced byte was read, and what the buffer holds behind it is still there.
        if self.length == 0 and not self.chunked and self.fp is not None and self._is_more_there():
            self._has_surplus = True
            with suppress(OSError):
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)  # its rest must not answer another call
        super()._close_conn()  # type: ignore[misc] # not in typeshed

    def _is_more_there(self) -> bool:
        """Whether bytes lie in the buffer or in the kernel; does not wait for any."""
        try:
            timeout_s = self._wire.gettimeout()
            self._wire.settimeout(0)
            try:
                return bool(self.fp.peek(1))
            finally:
                self._wire.settimeout(timeout_s)
        except (OSError, ValueError):
            return False  # nothing yet, or a TLS record that is not whole


class _Connection:
    """What both kinds of connection do besides."""

    response_class = _Response
    good_until_s = 0.0

    def getresponse(self) -> Any:
        if THREAD.lifeline is not None:
            THREAD.lifeline.hold(self.sock)  # type: ignore[attr-defined]
        self.good_until_s = time.monotonic() + KEEPALIVE_EXPIRY_S
        return super().getresponse()  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        return time.monotonic() < self.good_until_s and super().is_connected  # type: ignore[misc]


class _HttpConnection(_Connection, HTTPConnection):  # type: ignore[misc]
    pass


class _HttpsConnection(_Connection, HTTPSConnection):  # type: ignore[misc]
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def connections(*, max_idle: int, ssl_context: ssl.SSLContext) -> urllib3.PoolManager:
    """Return pools of cuttable connections that keep up to `max_idle` open a host. Proxy variables are not read."""
    manager = urllib3.PoolManager(num_pools=HOSTS_MAX, maxsize=max_idle, block=False, ssl_context=ssl_context)
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager
