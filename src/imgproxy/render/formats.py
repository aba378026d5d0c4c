"""The format of a variant, from the plan, the source, and the finished picture. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.params.plan import Format
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from imgproxy.params.plan import Output

CONTENT_TYPES: Final = {
    Format.JPEG: "image/jpeg",
    Format.PNG: "image/png",
    Format.PNG8: "image/png",
    Format.WEBP: "image/webp",
    Format.AVIF: "image/avif",
    Format.GIF: "image/gif",
    Format.JSON: "application/json",
    Format.BLURHASH: "text/plain; charset=utf-8",
    Format.PALETTE_JSON: "application/json",
    Format.PALETTE_CSS: "text/css; charset=utf-8",
    Format.FACES: "application/json",
}

# Formats that describe the finished picture instead of encoding it.
DESCRIPTIONS: Final = frozenset({Format.BLURHASH, Format.PALETTE_JSON, Format.PALETTE_CSS, Format.FACES})

_OWN: Final = {
    SourceKind.JPEG: Format.JPEG,
    SourceKind.PNG: Format.PNG,
    SourceKind.WEBP: Format.WEBP,
    SourceKind.GIF: Format.GIF,
    SourceKind.AVIF: Format.AVIF,
}

# The format of the source, for an animation.
OF_SOURCE: Final = frozenset({Format.SOURCE, Format.COMPRESSED})

_ALPHA: Final = frozenset({Format.PNG, Format.PNG8, Format.WEBP, Format.AVIF, Format.GIF})


def animated_format(wanted: Format, kind: SourceKind) -> Format | None:
    """
    Return the format for an animation, or None if the plan asks for a still.

    An AVIF becomes a WebP: every client that takes AVIF takes WebP, and animated AVIF is not reliable in browsers. A
    PNG stays a PNG, which is a still here: its client may take no WebP, and a GIF has too few colours for it.
    """
    if wanted in (Format.GIF, Format.WEBP):
        return wanted
    if wanted is Format.AVIF:
        return Format.WEBP
    if wanted is Format.COMPRESSED8:
        return Format.GIF  # its client takes no WebP
    if wanted in OF_SOURCE:
        return {SourceKind.GIF: Format.GIF, SourceKind.PNG: None}.get(kind, Format.WEBP)
    return None


def still_format(wanted: Format, kind: SourceKind, *, has_alpha: bool) -> Format:
    """Return the format of a still. `has_alpha`: at least one pixel of the finished picture is not opaque."""
    if wanted is Format.SOURCE:
        return _OWN.get(kind, Format.PNG if has_alpha else Format.JPEG)
    if wanted is Format.COMPRESSED:
        return Format.PNG if has_alpha else Format.JPEG
    if wanted is Format.COMPRESSED8:
        return Format.PNG8 if has_alpha else Format.JPEG
    return wanted


def cap_avif(wanted: Format, output: Output, pixels: int) -> Format:
    """
    Return the format of a still of this many pixels: a very large AVIF that the URL did not ask for becomes a WebP.

    At the sizes that pages use, an AVIF takes about as long as a WebP (see `encoders`). In larger pictures its memory
    and its decoding time on phones grow faster. The hosted services have such a limit, too.
    """
    is_too_large = output.avif_max_pixels is not None and pixels > output.avif_max_pixels
    return Format.WEBP if wanted is Format.AVIF and is_too_large else wanted


def takes_alpha(wanted: Format) -> bool:
    """Whether a format can hold transparency."""
    return wanted in _ALPHA
