# ruff: noqa: INP001 - a script for the container's HEALTHCHECK, not a part of the package
"""
Exit with 0 if the edge in this container answers /-/health with 200, else with 1 and one line with the reason.

The port comes from IMGPROXY_SERVER__PORT. If a configuration file sets another port, set it there, too. http.client
ignores proxies in the environment; urllib would send a request for 127.0.0.1 to them.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> str | None:
    """Return None if the edge is healthy, else the reason."""
    port = os.environ.get("IMGPROXY_SERVER__PORT", "8080")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3)
        connection.request("GET", "/-/health")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"/-/health on port {port}: {error}"
    return None if status == http.client.OK else f"/-/health on port {port} answered {status}"


if __name__ == "__main__":
    sys.exit(main())
