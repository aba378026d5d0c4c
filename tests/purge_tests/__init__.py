"""
Black-box tests of purges, for any caching proxy that fetches from an origin over HTTP.

    cd tests && python -m purge_tests                      every proxy that can be started here, as a table
    cd tests && python -m purge_tests --target http://host:port --origin-port 9191 --purge PURGE

The suite is the origin. It holds its answers as a scenario needs, purges the proxy meanwhile, and checks the answers
that the proxy gives.
"""

import sys
from pathlib import Path

if __name__ == "purge_tests":
    # When run from tests/, that directory comes first in the path, and tests/http would hide Python's own `http`.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parents[1]]
