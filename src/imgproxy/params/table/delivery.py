"""Client hints and delivery."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds
from imgproxy.params.parameter import Parameter

CH: Final = Parameter(
    "ch",
    kinds.choices(kinds.words(("width", "dpr", "save-data"))),
    "Client hints to follow: the headers replace `w` and `dpr`; `Save-Data: on` makes q=45 the default.",
    has_base64=False,
)
PRESET: Final = Parameter(
    "preset",
    kinds.NAMES,
    "Named sets of parameters; later ones win, and the URL's own win over all.",
    is_rendering=False,
)
DL: Final = Parameter(
    "dl", kinds.text("a file name"), "Offer the answer as a download under this name.", is_rendering=False
)
EXPIRES: Final = Parameter(
    "expires",
    kinds.text("a Unix time in seconds"),
    "After this time the URL answers 404; until then it is cached no longer than that.",
    is_rendering=False,
)
S: Final = Parameter("s", kinds.text("a signature"), "The signature; see below.", is_rendering=False)
IXLIB: Final = Parameter(
    "ixlib", kinds.text("a client's name"), "Which client made the URL; signed, without effect.", is_rendering=False
)
