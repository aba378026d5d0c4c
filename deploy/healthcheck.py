# ruff: noqa: INP001 - a script for the container's HEALTHCHECK, not a part of the package
"""
Exit 0 if the edge in this container answers /-/health with 200, else 1 with one line of why.

The port comes from IMGPROXY_SERVER__PORT, as for the service; a port in a configuration file must be set there, too.
http.client and not urllib, as a proxy in the environment must not be asked for 127.0.0.1.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> str | None:
    """None if healthy, else the reason."""
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
