"""Format and encoding."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds
from imgproxy.params.parameter import Parameter
from imgproxy.params.plan import ColourSpace, Format

AUTO: Final = Parameter(
    "auto",
    kinds.choices(
        kinds.words(("format", "compress", "enhance", "redeye", "true")),
        "a list of format, compress, enhance, redeye",
    ),
    "`format`: AVIF or WebP where the client accepts it, else `fm`, else the source's format. `compress`: q=45, no "
    "metadata and profile. `enhance`: stretch the tones. Repeats and configured defaults add up.",
    has_base64=False,
    adds_up=True,
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
    kinds.choice(kinds.words(FORMATS)),
    "The format. `json` describes the original, `blurhash` is a short text that stands for the picture.",
    "the source's",
)
FACES: Final = Parameter("faces", kinds.FLAG, "With `fm=json`: list the faces of the original.", "false")
Q: Final = Parameter("q", kinds.integer(0, 100), "Quality of JPEG, WebP and AVIF, on one scale.", "75")
LOSSLESS: Final = Parameter("lossless", kinds.FLAG, "WebP without loss.", "false")
JPG_PROGRESSIVE: Final = Parameter(
    "jpg-progressive", kinds.FLAG, "Progressive JPEG, or baseline.", "true", ("jpeg-progressive",)
)
CHROMASUB: Final = Parameter(
    "chromasub",
    kinds.choice({"444": "444", "422": "444", "420": "420"}),
    "Chroma subsampling of JPEG; 422 is taken as 444.",
    "420",
)
COLORQUANT: Final = Parameter("colorquant", kinds.integer(2, 256), "Most colours of PNG8 and GIF.")
DPI: Final = Parameter("dpi", kinds.integer(0, 65535), "Density written into JPEG and PNG; the pixels stay.")
CS: Final = Parameter(
    "cs",
    kinds.choice({space.value: space for space in ColourSpace}),
    "Colour space and profile of the result; `strip` is sRGB without a profile.",
    "srgb",
)
IPTC: Final = Parameter(
    "iptc",
    kinds.choice({"allow": True, "block": False}),
    "Keep or drop credit and copyright, whatever the configuration says.",
    "`render.metadata`",
)
PALETTE: Final = Parameter(
    "palette",
    kinds.choice({"json": Format.PALETTE_JSON, "css": Format.PALETTE_CSS}),
    "The rendered picture's main colours instead of the picture.",
)
COLOURS: Final = Parameter("colors", kinds.integer(0, 16), "How many colours `palette` lists.", "6")
PREFIX: Final = Parameter("prefix", kinds.IDENTIFIER, "Class prefix of `palette=css`.", "image")
