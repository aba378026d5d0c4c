"""
The sections of the configuration.

Each setting is declared once, here or in `downstream`: name with unit, type, default, bounds, and a line of help. The
validation, the messages about wrong values and config.example.toml come from this declaration.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from imgproxy.secret_text import secret_problem

MB = 1_000_000
GB = 1_000 * MB


def _secret(given: SecretStr) -> SecretStr:
    if (problem := secret_problem(given.get_secret_value())) is not None:
        raise ValueError(problem)
    return given


# Every setting that holds a secret has this type, so none can be empty.
Secret = Annotated[SecretStr, AfterValidator(_secret)]


class Section(BaseModel):
    """A section of the configuration: frozen; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    """The address of the edge, and the limits of its connections."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    playground: bool = Field(
        False,
        description="a page at `/-/playground` where every parameter can be tried. What it shows and does needs the "
        "admin token; the page itself is open and has no secret",
    )
    shutdown_delay_s: float = Field(
        0.0,
        ge=0,
        le=600,
        description="after SIGTERM, `/-/ready` says no and the port stays open for this time, so that a load balancer "
        "takes this node away before it stops. Kubernetes: at least 5 s; else as long as the balancer needs to notice",
    )
    shutdown_timeout_s: float = Field(
        20.0,
        ge=0,
        le=600,
        description="after SIGTERM and shutdown_delay_s, running requests may take this long to finish",
    )
    head_timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="the head of a request must arrive within this time. For the first request it begins with the "
        "connection",
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=600, description="the body of a request must arrive within this time; a slower one gets 408"
    )
    idle_timeout_s: float = Field(
        930.0,
        gt=0,
        le=86_400,
        description="a connection without a request is closed after this time. It must be longer than a proxy in front "
        "keeps its connections (nginx 60 s, Google 600 s, Cloudflare 900 s), or some requests fail",
    )
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        le=600,
        description="a client that reads nothing for this time is disconnected. A shorter time may also end slow "
        "clients: their systems seldom report what was read",
    )
    send_min_bytes_per_s: int = Field(
        1_000,
        ge=1,
        description="a client that reads more slowly is disconnected, too, at the earliest after send_timeout_s",
    )
    connections_max: int = Field(
        10_000,
        ge=1,
        description="most connections; each takes up to two file descriptors. At the limit, those that have been "
        "idle the longest are closed for a new one; if none is idle, the new one is refused",
    )
    connections_per_address_max: int = Field(
        0,
        ge=0,
        description="most connections of one IP address; a further one is refused. 0: no limit, which is right behind "
        "a CDN or nginx: all connections come from its few addresses. Set it, e.g. to 100, if clients connect directly",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description='networks of the proxies in front, such as ["10.0.0.0/8", "fd00::/8"]. What they report in '
        "client_address_header is believed, for the access log. Empty: the log has the address of the connection",
    )
    client_address_header: Literal["X-Forwarded-For", "Forwarded"] = Field(
        "X-Forwarded-For",
        description="the header in which trusted_proxies report the client. Take the one that they write: the other "
        "one comes from the client as it is",
    )


class RenderSettings(Section):
    """Render processes: they decode and encode pictures."""

    processes: int = Field(
        0, ge=0, le=256, description="render processes; 0: one for each CPU core that this service may use"
    )
    timeout_s: float = Field(
        10.0, gt=0, le=300, description="a render that takes longer is stopped; its request gets 422"
    )
    memory_bytes: int = Field(
        1_500 * MB, ge=100 * MB, description="a render process that uses more memory is stopped; its request gets 422"
    )
    drawing_cpu_s: float = Field(
        1.0, gt=0, le=300, description="an SVG that takes more CPU seconds to draw is stopped; its request gets 422"
    )
    recycle_bytes: int = Field(
        400 * MB, ge=50 * MB, description="an idle render process that uses more memory is replaced by a new one"
    )
    queue_max: int = Field(64, ge=0, le=100_000, description="most renders that may wait; further requests get 503")
    queue_timeout_s: float = Field(
        5.0,
        gt=0,
        le=300,
        description="longest wait of a render. A request that has waited longer gets 503; so does one whose "
        "estimated wait is longer",
    )
    avif: Literal["wait", "upgrade"] = Field(
        "wait",
        description="if auto=format chose an AVIF that is not in the cache. wait: render it, then answer; "
        "upgrade: answer with "
        "WebP, and render the AVIF in the background",
    )
    allow_truncated: bool = Field(False, description="serve the part of a truncated original that can be decoded")
    metadata: Literal["none", "credit", "all"] = Field(
        "credit", description="metadata that variants keep; GPS, serial numbers and thumbnails are always removed"
    )


class LimitsSettings(Section):
    """Limits for originals and variants."""

    source_bytes: int = Field(100 * MB, ge=1, description="most bytes of an original; a larger one gets 413")
    source_pixels: int = Field(
        128_000_000,
        ge=1,
        description="most pixels of an original, all frames together; a larger one gets 413. Of a larger "
        "animation the first "
        "frame is served",
    )
    frames: int = Field(
        256, ge=1, description="most frames of an animation; of one with more, the first frame is served"
    )
    output_px: int = Field(8192, ge=1, le=16383, description="longest side of a variant; a larger one is scaled down")


class SigningSettings(Section):
    """Signed URLs: the parameter `s`."""

    tokens: tuple[Secret, ...] = Field(
        (), description="secure tokens. A signature made with any of them is valid, so tokens can be rotated"
    )
    tokens_file: Path | None = Field(
        None, description="file with one token a line, in addition to `tokens`; read once, at start"
    )
    required: bool = Field(
        False,
        description="answer 403 to URLs without a valid signature. Turn it on if others can reach the edge",
    )
    allow_decoded_path: bool = Field(
        False,
        description="also accept a signature over the percent-decoded path, for a CMS that signs before it encodes",
    )
    mount_prefix: str = Field(
        "",
        pattern=r"^(/[^?#]*[^/?#])?$",
        description="path prefix of the image host, if it is not part of the signed path",
    )


class AdminSettings(Section):
    """Access to purges, warm-up and the state."""

    token: Secret | None = Field(
        None, description="bearer token for the admin routes; without a token they refuse every request"
    )
    token_file: Path | None = Field(
        None, description="file with the admin token, instead of `token`; read once, at start"
    )


class CacheSettings(Section):
    """The cache on disk and in memory."""

    dir: Path = Field(Path("cache"), description="directory for originals, variants and the purge journal")
    max_bytes: int = Field(
        20 * GB,
        ge=0,
        description="most bytes of originals and variants on disk; the least recently used ones are removed first",
    )
    min_free_bytes: int = Field(
        1 * GB, ge=0, description="free space to leave on the disk, even if max_bytes allows more"
    )
    hot_max_bytes: int = Field(256 * MB, ge=0, description="most bytes of variants in memory; 0: none")
    hot_item_max_bytes: int = Field(
        2 * MB, ge=0, description="a larger variant is not kept in memory, but served from disk"
    )


class FreshnessSettings(Section):
    """How long answers are valid: here, in CDNs, in browsers."""

    revalidate_after_s: float = Field(
        300.0,
        ge=0,
        description="an original is revalidated in the background after this time. So without a purge, a "
        "takedown takes this long",
    )
    stale_if_error_s: float = Field(
        86_400.0,
        ge=0,
        description="while the origin is down, variants are served for this time after revalidate_after_s; then 502",
    )
    negative_ttl_s: float = Field(
        30.0, ge=0, le=3600, description="a 403 or 404 of the origin is remembered for this time"
    )
    settle_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="originals that are fetched within this time after a purge are revalidated when the time ends",
    )
    browser_ttl_s: int = Field(
        300,
        ge=0,
        description="max-age for browsers; purges do not reach them, so they may show an old picture for this time",
    )
    cdn_ttl_s: int | None = Field(
        None,
        ge=0,
        description="max-age in CDN-Cache-Control; not set: a day if there is a [[downstream]], else browser_ttl_s",
    )
    error_ttl_s: int = Field(60, ge=0, le=3600, description="max-age of a 4xx that is caused by the URL or the picture")
    stale_while_revalidate_s: int = Field(
        0,
        ge=0,
        description="send stale-while-revalidate; a CDN may then serve a revoked picture for this time. 0: not sent",
    )
    emit_stale_if_error_s: int = Field(
        0,
        ge=0,
        description="send stale-if-error; a CDN may then serve a revoked picture for this time. 0: not sent",
    )


class PurgeSettings(Section):
    """Purges: how long they may take."""

    drain_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="answers with purged bytes may take this long after a purge; then their connections are closed",
    )
    expand_timeout_s: float = Field(
        5.0,
        gt=0,
        le=60,
        description="a purge waits this long for the keys of an entry; then it is acknowledged as pending",
    )
    retry_max_s: float = Field(60.0, ge=1, le=3600, description="longest wait between tries of a pending purge")
    max_body_bytes: int = Field(
        1 * MB, ge=1, description="largest body of a purge or warm request; a larger one gets 413"
    )


class WarmSettings(Section):
    """Variants that `imgproxy warm` renders in advance, or the webhook when a picture is created."""

    queries: tuple[str, ...] = Field(
        (),
        description='URL parameters of the variants to render, such as ["w=2048&auto=format", "w=1024&auto=format"]',
    )
    accept: tuple[Literal["avif", "webp", "legacy"], ...] = Field(
        ("webp", "legacy"),
        description="Accept classes to render for, if the result of auto=format depends on the client",
    )
    on_create: bool = Field(False, description="warm a picture when a webhook reports that it was created")


class WebhookSettings(Section):
    """The webhook that Livingdocs calls after a change."""

    secrets: tuple[Secret, ...] = Field(
        (),
        description="webhook secrets. A signature made with any of them is valid. Without a secret, webhooks are "
        "refused",
    )
    secrets_file: Path | None = Field(
        None, description="file with one secret a line, in addition to `secrets`; read once, at start"
    )
    max_body_bytes: int = Field(1 * MB, ge=1, description="largest body of a webhook; a larger one gets 413")


class TagSettings(Section):
    """Cache tags (surrogate keys) for CDNs."""

    headers: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], ...] = Field(
        ("Surrogate-Key", "Cache-Tag", "xkey"),
        description="headers that hold the tags of a picture: its key and its entry",
    )


class BrowserSettings(Section):
    """What browsers may do with pictures."""

    resource_policy: Literal["cross-origin", "same-site", "same-origin"] = Field(
        "cross-origin",
        description="Cross-Origin-Resource-Policy: the pages that may show pictures. same-site: only those of the "
        "domain of the image host",
    )


class LogSettings(Section):
    """Logs, on standard error."""

    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON on a pipe")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest severity that is written")
    access: Literal["all", "misses", "errors", "none"] = Field(
        "all",
        description="requests that get a line. misses: all but hits (the line of a hit takes a tenth to a fifth of "
        "the CPU time of its answer)",
    )
