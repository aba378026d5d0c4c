"""
File descriptors: what is refused when this process has almost as many as it may have.

The kernel gives a new descriptor the lowest free number. So if its number is n, at least n are in use. Near the limit,
new connections and large files to send are refused. The rest is for originals, renders, purges and the journal.

At the limit itself libuv closes new connections without an error, and every open(2) fails. If accept(2) fails in
another way, uvloop stops listening for good.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys

from imgproxy.edge.errors import TooManyConnections

log = logging.getLogger(__name__)

# So many are kept free. Settings bound what needs them, and it is less: fetches, calls to caches in front, render
# processes, files under way.
RESERVE_MAX = 128


def limit_of_process() -> int:
    """Return how many descriptors this process may have: the soft limit. Source: getrlimit(2)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """Admits connections and files below a limit of descriptors. `refused` counts those that were not admitted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        reserve = min(RESERVE_MAX, limit // 4)
        self._connections_end = limit - reserve
        self._files_end = limit - reserve // 2
        self._free_end = limit - 2 * reserve
        self.refused = 0
        self._refused_before = 0
        self._is_short = False

    def admits_connection(self, descriptor: int) -> bool:
        """Whether a new connection with this descriptor may stay. Its caller closes it if not."""
        if descriptor >= self._connections_end:
            self._refuse()
            return False
        if self._is_short and descriptor < self._free_end:
            self._is_short = False
            refused, self._refused_before = self.refused - self._refused_before, self.refused
            log.warning("file descriptors are free again; %d connections and files were refused", refused)
        return True

    def open_to_send(self, path: str) -> int:
        """
        Open a file that is sent in parts, and return its descriptor.

        Raises:
            TooManyConnections: no descriptor is left for it.
            OSError: it cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._refuse()
            raise TooManyConnections from error
        if descriptor >= self._files_end:
            os.close(descriptor)
            self._refuse()
            raise TooManyConnections
        return descriptor

    def _refuse(self) -> None:
        """Count, and log the first refusal until descriptors are free again."""
        self.refused += 1
        if not self._is_short:
            self._is_short = True
            text = "almost all of %d file descriptors are in use: new connections and large files are refused"
            log.error(text, self.limit)
