"""The whole configuration: all sections, and the contradictions between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.config.cluster import ClusterSettings
from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import (
    AdminSettings,
    BrowserSettings,
    CacheSettings,
    FreshnessSettings,
    LimitsSettings,
    LogSettings,
    PurgeSettings,
    RenderSettings,
    Section,
    ServerSettings,
    SigningSettings,
    TagSettings,
    WarmSettings,
    WebhookSettings,
)
from imgproxy.config.shared_store import SharedStoreSettings
from imgproxy.config.url import UrlSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

# The header with the tags that each kind of CDN is purged by.
_TAG_HEADERS = {"varnish": "xkey", "fastly": "Surrogate-Key", "cloudflare": "Cache-Tag"}


class Settings(Section):
    """All sections, validated and frozen."""

    server: ServerSettings = ServerSettings()
    origin: OriginSettings = OriginSettings()
    signing: SigningSettings = SigningSettings()
    admin: AdminSettings = AdminSettings()
    cache: CacheSettings = CacheSettings()
    url: UrlSettings = UrlSettings()
    render: RenderSettings = RenderSettings()
    limits: LimitsSettings = LimitsSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    purge: PurgeSettings = PurgeSettings()
    webhook: WebhookSettings = WebhookSettings()
    content_credentials: ContentCredentialsSettings = ContentCredentialsSettings()
    warm: WarmSettings = WarmSettings()
    tags: TagSettings = TagSettings()
    browser: BrowserSettings = BrowserSettings()
    downstream: tuple[DownstreamSettings, ...] = ()
    shared_store: SharedStoreSettings = SharedStoreSettings()
    cluster: ClusterSettings = ClusterSettings()
    log: LogSettings = LogSettings()


def contradictions(settings: Settings) -> list[str]:
    """Return a line for each pair of settings that are valid, but not together."""
    problems = []
    if settings.signing.required and not (settings.signing.tokens or settings.signing.tokens_file):
        problems.append("[signing] required = true: expected at least one token in tokens or tokens_file")
    if settings.origin.token is not None and settings.origin.token_file is not None:
        problems.append("[origin] token and token_file: give one of them")
    if settings.admin.token is not None and settings.admin.token_file is not None:
        problems.append("[admin] token and token_file: give one of them")
    sent = {name.lower() for name in settings.tags.headers}
    problems += [
        f'[[downstream]] kind = "{item.kind}" purges by the tags in {needed}: put it into [tags] headers'
        for item in settings.downstream
        if (needed := _TAG_HEADERS.get(item.kind)) is not None and needed.lower() not in sent
    ]
    labels = [item.label for item in settings.downstream]
    problems += [
        f"[[downstream]] name: {label!r} is there {labels.count(label)} times; each needs a name of its own"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    return [*problems, *_cluster_contradictions(settings.cluster)]


def _cluster_contradictions(cluster: ClusterSettings) -> Iterator[str]:
    if cluster.database_url is not None and cluster.database_url_file is not None:
        yield "[cluster] database_url and database_url_file: give one of them"
    longest_s = cluster.lease_s + cluster.proof_s
    if cluster.forget_s <= longest_s:
        yield (
            f"[cluster] forget_s = {cluster.forget_s:g}: expected more than lease_s + proof_s = {longest_s:g}; "
            "until then an edge without the database may serve what it has proved"
        )
