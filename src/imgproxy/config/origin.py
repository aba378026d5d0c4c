"""The section `[origin]`: the Media Library that originals come from, and the way to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from imgproxy.config.sections import Secret, Section

_OLDEST_VERSION: Final = "2025-03"
# A token (RFC 9110 section 5.6.2).
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Headers that this service sets itself. Another value would break the call, or send the token elsewhere.
_OWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "if-modified-since",
        "if-none-match",
        "range",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)


def _api_version(given: str) -> str:
    # `medialibrary.versions.is_version` has the same rule. That room lies above this one.
    if not re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", given) or given < _OLDEST_VERSION:
        raise ValueError(f"expected a version as YYYY-MM, {_OLDEST_VERSION} or later, e.g. 2026-05")
    return given


def _header_name(given: str) -> str:
    if not _HEADER_NAME.fullmatch(given):
        raise ValueError("expected the name of a header, e.g. CF-Access-Client-Id")
    if given.lower() in _OWN_HEADERS:
        raise ValueError(f"{given} is set by this service; expected another header")
    return given


class OriginSettings(Section):
    """The Media Library that originals come from."""

    url: str = Field("http://127.0.0.1:9090", pattern=r"^https?://", description="the Livingdocs server, without /api")
    api_version: Annotated[str, AfterValidator(_api_version)] = Field(
        "2026-05",
        description="Public API version, YYYY-MM from 2025-03 on; purging by entry needs 2026-03 or later. A version "
        "newer than this program is spoken as the newest that it knows",
    )
    token: Secret | None = Field(None, description="access token with the scope public-api:read")
    token_file: Path | None = Field(
        None,
        description="file with the token, instead of `token`; read again when it changes. Two lines: new and old token",
    )
    timeout_s: float = Field(
        10.0, gt=0, le=300, description="time limit for one original or one API call, retries included"
    )
    redirect_hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")], ...] = Field(
        (),
        description="other hosts that the library may redirect to, such as a file store; with a port if it is not 80 "
        "or 443. They never get the token",
    )
    proxy: Secret | None = Field(
        None,
        description="proxy between this service and the library, e.g. http://user:password@proxy.example:3128. Proxies "
        "in the environment are not used",
    )
    ca_file: Path | None = Field(
        None,
        description="certificates (PEM) of authorities that are trusted for https, besides those of the system; read "
        "once, at start",
    )
    client_certificate_file: Path | None = Field(
        None,
        description="certificate (PEM, with its chain) that this service shows to a server which asks for one; read "
        "once, at start",
    )
    client_key_file: Path | None = Field(
        None,
        description="key (PEM, not encrypted) of the client certificate; without it, it is in the same file; read "
        "once, at start",
    )
    headers: dict[Annotated[str, AfterValidator(_header_name)], Secret] = Field(
        {},
        description="headers that each request to the library has, besides the token, such as those of an access proxy "
        "in front of it. Other hosts never get them",
    )
    fetches_max: int = Field(16, ge=1, le=1000, description="most originals that are fetched at the same time")
    fetch_queue_max: int = Field(
        64, ge=0, le=100_000, description="most fetches that may wait; further requests get 503"
    )
