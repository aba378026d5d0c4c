"""
The pages for visitors: the landing page, the list of URL parameters, `robots.txt` and the icon.

They need no token, hold no secret, load nothing from elsewhere, and the Media Library is never asked. So no picture can
have their paths.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from imgproxy import __version__
from imgproxy.edge.errors import MethodNotAllowed
from imgproxy.edge.headers import SERVER
from imgproxy.params.table import SECTIONS

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter

ASSETS: Final = Path(__file__).parent / "assets"
LANDING: Final = "/"
PARAMETERS: Final = "/-/parameters"
PLAYGROUND: Final = "/-/playground"
ROBOTS: Final = "/robots.txt"
ICON: Final = "/favicon.ico"
# Raw paths, without their query, that are pages and not images.
PAGE_PATHS: Final = frozenset({LANDING, PARAMETERS, ROBOTS, ICON})
ALLOWED_METHODS: Final = "GET, HEAD, OPTIONS"
# As browsers call it when they look at the bytes (WHATWG MIME Sniffing, 6.1). The registered name is known to fewer.
ICON_TYPE: Final = "image/x-icon"
# After an update of the service a page shows the new version this soon. Icon and robots.txt hardly change.
PAGE_MAX_AGE_S: Final = 300
FILE_MAX_AGE_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it is sent. `type` is the media type."""

    type: str
    body: bytes
    headers: dict[str, str]


class Pages:
    """Answers GET, HEAD and OPTIONS of the pages. Every page is made once, at start."""

    def __init__(self, *, has_playground: bool = False) -> None:
        style = (ASSETS / "page.css").read_text("utf-8")
        template = Template((ASSETS / "page.html").read_text("utf-8"))
        policy = _content_security_policy(style)

        def page(title: str, body: str, root: str) -> Page:
            text = template.substitute(title=title, body=body, root=root, style=style, version=__version__)
            headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
            return Page("text/html", text.encode(), _kept_for(PAGE_MAX_AGE_S) | headers)

        vary = {"Vary": "Accept"}
        landing = page("imgproxy", _landing(has_playground=has_playground), ".")
        self._landing = Page(landing.type, landing.body, landing.headers | vary)
        self._summary = Page(
            "application/json", _summary(has_playground=has_playground), _kept_for(PAGE_MAX_AGE_S) | vary
        )
        self._others = {
            PARAMETERS: page("URL parameters", _parameter_list(), ".."),
            ROBOTS: Page("text/plain", (ASSETS / "robots.txt").read_bytes(), _kept_for(FILE_MAX_AGE_S)),
            ICON: Page(ICON_TYPE, (ASSETS / "favicon.ico").read_bytes(), _kept_for(FILE_MAX_AGE_S)),
        }

    def answer(self, request: web.BaseRequest, path: str) -> web.Response:
        """
        Answer a request for a page. The landing page is HTML for browsers, else a few lines of JSON.

        Raises:
            MethodNotAllowed: the method is not GET, HEAD or OPTIONS.
        """
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": ALLOWED_METHODS, **SERVER})
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(request.method, ALLOWED_METHODS)
        if path == LANDING:
            wants_html = accepts_html(", ".join(request.headers.getall("Accept", ())))
            page = self._landing if wants_html else self._summary
        else:
            page = self._others[path]
        charset = "utf-8" if page.type.startswith("text/") else None
        return web.Response(body=page.body, content_type=page.type, charset=charset, headers=page.headers)


def accepts_html(accept: str) -> bool:
    """Whether an Accept header names HTML, as those of browsers do. `*/*`, which programs send, does not count."""
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        if kind == "text/html":
            return not any(
                _is_zero(value) for name, _, value in (each.partition("=") for each in parameters) if name == "q"
            )
    return False


def _is_zero(weight: str) -> bool:
    """Whether a weight is zero: the type is not accepted (RFC 9110 12.4.2)."""
    return weight.strip("0") in ("", ".")


def _content_security_policy(style: str) -> str:
    """Return a policy that allows the style of the pages, by its hash, and the icon; nothing else, and no frame."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _kept_for(seconds: int) -> dict[str, str]:
    return {
        "Cache-Control": f"public, max-age={seconds}",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        **SERVER,
    }


def _landing(*, has_playground: bool) -> str:
    """Return the body of the landing page."""
    text = (ASSETS / "landing.html").read_text("utf-8")
    link = f'<p><a href=".{PLAYGROUND}">Playground</a>: try every parameter on the pictures of this library.</p>\n'
    return Template(text).substitute(playground=link if has_playground else "")


def _summary(*, has_playground: bool) -> bytes:
    """Return the landing page for programs."""
    facts = {
        "service": "imgproxy-edge",
        "version": __version__,
        "health": "/-/health",
        "ready": "/-/ready",
        "parameters": PARAMETERS,
    }
    if has_playground:
        facts["playground"] = PLAYGROUND
    return json.dumps(facts).encode() + b"\n"


def _parameter_list() -> str:
    """Return the body of the page that lists every parameter, from the table that also reads the URLs."""
    sections = (
        f"<section>\n<h2>{html.escape(title)}</h2>\n{''.join(map(_parameter, rows))}</section>"
        for title, rows in SECTIONS
    )
    intro = '<p><a href="../">Back</a>. Of two names for one parameter, either may be used.</p>'
    return "\n".join((intro, *sections))


def _parameter(row: Parameter[Any]) -> str:
    names = ", ".join(f"<code>{html.escape(name)}</code>" for name in row.names)
    default = f"; default: {_with_code(row.default)}" if row.default else ""
    return (
        f'<div class="row">\n<p>{names} <span class="quiet">{_with_code(row.kind.expected)}{default}</span></p>\n'
        f"<p>{_with_code(row.effect)}</p>\n</div>\n"
    )


def _with_code(markdown: str) -> str:
    """Return a text as HTML: what is between backquotes is code. The table has no other mark-up."""
    parts = html.escape(markdown).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
