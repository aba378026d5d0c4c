"""The command line; see the package."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from . import __doc__ as about
from . import doors
from .doors import Doors, Results, run_doors
from .origin import origin
from .scenarios import SCENARIOS, run
from .start import SEVERAL, STARTERS, NotInstalled
from .table import as_json, markdown, page
from .targets import Target

# The services with several doors that are started if there is a database, and nothing else is chosen.
OF_THE_PAGE = ("imgproxy-cluster", "imgproxy-apart")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="purge_tests", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    started = parser.add_argument_group("proxies started here")
    names = [*STARTERS, *SEVERAL]
    started.add_argument("--start", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    started.add_argument("--database-url", metavar="URL", help="the PostgreSQL of imgproxy-cluster")
    running = parser.add_argument_group("a proxy that runs already")
    running.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="URL",
        help="where it listens; it must fetch from this suite's origin. Twice or more: doors of one service, such as nodes",
    )
    running.add_argument("--name", default="target", help="its name in the table")
    running.add_argument("--origin-port", type=int, default=9191, help="the port the origin listens on (%(default)s)")
    running.add_argument("--origin-host", default="127.0.0.1", help="the address it listens on (%(default)s)")
    running.add_argument("--purge", choices=["PURGE", "BAN", "xkey", "none"], default="PURGE", help="how it is purged")
    running.add_argument("--purge-url", metavar="URL", help="where purges go, if not to the target")
    running.add_argument("--purge-header", action="append", default=[], metavar="NAME:VALUE", help="sent with purges")
    running.add_argument(
        "--webhook-secret", metavar="TEXT", help="several doors of imgproxy: test webhooks and receipts"
    )
    parser.add_argument("--only", metavar="TEXT", help="only scenarios whose title has this in it")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--page",
        metavar="FILE",
        type=Path,
        help="also write the tables as a page of the documentation; with --database-url, nodes of a cluster, too",
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    return parser.parse_args(arguments)


async def run_started(chosen: argparse.Namespace) -> Results:
    """Start each proxy in front of an origin of its own, and run the scenarios. Names what is missing."""
    results: Results = []
    for name in chosen.start or [*STARTERS, *(OF_THE_PAGE if chosen.database_url else ())]:
        with tempfile.TemporaryDirectory(prefix="purge-tests-") as directory:
            place = Path(directory) / name
            async with origin() as there:
                try:
                    if name in SEVERAL:
                        async with SEVERAL[name](place, there.port, chosen.database_url) as service:
                            results += await run_doors(service, there, chosen.only)
                    else:
                        async with STARTERS[name](place, there.port) as target:
                            sys.stderr.write(f"{target.name} {target.version}\n")
                            results.append((target, await run(target, there, chosen.only)))
                except NotInstalled as missing:
                    sys.stderr.write(f"{name}: {missing} is not there; left out\n")
    return results


async def run_running(chosen: argparse.Namespace) -> Results:
    """Run the scenarios on a proxy that runs already, or on the doors of a service."""
    headers = dict(item.split(":", 1) for item in chosen.purge_header)
    targets = [
        Target(
            chosen.name if len(chosen.target) == 1 else f"{chosen.name} {number}",
            url,
            chosen.purge,
            chosen.purge_url,
            {name.strip(): value.strip() for name, value in headers.items()},
        )
        for number, url in enumerate(chosen.target, 1)
    ]
    async with origin(chosen.origin_port, chosen.origin_host) as there:
        if len(targets) == 1:
            return [(targets[0], await run(targets[0], there, chosen.only))]
        return await run_doors(Doors(chosen.name, tuple(targets), chosen.webhook_secret), there, chosen.only)


def main() -> int:
    """Run and print. The exit code is 0 if every scenario holds or does not apply, 2 if nothing was tested."""
    chosen = parse(sys.argv[1:])
    scenarios = {title: (scenario.__doc__ or "").strip() for title, scenario in SCENARIOS}
    of_doors = {title: (scenario.__doc__ or "").strip() for title, scenario in doors.SCENARIOS}
    if chosen.list:
        sys.stdout.writelines(f"{title}: {text}\n" for title, text in (scenarios | of_doors).items())
        return 0
    results = asyncio.run(run_running(chosen) if chosen.target else run_started(chosen))
    sys.stdout.write(as_json(results) if chosen.json else markdown(results))
    if chosen.page is not None:
        date = datetime.now(UTC).date().isoformat()
        command = "python -m purge_tests --page ../docs/purge-comparison.md"
        if any(target.service for target, _ in results):
            command += " --database-url postgresql://…"
        text = page(results, scenarios=scenarios, of_doors=of_doors, date=date, command=command)
        chosen.page.write_text(text, "utf-8")
    if not results:
        return 2  # nothing was tested
    return 0 if all(item.holds is not False for _, outcomes in results for item in outcomes.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
