"""
An image URL and the request headers -> an ImageRequest.

The steps: parse the target; put the URL's parameters over its presets and over the configured defaults; follow the
client hints that the URL allows; choose the format; assemble the canonical plan.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from imgproxy.errors import Expired
from imgproxy.params import table
from imgproxy.params.assemble import plan_of
from imgproxy.params.assemble_output import Client
from imgproxy.params.assemble_size import Sizing, scaled
from imgproxy.params.faces import needs_faces
from imgproxy.params.negotiate import (
    VARY_DPR,
    VARY_WIDTH,
    AcceptClass,
    ClientHeaders,
)
from imgproxy.params.parse import (
    Note,
    Strictness,
    Values,
    known_name,
    parse_query,
    read_values,
    split_target,
)
from imgproxy.params.plan import Crop, Metadata, Px, RenderPlan
from imgproxy.params.table import delivery, encoding, size
from imgproxy.params.table.region import CROP, RECT

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_NAME_BYTES: Final = 200
# Longer than any time a URL could mean, and small enough for arithmetic.
_MAX_EXPIRES_DIGITS: Final = 15
# Remembered queries, about 2 kB each, at most 5.4 kB: so 11 MB at most. A site uses the same few queries for all its
# pictures.
_QUERIES_MAX: Final = 2048
# The key while a query is read without a path; no picture has it.
_ANY_KEY: Final = ""


class UrlOptions(Protocol):
    """The configuration's section `[url]`."""

    @property
    def strict(self) -> bool: ...  # noqa: D102 described in the section, as all others here
    @property
    def defaults(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def presets(self) -> Mapping[str, Mapping[str, str]]: ...  # noqa: D102
    @property
    def width_ladder_px(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def auto_avif(self) -> bool: ...  # noqa: D102
    @property
    def avif_max_pixels(self) -> int: ...  # noqa: D102
    @property
    def max_url_chars(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What an image URL asks for, after parsing and negotiation."""

    key: str
    plan: RenderPlan | None  # None: the bytes of the original, unchanged
    vary: tuple[str, ...] = ()  # request headers that the plan depends on, such as ("Accept",)
    expires_at_s: int | None = None  # Unix time; the URL is not valid after it
    download_name: str | None = None  # dl: the file name for Content-Disposition
    notes: tuple[Note, ...] = ()  # parameters that were ignored or changed
    lacks_detector: bool = False  # the URL asks for faces, and no detector is installed
    manifest_of: str = ""  # the name of the manifest that the URL asks for; empty for a picture


class RequestReader:
    """
    Reads image URLs. A query is read only once for each class of client.

    A new picture usually comes with a known query. Its plan and the digest of the plan are then in memory.
    """

    def __init__(
        self,
        settings: UrlOptions,
        *,
        mount_prefix: str = "",
        metadata: Metadata = Metadata.CREDIT,
        finds_faces: bool = False,
    ) -> None:
        """
        Read by these settings.

        Args:
            settings: strictness, default parameters, presets.
            mount_prefix: `signing.mount_prefix`; it is removed if the path begins with it.
            metadata: `render.metadata`, for URLs without `iptc`.
            finds_faces: a face detector is installed.
        """
        self._settings = settings
        self._mount_prefix = mount_prefix
        self._metadata = metadata
        self._finds_faces = finds_faces
        self._remembered = lru_cache(_QUERIES_MAX)(self._read)

    def read(self, raw_target: str, headers: ClientHeaders, *, is_remembered: bool = True) -> ImageRequest:
        """
        Return what an image URL asks for.

        Args:
            raw_target: path and query as received, not decoded.
            headers: the request headers that a plan may depend on.
            is_remembered: keep the query in memory.

        Raises:
            BadUrl, UriTooLong: the path is not a key, or the target is too long.
            BadParameter: bad base64, a size of 0, a URL as watermark; in strict mode every value that is not exact.
            Expired: `expires` is not a time. The caller checks whether it has passed, as there is no clock here.
        """
        # If path and query are both wrong, the error names the path.
        key, crop, raw_query = split_target(
            raw_target, mount_prefix=self._mount_prefix, max_chars=self._settings.max_url_chars
        )
        if is_remembered and crop is None:
            found = self._remembered(raw_query, headers)
            # Whether a watermark is allowed depends on the key.
            if found.plan is None or found.plan.mark is None:
                return replace(found, key=key)
        return self._read(raw_query, headers, key, crop)

    def _read(
        self, raw_query: str, headers: ClientHeaders, key: str = _ANY_KEY, crop: str | None = None
    ) -> ImageRequest:
        settings = self._settings
        texts, unknown = parse_query(raw_query)
        if crop is not None:
            texts.setdefault(RECT.name, crop)
        strictness = Strictness(is_strict=settings.strict)
        for name, text in unknown:
            strictness.object(name, text, known_name(name))
        if settings.defaults or delivery.PRESET.name in texts:
            texts = _merge(texts, settings, strictness)
        values = read_values(texts, strictness)
        expires_at_s = _expires_at_s(values.get(delivery.EXPIRES))
        download_name = safe_name(values.get(delivery.DL))
        if table.RENDERING.isdisjoint(values.keys()):
            return ImageRequest(key, None, (), expires_at_s, download_name, tuple(strictness.notes))
        accept = _accepted(headers.accept, settings)
        sizing, vary_size = _sizing(values, headers, settings.width_ladder_px)
        client = Client(accept, headers.saves_data, self._metadata, settings.avif_max_pixels, self._finds_faces)
        plan, vary = plan_of(values, sizing, client, key)
        lacks_detector = False
        if not self._finds_faces and _names_faces(values):
            lacks_detector = needs_faces(plan_of(values, sizing, replace(client, finds_faces=True), key)[0])
        return ImageRequest(
            key, plan, vary + vary_size, expires_at_s, download_name, tuple(strictness.notes), lacks_detector
        )


def _names_faces(values: Values) -> bool:
    """Tell whether a value names faces. Whether the plan then depends on them, only the plan tells."""
    return (
        "facearea" in values.get(size.FIT, ())
        or Crop.FACES in values.get(CROP, ())
        or values.get(encoding.FACES, False)
    )


def safe_name(text: str | None) -> str | None:
    """Return a file name without path, quotes, control characters and leading dots; None if nothing is left."""
    if text is None:
        return None
    kept = "".join(char for char in text if char.isprintable() and char not in '"\\/<>:|?*')
    name = kept.strip(" .")
    while len(name.encode()) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or None


def _merge(texts: Mapping[str, str], settings: UrlOptions, strictness: Strictness) -> dict[str, str]:
    """Put the URL over its presets, and these over the defaults."""
    layers = [settings.defaults]
    names, _ = delivery.PRESET.kind.read(texts.get(delivery.PRESET.name, ""))
    for name in names or ():
        found = settings.presets.get(name)
        if found is None:
            strictness.object(delivery.PRESET.name, name, "a name from [url] presets")
        else:
            layers.append(found)
    merged: dict[str, str] = {}
    for layer in (*layers, texts):
        for name, text in layer.items():
            is_added = table.BY_NAME[name].adds_up and name in merged
            merged[name] = f"{merged[name]},{text}" if is_added else text
    return merged


def _sizing(values: Values, headers: ClientHeaders, ladder_px: tuple[int, ...]) -> tuple[Sizing, tuple[str, ...]]:
    """
    Return the size in device pixels, and the headers it depends on.

    A `Width` hint is in device pixels already; the pixel ratio still applies to `h` and the other lengths. If the
    width is snapped up to a step of the ladder, all other lengths grow with it.
    """
    hints = values.get(delivery.CH, ())
    vary: tuple[str, ...] = ()
    width, height = values.get(size.W), values.get(size.H)
    hinted_px = None
    if "width" in hints:
        vary += VARY_WIDTH
        hinted_px = headers.width_px
    if width is None and height is None and hinted_px is None:
        return Sizing(), vary
    scale = values.get(size.DPR, 1.0)
    if "dpr" in hints:
        vary += VARY_DPR
        scale = headers.dpr or scale
    width = Px(hinted_px) if hinted_px is not None else scaled(width, scale)
    if ladder_px and isinstance(width, Px):
        step_px = ladder_px[min(bisect_left(ladder_px, width.value), len(ladder_px) - 1)]
        scale *= step_px / width.value
        width = Px(step_px)
    return Sizing(width, scaled(height, scale), scale), vary


def _accepted(found: AcceptClass, settings: UrlOptions) -> AcceptClass:
    # Every browser that shows AVIF shows WebP.
    return AcceptClass.WEBP if found is AcceptClass.AVIF and not settings.auto_avif else found


def _expires_at_s(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Expired
    return int(text[:_MAX_EXPIRES_DIGITS]) if len(text) > _MAX_EXPIRES_DIGITS else int(text)
