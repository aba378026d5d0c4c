"""
Redaction: URLs as a log or a trace may show them, without signatures, tokens and passwords.

A referer or a parameter may hold the URL of somebody else's service, so the names of others' secrets count as well. A
URL may also be the value of a parameter: then `?`, `&` and `=` are percent-encoded, perhaps more than once.
"""

from __future__ import annotations

import re
from typing import Final

REDACTED: Final = "REDACTED"

# Parts of the names of secret parameters: of imgix, OAuth, presigned URLs of S3, GCS and Azure.
_SECRET_PARTS: Final = (
    "token",
    "secret",
    "passw",
    "pwd",
    "signature",
    "credential",
    "auth(?!or)",
    "session",
    "jwt",
    "api[-_]?key",
    "access[-_]?key",
    "key[-_]?pair",
    "hmac",
)
# Whole names, which are too short to be looked for within others.
_SECRET_NAMES: Final = ("s", "sig", "sign", "key", "code", "policy", "sid", "otp", "pin")
_NAME: Final = rf"(?:{'|'.join(_SECRET_NAMES)}|[\w.\-\[\]]{{0,64}}(?:{'|'.join(_SECRET_PARTS)})[\w.\-\[\]]{{0,64}})"
_ENCODED: Final = "%(?:25)*"
# A parameter of the URL itself: its value ends with the parameter.
_OWN: Final = re.compile(rf"([?&;#]{_NAME}=)[^&#\s]*", re.IGNORECASE | re.ASCII)
# One of a URL within a value: it ends at an encoded `&` or `#`, too.
_INNER: Final = re.compile(
    rf"({_ENCODED}(?:3f|26|3b|23){_NAME}{_ENCODED}3d)(?:(?!{_ENCODED}(?:26|23))[^&#\s])*", re.IGNORECASE | re.ASCII
)
# `user:password@` of an authority, also in a URL within a URL.
_USER: Final = re.compile(
    rf"(?P<before>://|{_ENCODED}3a{_ENCODED}2f{_ENCODED}2f)[^/?#@&\s]*(?=@|{_ENCODED}40)", re.IGNORECASE
)
_PATH: Final = re.compile(r"[^?#]*")


def redacted(url: str) -> str:
    """Return a URL or a request target in which the values of secret parameters, and users, are `REDACTED`."""
    if "%" in url or "@" in url:
        url = _USER.sub(rf"\g<before>{REDACTED}", url)
    path = _PATH.match(url)
    assert path is not None, "the pattern also matches nothing"
    # A path may hold `;` and `=`, but no parameters.
    before, after = url[: path.end()], _OWN.sub(rf"\g<1>{REDACTED}", url[path.end() :])
    if "%" not in url:
        return before + after
    return _INNER.sub(rf"\g<1>{REDACTED}", before) + _INNER.sub(rf"\g<1>{REDACTED}", after)
