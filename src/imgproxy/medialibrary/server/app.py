"""The embedded library as an aiohttp application: its routes, and its errors as JSON."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server.admin import Admin
from imgproxy.medialibrary.server.api import Api
from imgproxy.medialibrary.server.openapi import document
from imgproxy.medialibrary.server.problems import Problem, invalid, named, unknown_route
from imgproxy.medialibrary.server.serving import ImageServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproxy.medialibrary.server.access import AccessToken
    from imgproxy.medialibrary.server.faults import Faults
    from imgproxy.medialibrary.server.probe import Probe
    from imgproxy.medialibrary.server.store import LibraryStore

BODY_MAX_BYTES: Final = 1024 * 1024

log = logging.getLogger(__name__)


def make_app(
    store: LibraryStore,
    *,
    tokens: Sequence[AccessToken],
    faults: Faults,
    probe: Probe | None = None,
    oldest_version: str = versions.API_VERSIONS[0],
    default_locale: str = "de",
) -> web.Application:
    """Make the application that serves a store. API versions before `oldest_version` answer 410."""
    app = web.Application(middlewares=[_answer_errors_as_json], client_max_size=BODY_MAX_BYTES)
    api = Api(
        store,
        ImageServer(store, probe),
        tokens=tokens,
        faults=faults,
        probe=probe,
        oldest_version=oldest_version,
    )

    async def openapi(request: web.Request) -> web.StreamResponse:
        version = request.query.get("version", versions.NEWEST)
        if not versions.is_served(version) or version < oldest_version:
            raise invalid({"version": f"Expected {versions.EXPECTED}"})
        return web.json_response(document(version, default_locale=default_locale))

    app.add_routes([web.get("/openapi.json", openapi), *api.routes(), *Admin(store, tokens).routes()])
    return app


@web.middleware
async def _answer_errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return _answer(problem)
    except web.HTTPMethodNotAllowed as exc:
        allowed = ", ".join(sorted(exc.allowed_methods))
        return _answer(
            named(405, "MethodNotAllowed", f"{exc.method[:40]} is not allowed here; allowed: {allowed}", allow=allowed)
        )
    except web.HTTPNotFound:
        return _answer(unknown_route())
    except web.HTTPRequestEntityTooLarge:
        return _answer(named(413, "PayloadTooLarge", f"The body has more than {BODY_MAX_BYTES} bytes"))
    except web.HTTPException as exc:
        return _answer(named(exc.status, HTTPStatus(exc.status).phrase.replace(" ", ""), exc.reason))
    except (ConnectionError, TimeoutError):
        raise  # the client has gone, so there is no answer to write
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _answer(named(500, "InternalServerError", "The reason is in the log of the library"))


def _answer(problem: Problem) -> web.Response:
    return web.json_response(problem.to_json(), status=problem.status, headers=dict(problem.headers))
