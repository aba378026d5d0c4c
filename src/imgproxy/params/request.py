"""
An image URL and the client's headers -> an ImageRequest: the one way from text to a plan.

Parse the target, put the URL's parameters over the presets it names and the configured defaults, follow the client
hints it allows, negotiate the format, and assemble the canonical plan.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from imgproxy.errors import Expired
from imgproxy.params import table, table_geometry
from imgproxy.params import table_output as output
from imgproxy.params.assemble import Client, plan_of
from imgproxy.params.assemble_size import Sizing, scaled
from imgproxy.params.negotiate import (
    VARY_DPR,
    VARY_WIDTH,
    AcceptClass,
    ClientHeaders,
    accept_class,
    hinted_dpr,
    hinted_width_px,
    wants_less_data,
)
from imgproxy.params.parse import (
    ParsedTarget,
    Strictness,
    Values,
    object_to_unknown,
    parse_query,
    parse_target,
    read_values,
    split_target,
)
from imgproxy.params.plan import ImageRequest, Metadata, Px

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.config.sections import UrlSettings

_MAX_NAME_BYTES: Final = 200
# Beyond any year a URL could mean; keeps the arithmetic with it small.
_MAX_EXPIRES_DIGITS: Final = 15
# Queries whose meaning is remembered: about 3 kB each. A site asks for the same few of every picture.
_QUERIES_MAX: Final = 2048
# Stands for every picture while a query alone is read: no picture has it.
_ANY_KEY: Final = ""


class RequestReader:
    """
    Reads image URLs as `build_request` does, but each query of one kind of client only once.

    A picture that was never asked for comes with a query that was: its plan, and with it the plan's digest, is there.
    """

    def __init__(self, settings: UrlSettings, *, mount_prefix: str = "", metadata: Metadata = Metadata.CREDIT) -> None:
        self._settings = settings
        self._mount_prefix = mount_prefix
        self._metadata = metadata
        self._meaning = lru_cache(_QUERIES_MAX)(self._read_query)

    def read(self, raw_target: str, headers: ClientHeaders, *, is_remembered: bool = True) -> ImageRequest:
        """Return what an image URL asks for; its query is not remembered on request. Raises as `build_request`."""
        # The path first: where both are wrong, it is what is complained of.
        key, crop, raw_query = split_target(
            raw_target, mount_prefix=self._mount_prefix, max_chars=self._settings.max_url_chars
        )
        if is_remembered and crop is None:
            found = self._meaning(raw_query, headers)
            # What a watermark may be depends on the key.
            if found.plan is None or found.plan.mark is None:
                return ImageRequest(key, found.plan, found.vary, found.expires_at_s, found.download_name, found.notes)
        return build_request(
            raw_target, headers, self._settings, mount_prefix=self._mount_prefix, metadata=self._metadata
        )

    def _read_query(self, raw_query: str, headers: ClientHeaders) -> ImageRequest:
        texts, unknown = parse_query(raw_query)
        return _understood(ParsedTarget(_ANY_KEY, texts, unknown), headers, self._settings, self._metadata)


def build_request(
    raw_target: str,
    headers: ClientHeaders,
    settings: UrlSettings,
    *,
    mount_prefix: str = "",
    metadata: Metadata = Metadata.CREDIT,
) -> ImageRequest:
    """
    Return what an image URL asks for.

    Args:
        raw_target: path and query as received, not decoded.
        headers: the client's, as far as a rendering may depend on them.
        settings: how strict to be, default parameters, presets.
        mount_prefix: `signing.mount_prefix`; taken off the path where it is there.
        metadata: `render.metadata`, for variants whose URL says nothing about it.

    Raises:
        BadUrl, UriTooLong: the path is no key, or the target is too long.
        BadParameter: bad base64, a size of 0, a picture from elsewhere; in strict mode every value out of order.
        Expired: `expires` is not a time. Whether it has passed is for the caller to say, who has a clock.
    """
    target = parse_target(raw_target, mount_prefix=mount_prefix, max_chars=settings.max_url_chars)
    return _understood(target, headers, settings, metadata)


def _understood(
    target: ParsedTarget, headers: ClientHeaders, settings: UrlSettings, metadata: Metadata
) -> ImageRequest:
    """From the texts of the parameters on, as `build_request`."""
    strictness = Strictness(is_strict=settings.strict)
    object_to_unknown(target.unknown, strictness)
    values = read_values(_merge(target, settings, strictness), strictness)
    expires_at_s = _expires_at_s(values.get(output.EXPIRES))
    download_name = safe_name(values.get(output.DL))
    if not values.has_any(table.RENDERING):
        notes = tuple(strictness.notes)
        return ImageRequest(target.key, None, (), expires_at_s, download_name, notes)
    sizing, vary_size = _sizing(values, headers, settings.width_ladder_px)
    client = Client(
        _accepted(headers.accept, settings), wants_less_data(headers.save_data), metadata, settings.avif_max_pixels
    )
    plan, vary = plan_of(values, sizing, client, target.key)
    notes = tuple(strictness.notes)
    return ImageRequest(target.key, plan, vary + vary_size, expires_at_s, download_name, notes)


def safe_name(text: str | None) -> str | None:
    """Return a file name without path, quotes, control characters or leading dots; None where nothing is left."""
    if text is None:
        return None
    kept = "".join(char for char in text if char.isprintable() and char not in '"\\/<>:|?*')
    name = kept.strip(" .")
    while len(name.encode()) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or None


def _merge(target: ParsedTarget, settings: UrlSettings, strictness: Strictness) -> Mapping[str, str]:
    """Put the URL over its presets over the defaults; `auto` adds up over all three."""
    layers: list[Mapping[str, str]] = [settings.defaults] if settings.defaults else []
    preset = target.texts.get(output.PRESET.name)
    for name in output.PRESET.read(preset)[0] or () if preset else ():
        found = settings.presets.get(name)
        if found is None:
            strictness.object(output.PRESET.name, name, "a name from [url] presets")
        else:
            layers.append(found)
    if not layers:
        return target.texts
    layers.append(target.texts)
    merged: dict[str, str] = {}
    for layer in layers:
        merged.update(layer)
    auto = [layer[output.AUTO.name] for layer in layers if output.AUTO.name in layer]
    if auto:
        merged[output.AUTO.name] = ",".join(auto)
    return merged


def _sizing(values: Values, headers: ClientHeaders, ladder_px: tuple[int, ...]) -> tuple[Sizing, tuple[str, ...]]:
    """
    Return the size in device pixels, and the headers it depended on.

    A `Width` hint is in device pixels already; `h` and the other lengths follow the pixel ratio all the same. A
    width that is snapped up to a step of the ladder enlarges everything with it.
    """
    hints = values.take(output.CH, ())
    vary: tuple[str, ...] = ()
    width, height = values.get(table_geometry.W), values.get(table_geometry.H)
    hinted_px = None
    if "width" in hints:
        vary += VARY_WIDTH
        hinted_px = hinted_width_px(headers.width)
    if width is None and height is None and hinted_px is None:
        return Sizing(), vary
    scale = values.take(table_geometry.DPR, 1.0)
    if "dpr" in hints:
        vary += VARY_DPR
        scale = hinted_dpr(headers.dpr) or scale
    width = Px(hinted_px) if hinted_px is not None else scaled(width, scale)
    if ladder_px and isinstance(width, Px):
        step_px = ladder_px[min(bisect_left(ladder_px, width.value), len(ladder_px) - 1)]
        scale *= step_px / width.value
        width = Px(step_px)
    return Sizing(width, scaled(height, scale), scale), vary


def _accepted(accept: str | None, settings: UrlSettings) -> AcceptClass:
    found = accept_class(accept)
    # Every browser that shows AVIF shows WebP.
    return AcceptClass.WEBP if found is AcceptClass.AVIF and not settings.auto_avif else found


def _expires_at_s(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Expired
    return int(text[:_MAX_EXPIRES_DIGITS]) if len(text) > _MAX_EXPIRES_DIGITS else int(text)
