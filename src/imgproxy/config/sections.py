"""
Settings: a TOML file, then the environment (`IMGPROXY_<SECTION>__<KEY>`), validated once and frozen.

Each setting is declared once, here: its name, type, default, bounds, unit (in the name) and one line of help. The
validation, `config.example.toml` and the documentation all come from this declaration (see settings.py). A wrong
key or value is a ConfigError that names the section, the key and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from imgproxy.params import table

MB = 1_000_000
GB = 1_000 * MB


class Section(BaseModel):
    """A section of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    """Where the edge listens."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    shutdown_timeout_s: float = Field(
        20.0, ge=0, le=600, description="after SIGTERM, requests in flight may take this long to finish"
    )


class OriginSettings(Section):
    """The Media Library that originals come from."""

    url: str = Field("http://127.0.0.1:9090", pattern=r"^https?://", description="the Livingdocs server, without /api")
    api_version: Literal["2025-03", "2025-05", "2025-07", "2025-09", "2025-11", "2026-01", "2026-03", "2026-05"] = (
        Field("2026-05", description="Public API version; purging by entry needs 2026-03 or later")
    )
    token: SecretStr | None = Field(None, description="access token with the scope public-api:read")
    token_file: Path | None = Field(
        None,
        description="file with the token instead; read again when it changes. Two lines: new and old token",
    )
    timeout_s: float = Field(10.0, gt=0, le=300, description="time for one original or API call, retries included")
    fetches_max: int = Field(16, ge=1, le=1000, description="originals fetched at the same time")
    fetch_queue_max: int = Field(64, ge=0, le=100_000, description="fetches that may wait; one more is shed: 503")


class RenderSettings(Section):
    """The processes that decode and encode."""

    processes: int = Field(0, ge=0, le=256, description="render processes; 0 means one a core this service may use")
    timeout_s: float = Field(10.0, gt=0, le=300, description="a render that takes longer is stopped: 422")
    memory_bytes: int = Field(1_500 * MB, ge=100 * MB, description="a render process that grows larger is stopped: 422")
    recycle_bytes: int = Field(
        400 * MB, ge=50 * MB, description="an idle render process larger than this is replaced by a fresh one"
    )
    queue_max: int = Field(64, ge=0, le=100_000, description="renders that may wait; one more is shed: 503")
    queue_timeout_s: float = Field(
        5.0,
        gt=0,
        le=300,
        description="a render that waited longer, or would by the cost of those before it, is shed: 503",
    )
    avif: Literal["wait", "upgrade"] = Field(
        "wait",
        description="a negotiated AVIF that is not there yet: wait for it, or answer with WebP and make it behind",
    )
    allow_truncated: bool = Field(False, description="serve what can be decoded of a truncated original")
    metadata: Literal["none", "credit", "all"] = Field(
        "credit", description="metadata that variants keep; GPS, serial numbers and thumbnails never survive"
    )


class LimitsSettings(Section):
    """What is refused, and what is scaled down."""

    source_bytes: int = Field(100 * MB, ge=1, description="largest original in bytes: 413 beyond")
    source_pixels: int = Field(
        60_000_000,
        ge=1,
        description="most pixels of an original, frames summed: 413 beyond; of an animation its first frame is served",
    )
    frames: int = Field(256, ge=1, description="most frames of an animation; beyond, its first frame is served")
    output_px: int = Field(8192, ge=1, le=16383, description="longest side of a variant; larger is scaled down")


class SigningSettings(Section):
    """The `s` parameter of imgix URLs."""

    tokens: tuple[SecretStr, ...] = Field(
        (), description="secure tokens; any of them signs, so that they can be rotated"
    )
    tokens_file: Path | None = Field(
        None, description="file with one token a line, instead of or beside `tokens`; read once, at start"
    )
    required: bool = Field(
        False,
        description="refuse URLs without a valid signature: 403. Turn it on wherever strangers can reach the edge",
    )
    allow_decoded_path: bool = Field(
        False,
        description="also accept a signature over the decoded path, as a CMS makes it that signs before it encodes",
    )
    mount_prefix: str = Field(
        "",
        pattern=r"^(/[^?#]*[^/?#])?$",
        description="path prefix of the image host that is not part of the signed path",
    )


class AdminSettings(Section):
    """Who may purge, warm and read the state."""

    token: SecretStr | None = Field(None, description="bearer token of the admin routes; without one they are closed")
    token_file: Path | None = Field(None, description="file with the admin token instead; read once, at start")


class CacheSettings(Section):
    """The disk and memory that variants are kept in."""

    dir: Path = Field(Path("cache"), description="directory of originals, variants and the purge journal")
    max_bytes: int = Field(
        20 * GB, ge=0, description="originals and variants on disk; the least recently used go first"
    )
    min_free_bytes: int = Field(1 * GB, ge=0, description="free space to leave on the disk whatever max_bytes says")
    hot_max_bytes: int = Field(256 * MB, ge=0, description="variants in memory; 0 turns the hot tier off")
    hot_item_max_bytes: int = Field(
        2 * MB, ge=0, description="a larger variant is served from disk, never kept in memory"
    )
    landing_bytes: int = Field(
        10 * MB,
        ge=0,
        description="originals up to this size are rendered from shared memory as they come, and go to disk past the "
        "page cache; there is memory for two a render process and four. 0: through the page cache",
    )


class FreshnessSettings(Section):
    """How long answers live, here and further down."""

    revalidate_after_s: float = Field(
        300.0,
        ge=0,
        description="an original is asked for again after this time, behind the answer: the takedown bound",
    )
    stale_if_error_s: float = Field(
        86_400.0,
        ge=0,
        description="past that, while the origin is down, variants are served for this time; then 502",
    )
    negative_ttl_s: float = Field(30.0, ge=0, le=3600, description="a 403 or 404 of the origin is remembered this long")
    settle_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="originals fetched this soon after a purge are checked again when it ends",
    )
    browser_ttl_s: int = Field(
        300,
        ge=0,
        description="max-age for browsers: no purge reaches them, so this is how long they may show the old",
    )
    cdn_ttl_s: int | None = Field(
        None,
        ge=0,
        description="CDN-Cache-Control max-age; unset: a day where a [[downstream]] is purged, else browser_ttl_s",
    )
    error_ttl_s: int = Field(60, ge=0, le=3600, description="max-age of a 4xx that lies in the URL or the picture")
    stale_while_revalidate_s: int = Field(
        0,
        ge=0,
        description="emit stale-while-revalidate; allows a CDN to serve a revoked picture that long. 0: not emitted",
    )
    emit_stale_if_error_s: int = Field(
        0,
        ge=0,
        description="emit stale-if-error; allows a CDN to serve a revoked picture that long. 0: not emitted",
    )


class PurgeSettings(Section):
    """How a purge is acknowledged."""

    drain_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="answers with the old bytes may take this long to end after a purge; then they are cut",
    )
    expand_timeout_s: float = Field(
        5.0, gt=0, le=60, description="wait this long for the keys API before a purge is acknowledged as pending"
    )
    retry_max_s: float = Field(60.0, ge=1, le=3600, description="longest wait between tries of what is pending")
    max_body_bytes: int = Field(1 * MB, ge=1, description="a larger purge or warm request is refused: 413")


class WarmSettings(Section):
    """The variants that are made before anyone asks for them, by `imgproxy warm` or when a picture is created."""

    queries: tuple[str, ...] = Field(
        (),
        description='parameters of the variants to make, e.g. ["w=2048&auto=format", "w=1024&auto=format"]',
    )
    accept: tuple[Literal["avif", "webp", "legacy"], ...] = Field(
        ("webp", "legacy"), description="the clients to make them for, where auto=format lets the client decide"
    )
    on_create: bool = Field(False, description="warm a picture when the webhook says that it was created")


class WebhookSettings(Section):
    """The Livingdocs webhook."""

    secrets: tuple[SecretStr, ...] = Field(
        (), description="webhook secrets; any of them signs. Without one it is closed"
    )
    secrets_file: Path | None = Field(
        None, description="file with one secret a line, instead of or beside `secrets`; read once, at start"
    )
    max_body_bytes: int = Field(1 * MB, ge=1, description="a larger webhook body is refused: 413")


class TagSettings(Section):
    """Cache tags for the CDN in front."""

    headers: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], ...] = Field(
        ("Surrogate-Key", "Cache-Tag", "xkey"),
        description="headers that carry the tags of a picture's key and entry",
    )


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON on a pipe")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")
    access: Literal["all", "misses", "errors", "none"] = Field(
        "all", description="which requests get a line; misses: all but hits, whose lines cost more than their answers"
    )


def _canonical_parameters(given: object, *, barred: frozenset[str]) -> dict[str, str]:
    """Check configured URL parameters as strict mode would, and bring their names to the canonical ones."""
    if not isinstance(given, Mapping):
        raise ValueError('must be a table of URL parameters, such as { auto = "format" }')  # noqa: TRY004 - pydantic's way
    found: dict[str, str] = {}
    for name, value in given.items():
        row, is_base64 = table.find(str(name))
        if row is None or is_base64 or row.name in barred:
            raise ValueError(f"{name!r} is not a URL parameter that can be set here")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            _, is_exact = row.kind.read(text)
        except ValueError:
            is_exact = False
        if not is_exact:
            raise ValueError(f"{name}={text!r}: expected {row.kind.expected}")
        found[row.name] = text
    return found


_NEVER_CONFIGURED = frozenset({"s", "ixlib", "expires", "dl", "preset"})


def _defaults(given: object) -> dict[str, str]:
    return _canonical_parameters(given, barred=_NEVER_CONFIGURED | {"ch"})


def _preset(given: object) -> dict[str, str]:
    return _canonical_parameters(given, barred=_NEVER_CONFIGURED)


class UrlSettings(Section):
    """The URL grammar."""

    strict: bool = Field(
        False, description="answer 400 to unknown parameters and to values out of range, not ignore them"
    )
    defaults: Annotated[dict[str, str], BeforeValidator(_defaults)] = Field(
        {}, description="parameters that every URL gets unless it has its own; `auto` adds up"
    )
    presets: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], Annotated[dict[str, str], BeforeValidator(_preset)]
    ] = Field({}, description="named sets of parameters, for URLs with preset=NAME")
    width_ladder_px: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (), description="widths that are made; others are snapped up to the next one. Empty: every width"
    )
    auto_avif: bool = Field(True, description="auto=format may choose AVIF")
    avif_max_pixels: int = Field(
        4_000_000,
        ge=0,
        description="an AVIF that auto=format chose and that comes out larger leaves as WebP; 0: no AVIF is too large",
    )
    max_url_chars: int = Field(8000, ge=100, le=100_000, description="longest path and query: 414 beyond")

    @field_validator("width_ladder_px")
    @classmethod
    def _sort(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(steps)))
