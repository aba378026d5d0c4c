r"""
Black-box tests of purges, for any caching proxy that fetches from an origin over HTTP.

    cd tests && python -m purge_tests                      every proxy that can be started here, as a table
    cd tests && python -m purge_tests --target http://host:port --origin-port 9191 --purge PURGE
    cd tests && python -m purge_tests --start imgproxy-cluster --database-url postgresql://…
    cd tests && python -m purge_tests --target http://a:8080 --target http://b:8080 --origin-port 9191 \
        --purge-header 'Authorization: Bearer …' --webhook-secret …

The suite is the origin. It holds its answers as a scenario needs, purges the proxy meanwhile, and checks the answers
that the proxy gives. With several targets it purges at one of them, and checks the answers of all.
"""

import sys
from pathlib import Path

if __name__ == "purge_tests":
    # When run from tests/, that directory comes first in the path, and tests/http would hide Python's own `http`.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parents[1]]
