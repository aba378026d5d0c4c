"""
Signed URLs, by the rule of the imgix clients: `s` is the MD5 of token, path and query, in lower-case hex.

    s = md5(token + path + ("?" + query if query else ""))

Path and query are signed as they are on the wire, not decoded, sorted or normalised. So the order and the encoding of
the parameters matter. It is a plain MD5, not an HMAC, because all existing clients do it that way.
Source: the imgix signing blueprint (github.com/imgix/imgix-blueprint, "Securing URLs") and its client test suites.
"""

from __future__ import annotations

import hmac
import re
from hashlib import md5
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from imgproxy.secret_text import check_secret, is_blank

if TYPE_CHECKING:
    from collections.abc import Sequence

# Characters that `quote` encodes and browsers do not. Letters, digits and `_.-~` are encoded by neither.
_STAYS_IN_PATH = "!$%&'()*+,/:;=@[]|"
_STAYS_IN_QUERY = "!$%&()*+,/:;=?@[\\]^`{|}"
_HEX_DIGEST = re.compile(r"[0-9a-f]{32}")


def verify(raw_target: str, tokens: Sequence[str], *, mount_prefix: str = "", allow_decoded_path: bool = False) -> bool:
    """
    Tell whether a request target carries exactly one `s`, made with one of the tokens.

    Args:
        raw_target: path and query as received, not decoded.
        tokens: all tokens that are valid now; during a rotation the new and the old one. A signature made with a
            blank one is never valid.
        mount_prefix: the path that this service is mounted under. Livingdocs does not sign the path of its image
            host, so signatures with and without the prefix are valid.
        allow_decoded_path: also accept a signature over the percent-decoded path. Livingdocs signs keys before they
            are escaped.

    The time does not depend on which token or which character differs.
    """
    path, query, found = _take_signature(raw_target)
    if len(found) != 1 or not _HEX_DIGEST.fullmatch(found[0]):
        return False
    is_valid = False
    for candidate in _signed_paths(path, mount_prefix, allow_decoded_path=allow_decoded_path):
        for token in tokens:
            is_valid |= hmac.compare_digest(_digest(token, candidate, query), found[0]) and not is_blank(token)
    return is_valid


def sign(target: str, token: str) -> str:
    """
    Return the target with its signature as the last parameter, instead of an older signature.

    Args:
        target: path and query, percent-encoded, or a whole URL. Scheme, host and fragment are kept, but not signed.
        token: the secret of the source.

    Raises:
        ConfigError: the token cannot be a secret.
    """
    check_secret(token, "the signing token")
    target, mark, fragment = target.partition("#")
    scheme, separator, rest = target.partition("://")
    origin = ""
    if separator and "/" not in scheme and "?" not in scheme:
        host, target = _split_host(rest)
        origin = f"{scheme}://{host}"
    path, query, _ = _take_signature(target)
    query = f"{query}&" if query else ""
    return f"{origin}{path}?{query}s={_digest(token, path, query.removesuffix('&'))}{mark}{fragment}"


def as_browsers_send(url: str) -> str:
    """
    Percent-encode what cannot stand in a request line, as browsers do. Existing percent-encoding stays.

    Takes what `sign` takes. In the path it encodes C0 controls, space, `"`, `<`, `>`, `^`, backquote, `{`, `}` and
    all non-ASCII; in the query also `'`, but not `^`, backquote and braces. Source: the WHATWG URL standard, "path
    percent-encode set" and "special-query percent-encode set" (url.spec.whatwg.org). One difference: a backslash in a
    path is encoded, not changed to `/`.
    """
    url, mark, fragment = url.partition("#")
    scheme, separator, rest = url.partition("://")
    if separator and "/" not in scheme and "?" not in scheme:
        host, target = _split_host(rest)
    else:
        scheme, separator, host, target = "", "", "", url
    path, question, query = target.partition("?")
    return (
        f"{scheme}{separator}{host}{quote(path, safe=_STAYS_IN_PATH, errors='surrogateescape')}{question}"
        f"{quote(query, safe=_STAYS_IN_QUERY, errors='surrogateescape')}{mark}{fragment}"
    )


def target_of(url: str) -> str:
    """Return path and query of a URL, as a request has them. Without a scheme, the text is taken for a path."""
    url = url.partition("#")[0]
    scheme, separator, rest = url.partition("://")
    if separator and "/" not in scheme and "?" not in scheme:
        return _split_host(rest)[1]
    return url if url.startswith("/") else f"/{url}"


def has_signature(target: str) -> bool:
    """Tell whether a request target has an `s`, right or wrong."""
    return bool(_take_signature(target)[2])


def _split_host(rest: str) -> tuple[str, str]:
    """Split the part after `://` into the host, and path with query. An empty path is `/` (RFC 3986 section 6.2.3)."""
    host, slash, path_and_query = rest.partition("/")
    if "?" in host:  # the first slash is in the query
        host, _, query = rest.partition("?")
        return host, f"/?{query}"
    return host, f"{slash or '/'}{path_and_query}"


def _take_signature(target: str) -> tuple[str, str, list[str]]:
    """Split a target into path, query without its `s` pairs, and the values of these pairs."""
    path, _, query = target.partition("?")
    pairs = query.split("&") if query else []
    found = [pair[2:] for pair in pairs if pair.startswith("s=")]
    if not found:
        return path, query, found
    return path, "&".join(pair for pair in pairs if not pair.startswith("s=")), found


def _signed_paths(path: str, mount_prefix: str, *, allow_decoded_path: bool) -> list[str]:
    paths = [path]
    prefix = mount_prefix.rstrip("/")
    if prefix and path.startswith(f"{prefix}/"):
        paths.append(path[len(prefix) :])
    if allow_decoded_path and "%" in path:
        # With an encoded `?`, one signature would be valid for a path, and for another path with a query.
        decoded = [unquote(item) for item in paths]
        paths += [item for item in decoded if "?" not in item and "#" not in item]
    return paths


def _digest(token: str, path: str, query: str) -> str:
    text = f"{token}{path}?{query}" if query else f"{token}{path}"
    raw = text.encode("utf-8", "surrogateescape")
    return md5(raw, usedforsecurity=False).hexdigest()  # the rule of the clients, see above
