"""
Black-box tests of what a purge means, for any caching proxy that fetches from an origin over HTTP.

    cd tests && python -m purge_tests                      every proxy that can be started here, as a table
    cd tests && python -m purge_tests --target http://host:port --origin-port 9191 --purge PURGE

The suite plays the origin, holds its answers where a scenario says so, purges in between, and looks at what comes out.
"""

import sys
from pathlib import Path

if __name__ == "purge_tests":
    # Run from tests/, that directory comes first, and the tests of HTTP in it would stand in for Python's own `http`.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parents[1]]
