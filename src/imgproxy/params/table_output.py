"""Parameters that decide the encoding, the frames of an animation, and how the answer is delivered."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds
from imgproxy.params.parameter import FLAG, Parameter
from imgproxy.params.plan import ColorSpace, Format

# --- format ------------------------------------------------------------------------------------------------------

AUTO: Final = Parameter(
    "auto",
    kinds.choices({word: word for word in ("format", "compress", "enhance", "redeye", "true")}),
    "a list of format, compress, enhance, redeye",
    "`format`: AVIF or WebP where the client accepts it, else `fm`, else the source's format. `compress`: q=45, no "
    "metadata and profile. `enhance`: stretch the tones. Repeats and configured defaults add up.",
    has_base64=False,
)
FORMATS: Final = {
    "jpg": Format.JPEG,
    "jpeg": Format.JPEG,
    "pjpg": Format.JPEG,
    "png": Format.PNG,
    "png32": Format.PNG,
    "png8": Format.PNG8,
    "webp": Format.WEBP,
    "avif": Format.AVIF,
    "gif": Format.GIF,
    "json": Format.JSON,
    "blurhash": Format.BLURHASH,
}
FM: Final = Parameter(
    "fm",
    kinds.choice({word: word for word in FORMATS}),
    f"one of {', '.join(FORMATS)}",
    "The format. `json` describes the original, `blurhash` is a short text that stands for the picture.",
    "the source's",
)
Q: Final = Parameter(
    "q", kinds.integer(0, 100), "a whole number from 0 to 100", "Quality of JPEG, WebP and AVIF, on one scale.", "75"
)
LOSSLESS: Final = Parameter("lossless", kinds.flag, FLAG, "WebP without loss.", "false")
JPG_PROGRESSIVE: Final = Parameter(
    "jpg-progressive", kinds.flag, FLAG, "Progressive JPEG, or baseline.", "true", ("jpeg-progressive",)
)
CHROMASUB: Final = Parameter(
    "chromasub",
    kinds.choice({"444": "444", "422": "444", "420": "420"}),
    "444, 422 or 420",
    "Chroma subsampling of JPEG; 422 is taken as 444.",
    "420",
)
COLORQUANT: Final = Parameter(
    "colorquant", kinds.integer(2, 256), "a whole number from 2 to 256", "Most colours of PNG8 and GIF."
)
DPI: Final = Parameter(
    "dpi",
    kinds.integer(0, 65535),
    "a whole number from 0 to 65535",
    "Density written into JPEG and PNG; the pixels stay.",
)
CS: Final = Parameter(
    "cs",
    kinds.choice({space.value: space for space in ColorSpace}),
    "origin, srgb, adobergb1998, tinysrgb or strip",
    "Colour space and profile of the result; `strip` is sRGB without a profile.",
    "srgb",
)
IPTC: Final = Parameter(
    "iptc",
    kinds.choice({"allow": True, "block": False}),
    "allow or block",
    "Keep or drop credit and copyright, whatever the configuration says.",
    "`render.metadata`",
)
PALETTE: Final = Parameter(
    "palette",
    kinds.choice({"json": Format.PALETTE_JSON, "css": Format.PALETTE_CSS}),
    "json or css",
    "The rendered picture's main colours instead of the picture.",
)
COLORS: Final = Parameter("colors", kinds.integer(0, 16), "0 to 16", "How many colours `palette` lists.", "6")
PREFIX: Final = Parameter("prefix", kinds.identifier, "a CSS name", "Class prefix of `palette=css`.", "image")

# --- frames ------------------------------------------------------------------------------------------------------

PAGE: Final = Parameter(
    "page", kinds.integer(1, 10_000), "a whole number from 1", "Page of a document with several.", "1"
)
FRAME: Final = Parameter(
    "frame", kinds.frame_span, "a frame number from 1, or first-last", "Only these frames of an animation.", "all"
)
LOOP: Final = Parameter(
    "loop", kinds.integer(0, 65535), "a whole number from 0", "How often it plays; 0 is forever.", "as the source"
)
INTERVAL: Final = Parameter("interval", kinds.integer(1, 1000), "a whole number from 1", "Keep every nth frame.", "1")
SKIP: Final = Parameter("skip", kinds.integer(1, 1000), "a whole number from 1", "Drop every nth frame.")
REVERSE: Final = Parameter("reverse", kinds.flag, FLAG, "Play backwards.", "false")
FPS: Final = Parameter("fps", kinds.number(1, 60), "a number from 1 to 60", "Frames a second.", "as the source")

# --- client hints and delivery -------------------------------------------------------------------------------------

CH: Final = Parameter(
    "ch",
    kinds.choices({"width": "width", "dpr": "dpr", "save-data": "save-data"}),
    "a list of width, dpr, save-data",
    "Client hints to follow: the headers replace `w` and `dpr`; `Save-Data: on` makes q=45 the default.",
    has_base64=False,
)
PRESET: Final = Parameter(
    "preset",
    kinds.texts,
    "a list of names from the configuration",
    "Named sets of parameters; later ones win, and the URL's own win over all.",
    is_rendering=False,
)
DL: Final = Parameter(
    "dl", kinds.words, "a file name", "Offer the answer as a download under this name.", is_rendering=False
)
EXPIRES: Final = Parameter(
    "expires",
    kinds.words,
    "a Unix time in seconds",
    "After this time the URL answers 404; until then it is cached no longer than that.",
    is_rendering=False,
)
S: Final = Parameter("s", kinds.words, "a signature", "The signature; see below.", is_rendering=False)
IXLIB: Final = Parameter(
    "ixlib", kinds.words, "a client's name", "Which client made the URL; signed, without effect.", is_rendering=False
)
