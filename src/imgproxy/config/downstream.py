"""The settings of one cache in front, Varnish or a CDN: `[[downstream]]`, as many as there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from imgproxy.config.sections import Secret, Section

# The keys that each kind needs, and the kind that a key is for.
_DOWNSTREAM_NEEDS = {
    "varnish": ("url",),
    "fastly": ("service_id", "token"),
    "cloudflare": ("zone_id", "token"),
    "http": ("url",),
}
_DOWNSTREAM_ONLY = {
    "service_id": "fastly",
    "zone_id": "cloudflare",
    "plan": "cloudflare",
    "method": "http",
    "headers": "http",
    "body": "http",
    "content_type": "http",
    "accept_statuses": "http",
    "concurrency": "http",
}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
# RFC 9110 section 5: a name is a token. A line break in a value would add another header. An empty value is refused, as
# it may be a password that a template did not fill in.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?=.*[!-~])[\t\x20-\x7e]*")


class DownstreamSettings(Section):
    """A cache in front (Varnish or a CDN) that is purged, too."""

    kind: Literal["varnish", "fastly", "cloudflare", "http"] = Field(
        description="Varnish with xkey, Fastly, Cloudflare, or any other HTTP API"
    )
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]{0,64}$",
        description="its name in receipts, metrics and the journal; not set: its kind",
    )
    url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+",
        description="varnish: address for PURGE; http: URL of the call, with {key}, {tag} or {entry} here or in the "
        "body; else: another address of the API",
    )
    token: Secret | None = Field(
        None,
        description="varnish: bearer token that its VCL expects; fastly, cloudflare: API token; http: value of {token}",
    )
    token_file: Path | None = Field(
        None, description="file with the token, instead of `token`; read again when it changes"
    )
    service_id: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$", description="fastly: id of the service")
    zone_id: str | None = Field(None, pattern=r"^[0-9a-f]{32}$", description="cloudflare: id of the zone")
    plan: Literal["free", "pro", "business", "enterprise"] = Field(
        "free", description="cloudflare: plan of the account; it limits the purges per second"
    )
    method: Literal["POST", "PUT", "PATCH", "DELETE", "GET", "PURGE", "BAN"] = Field(
        "POST", description="http: method of the call"
    )
    headers: dict[str, str] = Field({}, description="http: headers; {token} in a value is replaced by the token")
    body: str = Field(
        "",
        description="http: body, with {key}, {tag} or {entry} here or in the URL; escaped for the content type",
    )
    content_type: str = Field("application/json", pattern=r"^[ -~]+$", description="http: content type of the body")
    accept_statuses: tuple[Annotated[int, Field(ge=200, le=499)], ...] = Field(
        (200, 201, 202, 204),
        description="http: statuses that mean success; some APIs answer 404 if they hold nothing of it",
    )
    concurrency: int = Field(4, ge=1, le=64, description="http: calls at the same time")
    timeout_s: float = Field(5.0, gt=0, le=60, description="a call that takes longer has failed and is tried again")
    wait_s: float = Field(
        1.0,
        ge=0,
        le=30,
        description="a receipt waits this long for it, then says pending; the calls go on in the background",
    )
    again_after_s: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="purge a second time after this, for answers under way at the first. Not set: settle_s; 0: never",
    )
    retry_max_s: float = Field(
        60.0, ge=0.1, le=3600, description="longest wait between tries; they go on until one succeeds"
    )

    @property
    def label(self) -> str:
        """The name; without one, the kind."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            f"kind = {self.kind!r} needs {need}{' or token_file' if need == 'token' else ''}"
            for need in _DOWNSTREAM_NEEDS[self.kind]
            if getattr(self, need) is None and not (need == "token" and self.token_file is not None)
        ]
        problems += [
            f"{key} is for kind = {kind!r} only"
            for key, kind in _DOWNSTREAM_ONLY.items()
            if key in self.model_fields_set and kind != self.kind
        ]
        if self.token is not None and self.token_file is not None:
            problems.append("token and token_file: give one of them")
        if self.kind == "http":
            problems += self._template_problems()
        elif self.url is not None and _PLACEHOLDER.search(self.url):
            problems.append("url: placeholders are for kind = 'http' only")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _template_problems(self) -> list[str]:
        """Return what is wrong with url, headers and body as templates."""
        problems = []
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                problems.append(f"headers: {name!r} is not a header name with a value of visible ASCII")
            if set(_PLACEHOLDER.findall(value)) - {"token"}:
                problems.append(f"headers: {name}: only {{token}} is allowed in a header")
        is_token_used = any("{token}" in value for value in self.headers.values())
        if is_token_used and self.token is None and self.token_file is None:
            problems.append("headers: {token} needs token or token_file")
        used = set(_PLACEHOLDER.findall((self.url or "") + self.body))
        if used - {"key", "tag", "entry"}:
            unknown = ", ".join(sorted(used - {"key", "tag", "entry"}))
            problems.append(f"url, body: unknown placeholder {unknown} (known: key, tag, entry)")
        if not used & {"key", "tag", "entry"}:
            problems.append("url or body must hold {key}, {tag} or {entry}, to say what is purged")
        if {"key", "entry"} <= used:
            problems.append("{key} and {entry}: a call is for a key or for an entry; use one of them, or {tag}")
        return problems
